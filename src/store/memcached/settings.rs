//! What a configuration says about memcached.

use crate::net::address::Address;

/// The servers, and how keys are spread over them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemcachedConfig {
    pub servers: Vec<Address>,
    /// How many servers have each key, 1 or 2.
    pub replicas: usize,
    /// While a server is down, its keys are on the next one.
    pub failover: bool,
}
