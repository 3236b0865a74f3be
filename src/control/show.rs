//! `connshaper show CLIENT|PREFIX|KEY`: every counter, ban and override of it.

use std::net::IpAddr;

use clap::Args;
use serde::{Deserialize, Serialize};

use super::commands::ControlCommand;
use super::listing::{Listing, Which};
use super::origin::OriginStatus;
use super::text::{allowed, cell, lasting, table};
use super::{Control, Problem};
use crate::engine::bans::{counted_client, limit_bans};
use crate::engine::reading::Reading;
use crate::engine::target::{Target, TargetCounter};
use crate::net::clock::Now;
use crate::observe::terminal::Paint;
use crate::policy::key::KeyPart;
use crate::policy::lists::ListEntry;
use crate::policy::lists::Listed;
use crate::policy::overrides::Override;
use crate::policy::request::Request;
use crate::policy::{Door, Policy};
use crate::store::local::listing::ListedClient;

/// Show every counter and ban of a client, a prefix or a key
#[derive(Clone, Debug, PartialEq, Eq, Args, Serialize, Deserialize)]
#[command(after_help = "\
Examples:
  connshaper show 198.51.100.7
  connshaper show 198.51.100.0/24
  connshaper show login joe@example.com
  connshaper show sender_domain=example.com
  connshaper show --over
  connshaper show --most users

memcached and Redis list no keys: with them a prefix shows the clients this daemon has seen.")]
pub struct ShowArgs {
    /// An address, a netblock, or a key or a part of one: login joe@example.org, sender=joe@example.org
    #[arg(value_name = "CLIENT", required_unless_present_any = ["over", "most"])]
    pub target: Option<Target>,
    /// List the keys that are over their limit, of all limits or of one
    #[arg(long, value_name = "LIMIT", num_args = 0..=1, default_missing_value = "")]
    #[arg(conflicts_with_all = ["target", "most"])]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub over: Option<String>,
    /// List the keys that are nearest to their limit or over it, of all limits or of one
    #[arg(long, value_name = "LIMIT", num_args = 0..=1, default_missing_value = "", conflicts_with = "target")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub most: Option<String>,
    /// Print the list as comma-separated values
    #[arg(long, conflicts_with_all = ["target", "json"])]
    #[serde(skip)]
    pub csv: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShowAnswer {
    /// The list of keys, where one was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listing: Option<Listing>,
    pub target: String,
    /// The origin of the client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<OriginStatus>,
    pub listed: Option<ListStatus>,
    pub overrides: Vec<OverrideStatus>,
    pub counters: Vec<CounterStatus>,
    /// Further clients of the prefix, with fewer hits.
    pub more: usize,
    /// Whether the store cannot list the clients of a prefix, so that these are those this daemon has seen.
    pub only_seen_here: bool,
    pub sessions: usize,
    /// The store's name.
    pub store: String,
}

/// An entry of a configured list. `netblock` may be a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "list", rename_all = "lowercase")]
pub enum ListStatus {
    Whitelist { netblock: String },
    Blacklist { netblock: String, note: Option<String> },
    Netblocks { netblock: String, threshold: u32 },
}

/// A ban or an allowance of an administrator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverrideStatus {
    pub target: String,
    pub kind: String,
    pub left: u64,
    pub by: String,
    /// Why, if that was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// The counters of one key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CounterStatus {
    pub limit: String,
    /// The door of its requests.
    pub door: String,
    pub key: String,
    /// None: the key is not limited.
    pub threshold: Option<u64>,
    /// The line that gives the key a threshold of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold_from: Option<String>,
    pub log_only: bool,
    /// None: the store is down and nothing is known here.
    #[serde(flatten)]
    pub reading: Option<ReadingStatus>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadingStatus {
    pub count: u64,
    /// Seconds until the window ends; 0: nothing is counted.
    pub left: u32,
    pub over: bool,
    pub violations: u32,
    /// Bans so far.
    pub bans: u32,
    /// Seconds a ban has left; 0: there is none.
    pub banned: u32,
}

/// A client in this process's table, as one of its limit's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientStatus {
    pub limit: String,
    /// The door of its requests.
    pub door: String,
    pub key: String,
    pub count: u64,
    pub threshold: u64,
    pub left: u32,
    pub over: bool,
    /// Its origin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<OriginStatus>,
}

impl ControlCommand for ShowArgs {
    type Answer = ShowAnswer;

    /// With a shared store the counters of one client are those of all hosts; so are those of a prefix if the store can
    /// list its keys, else they are those that this daemon has seen.
    async fn run(&self, control: &Control, _: &str, now: Now) -> Result<ShowAnswer, Problem> {
        let rules = control.service.rules.load_full();
        let which = [(Which::Over, &self.over), (Which::Most, &self.most)];
        if let Some((which, limit)) = which.into_iter().find_map(|(which, limit)| Some((which, limit.as_ref()?))) {
            let listing = Listing::of(&control.service, &rules, which, limit, now).await?;
            return Ok(ShowAnswer {
                listing: Some(listing),
                store: rules.store.name().to_owned(),
                ..Default::default()
            });
        }
        let Some(target) = &self.target else {
            return Err(Problem::usage("name a client or a key, or say --over or --most"));
        };
        let target = &rules.policy.canonical_target(target);
        let is_prefix = matches!(target, Target::Netblock(_));
        let mut counters = Vec::new();
        let (found, others) = control.service.named_keys.counters_of(&rules, target, now).await;
        for counted in found {
            match Reading::of(&rules.store, &counted, now).await {
                Some(reading) if is_prefix && reading.left + reading.banned == 0 => {}
                reading => counters.push(CounterStatus::of(&counted, reading)),
            }
        }
        let mut more = others;
        if let Target::Netblock(netblock) = target {
            let (listed, rest) = rules.store.clients_within(rules.policy.limits(), *netblock, now).await;
            let mut bans = limit_bans(&control.service, &rules, target, now).await;
            for client in &listed {
                let counted = counted_client(&rules.policy, client);
                let is_it = |(one, _): &(TargetCounter<'_>, _)| {
                    counted.as_ref().is_some_and(|counted| one.limit.id == counted.limit.id && one.part == counted.part)
                };
                match bans.bans.iter().position(is_it).map(|at| bans.bans.remove(at)) {
                    Some((one, reading)) => counters.push(CounterStatus::of(&one, Some(reading))),
                    None => counters.extend(ClientStatus::of(&rules.policy, client).map(CounterStatus::from)),
                }
            }
            // A ban outlasts the window.
            let is_shown = |one: &TargetCounter<'_>| {
                counters.iter().any(|shown| shown.limit == one.limit.name && shown.key == one.part.to_string())
            };
            bans.bans.retain(|(one, _)| !is_shown(one));
            counters.extend(bans.bans.iter().map(|(one, reading)| CounterStatus::of(one, Some(*reading))));
            more += rest + bans.more;
        }
        let netblock = target.netblock();
        let of = target.to_override();
        let overrides = rules
            .policy
            .overrides()
            .list()
            .into_iter()
            .filter(|entry| of.as_ref().is_ok_and(|of| entry.target.contains(of) || of.contains(&entry.target)));
        Ok(ShowAnswer {
            listing: None,
            target: target.to_string(),
            origin: netblock.and_then(|netblock| OriginStatus::of(&rules.policy, netblock.addr())),
            listed: netblock.and_then(|netblock| ListStatus::of(&rules.policy, netblock.addr())),
            overrides: overrides.map(|entry| OverrideStatus::of(&entry, now)).collect(),
            counters,
            more,
            only_seen_here: is_prefix && !rules.store.lists_all(),
            sessions: control
                .service
                .sessions
                .number_of(|client| netblock.is_some_and(|netblock| netblock.contains(&client))),
            store: rules.store.name().to_owned(),
        })
    }

    fn show(&self, answer: &ShowAnswer, paint: Paint) -> String {
        if let Some(listing) = &answer.listing {
            return match self.csv {
                true => listing.csv(),
                false => listing.show(self.over.is_some(), paint),
            };
        }
        let ShowAnswer { listed, store, .. } = answer;
        let mut text = format!("{}\n", paint.bold(&answer.target));
        text += &format!("  lists     {}\n", listed.as_ref().map_or("none".to_owned(), ListStatus::show));
        if let Some(origin) = &answer.origin {
            text += &format!("  origin    {origin}\n");
        }
        for entry in &answer.overrides {
            text += &format!("  override  {} {}\n", entry.kind, entry.show());
        }
        text += &format!("  sessions  {}\n", answer.sessions);
        if answer.counters.is_empty() {
            return text + "nothing is counted\n";
        }
        let rows: Vec<_> = answer.counters.iter().map(|counter| counter.row(store, paint)).collect();
        let columns = [("limit", false), ("key", false), ("count", true), ("of", true), ("left", true), ("", false)];
        text += &table(&columns, &rows, paint);
        if answer.more > 0 {
            text += &format!("and {} more with fewer hits\n", answer.more);
        }
        if answer.only_seen_here {
            text += &format!("{store} cannot list its keys: these are the clients that this daemon has seen\n");
        }
        text
    }
}

impl ListStatus {
    /// The entry of the configured lists for an address.
    pub fn of(policy: &Policy, client: IpAddr) -> Option<Self> {
        let (netblock, listed) = policy.listed(client)?;
        let netblock = netblock.to_string();
        Some(match listed {
            Listed::White => Self::Whitelist { netblock },
            Listed::Black(note) => Self::Blacklist { netblock, note: note.map(str::to_owned) },
            Listed::Rate(rate) => Self::Netblocks { netblock, threshold: rate.threshold },
        })
    }

    /// The same of a request, whose client may have a name that Postfix has verified.
    pub fn of_request(policy: &Policy, request: &Request) -> Option<Self> {
        let listed = Self::of(policy, policy.client(request)?);
        let named = policy.listed_name(request).map(|(name, entry)| (name.to_string(), entry));
        match (listed, named) {
            (Some(Self::Whitelist { netblock }), _) => Some(Self::Whitelist { netblock }),
            (_, Some((netblock, ListEntry::Whitelist))) => Some(Self::Whitelist { netblock }),
            (Some(Self::Blacklist { netblock, note }), _) => Some(Self::Blacklist { netblock, note }),
            (_, Some((netblock, ListEntry::Blacklist(reason)))) => {
                Some(Self::Blacklist { netblock, note: reason.map(|reason| policy.reason(reason).to_owned()) })
            }
            (listed, _) => listed,
        }
    }

    pub fn show(&self) -> String {
        match self {
            Self::Whitelist { netblock } => format!("on the whitelist ({netblock})"),
            Self::Blacklist { netblock, note: Some(note) } => format!("on the blacklist ({netblock}: {note})"),
            Self::Blacklist { netblock, note: None } => format!("on the blacklist ({netblock})"),
            Self::Netblocks { netblock, threshold } => format!("threshold {threshold} ({netblock})"),
        }
    }
}

impl OverrideStatus {
    /// The override without its kind, for people.
    pub fn show(&self) -> String {
        let Self { target, left, by, note, .. } = self;
        let why = note.as_ref().map(|note| format!(": {note}")).unwrap_or_default();
        format!("{target}, {} left, by {by}{why}", lasting(*left))
    }

    pub fn of(entry: &Override, now: Now) -> Self {
        Self {
            target: entry.target.to_string(),
            kind: entry.kind.into_str().to_owned(),
            left: entry.left(now),
            by: entry.by.clone(),
            note: entry.note.clone(),
        }
    }
}

impl CounterStatus {
    fn of(counted: &TargetCounter<'_>, reading: Option<Reading>) -> Self {
        let unit = u64::from(counted.limit.counts.unit());
        Self {
            limit: counted.limit.name.clone(),
            door: counted.limit.door.into_str().to_owned(),
            key: counted.part.to_string(),
            threshold: counted.allowed(),
            threshold_from: counted.limit.own_threshold(&counted.part).map(|own| own.to_string()),
            log_only: counted.limit.log_only,
            reading: reading.map(|reading| ReadingStatus {
                count: u64::from(reading.count) * unit,
                left: reading.left,
                over: reading.count > counted.threshold,
                violations: reading.violations,
                bans: reading.bans,
                banned: reading.banned,
            }),
        }
    }

    fn row(&self, store: &str, paint: Paint) -> Vec<String> {
        let mut state = Vec::new();
        match &self.reading {
            None => state.push(format!("unknown: {store} is down")),
            Some(reading) => {
                if reading.over {
                    state.push(paint.bad("over"));
                }
                if reading.banned > 0 {
                    state.push(paint.bad(&format!("banned for {}", lasting(reading.banned))));
                }
                for (number, what) in [(reading.violations, "violations"), (reading.bans, "bans so far")] {
                    if number > 0 {
                        state.push(format!("{number} {what}"));
                    }
                }
            }
        }
        state.extend(self.threshold_from.as_ref().map(|from| format!("by {from}")));
        let count = cell(self.reading.as_ref().map(|reading| reading.count));
        let left = self.reading.as_ref().filter(|reading| reading.left > 0).map(|reading| lasting(reading.left));
        vec![
            with_door(&self.limit, &self.door),
            self.key.clone(),
            count,
            allowed(self.threshold),
            cell(left),
            state.join(", "),
        ]
    }
}

impl ClientStatus {
    /// The limit as people are shown it.
    pub fn limit(&self) -> String {
        with_door(&self.limit, &self.door)
    }

    /// None where the limit is no longer in force.
    pub fn of(policy: &Policy, client: &ListedClient) -> Option<Self> {
        let limit = policy.limits().iter().find(|limit| limit.id == client.limit)?;
        let unit = u64::from(limit.counts.unit());
        Some(Self {
            limit: limit.name.clone(),
            door: limit.door.into_str().to_owned(),
            key: KeyPart::Client { address: client.address, prefix_length: client.prefix_length }.to_string(),
            count: u64::from(client.hit.count) * unit,
            threshold: u64::from(policy.threshold_of_client(limit, client.address)) * unit,
            left: client.hit.left_seconds(),
            over: client.over,
            origin: OriginStatus::of(policy, client.address),
        })
    }
}

/// A limit with its door, unless that is Postfix's.
pub(super) fn with_door(limit: &str, door: &str) -> String {
    if door == Door::Smtp.into_str() { limit.to_owned() } else { format!("{limit} ({door})") }
}

impl From<ClientStatus> for CounterStatus {
    fn from(client: ClientStatus) -> Self {
        let ClientStatus { limit, door, key, count, threshold, left, over, .. } = client;
        let reading = ReadingStatus { count, left, over, violations: 0, bans: 0, banned: 0 };
        Self {
            limit,
            door,
            key,
            threshold: Some(threshold),
            threshold_from: None,
            log_only: false,
            reading: Some(reading),
        }
    }
}
