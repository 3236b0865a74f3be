//! What a configuration says about the store.

use std::time::Duration;

use crate::net::address::Address;
use crate::policy::OnStoreFailure;

/// Where hits are counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreConfig {
    /// The memcached servers; none: count in this process.
    pub servers: Vec<Address>,
    /// How many servers have each key, 1 or 2.
    pub replicas: usize,
    /// While a server is down, its keys are on the next one.
    pub failover: bool,
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
