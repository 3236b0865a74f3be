//! What all policy connections share, and how a reload changes it.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::config::{Config, OnStoreFailure, StoreConfig};
use crate::listener::Peers;
use crate::log::Log;
use crate::policy::Policy;
use crate::session::Sessions;
use crate::statistics::Statistics;
use crate::store::Store;
use crate::store::table::Table;
use crate::waiting::Waiting;

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
    /// Where it is told.
    pub log: Log,
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
            rules: ArcSwap::from_pointee(Rules::new(policy, config, Arc::new(store))),
            sessions: Sessions::new(config.max_connections),
            waiting: Arc::default(),
            statistics,
            log,
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
        self.rules.store(Arc::new(Rules::new(policy, config, store)));
        self.log.reconfigure(config.log.level, config.log.interval, config.log.rate);
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

impl Rules {
    fn new(policy: Policy, config: &Config, store: Arc<Store>) -> Self {
        let store_config = (config.store.clone(), config.on_store_failure());
        Self { policy, store, max_delayed: config.max_delayed, peers: config.allow_peers.clone(), store_config }
    }
}
