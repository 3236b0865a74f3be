//! What all policy connections share, and how a reload changes it.

use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use jiff::tz::TimeZone;

use crate::engine::daily::DailyCounts;
use crate::engine::delay_permits::DelayedReplies;
use crate::engine::diagnosis::Diagnosis;
use crate::engine::limit_use::LimitUse;
use crate::engine::named_keys::NamedKeys;
use crate::engine::overrides::SharedOverrides;
use crate::engine::report::{Decisions, Tally};
use crate::listener::Peers;
use crate::net::clock::Now;
use crate::net::lock;
use crate::observe::log::{Log, LogConfig};
use crate::observe::rates::{RateSampler, Rates};
use crate::observe::statistics::Statistics;
use crate::policy::{BLACKLIST, Door, OnStoreFailure, Policy};
use crate::session::Sessions;
use crate::store::local::Table;
use crate::store::{KnownCounts, Store, StoreConfig};

/// Everything a policy connection needs to answer.
#[derive(Debug)]
pub struct Service {
    /// What a reload replaces, whole.
    pub rules: ArcSwap<Rules>,
    /// The sessions of all policy connections.
    pub sessions: Arc<Sessions>,
    /// The sessions whose answer is delayed.
    pub delayed: Arc<DelayedReplies>,
    /// The logins and web requests whose answer is delayed. They keep no smtpd process waiting.
    pub delayed_http: Arc<DelayedReplies>,
    /// Counters of what was answered.
    pub statistics: Arc<Statistics>,
    /// The same by limit, verdict and reason.
    pub decisions: Decisions,
    /// What is noted of every request.
    pub tally: Arc<Tally>,
    /// The names of keys that were counted lately.
    pub named_keys: NamedKeys,
    /// What was counted today and yesterday.
    pub daily: Arc<DailyCounts>,
    /// What the requests show of a wrong set-up.
    pub diagnosis: Diagnosis,
    /// Which limits count anything.
    pub limit_use: LimitUse,
    /// The overrides of administrators, which hosts share.
    pub overrides: SharedOverrides,
    pub log: Log,
    history: Mutex<RateSampler>,
    configured: Mutex<Configured>,
}

/// What `status` shows of the configuration in force.
#[derive(Debug, Default)]
struct Configured {
    source: ConfigSource,
    /// Why the last reload changed nothing, if so.
    reload_failed: Option<String>,
    /// What is wrong for the life of the process, whatever the configuration says later.
    faults: Vec<String>,
}

/// What a reload replaces: the policy, the store, and the settings of the answers.
#[derive(Debug)]
pub struct Rules {
    pub policy: Policy,
    /// Where hits are counted. A reload keeps it unless a key of the store was changed.
    pub store: Arc<Store>,
    /// Sessions whose answer may be delayed at once.
    pub max_delayed: usize,
    /// Who may ask over TCP. A connection that was accepted stays.
    pub peers: Peers,
    store_config: (StoreConfig, OnStoreFailure),
}

impl Service {
    /// A service after a configuration; must be called within a runtime.
    pub fn new(settings: ServiceSettings, policy: Policy, log: Log) -> Self {
        let table = Table::new(settings.store.max_clients);
        Self::restored(settings, policy, log, table.into())
    }

    /// The same with counts from before, whose limits have the ids of `policy`.
    pub fn restored(settings: ServiceSettings, policy: Policy, log: Log, known: KnownCounts) -> Self {
        let (statistics, decisions) = (Arc::new(Statistics::default()), Decisions::default());
        let tally = Arc::new(Tally::default());
        let store = Store::new(&settings.store, settings.on_store_failure, known, &statistics, &log);
        Self {
            sessions: Sessions::new(settings.max_connections),
            daily: Arc::new(DailyCounts::new(settings.time_zone.clone(), Arc::clone(&tally))),
            configured: Mutex::new(Configured { source: settings.source.clone(), ..Configured::default() }),
            rules: ArcSwap::from_pointee(Rules::new(policy, settings, Arc::new(store), &decisions)),
            delayed: Arc::default(),
            delayed_http: Arc::default(),
            statistics,
            decisions,
            named_keys: NamedKeys::default(),
            diagnosis: Diagnosis::default(),
            limit_use: LimitUse::new(Arc::clone(&tally)),
            tally,
            overrides: SharedOverrides::default(),
            log,
            history: Mutex::default(),
        }
    }

    /// Changes the rules to those of `config`, of which `policy` was made. No connection and no count is
    /// lost: sessions keep what they were counted for, counts in this process stay, and so do connections
    /// to the shared store unless a key of the store was changed.
    pub fn reload(&self, mut policy: Policy, settings: ServiceSettings, now: Now) {
        let old = self.rules.load();
        policy.take_over(&old.policy, now);
        let on_failure = settings.on_store_failure;
        let store = if old.store_config == (settings.store.clone(), on_failure) {
            Arc::clone(&old.store)
        } else {
            let table = Arc::clone(old.store.table());
            Arc::new(Store::new(&settings.store, on_failure, table.into(), &self.statistics, &self.log))
        };
        {
            let mut configured = lock(&self.configured);
            (configured.source, configured.reload_failed) = (settings.source.clone(), None);
        }
        self.log.reconfigure(&settings.log);
        self.daily.set_zone(settings.time_zone.clone());
        self.rules.store(Arc::new(Rules::new(policy, settings, store, &self.decisions)));
        self.limit_use.begin_anew();
    }

    /// A reload has changed nothing, for this reason.
    pub fn reload_failed(&self, error: &str) {
        lock(&self.configured).reload_failed = Some(error.to_owned());
    }

    /// Whether the last reload has changed nothing.
    pub fn last_reload_failed(&self) -> bool {
        lock(&self.configured).reload_failed.is_some()
    }

    /// Where the configuration in force comes from, and why the last reload changed nothing, if so.
    pub fn configured(&self) -> (ConfigSource, Option<String>) {
        let Configured { source, reload_failed, faults } = &*lock(&self.configured);
        let mut source = source.clone();
        source.warnings.extend(faults.iter().cloned());
        (source, reload_failed.clone())
    }

    /// Has `status` show something that is wrong for the life of the process.
    pub fn add_fault(&self, fault: String) {
        lock(&self.configured).faults.push(fault);
    }

    /// Once a second: notes the numbers as they are.
    pub fn sample_rates(&self, now: Now) {
        lock(&self.history).note(&self.statistics, now);
    }

    /// The rates of the last minute.
    pub fn rates(&self) -> Rates {
        lock(&self.history).lately()
    }

    /// Logs the STATISTICS line.
    pub fn report(&self, connections: usize) {
        let rules = self.rules.load();
        self.statistics.report(
            &self.log,
            rules.store.state(),
            &[
                ("policy_connections", connections as u64),
                ("known_sessions", self.sessions.len() as u64),
                ("clients", rules.store.table().len() as u64),
                ("evictions", rules.store.table().evictions()),
            ],
        );
    }
}

impl Rules {
    fn new(policy: Policy, settings: ServiceSettings, store: Arc<Store>, decisions: &Decisions) -> Self {
        let limits = policy.limits().iter().map(|limit| (limit.name.as_str(), limit.door));
        limits.chain([(BLACKLIST, Door::Smtp)]).for_each(|(name, door)| decisions.begin(name, door));
        let store_config = (settings.store, settings.on_store_failure);
        Self { policy, store, max_delayed: settings.max_delayed, peers: settings.allow_peers, store_config }
    }
}

/// The settings of a service, beside those of the policy.
#[derive(Clone, Debug)]
pub struct ServiceSettings {
    /// Where hits are counted.
    pub store: StoreConfig,
    /// What is done while the store is down.
    pub on_store_failure: OnStoreFailure,
    /// What is logged. The target stays what it was at the start.
    pub log: LogConfig,
    /// Policy connections held at once.
    pub max_connections: usize,
    /// Sessions that may wait for an answer at once.
    pub max_delayed: usize,
    /// Who may ask over TCP.
    pub allow_peers: Peers,
    /// The time zone of the days in `connshaper report`.
    pub time_zone: TimeZone,
    /// The file all of this comes from, for `status`.
    pub source: ConfigSource,
}

/// Where the configuration in force comes from, for `status`.
#[derive(Clone, Debug, Default)]
pub struct ConfigSource {
    /// `None`: there is no file, so the built-in defaults are in force.
    pub path: Option<String>,
    /// Which form the file has.
    pub form: &'static str,
    /// What parses but makes no sense.
    pub warnings: Vec<String>,
}
