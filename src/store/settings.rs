//! What a configuration says about the store.

use std::sync::Arc;
use std::time::Duration;

use crate::policy::OnStoreFailure;
use crate::store::shared::kind::{SharedStoreConfig, StoreKind};

/// Where hits are counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreConfig {
    /// The store that several processes share; `None`: this process counts.
    pub shared: Option<Arc<dyn SharedStoreConfig>>,
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

impl StoreConfig {
    /// The store that several processes share.
    pub fn kind(&self) -> Option<&'static StoreKind> {
        self.shared.as_ref().map(|shared| shared.kind())
    }
}
