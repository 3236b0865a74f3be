//! Stores used through the library, with the servers they need.

use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use connshaper::config::{Config, OnStoreFailure, SharedStoreConfig, StoreConfig};
use connshaper::net::address::Address;
use connshaper::net::clock::Now;
use connshaper::observe::log::{Log, Severity};
use connshaper::observe::statistics::Statistics;
use connshaper::policy::decision::Violation;
use connshaper::policy::key::KeyPart;
use connshaper::policy::{Counter, CounterKind, Key, Limit, Operation, window};
use connshaper::store::Store;
use connshaper::store::local::Table;
use connshaper::store::memcached::MemcachedConfig;
use connshaper::store::sqlite::{SqliteConfig, Synchronous};
use tokio::runtime::Builder;

use super::redis::RIGHTS_WITHOUT_EVAL;
use super::{Memcached, PATIENCE, Proxy, Redis, Sqlite};

/// The store that the hosts of a site share.
pub struct Site {
    /// The name for messages.
    pub name: &'static str,
    /// The servers; without any each host counts in memory.
    pub memcached: Vec<Memcached>,
    /// The addresses of the servers, or of a proxy before them.
    pub servers: Vec<String>,
    /// The number of servers that have each key.
    pub replicas: usize,
    _proxy: Option<Proxy>,
    sqlite: Option<Sqlite>,
    redis: Option<Redis>,
}

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
    let sites: [fn() -> Site; 7] = [
        Site::memory,
        Site::one_memcached,
        Site::three_memcached,
        Site::proxied,
        Site::sqlite,
        Site::redis,
        Site::redis_without_scripts,
    ];
    on_each(sites, test);
}

/// Runs a test on each of these stores, at once.
pub fn on_each<const N: usize>(sites: [fn() -> Site; N], test: impl AsyncFn(&Site) + Sync) {
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
    pub fn memory() -> Self {
        Self::of("memory", Vec::new())
    }

    pub fn sqlite() -> Self {
        Self { name: "sqlite", sqlite: Some(Sqlite::new()), ..Self::memory() }
    }

    pub fn redis() -> Self {
        Self { name: "redis", redis: Some(Redis::start()), ..Self::memory() }
    }

    pub fn redis_without_scripts() -> Self {
        let redis = Redis::with_rights(RIGHTS_WITHOUT_EVAL);
        Self { name: "redis without scripts", redis: Some(redis), ..Self::memory() }
    }

    pub fn one_memcached() -> Self {
        Self::of("memcached", vec![Memcached::start()])
    }

    pub fn three_memcached() -> Self {
        Self::of("three memcached", (0..3).map(|_| Memcached::start()).collect())
    }

    /// Behind a proxy without meta commands.
    pub fn proxied() -> Self {
        let memcached = Memcached::start();
        let proxy = Proxy::before(&memcached);
        let servers = vec![proxy.server()];
        Self { servers, _proxy: Some(proxy), ..Self::of("memcached behind a proxy", vec![memcached]) }
    }

    fn of(name: &'static str, memcached: Vec<Memcached>) -> Self {
        let servers = memcached.iter().map(Memcached::server).collect();
        Self { name, memcached, servers, replicas: 1, _proxy: None, sqlite: None, redis: None }
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
    pub fn shared(&self) -> Option<SharedStoreConfig> {
        if let Some(sqlite) = &self.sqlite {
            let (path, synchronous) = (sqlite.file().to_owned(), Synchronous::Normal);
            return Some(SharedStoreConfig::Sqlite(SqliteConfig { path, synchronous, max_clients: 100_000 }));
        }
        if let Some(redis) = &self.redis {
            let config = Config::parse(Path::new("connshaper.toml"), redis.config());
            return config.unwrap_or_else(|error| panic!("{error}")).store.shared;
        }
        let servers: Vec<_> = self.servers.iter().map(|server| Address::of_server(server, 11211).unwrap()).collect();
        let memcached =
            MemcachedConfig { servers, replicas: self.replicas, failover: false, ..MemcachedConfig::default() };
        (!memcached.servers.is_empty()).then_some(SharedStoreConfig::Memcached(memcached))
    }

    /// Whether hosts share the counts.
    pub fn is_shared(&self) -> bool {
        !self.memcached.is_empty() || self.sqlite.is_some() || self.redis.is_some()
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
        self.memcached.iter().find_map(|memcached| memcached.value(key)).map(|value| value.trim_end().to_owned())
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
        let answers = self.memcached.iter().map(|memcached| memcached.say(&format!("mg {key} t")));
        answers.into_iter().find_map(|answer| Some(answer.strip_prefix("HD t")?.parse().unwrap()))
    }

    /// Removes a key from the shared store.
    pub fn delete(&self, key: &str) {
        if let Some(sqlite) = &self.sqlite {
            sqlite.delete(key);
        }
        if let Some(redis) = &self.redis {
            redis.say(&["DEL", key]);
        }
        for memcached in &self.memcached {
            memcached.say(&format!("delete {key}"));
        }
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
    ) -> Vec<Option<Counter>> {
        let operation = |&(purpose, amount): &(CounterKind, u32)| {
            let exptime = match purpose {
                CounterKind::Slot(_) => window::lifetime(limit.exptime),
                _ => limit.exptime,
            };
            Operation { key: Key { limit, part, kind: purpose }, amount, exptime, threshold: limit.threshold }
        };
        self.store.count(asked.iter().map(operation), now).await.into_vec()
    }

    /// One hit of the window, or a read of it.
    pub async fn hit(&self, limit: &Limit, part: &KeyPart, amount: u32, now: Now) -> Counter {
        self.count(limit, part, &[(CounterKind::Window, amount)], now).await[0].expect("a store that is there")
    }

    /// Reads a counter.
    pub async fn read(&self, limit: &Limit, part: &KeyPart, purpose: CounterKind, now: Now) -> Counter {
        self.count(limit, part, &[(purpose, 0)], now).await[0].expect("a store that is there")
    }

    /// Reports a violation of a client.
    pub fn violated(&self, limit: &Limit, part: &KeyPart, now: Now) {
        self.store.violated(&Violation { limit, part: part.clone() }, None, &self.log, now);
    }

    /// Waits until all violations are handled.
    pub async fn settled(&self) {
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
