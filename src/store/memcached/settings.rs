//! What a configuration says about memcached.

use crate::net::address::Address;
use crate::net::tls::TlsFiles;
use crate::store::shared::login::StoreLogin;

/// The servers, and how keys are spread over them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemcachedConfig {
    pub servers: Vec<Address>,
    /// How many servers have each key, 1 or 2.
    pub replicas: usize,
    /// While a server is down, its keys are on the next one.
    pub failover: bool,
    /// How we log in, where a server wants that.
    pub login: StoreLogin,
    /// `None`: without TLS.
    pub tls: Option<TlsFiles>,
}
