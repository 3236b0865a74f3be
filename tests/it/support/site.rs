//! Every store, with the servers it needs, for the library and for the program.

use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use connshaper::config::{Config, OnStoreFailure, SharedStoreConfig, StoreConfig};
use connshaper::net::clock::Now;
use connshaper::observe::log::{Log, Severity};
use connshaper::observe::statistics::Statistics;
use connshaper::policy::decision::Violation;
use connshaper::policy::key::KeyPart;
use connshaper::policy::{CounterKind, CounterValue, Key, Limit, Operation, sliding_window};
use connshaper::store::Store;
use connshaper::store::local::Table;
use connshaper::store::shared::backend::{
    BackendContext, CounterCommand, CounterReply, CounterRequest, KeyText, Outcome,
};
use smallvec::smallvec;
use tokio::runtime::Builder;

use super::redis::RIGHTS_WITHOUT_EVAL;
use super::{Memcached, PATIENCE, Proxy, Redis, RedisCluster, Sqlite};

/// The store that the hosts of a site share.
#[derive(Default)]
pub struct Site {
    /// The name for messages.
    pub name: &'static str,
    /// The lines that configure it; none: each host counts in memory.
    pub config: String,
    pub memcached: Vec<Memcached>,
    pub sqlite: Option<Sqlite>,
    pub redis: Option<Redis>,
    pub cluster: Option<RedisCluster>,
    _proxy: Option<Proxy>,
}

/// The stores that every test of stores runs on: a line for each that counts in another way.
pub const STORES: &[fn() -> Site] = &[
    Site::memory,
    Site::one_memcached,
    Site::three_memcached,
    Site::proxied,
    Site::sqlite,
    || Site::redis("redis", Redis::start()),
    || Site::redis("redis without scripts", Redis::with_rights(RIGHTS_WITHOUT_EVAL)),
];

/// One process that counts.
pub struct Host {
    pub store: Arc<Store>,
    pub statistics: Arc<Statistics>,
    pub log: Log,
}

/// As `until`, without blocking the runtime.
pub async fn eventually<T>(what: impl Display, mut probe: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Runs a test on every store, at once.
pub fn on_every_store(test: impl AsyncFn(&Site) + Sync) {
    on_each(STORES, test);
}

/// Runs a test on each of these stores, at once.
pub fn on_each(sites: &[fn() -> Site], test: impl AsyncFn(&Site) + Sync) {
    thread::scope(|scope| {
        for site in sites {
            let test = &test;
            scope.spawn(move || {
                let site = site();
                let _name = NameIfPanicking(site.name);
                let runtime = Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(test(&site));
            });
        }
    });
}

/// Says on which store a test failed.
struct NameIfPanicking(&'static str);

impl Drop for NameIfPanicking {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("This was on {}.", self.0);
        }
    }
}

impl Site {
    /// A store that these lines configure.
    pub fn new(name: &'static str, config: String) -> Self {
        Self { name, config, ..Self::default() }
    }

    pub fn memory() -> Self {
        Self::new("memory", String::new())
    }

    pub fn sqlite() -> Self {
        let sqlite = Sqlite::new();
        Self { name: "sqlite", config: sqlite.config(), sqlite: Some(sqlite), ..Self::default() }
    }

    pub fn redis(name: &'static str, redis: Redis) -> Self {
        Self { name, config: redis.config(), redis: Some(redis), ..Self::default() }
    }

    pub fn redis_cluster(name: &'static str, cluster: RedisCluster) -> Self {
        Self { name, config: cluster.config(), cluster: Some(cluster), ..Self::default() }
    }

    pub fn memcached(name: &'static str, memcached: Memcached) -> Self {
        Self { name, config: memcached.config(), memcached: vec![memcached], ..Self::default() }
    }

    pub fn one_memcached() -> Self {
        Self::memcached("memcached", Memcached::start())
    }

    pub fn three_memcached() -> Self {
        let memcached: Vec<_> = (0..3).map(|_| Memcached::start()).collect();
        let servers: Vec<_> = memcached.iter().map(Memcached::server).collect();
        Self { name: "three memcached", memcached, ..Self::default() }.behind(&servers)
    }

    /// Behind a proxy that knows `add` and `incr`, but closes the connection on meta commands.
    pub fn proxied() -> Self {
        let memcached = Memcached::start();
        let proxy = Proxy::before(&memcached);
        let servers = [proxy.server()];
        let site = Self::memcached("memcached behind a proxy without meta commands", memcached).behind(&servers);
        Self { _proxy: Some(proxy), ..site }
    }

    /// The same, with these addresses of memcached servers.
    pub fn behind(self, servers: &[String]) -> Self {
        Self { config: format!("memcached_server = {servers:?}\n"), ..self }
    }

    /// A host with a long time-out.
    pub fn host(&self) -> Host {
        self.host_with(OnStoreFailure::Local, PATIENCE)
    }

    pub fn host_with(&self, on_failure: OnStoreFailure, timeout: Duration) -> Host {
        self.host_that_remembers(Duration::ZERO, on_failure, timeout)
    }

    /// The same with an `over_memory`.
    pub fn host_that_remembers(&self, over_memory: Duration, on_failure: OnStoreFailure, timeout: Duration) -> Host {
        let config = StoreConfig {
            over_memory,
            shared: self.shared(),
            timeout,
            on_failure: Some(on_failure),
            max_clients: 100_000,
            ..Config::default().store
        };
        let (table, statistics, log) = (Arc::new(Table::new(100_000)), Arc::default(), Log::in_memory(Severity::Debug));
        let store = Arc::new(Store::new(&config, on_failure, table.into(), &statistics, &log));
        Host { store, statistics, log }
    }

    /// The store, as a configuration has it.
    pub fn shared(&self) -> Option<Arc<dyn SharedStoreConfig>> {
        let config = Config::parse(Path::new("connshaper.toml"), &self.config);
        config.unwrap_or_else(|error| panic!("{error}")).store.shared
    }

    /// Whether hosts share the counts.
    pub fn is_shared(&self) -> bool {
        !self.config.is_empty()
    }

    /// The value of a key in the shared store.
    pub fn value(&self, key: &str) -> Option<String> {
        if let Some(sqlite) = &self.sqlite {
            let count = sqlite.say(format!("SELECT count FROM counter WHERE key = '{key}'"));
            return (!count.is_empty()).then(|| count.trim().to_owned());
        }
        if let Some(redis) = &self.redis {
            return redis.value(key);
        }
        if !self.memcached.is_empty() {
            let mut values = self.memcached.iter().filter_map(|memcached| memcached.value(key));
            return values.next().map(|value| value.trim_end().to_owned());
        }
        match self.say(key, CounterCommand::Read)? {
            Ok(CounterReply::Count { count, .. }) => Some(count.to_string()),
            _ => None,
        }
    }

    /// Seconds until a key expires, as the shared store says.
    pub fn seconds_left(&self, key: &str) -> Option<u32> {
        if let Some(sqlite) = &self.sqlite {
            // Some hosts have a simulated clock.
            let ends = sqlite.say(format!("SELECT ends FROM counter WHERE key = '{key}'"));
            let ends: u64 = ends.trim().parse().ok()?;
            let now = [Now::read(), Now::simulated(0)].map(|now| now.unix_ms).into_iter().find(|now| *now < ends)?;
            return Some(((ends - now) / 1000) as u32);
        }
        if let Some(redis) = &self.redis {
            let left: u64 = redis.say(&["PTTL", key]).trim().parse().ok()?;
            return Some(left.div_ceil(1000) as u32);
        }
        if !self.memcached.is_empty() {
            let mut answers = self.memcached.iter().map(|memcached| memcached.say(&format!("mg {key} t")));
            return answers.find_map(|answer| Some(answer.strip_prefix("HD t")?.parse().unwrap()));
        }
        match self.say(key, CounterCommand::Read)? {
            Ok(CounterReply::Count { left, .. }) => left,
            _ => None,
        }
    }

    /// Removes a key from the shared store.
    pub fn delete(&self, key: &str) {
        match &self.sqlite {
            // Another process would purge what ended by its clock, and some hosts have a simulated one.
            Some(sqlite) => sqlite.delete(key),
            None => drop(self.say(key, CounterCommand::Delete)),
        }
    }

    /// What the shared store says to a command.
    fn say(&self, key: &str, command: CounterCommand) -> Option<Outcome> {
        let (config, key) = (self.shared()?, KeyText::from_slice(key.as_bytes()));
        let say = async move {
            let context = BackendContext {
                timeout: PATIENCE,
                on_failure: OnStoreFailure::Local,
                outages: Vec::new(),
                statistics: Arc::default(),
                log: Log::in_memory(Severity::Err),
            };
            let request = CounterRequest { key, command, exptime: 0, is_known: false };
            let backend = config.open(&context);
            backend.submit(smallvec![request], true, Now::read()).pop()?.outcome().await.into()
        };
        // This thread has a runtime already.
        let say = move || Builder::new_current_thread().enable_all().build().unwrap().block_on(say);
        thread::spawn(say).join().unwrap()
    }
}

impl Host {
    /// Counts for one client of a limit.
    pub async fn count(
        &self,
        limit: &Limit,
        part: &KeyPart,
        asked: &[(CounterKind, u32)],
        now: Now,
    ) -> Vec<Option<CounterValue>> {
        let operation = |&(purpose, amount): &(CounterKind, u32)| {
            let exptime = match purpose {
                CounterKind::Slot(_) => sliding_window::lifetime(limit.exptime),
                _ => limit.exptime,
            };
            Operation { key: Key { limit, part, kind: purpose }, amount, exptime, threshold: limit.threshold }
        };
        self.store.count(asked.iter().map(operation), now).await.into_vec()
    }

    /// One hit of the window, or a read of it.
    pub async fn hit(&self, limit: &Limit, part: &KeyPart, amount: u32, now: Now) -> CounterValue {
        self.count(limit, part, &[(CounterKind::FixedWindow, amount)], now).await[0].expect("a store that is there")
    }

    /// Reads a counter.
    pub async fn read(&self, limit: &Limit, part: &KeyPart, purpose: CounterKind, now: Now) -> CounterValue {
        self.count(limit, part, &[(purpose, 0)], now).await[0].expect("a store that is there")
    }

    /// Reports a violation of a client.
    pub fn violated(&self, limit: &Limit, part: &KeyPart, now: Now) {
        self.store.violated(&Violation { limit, part: part.clone() }, None, &self.log, now);
    }

    /// Waits until all violations are handled.
    pub async fn wait_for_background(&self) {
        eventually("an end of what follows from violations", || (Arc::strong_count(&self.store) == 1).then_some(()))
            .await;
    }

    /// The first line with a keyword, as soon as there is one.
    pub async fn line(&self, keyword: &str) -> String {
        eventually(keyword, || self.lines(keyword).into_iter().next()).await
    }

    /// The lines with a keyword so far.
    pub fn lines(&self, keyword: &str) -> Vec<String> {
        self.log.lines().into_iter().filter(|line| line.split(' ').next() == Some(keyword)).collect()
    }
}
