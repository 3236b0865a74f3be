//! Where hits are counted: in this process, or in memcached.
//!
//! The contract is one call: count these keys now, say how many hits each has
//! and how long its window lasts. It always answers within `store_timeout`.
//!
//! The table in this process is the embedded store. With memcached it is a
//! shadow: it remembers the last value seen of each key, so that a time-out or
//! an outage does not let a client in that is known to be over its limit. The
//! shared value always overrides it; local hits are never added to a shared
//! count, so too few may be counted after an outage, never too many.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::clock::Now;
use crate::config::{OnStoreFailure, StoreConfig};
use crate::log::Log;
use crate::policy::{Hit, Operation};
use crate::statistics::{Statistics, add};

pub mod conversation;
pub mod memcached;
pub mod server;
mod shard;
mod sharded;
pub mod subject;
pub mod table;
pub mod wire;

use memcached::Memcached;
use table::Table;

/// What the keys of one request came back with, in their order; `None`: not counted, the store is away.
pub type Hits = SmallVec<[Option<Hit>; 2]>;

/// Where hits are counted.
#[derive(Debug)]
pub struct Store {
    table: Arc<Table>,
    memcached: Option<Memcached>,
    on_failure: OnStoreFailure,
    statistics: Arc<Statistics>,
}

/// Why a shared store did not count a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uncounted {
    /// Its server is known to be away; it was not asked.
    Away,
    /// It was asked, and whether it counted is unknown. Asking again might count twice.
    Unanswered,
    /// It holds something that is no number under this key.
    Foreign,
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
        let memcached = (!config.servers.is_empty()).then(|| Memcached::new(config, on_failure, log));
        Self { table, memcached, on_failure, statistics: Arc::clone(statistics) }
    }

    /// Does all of it at once, in one round trip.
    pub async fn count(&self, operations: impl Iterator<Item = Operation<'_>> + Clone, now: Now) -> Hits {
        match &self.memcached {
            None => operations.map(|operation| Some(self.count_here(&operation, now))).collect(),
            Some(memcached) => self.count_shared(memcached, operations, now).await,
        }
    }

    async fn count_shared(
        &self,
        memcached: &Memcached,
        operations: impl Iterator<Item = Operation<'_>> + Clone,
        now: Now,
    ) -> Hits {
        let mut hits = Hits::new();
        let waiting: SmallVec<[_; 2]> = operations.clone().map(|operation| memcached.hit(&operation, now)).collect();
        for (operation, waiting) in operations.zip(waiting) {
            hits.push(match waiting.outcome().await {
                Ok(counted) => Some(self.seen(&operation, counted, now)),
                Err(uncounted) => self.without(&operation, uncounted, now),
            });
        }
        hits
    }

    /// What is done about an operation that the shared store did not do.
    fn without(&self, operation: &Operation<'_>, uncounted: Uncounted, now: Now) -> Option<Hit> {
        add(&self.statistics.without_store, 1);
        match (uncounted, self.on_failure) {
            (Uncounted::Away, OnStoreFailure::Dunno | OnStoreFailure::Defer) => None,
            _ => Some(self.count_here(operation, now)),
        }
    }

    /// Counts in this process: on top of the last value seen, if its window still runs.
    fn count_here(&self, operation: &Operation<'_>, now: Now) -> Hit {
        let Operation { key, amount, exptime, threshold } = *operation;
        let subject = self.table.subject(key);
        if amount == 0 {
            let known = self.table.peek(subject, now.monotonic);
            return known.map_or(Hit { count: 0, left: 0, added: 0 }, |hit| Hit {
                count: hit.count,
                left: hit.left_seconds() as u32,
                added: 0,
            });
        }
        let hit = self.table.hit(subject, amount, u64::from(exptime) * 1000, threshold, now.monotonic);
        Hit { count: hit.count, left: hit.left_seconds() as u32, added: amount }
    }

    /// Remembers what a server said.
    fn seen(&self, operation: &Operation<'_>, counted: wire::Counted, now: Now) -> Hit {
        let Operation { key, amount, exptime, threshold } = *operation;
        let subject = self.table.subject(key);
        // A server without meta commands does not say how long a window lasts. What is
        // remembered then ends early rather than late; what is told errs the other way.
        let known = || self.table.peek(subject, now.monotonic).map(|hit| hit.left_seconds() as u32);
        let left = counted.left.or_else(known);
        let remembered = u64::from(left.unwrap_or(1)) * 1000;
        self.table.observe(subject, counted.count, remembered, threshold, now.monotonic);
        Hit { count: counted.count, left: left.unwrap_or(exptime), added: amount }
    }

    /// How it is: `memory`; `up`, or `away` when any server is.
    pub fn state(&self) -> &'static str {
        match &self.memcached {
            None => "memory",
            Some(memcached) if memcached.is_away() => "away",
            Some(_) => "up",
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

    /// `memory` or `memcached`.
    pub fn name(&self) -> &'static str {
        if self.memcached.is_some() { "memcached" } else { "memory" }
    }
}
