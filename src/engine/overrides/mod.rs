//! What administrators said, and how the hosts that share a store hear of it.
//!
//! All of it is one small list in the store. A change is written at once; every host reads the list once a
//! second, off the way of requests. What cannot be written, because memcached is away, holds on this host and
//! is written when memcached is back. Without memcached the list is this process's own.

mod list;

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{MissedTickBehavior, interval};

use crate::engine::reset::forget_here;
use crate::engine::service::Service;
use crate::engine::target::Target;
use crate::net::clock::Now;
use crate::policy::overrides::MAX_OVERRIDES;
pub use list::{Change, KeyReset};
use list::{OverrideList, parse, spell};

/// The key of the list, after the prefix of all keys.
const NAME: &str = "overrides";

/// How long a reset is told to other hosts, in seconds; each hears of it within one.
pub const RESET_TOLD: u64 = 60;

/// The list stays this many seconds longer than its last word: clocks differ.
const SPARE: u64 = 60;

/// Hosts that change the list at the same moment try again; this many would have to win before us.
const TRIES: usize = 8;

/// Where a change holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// In this process, which is all there is.
    Local,
    /// On every host that shares the store.
    Shared,
    /// On this host, until memcached is back.
    Pending(String),
}

impl Propagation {
    /// For people to read; nothing where nothing is to be said.
    pub fn note(&self) -> Option<String> {
        match self {
            Self::Local | Self::Shared => None,
            Self::Pending(error) => {
                Some(format!("memcached cannot be told ({error}): it holds on this host, and on others once it can"))
            }
        }
    }
}

/// There are [`MAX_WORDS`] bans and allowances already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMany;

impl fmt::Display for TooMany {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "there are {MAX_OVERRIDES} bans and allowances already; lift some")
    }
}

impl std::error::Error for TooMany {}

/// The list's other copy.
#[derive(Debug, Default)]
pub struct SharedOverrides {
    link: Mutex<Link>,
}

#[derive(Debug, Default)]
struct Link {
    /// Changes the store does not know of yet.
    pending: Vec<Change>,
    /// Resets that were heeded here, by their end.
    heeded: HashSet<(Target, u64)>,
}

/// Keeps the list as the other hosts have it, for ever.
pub async fn follow(service: Arc<Service>) {
    let mut second = interval(Duration::from_secs(1));
    second.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        second.tick().await;
        let now = Now::read();
        service.overrides.refresh(&service, now).await;
        service.rules.load().policy.overrides().expire(now);
    }
}

impl SharedOverrides {
    /// Makes a change, here at once, and wherever it can be told.
    ///
    /// # Errors
    ///
    /// When there are too many words already.
    pub async fn change(&self, service: &Service, change: Change, now: Now) -> Result<Propagation, TooMany> {
        let mut link = self.link.lock().await;
        let overrides = service.rules.load().policy.overrides().clone();
        let told = OverrideList { words: overrides.list(), keys: Vec::new() }.after(std::slice::from_ref(&change));
        if told.words.len() > MAX_OVERRIDES {
            return Err(TooMany);
        }
        link.heeded.extend(OverrideList::default().after(std::slice::from_ref(&change)).resets());
        overrides.set(told.words, now);
        if !service.rules.load().store.waits() {
            return Ok(Propagation::Local);
        }
        link.pending.push(change);
        // Beyond this they are kept here only.
        link.pending.truncate(MAX_OVERRIDES);
        Ok(match link.exchange(service, now).await {
            Ok(()) => Propagation::Shared,
            Err(error) => Propagation::Pending(error.to_string()),
        })
    }

    /// Reads the list, and says what other hosts do not know yet.
    pub async fn refresh(&self, service: &Service, now: Now) {
        let mut link = self.link.lock().await;
        link.heeded.retain(|(_, ends)| *ends > now.unix());
        if service.rules.load().store.waits() {
            // The store's own lines tell of it when it is away.
            let _ = link.exchange(service, now).await;
        }
    }
}

impl Link {
    /// Reads the list, adds what it lacks of ours, and puts it in force.
    async fn exchange(&mut self, service: &Service, now: Now) -> io::Result<()> {
        let rules = service.rules.load_full();
        let overrides = rules.policy.overrides().clone();
        for _ in 0..TRIES {
            let read = rules.store.read_value(NAME).await?;
            let told = match &read {
                Some(value) => parse(&value.bytes)?,
                // It was lost with a restart of memcached, or there never was one.
                None => OverrideList { words: overrides.list(), keys: Vec::new() },
            };
            let missing = read.is_none() && !told.words.is_empty();
            let told = told.after(&self.pending).at(now);
            if !self.pending.is_empty() || missing {
                let last = told.ends().max().unwrap_or(0);
                let seconds = u32::try_from(last.saturating_sub(now.unix()) + SPARE).unwrap_or(u32::MAX);
                let list = spell(&told);
                if !rules.store.write_value(NAME, list.as_bytes(), seconds, read.as_ref(), now).await? {
                    continue;
                }
                self.pending.clear();
            }
            for (target, ends) in told.resets() {
                if self.heeded.insert((target.clone(), ends)) {
                    forget_here(service, target, now).await;
                }
            }
            if told.words != overrides.list() {
                overrides.set(told.words, now);
            }
            return Ok(());
        }
        Err(io::Error::other("other hosts change the list all the time"))
    }
}
