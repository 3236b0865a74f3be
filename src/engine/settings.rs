//! What a configuration says about answering, beside the decisions.

use crate::listener::Peers;
use crate::observe::log::LogConfig;
use crate::policy::OnStoreFailure;
use crate::store::StoreConfig;

/// What a configuration says about answering, beside the decisions.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where hits are counted.
    pub store: StoreConfig,
    /// What is done while the store is away.
    pub on_store_failure: OnStoreFailure,
    /// What is logged. The target stays what it was at the start.
    pub log: LogConfig,
    /// Policy connections held at once.
    pub max_connections: usize,
    /// Sessions that may wait for an answer at once.
    pub max_delayed: usize,
    /// Who may ask over TCP.
    pub allow_peers: Peers,
    /// The file all of this comes from, for `status`.
    pub source: Source,
}

/// What `status` tells about the configuration in force.
#[derive(Clone, Debug, Default)]
pub struct Source {
    /// `None`: there is no file, so the built-in defaults are in force.
    pub path: Option<String>,
    /// Which form the file has.
    pub form: &'static str,
    /// What parses but makes no sense.
    pub warnings: Vec<String>,
}
