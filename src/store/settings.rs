//! What a configuration says about the store.

use std::time::Duration;

use crate::policy::OnStoreFailure;
use crate::store::memcached::MemcachedConfig;
use crate::store::redis::RedisConfig;
use crate::store::sqlite::SqliteConfig;

/// Where hits are counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreConfig {
    /// The store that several processes share; `None`: this process counts.
    pub shared: Option<SharedStoreConfig>,
    /// The shortest time between two questions about a key that is over its limit; zero: every hit asks.
    pub over_memory: Duration,
    /// The longest time that a request waits for the store.
    pub timeout: Duration,
    /// What is done while the store is down; `None`: the default of the daemon or of inetd mode.
    pub on_failure: Option<OnStoreFailure>,
    /// What the store's keys begin with.
    pub key_prefix: String,
    /// The most clients counted in this process at once.
    pub max_clients: usize,
}

/// A store that several processes share: which one, and what only it has to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SharedStoreConfig {
    Memcached(MemcachedConfig),
    Redis(RedisConfig),
    Sqlite(SqliteConfig),
}

impl SharedStoreConfig {
    /// Its name for people.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Memcached(_) => "memcached",
            Self::Redis(_) => "redis",
            Self::Sqlite(_) => "sqlite",
        }
    }

    /// The key of the configuration that chooses it.
    pub fn key(&self) -> &'static str {
        match self {
            Self::Memcached(_) => "memcached_server",
            Self::Redis(_) => "redis_server",
            Self::Sqlite(_) => "sqlite_file",
        }
    }

    /// Whether its sliding windows are exact.
    pub fn slides_exactly(&self) -> bool {
        match self {
            Self::Memcached(_) => false,
            Self::Redis(_) | Self::Sqlite(_) => true,
        }
    }
}

impl StoreConfig {
    /// `memory`, or the name of the shared store.
    pub fn name(&self) -> &'static str {
        self.shared.as_ref().map_or("memory", SharedStoreConfig::name)
    }

    /// `this process`, or the name of the shared store: where counts are kept.
    pub fn place(&self) -> &'static str {
        self.shared.as_ref().map_or("this process", SharedStoreConfig::name)
    }

    /// The key of the configuration that chooses the store; `None`: none is set, so this process counts.
    pub fn chosen_by(&self) -> Option<&'static str> {
        self.shared.as_ref().map(SharedStoreConfig::key)
    }
}
