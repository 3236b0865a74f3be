//! The list of `connshaper show --over` and `--most`: keys by how near or over their limit they are.

use std::collections::HashSet;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::Problem;
use super::origin::OriginStatus;
use super::text::{cell, csv_text, lasting, table, time};
use crate::engine::reading::Reading;
use crate::engine::service::{Rules, Service};
use crate::engine::target::TargetCounter;
use crate::net::clock::Now;
use crate::observe::terminal::Paint;
use crate::policy::Policy;
use crate::policy::key::KeyPart;
use crate::store::local::listing::busiest;

/// The most keys that are listed.
const MAX_ROWS: usize = 100;

/// Which keys are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Keys over their limit.
    Over,
    /// Keys nearest to their limit or farthest over it.
    Most,
}

/// Keys in the order of their share of the threshold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    pub keys: Vec<KeyStatus>,
    /// Further ones.
    pub more: usize,
}

/// A key of a limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyStatus {
    pub limit: String,
    pub key: String,
    pub count: u64,
    pub threshold: u64,
    /// When its window began; none where that is not known.
    pub since: Option<String>,
    /// When it went over.
    pub over_since: Option<String>,
    /// Hits over the threshold since then.
    pub refused: u32,
    /// Seconds until the window ends.
    pub left: u32,
    pub log_only: bool,
    /// The origin of its client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<OriginStatus>,
}

/// A key as this process has counted it last.
struct CountedKey<'p> {
    counted: TargetCounter<'p>,
    count: u32,
    since: Option<u64>,
    over_since: Option<u64>,
    refused: u32,
    left: u32,
    /// Of its last hit.
    client: Option<IpAddr>,
}

impl CountedKey<'_> {
    /// Its share of the threshold, in thousandths.
    fn share(&self) -> u64 {
        u64::from(self.count) * 1000 / u64::from(self.counted.threshold.max(1))
    }

    fn is_over(&self) -> bool {
        self.count > self.counted.threshold
    }
}

/// Collects the keys with the largest share of their threshold.
struct NearestKeys<'p> {
    which: Which,
    most: usize,
    keys: Vec<CountedKey<'p>>,
    more: usize,
}

impl<'p> NearestKeys<'p> {
    /// The keys of a limit that this process has counted lately; of all limits if the name is empty.
    async fn find(
        service: &Service,
        rules: &'p Rules,
        which: Which,
        limit: &str,
        most: usize,
        now: Now,
    ) -> Result<Self, Problem> {
        let limits = rules.policy.limits();
        if !limit.is_empty() {
            rules.policy.limit_named(limit).map_err(Problem::usage)?;
        }
        let named = |id| limits.iter().find(|known| known.id == id && (limit.is_empty() || known.name == limit));
        let mut nearest = Self { which, most, keys: Vec::new(), more: 0 };
        let mut known_clients = HashSet::new();
        service
            .named_keys
            .each(now, |key| {
                let Some(limit) = named(key.limit) else { return };
                if matches!(key.part, KeyPart::Client { .. }) {
                    known_clients.insert((key.limit, key.part.clone()));
                }
                nearest.add(CountedKey {
                    counted: key.counter(limit),
                    count: key.count,
                    since: Some(key.began),
                    over_since: key.over_since,
                    refused: key.over,
                    client: key.client,
                    left: u32::try_from((key.ends - now.monotonic).div_ceil(1000)).unwrap_or(u32::MAX),
                });
            })
            .await;
        if which == Which::Most {
            for client in busiest(rules.store.table(), most, |limit| named(limit).is_some(), now).await {
                let part = KeyPart::Client { address: client.address, prefix_length: client.prefix_length };
                let Some(limit) = named(client.limit) else { continue };
                if !known_clients.contains(&(client.limit, part.clone())) {
                    let threshold = rules.policy.threshold_of_client(limit, client.address);
                    let counted = TargetCounter { limit, part, threshold };
                    let (count, left) = (client.hit.count, client.hit.left_seconds());
                    let client = Some(client.address);
                    nearest.add(CountedKey { counted, count, since: None, over_since: None, refused: 0, left, client });
                }
            }
        }
        nearest.shorten();
        Ok(nearest)
    }

    fn add(&mut self, key: CountedKey<'p>) {
        if self.which == Which::Most || key.is_over() {
            self.keys.push(key);
        }
        // There may be many more than are listed.
        if self.keys.len() >= 8 * self.most {
            self.shorten();
        }
    }

    fn shorten(&mut self) {
        self.keys.sort_by_key(|key| std::cmp::Reverse((key.share(), key.count)));
        self.more += self.keys.len().saturating_sub(self.most);
        self.keys.truncate(self.most);
    }
}

impl Listing {
    /// The keys of a limit, or of all of them where it has no name, that this process has counted lately, with their
    /// counts in the store.
    pub async fn of(service: &Service, rules: &Rules, which: Which, limit: &str, now: Now) -> Result<Self, Problem> {
        let NearestKeys { keys: found, more, .. } =
            NearestKeys::find(service, rules, which, limit, MAX_ROWS, now).await?;
        let mut keys = Vec::new();
        for mut one in found {
            // Another host may have counted it, or an administrator have reset it.
            let reading = Reading::of(&rules.store, &one.counted, now).await;
            one.count = reading.as_ref().map_or(one.count, |reading| reading.count);
            one.left = reading.map_or(0, |reading| reading.left);
            if which == Which::Most || one.is_over() {
                keys.push(KeyStatus::of(&one, &rules.policy));
            }
        }
        Ok(Self { keys, more })
    }

    /// The keys nearest to their limits, as this process has counted them last. Asks the store nothing, so that it can
    /// be had every second.
    pub async fn nearest(
        service: &Service,
        rules: &Rules,
        limit: &str,
        most: usize,
        now: Now,
    ) -> Result<Vec<KeyStatus>, Problem> {
        let nearest = NearestKeys::find(service, rules, Which::Most, limit, most, now).await?;
        Ok(nearest.keys.iter().map(|key| KeyStatus::of(key, &rules.policy)).collect())
    }

    /// A table for people; `only_over`: keys that are over their limit were asked for.
    pub fn show(&self, only_over: bool, paint: Paint) -> String {
        if self.keys.is_empty() {
            return match only_over {
                true => "no key is over its limit, of those that this daemon has counted lately\n".to_owned(),
                false => "this daemon has counted no key lately\n".to_owned(),
            };
        }
        let mut columns = vec![
            ("limit", false),
            ("key", false),
            ("count", true),
            ("of", true),
            ("since", false),
            ("over since", false),
            ("refused", true),
            ("left", true),
        ];
        let has_origins = self.keys.iter().any(|key| key.origin.is_some());
        if has_origins {
            columns.push(("from", false));
        }
        let rows = self.keys.iter().map(|key| {
            let count = key.count.to_string();
            let mut row = vec![
                key.limit.clone(),
                key.key.clone(),
                if key.count > key.threshold { paint.bad(&count) } else { count },
                key.threshold.to_string(),
                cell(key.since.as_ref()),
                cell(key.over_since.as_ref()),
                key.refused.to_string(),
                lasting(key.left),
            ];
            if has_origins {
                row.push(key.origin.as_ref().map(ToString::to_string).unwrap_or_default());
            }
            row
        });
        let mut text = table(&columns, &rows.collect::<Vec<_>>(), paint);
        if self.more > 0 {
            text += &format!("and {} more, farther from their limits\n", self.more);
        }
        text
    }

    /// Comma-separated values for a spreadsheet.
    pub fn csv(&self) -> String {
        let mut text = "limit,key,count,threshold,since,over_since,refused,left,log_only\r\n".to_owned();
        for key in &self.keys {
            let KeyStatus { limit, key, count, threshold, since, over_since, refused, left, log_only, .. } = key;
            let (since, over) = (since.as_deref().unwrap_or_default(), over_since.as_deref().unwrap_or_default());
            let (limit, key) = (csv_text(limit), csv_text(key));
            text += &format!("{limit},{key},{count},{threshold},{since},{over},{refused},{left},{log_only}\r\n");
        }
        text
    }
}

impl KeyStatus {
    fn of(one: &CountedKey<'_>, policy: &Policy) -> Self {
        let CountedKey { counted, count, since, over_since, refused, left, client } = one;
        let is_of_address = counted.limit.per.0.iter().any(|field| field.is_of_address());
        let unit = u64::from(counted.limit.counts.unit());
        Self {
            limit: counted.limit.name.clone(),
            key: counted.part.to_string(),
            count: u64::from(*count) * unit,
            threshold: u64::from(counted.threshold) * unit,
            since: since.and_then(time),
            over_since: over_since.and_then(time),
            refused: *refused,
            left: *left,
            log_only: counted.limit.log_only,
            origin: client.filter(|_| is_of_address).and_then(|client| OriginStatus::of(policy, client)),
        }
    }
}
