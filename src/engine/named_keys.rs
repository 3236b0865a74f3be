//! The keys that were counted lately, by name: their last counts, and since when they are over their limits.
//!
//! The table of counts has only a hash of a key that is not an address. Here is the text of those that were counted
//! lately, so that they can be listed, and found by one of their fields. Clients are here only after they were over a
//! limit.

use std::net::IpAddr;
use std::sync::Mutex;

use tokio::task::yield_now;

use crate::engine::service::Rules;
use crate::engine::target::{Target, TargetCounter, has_fields};
use crate::net::clock::Now;
use crate::net::recent_map::RecentMap;
use crate::net::{lock, secret};
use crate::policy::key::KeyPart;
use crate::policy::limit::{CounterLimitId, Window};
use crate::policy::{CounterValue, Limit, LimitCheck};

/// Keys that are known by name at once, in some 20 MB. Of more, those are forgotten that were counted longest ago;
/// their counts stay.
pub const MAX_NAMED_KEYS: usize = 65_536;

/// Clients over a limit that are known at once.
const MAX_NAMED_CLIENTS: usize = 16_384;

/// Parts with a lock of their own.
const SHARDS: usize = 16;

/// The most keys that one command acts on.
pub const MAX_FOUND: usize = 1000;

/// One key of one limit.
#[derive(Clone, Debug)]
pub struct NamedKey {
    pub limit: CounterLimitId,
    pub part: KeyPart,
    /// Hits in the window, at the last one.
    pub count: u32,
    /// The threshold then.
    pub threshold: u32,
    /// When its window began, in seconds since the Unix epoch.
    pub began: u64,
    /// When its window ends, in milliseconds of the monotonic clock.
    pub ends: u64,
    /// When it went over in this window, in seconds since the Unix epoch.
    pub over_since: Option<u64>,
    /// Hits over the threshold in this window.
    pub over: u32,
    /// The client of its last hit.
    pub client: Option<IpAddr>,
    /// Whether it was beyond `alert_threshold` in this window.
    is_near: bool,
}

/// The bound that a hit of a key has crossed, for the first time in its window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crossing {
    /// It is beyond `alert_threshold`.
    Near,
    /// It is over the limit.
    Over,
}

impl NamedKey {
    fn new(limit: &Limit, part: &KeyPart) -> Self {
        let (limit, part) = (limit.id, part.clone());
        let (count, threshold, began, ends, over) = (0, 0, 0, 0, 0);
        Self { limit, part, count, threshold, began, ends, over_since: None, over, client: None, is_near: false }
    }

    /// Its counter, with its threshold now.
    pub fn counter<'p>(&self, limit: &'p Limit) -> TargetCounter<'p> {
        let threshold = limit.own_threshold(&self.part).map_or(self.threshold, |own| own.threshold);
        TargetCounter { limit, part: self.part.clone(), threshold }
    }

    fn hit(&mut self, check: &LimitCheck<'_>, hit: CounterValue, client: IpAddr, now: Now) -> Option<Crossing> {
        let exptime = u64::from(check.limit.exptime);
        let (began, left_ms) = match &check.limit.window {
            Window::Fixed => {
                let left = u64::from(hit.left);
                ((now.unix() + left).saturating_sub(exptime), left * 1000)
            }
            Window::Calendar(calendar) => {
                let window = calendar.window(now);
                (window.start(), window.left_ms(now))
            }
            // A window that slides ends when nothing of it is left.
            Window::Sliding | Window::Exact => (now.unix(), exptime * 1000),
        };
        if self.ends <= now.monotonic {
            self.began = began;
            (self.over_since, self.over, self.is_near) = (None, 0, false);
        }
        self.ends = now.monotonic + left_ms;
        (self.count, self.threshold, self.client) = (hit.count, check.threshold, Some(client));
        if hit.count > check.threshold {
            self.over = self.over.saturating_add(1);
            self.is_near = true;
            return self.over_since.replace(self.over_since.unwrap_or(now.unix())).is_none().then_some(Crossing::Over);
        }
        let is_near = check.limit.alerts_beyond(check.threshold).is_some_and(|most| hit.count > most);
        (is_near && !std::mem::replace(&mut self.is_near, true)).then_some(Crossing::Near)
    }
}

type KeyMap<const MOST: usize> = Mutex<RecentMap<Option<NamedKey>, MOST>>;

/// All of them.
#[derive(Debug, Default)]
pub struct NamedKeys {
    named: [KeyMap<{ MAX_NAMED_KEYS / SHARDS }>; SHARDS],
    clients: [KeyMap<{ MAX_NAMED_CLIENTS / SHARDS }>; SHARDS],
}

impl NamedKeys {
    /// Notes hits of a key, and returns the bound that they have crossed.
    pub fn note(&self, check: &LimitCheck<'_>, hit: CounterValue, client: IpAddr, now: Now) -> Option<Crossing> {
        let key = key_hash(check.limit.id, &check.part);
        let note = |known: &mut Option<NamedKey>| {
            let key = known.get_or_insert_with(|| NamedKey::new(check.limit, &check.part));
            key.hit(check, hit, client, now)
        };
        match check.part {
            KeyPart::Client { .. } => note(lock(shard(&self.clients, key)).touch(key)),
            KeyPart::Text(_) => note(lock(shard(&self.named, key)).touch(key)),
        }
    }

    /// Forgets a key.
    pub fn forget(&self, limit: CounterLimitId, part: &KeyPart) {
        let key = key_hash(limit, part);
        match part {
            KeyPart::Client { .. } => lock(shard(&self.clients, key)).forget(key),
            KeyPart::Text(_) => lock(shard(&self.named, key)).forget(key),
        }
    }

    /// Shows every key whose window still runs; requests get their turn in between.
    pub async fn each(&self, now: Now, mut show: impl FnMut(&NamedKey)) {
        let mut show = |known: &Option<NamedKey>| {
            known.iter().filter(|key| key.ends > now.monotonic).for_each(&mut show);
        };
        for at in 0..SHARDS {
            lock(&self.named[at]).iter().for_each(|(_, known)| show(known));
            lock(&self.clients[at]).iter().for_each(|(_, known)| show(known));
            yield_now().await;
        }
    }

    /// The counters of keys that have the fields of a target, and how many more there are.
    async fn found<'p>(&self, rules: &'p Rules, target: &KeyPart, now: Now) -> (Vec<TargetCounter<'p>>, usize) {
        let (mut found, mut more) = (Vec::new(), 0);
        self.each(now, |key| {
            if !has_fields(&key.part, target) {
                return;
            }
            let limit = rules.policy.limits().iter().find(|limit| limit.id == key.limit);
            match limit {
                Some(limit) if found.len() < MAX_FOUND => {
                    found.push(key.counter(limit));
                }
                Some(_) => more += 1,
                None => {}
            }
        })
        .await;
        (found, more)
    }

    /// All counters of a target: of whole keys, in the order of the limits, and of keys that have it among their
    /// fields, as far as this process knows them. Also returns how many more of the latter there are.
    pub async fn counters_of<'p>(
        &self,
        rules: &'p Rules,
        target: &Target,
        now: Now,
    ) -> (Vec<TargetCounter<'p>>, usize) {
        let mut counted = rules.policy.counters_of(target);
        let Target::Key(text) = target else { return (counted, 0) };
        let (found, more) = self.found(rules, &KeyPart::Text(text.as_str().into()), now).await;
        for one in found {
            if !counted.iter().any(|known| (known.limit.id, &known.part) == (one.limit.id, &one.part)) {
                counted.push(one);
            }
        }
        (counted, more)
    }
}

fn key_hash(limit: CounterLimitId, part: &KeyPart) -> u64 {
    secret::hash((limit, part))
}

fn shard<T>(shards: &[T; SHARDS], key: u64) -> &T {
    &shards[(key >> 32) as usize % SHARDS]
}
