//! What a configuration says about the store.

use std::time::Duration;

use crate::net::address::Address;
use crate::policy::OnStoreFailure;

/// Where hits are counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreConfig {
    /// The memcached servers; none: count in this process.
    pub servers: Vec<Address>,
    /// Servers that have each key, 1 or 2.
    pub replicas: usize,
    /// The keys of a server that is away are the next one's meanwhile.
    pub failover: bool,
    /// Between two questions about a key that is over its limit; zero: every hit is one.
    pub over_memory: Duration,
    /// How long one request waits for the store.
    pub timeout: Duration,
    /// What is done while the store is away; `None`: not said, so the mode of running decides.
    pub on_failure: Option<OnStoreFailure>,
    /// What the store's keys begin with.
    pub key_prefix: String,
    /// Clients counted in this process at once.
    pub max_clients: usize,
}
