//! The finished configuration: typed, checked, immutable.
//!
//! `file` reads the TOML form, `original` the `key value` form of
//! connection_shaper; both end in a `Config` or in errors that name the place.

use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use crate::address::Address;
use crate::log::{Facility, Severity};
use crate::policy::action::Action;

/// Everything an administrator can say.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where it was read from; `None` for the built-in defaults.
    pub path: Option<PathBuf>,
    /// Which form the file has.
    pub form: Form,
    /// Length of a window.
    pub exptime: Duration,
    /// Hits a window allows; the next is over.
    pub threshold: u32,
    /// Clients that are neither counted nor refused.
    pub whitelist: Vec<IpNet>,
    /// Bits of an IPv4 client's address that are counted together.
    pub ipv4_prefix_length: u8,
    /// The same for IPv6.
    pub ipv6_prefix_length: u8,
    /// What is answered over the limit.
    pub action: Action,
    /// Where hits are counted.
    pub store: StoreConfig,
    /// Where Postfix asks.
    pub listen: Vec<Address>,
    /// Rights of the unix sockets among them.
    pub socket: SocketConfig,
    /// Policy connections held at once.
    pub max_connections: usize,
    /// What is logged, and where to.
    pub log: LogConfig,
}

/// The form of a configuration file, told by its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// No file: built-in defaults.
    BuiltIn,
    /// Our own form.
    Toml,
    /// The original's lines of `key value`.
    ConnectionShaper,
}

/// Where hits are counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreConfig {
    /// The memcached servers; none: count in this process.
    pub servers: Vec<Address>,
    /// How long one request waits for the store.
    pub timeout: Duration,
    /// What is done while the store is away; `None`: not said, so the mode of running decides.
    pub on_failure: Option<OnStoreFailure>,
    /// What the store's keys begin with.
    pub key_prefix: String,
    /// Clients counted in this process at once.
    pub max_clients: usize,
}

/// What is done while the store is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnStoreFailure {
    /// Count in this process meanwhile.
    Local,
    /// Let everyone pass.
    Dunno,
    /// Refuse everyone who is not whitelisted.
    Defer,
}

/// Rights of a unix socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketConfig {
    /// Permission bits.
    pub mode: u32,
    /// User name; `None`: the daemon's own.
    pub owner: Option<String>,
    /// Group name; `None`: the daemon's own.
    pub group: Option<String>,
}

/// What is logged, and where to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// Where lines go.
    pub target: LogTarget,
    /// The least severe line that is written.
    pub level: Severity,
    /// Refusals of one client: at most one line per this.
    pub interval: Duration,
    /// Lines a second in all.
    pub rate: u32,
    /// Between two STATISTICS lines; zero: none.
    pub statistics_interval: Duration,
}

/// Where log lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogTarget {
    /// Standard error, with priority prefixes when that is the journal.
    Stderr,
    /// The system logger's datagram socket.
    Syslog {
        /// Where it is, `/dev/log` unless configured.
        socket: PathBuf,
        /// The facility of every line.
        facility: Facility,
    },
}
