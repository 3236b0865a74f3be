//! What all policy connections share, and how a reload changes it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use serde_json::{Value, json};

use crate::config::{Config, OnStoreFailure, StoreConfig};
use crate::engine::delays::Waiting;
use crate::engine::diagnosis::Diagnosis;
use crate::engine::overrides::Words;
use crate::listener::Peers;
use crate::net::clock::Now;
use crate::observe::log::Log;
use crate::observe::rates::{History, Lately};
use crate::observe::statistics::Statistics;
use crate::policy::{BLACKLIST, Policy};
use crate::session::Sessions;
use crate::store::Store;
use crate::store::local::Table;

/// Everything a policy connection needs to answer.
#[derive(Debug)]
pub struct Service {
    /// What a reload replaces, whole.
    pub rules: ArcSwap<Rules>,
    /// The sessions of all policy connections.
    pub sessions: Arc<Sessions>,
    /// The sessions whose answer is delayed.
    pub waiting: Arc<Waiting>,
    /// Numbers of what was answered.
    pub statistics: Arc<Statistics>,
    /// What the requests tell of the set-up.
    pub diagnosis: Diagnosis,
    /// What administrators said, as other hosts hear it.
    pub words: Words,
    /// Where it is told.
    pub log: Log,
    history: Mutex<History>,
    configured: Mutex<Configured>,
}

/// What is told of the configuration in force.
#[derive(Debug, Default)]
struct Configured {
    path: Option<String>,
    form: &'static str,
    warnings: Vec<String>,
    /// Why the last reload changed nothing, if so.
    reload_failed: Option<String>,
}

impl Configured {
    fn new(config: &Config) -> Self {
        Self {
            path: config.path.as_ref().map(|path| path.to_string_lossy().into_owned()),
            form: config.form.name(),
            warnings: config.warnings.iter().map(ToString::to_string).collect(),
            reload_failed: None,
        }
    }
}

/// What a configuration says about the answers.
#[derive(Debug)]
pub struct Rules {
    /// The decision.
    pub policy: Policy,
    /// The counts. Kept over a reload that does not concern it.
    pub store: Arc<Store>,
    /// Sessions whose answer may be delayed at once.
    pub max_delayed: usize,
    /// Who may ask over TCP. A connection that was accepted stays.
    pub peers: Peers,
    store_config: (StoreConfig, OnStoreFailure),
}

impl Service {
    /// A service after a configuration; must be called within a runtime.
    pub fn new(config: &Config, log: Log) -> Self {
        Self::going_on(config, log, Policy::new(config, None), Table::new(config.store.max_clients))
    }

    /// The same with the counts of before, which the limits of `policy` know as theirs.
    pub fn going_on(config: &Config, log: Log, policy: Policy, table: Table) -> Self {
        let statistics = Arc::new(Statistics::default());
        let store = Store::new(&config.store, config.on_store_failure(), Arc::new(table), &statistics, &log);
        Self {
            rules: ArcSwap::from_pointee(Rules::new(policy, config, Arc::new(store), &statistics)),
            sessions: Sessions::new(config.max_connections),
            waiting: Arc::default(),
            statistics,
            diagnosis: Diagnosis::default(),
            words: Words::default(),
            log,
            history: Mutex::default(),
            configured: Mutex::new(Configured::new(config)),
        }
    }

    /// Changes the rules to those of `config`, of which `policy` was made. No connection and no count is
    /// lost: sessions keep what they were counted for, counts in this process stay, and so do connections
    /// to memcached unless a key of the store was changed.
    pub fn reload(&self, policy: Policy, config: &Config) {
        let old = self.rules.load();
        let on_failure = config.on_store_failure();
        let store = if old.store_config == (config.store.clone(), on_failure) {
            Arc::clone(&old.store)
        } else {
            let table = Arc::clone(old.store.table());
            Arc::new(Store::new(&config.store, on_failure, table, &self.statistics, &self.log))
        };
        self.rules.store(Arc::new(Rules::new(policy, config, store, &self.statistics)));
        *lock(&self.configured) = Configured::new(config);
        self.log.reconfigure(&config.log);
    }

    /// A reload has changed nothing, for this reason.
    pub fn reload_failed(&self, error: &str) {
        lock(&self.configured).reload_failed = Some(error.to_owned());
    }

    /// Whether the last reload has changed nothing.
    pub fn stays(&self) -> bool {
        lock(&self.configured).reload_failed.is_some()
    }

    /// What is told of the configuration in force.
    pub fn configured(&self) -> Value {
        let Configured { path, form, warnings, reload_failed } = &*lock(&self.configured);
        json!({ "path": path, "form": form, "warnings": warnings, "reload_failed": reload_failed })
    }

    /// Once a second: notes the numbers as they are.
    pub fn note(&self, now: Now) {
        lock(&self.history).note(&self.statistics, now);
    }

    /// What went on lately.
    pub fn history(&self) -> Lately {
        lock(&self.history).lately()
    }

    /// Tells the numbers so far.
    pub fn report(&self, connections: usize) {
        let rules = self.rules.load();
        self.statistics.report(
            &self.log,
            rules.store.state(),
            &[
                ("connections", connections as u64),
                ("known_sessions", self.sessions.len() as u64),
                ("clients", rules.store.table().len() as u64),
                ("evictions", rules.store.table().evictions()),
            ],
        );
    }
}

/// What these locks guard is whole after any panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Rules {
    fn new(policy: Policy, config: &Config, store: Arc<Store>, statistics: &Statistics) -> Self {
        let names = policy.limits().iter().map(|limit| limit.name.as_str());
        names.chain([BLACKLIST]).for_each(|name| statistics.decisions.begin(name));
        let store_config = (config.store.clone(), config.on_store_failure());
        Self { policy, store, max_delayed: config.max_delayed, peers: config.allow_peers.clone(), store_config }
    }
}
