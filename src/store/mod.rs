//! Where hits are counted: in this process, or in a store that several hosts share.
//!
//! A request makes one call: count these keys now, and return the hits of each and how long its window lasts. The
//! answer always comes within `store_timeout`. Refunds and bans, which follow from a judgement, are done in the
//! background.
//!
//! The table in this process is the embedded store. Beside a shared store it remembers the last count seen of each
//! key, so that a time-out or an outage does not let a client in that is known to be over its limit. The shared count
//! always overrides it; local hits are never added to a shared count, so too few may be counted after an outage,
//! never too many.
//!
//! A new shared store implements [`shared::backend::Backend`].

pub mod bans;
pub mod coalesce;
pub mod counters;
pub mod local;
pub mod memcached;
pub mod redis;
mod retime;
pub mod settings;
pub mod shared;
pub mod sqlite;

use std::io;
use std::sync::Arc;

use smallvec::SmallVec;
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

use crate::net::clock::Now;
use crate::observe::log::Log;
use crate::observe::statistics::Statistics;
use crate::policy::OnStoreFailure;
use crate::policy::{CounterKind, CounterValue, Key, Operation, Refund};
pub use settings::StoreConfig;
pub use shared::kind::SharedStoreConfig;

use crate::store::bans::{LostBans, UnpublishedBans};
use crate::store::coalesce::Coalesce;
use crate::store::shared::backend::{Backend, BackendContext, SavedOutage, VersionedValue};
use crate::store::shared::breaker::ServerHealth;
use crate::store::shared::kind::StoreKind;
use crate::store::shared::over_limit::OverLimitCache;
use local::{CounterId, Table};

/// Every shared store.
pub static STORES: &[&StoreKind] = &[&memcached::KIND, &redis::KIND, &sqlite::KIND];

/// The values of the counters of a request, in the order of its operations; `None`: not counted, as the store is down.
pub type CounterValues = SmallVec<[Option<CounterValue>; 2]>;

/// Where hits are counted.
#[derive(Debug)]
pub struct Store {
    table: Arc<Table>,
    /// The shared store; `None`: the table counts.
    backend: Option<Box<dyn Backend>>,
    kind: Option<&'static StoreKind>,
    coalesce: Coalesce,
    /// Keys over their limit, about which the shared store is asked once per `over_memory`.
    over: OverLimitCache,
    /// The same for the violations of limits that delay.
    over_violations: OverLimitCache,
    on_failure: OnStoreFailure,
    key_prefix: String,
    statistics: Arc<Statistics>,
    /// Work that follows from judgements, for which no request waits.
    following: TaskTracker,
    /// The runtime for that work: decisions come from several threads, of which some may end.
    runtime: Option<Handle>,
    unpublished_bans: UnpublishedBans,
    lost_bans: LostBans,
}

/// What is known before the first request.
#[derive(Debug)]
pub struct KnownCounts {
    /// Outlives reloads, and so do its counts.
    pub table: Arc<Table>,
    /// The servers that were down for the old program of an upgrade.
    pub outages: Vec<SavedOutage>,
}

impl From<Table> for KnownCounts {
    fn from(table: Table) -> Self {
        Arc::new(table).into()
    }
}

impl From<Arc<Table>> for KnownCounts {
    fn from(table: Arc<Table>) -> Self {
        Self { table, outages: Vec::new() }
    }
}

/// The reading of a counter that does not exist.
const NOTHING: CounterValue = CounterValue { count: 0, left: 0, added: 0 };

impl Store {
    /// The store of a configuration. Must be called within a runtime.
    pub fn new(
        config: &StoreConfig,
        on_failure: OnStoreFailure,
        known: KnownCounts,
        statistics: &Arc<Statistics>,
        log: &Log,
    ) -> Self {
        let KnownCounts { table, outages } = known;
        table.set_max_clients(config.max_clients);
        let (statistics, log) = (Arc::clone(statistics), log.clone());
        let context = BackendContext { timeout: config.timeout, on_failure, outages, statistics, log };
        let backend = config.shared.as_ref().map(|shared| shared.open(&context));
        Self {
            table,
            backend,
            kind: config.kind(),
            coalesce: Coalesce::default(),
            over: OverLimitCache::new(config.over_memory),
            over_violations: OverLimitCache::new(config.over_memory),
            on_failure,
            key_prefix: config.key_prefix.clone(),
            statistics: context.statistics,
            following: TaskTracker::new(),
            runtime: Handle::try_current().ok(),
            unpublished_bans: UnpublishedBans::default(),
            lost_bans: LostBans::default(),
        }
    }

    /// Does all operations of a request at once, in one round trip. They are sent now, and the future waits for them.
    pub fn count<'o>(
        &self,
        operations: impl IntoIterator<Item = Operation<'o>>,
        now: Now,
    ) -> impl Future<Output = CounterValues> {
        let operations = operations.into_iter();
        let mut counted = match self.backend.as_deref() {
            Some(backend) => Err(self.send_operations(backend, operations, now)),
            None => Ok(operations.map(|operation| Some(self.count_at_once(operation, now))).collect()),
        };
        async move {
            match &mut counted {
                Ok(hits) => std::mem::take(hits),
                Err(sent) => self.receive(sent, now).await,
            }
        }
    }

    /// Counts in this process, without waiting.
    pub fn count_at_once(&self, mut operation: Operation<'_>, now: Now) -> CounterValue {
        // Few limits coalesce; the others do not pay for the call.
        if operation.key.limit.coalesce > 0 {
            self.coalesce.apply(&mut operation, now);
        }
        self.count_here(&operation, now)
    }

    /// Takes hits back from their counter, in the background. Never creates a counter.
    pub fn take_back(&self, refund: &Refund<'_>, now: Now) {
        let Refund { limit, part, kind, amount } = refund;
        let key = Key { limit, part, kind: *kind };
        // Hits that were not sent to the shared store need not be taken back from it.
        let sent = self.over.take_back(&key, *amount);
        self.take_back_sent(&self.counter(&key), *amount, sent, now);
        // Else the next hit would coalesce with one that no longer counts, and pass.
        self.coalesce.forget(limit, part);
    }

    /// Counts in this process, on top of the last count seen if its window still runs.
    fn count_here(&self, operation: &Operation<'_>, now: Now) -> CounterValue {
        let Operation { key, amount, exptime, threshold } = *operation;
        let id = self.counter_id_of_open_window(key, now);
        if amount == 0 {
            let known = self.table.peek(id, now.monotonic);
            return known.map_or(NOTHING, |hit| CounterValue { count: hit.count, left: hit.left_seconds(), added: 0 });
        }
        if key.kind == CounterKind::ExactWindow && !key.limit.keeps_hits_over() {
            let known = self.table.peek(id, now.monotonic);
            if let Some(over) = known.filter(|known| known.count.saturating_add(amount) > threshold) {
                return CounterValue {
                    count: over.count.saturating_add(amount),
                    left: over.left_seconds(),
                    added: amount,
                };
            }
        }
        let lasts = match key.kind {
            CounterKind::Calendar(window) => window.left_ms(now),
            _ => u64::from(exptime) * 1000,
        };
        let hit = self.table.hit(id, amount, lasts, threshold, now.monotonic);
        CounterValue { count: hit.count, left: hit.left_seconds(), added: amount }
    }

    /// The id of a key in the table. Ends a window of the calendar that is over: the table measures time by the
    /// monotonic clock, the calendar by the system clock.
    pub(crate) fn counter_id_of_open_window(&self, key: Key<'_>, now: Now) -> CounterId {
        let id = self.table.counter_id(key);
        if let CounterKind::Calendar(window) = key.kind {
            self.table.end_unless(id, window.left_ms(now), window.length() * 1000 / 12, now.monotonic);
        }
        id
    }

    /// `memory`; `up`, or `down` when any server is.
    pub fn state(&self) -> &'static str {
        match &self.backend {
            None => "memory",
            Some(backend) if backend.servers().iter().any(|server| server.down_for.is_some()) => "down",
            Some(_) => "up",
        }
    }

    /// Reads a value that hosts share as they share the counts; `None`: there is none. No counter has the key of a
    /// value: `!` stands right behind `key_prefix` in none of them.
    pub async fn read_value(&self, name: &str) -> io::Result<Option<VersionedValue>> {
        self.shared()?.read_value(&self.value_key(name)).await
    }

    /// Writes a value for `exptime` seconds in place of what was read before, or where nothing was. Returns whether
    /// that was still the case.
    pub async fn write_value(
        &self,
        name: &str,
        value: &[u8],
        exptime: u32,
        before: Option<&VersionedValue>,
        now: Now,
    ) -> io::Result<bool> {
        self.shared()?.write_value(&self.value_key(name), value, exptime, before, now).await
    }

    fn value_key(&self, name: &str) -> String {
        format!("{}!{name}", self.key_prefix)
    }

    fn shared(&self) -> io::Result<&dyn Backend> {
        self.backend.as_deref().ok_or_else(|| io::Error::other("there is no shared store"))
    }

    /// The state of each server of a shared store.
    pub fn servers(&self) -> Vec<ServerHealth> {
        self.backend.as_ref().map(|backend| backend.servers()).unwrap_or_default()
    }

    /// The servers that are down.
    pub fn outages(&self) -> Vec<SavedOutage> {
        self.backend.as_ref().map(|backend| backend.outages()).unwrap_or_default()
    }

    /// Waits until everything that follows from judgements so far is done or given up. For the end of the process.
    pub async fn wait_for_background(&self) {
        self.following.close();
        self.following.wait().await;
        if let Some(backend) = &self.backend {
            backend.wait_for_background().await;
        }
    }

    /// Whether hosts or processes share it, so that a hit waits for a server or a file.
    pub fn is_shared(&self) -> bool {
        self.backend.is_some()
    }

    /// Bans that this process began and other hosts do not know.
    pub fn unpublished_bans(&self) -> &UnpublishedBans {
        &self.unpublished_bans
    }

    /// Bans that ended because the shared store has lost them.
    pub fn lost_bans(&self) -> &LostBans {
        &self.lost_bans
    }

    /// The counts held in this process.
    pub fn table(&self) -> &Arc<Table> {
        &self.table
    }

    pub fn coalesce(&self) -> &Coalesce {
        &self.coalesce
    }

    /// `memory`, or the name of the shared store.
    pub fn name(&self) -> &'static str {
        self.kind.map_or("memory", |kind| kind.name)
    }

    /// The key of the configuration that chose the store; `None`: none is set, so this process counts.
    pub fn chosen_by(&self) -> Option<&'static str> {
        self.kind.map(StoreKind::key)
    }
}
