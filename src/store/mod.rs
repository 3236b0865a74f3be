//! Where hits are counted: in this process, or in memcached.
//!
//! The contract is one call: count these keys now, say how many hits each has
//! and how long its window lasts. It always answers within `store_timeout`.
//! What follows from a judgement, refunds and bans, is done with nobody waiting.
//!
//! The table in this process is the embedded store. With memcached it is a
//! shadow: it remembers the last value seen of each key, so that a time-out or
//! an outage does not let a client in that is known to be over its limit. The
//! shared value always overrides it; local hits are never added to a shared
//! count, so too few may be counted after an outage, never too many.

pub mod local;
pub mod memcached;
pub mod settings;
pub mod shared;

use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;
use tokio_util::task::TaskTracker;

use crate::net::clock::Now;
use crate::observe::log::Log;
use crate::observe::statistics::Statistics;
use crate::policy::OnStoreFailure;
use crate::policy::{Counter, Key, Operation, Refund};
pub use settings::StoreConfig;

use crate::store::shared::breaker::Condition;
use crate::store::shared::coalesce::Coalesce;
use crate::store::shared::over_limit::OverLimitCache;
use local::Table;
use memcached::Memcached;

/// What the keys of one request came back with, in their order; `None`: not counted, the store is away.
pub type Hits = SmallVec<[Option<Counter>; 2]>;

/// Where hits are counted.
#[derive(Debug)]
pub struct Store {
    table: Arc<Table>,
    memcached: Option<Memcached>,
    coalesce: Coalesce,
    over: OverLimitCache,
    /// The same for violations.
    offences: OverLimitCache,
    on_failure: OnStoreFailure,
    key_prefix: String,
    statistics: Arc<Statistics>,
    /// What follows from judgements, with nobody waiting.
    following: TaskTracker,
}

/// No request waits for a shared value, so it may take longer than they do.
const SHARED_TIMEOUT: Duration = Duration::from_secs(1);

/// What is read where there is no counter.
const NOTHING: Counter = Counter { count: 0, left: 0, added: 0 };

/// Why a shared store did not do what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreError {
    /// Its server is known to be away; it was not asked.
    Unavailable,
    /// It was asked, and whether it was done is unknown. Asking again might count twice.
    TimedOut,
    /// It holds something that is no number under this key.
    NotANumber,
}

impl Store {
    /// The store a configuration asks for. `table` outlives reloads, and so do its counts.
    pub fn new(
        config: &StoreConfig,
        on_failure: OnStoreFailure,
        table: Arc<Table>,
        statistics: &Arc<Statistics>,
        log: &Log,
    ) -> Self {
        table.set_max_clients(config.max_clients);
        let memcached = (!config.servers.is_empty()).then(|| Memcached::new(config, on_failure, statistics, log));
        Self {
            table,
            memcached,
            coalesce: Coalesce::default(),
            over: OverLimitCache::new(config.over_memory),
            offences: OverLimitCache::new(config.over_memory),
            on_failure,
            key_prefix: config.key_prefix.clone(),
            statistics: Arc::clone(statistics),
            following: TaskTracker::new(),
        }
    }

    /// Does all of it at once, in one round trip.
    pub async fn count(&self, operations: impl IntoIterator<Item = Operation<'_>>, now: Now) -> Hits {
        match &self.memcached {
            Some(memcached) => self.count_shared(memcached, operations.into_iter(), now).await,
            None => self.count_at_once(operations, now),
        }
    }

    /// Counts in this process, as nobody waits.
    pub fn count_at_once<'a>(&self, operations: impl IntoIterator<Item = Operation<'a>>, now: Now) -> Hits {
        let here = |mut operation: Operation<'a>| {
            self.coalesce.apply(&mut operation, now);
            Some(self.count_here(&operation, now))
        };
        operations.into_iter().map(here).collect()
    }

    /// Takes hits of a request back, which was refused. Nobody waits for that, and no counter comes of it.
    pub fn take_back(&self, refund: &Refund<'_>, now: Now) {
        let Refund { limit, part, purpose, amount } = refund;
        let counter = self.counter(&Key { limit, part, kind: *purpose });
        self.give_back(&counter, *amount, now);
        // Whatever comes next would else be one with a hit that is no more, and pass.
        self.coalesce.forget(limit, part);
    }

    /// Counts in this process: on top of the last value seen, if its window still runs.
    fn count_here(&self, operation: &Operation<'_>, now: Now) -> Counter {
        let Operation { key, amount, exptime, threshold } = *operation;
        let subject = self.table.subject(key);
        if amount == 0 {
            let known = self.table.peek(subject, now.monotonic);
            return known.map_or(NOTHING, |hit| Counter { count: hit.count, left: hit.left_seconds(), added: 0 });
        }
        let hit = self.table.hit(subject, amount, u64::from(exptime) * 1000, threshold, now.monotonic);
        Counter { count: hit.count, left: hit.left_seconds(), added: amount }
    }

    /// How it is: `memory`; `up`, or `away` when any server is.
    pub fn state(&self) -> &'static str {
        match &self.memcached {
            None => "memory",
            Some(memcached) if memcached.is_away() => "away",
            Some(_) => "up",
        }
    }

    /// Where a value lies that all hosts share which share the counts; `None`: no host does. `name` tells it
    /// from counters, of which none begins like that.
    pub fn shared(&self, name: &str) -> Option<crate::store::memcached::value::Location> {
        let memcached = self.memcached.as_ref()?;
        let key = format!("{}!{name}", self.key_prefix);
        Some(crate::store::memcached::value::Location {
            server: memcached.address(key.as_bytes()),
            key,
            timeout: SHARED_TIMEOUT,
        })
    }

    /// How each server is.
    pub fn servers(&self) -> Vec<Condition> {
        self.memcached.as_ref().map(Memcached::servers).unwrap_or_default()
    }

    /// Waits until everything is done, or given up, that follows from judgements so far. For the end of the process.
    pub async fn settled(&self) {
        self.following.close();
        self.following.wait().await;
        if let Some(memcached) = &self.memcached {
            memcached.settled().await;
        }
    }

    /// Whether a hit waits for another process.
    pub fn waits(&self) -> bool {
        self.memcached.is_some()
    }

    /// The counts held in this process.
    pub fn table(&self) -> &Arc<Table> {
        &self.table
    }

    /// The shared store, if there is one.
    pub fn memcached(&self) -> Option<&Memcached> {
        self.memcached.as_ref()
    }

    /// Which hits are one with an earlier one.
    pub fn coalesce(&self) -> &Coalesce {
        &self.coalesce
    }

    /// `memory` or `memcached`.
    pub fn name(&self) -> &'static str {
        if self.memcached.is_some() { "memcached" } else { "memory" }
    }
}
