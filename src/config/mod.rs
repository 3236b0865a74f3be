//! From a configuration file to a `Config`: typed, checked, immutable.
//!
//! `keys` lists every key; `settings` has the values of a file, which `typed` types by it; `resolve` turns
//! them into the settings of the modules; `lint` warns of what makes no sense. A file of connection_shaper's
//! form is read as the TOML that `legacy` makes of it. Mistakes are collected, each with its
//! place. Nothing here logs: warnings are part of the `Config`.

pub mod convert;
pub mod diagnostics;
pub mod effective;
mod include;
mod keys;
mod legacy;
mod limit_files;
mod lint;
mod list_file;
mod list_line;
mod list_table;
mod lists;
mod name;
mod netblock;
pub mod origin_files;
mod resolve;
mod settings;
mod source;
mod syntax;
mod threshold_file;
mod threshold_key;
mod typed;
pub mod units;
mod value_file;

use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use jiff::tz::TimeZone;
use strum::IntoStaticStr;

use crate::listener::Peers;
pub use crate::listener::SocketConfig;
use crate::net::address::Address;
pub use crate::observe::log::{LogConfig, LogTarget};
use crate::policy::Limit;
pub use crate::policy::OnStoreFailure;
use crate::policy::lists::{ListEntry, Lists};
pub use crate::store::{SharedStoreConfig, StoreConfig};
use crate::{engine, policy};

pub use diagnostics::{ConfigError, ConfigWarning};
pub use effective::{Effective, EffectiveSetting, Origin};
pub use keys::{KEYS, KeyScope, ValueKind};
pub use limit_files::LimitFile;
pub use lists::{FileStamp, ListFile, ListKind};
pub use origin_files::OriginFile;
pub use resolve::conditions::condition_attributes;
use source::ConfigText;

/// The file that is read when none is named. It need not exist.
pub const DEFAULT_PATH: &str = "/etc/connshaper/connshaper.toml";

/// A configuration, complete and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `None`: the built-in defaults.
    pub path: Option<PathBuf>,
    pub form: Form,
    /// The limits and lists. The limit at the top level is the first one.
    pub policy: policy::PolicySettings,
    /// The lists without list files, if there are any, or files of limits, or databases: they can be read again.
    pub own_lists: Option<Lists>,
    pub list_files: Vec<ListFile>,
    /// The files of single limits.
    pub limit_files: Vec<LimitFile>,
    /// The databases of where clients are from.
    pub origin_files: Vec<OriginFile>,
    /// Zero: list files, those of limits and databases are read again at a reload only.
    pub list_check_interval: Duration,
    /// Whether a list file that shrinks to less than half at a reload replaces the one before.
    pub list_may_shrink: bool,
    pub max_delayed: usize,
    pub store: StoreConfig,
    pub state: StateConfig,
    /// The sockets for Postfix.
    pub listen: Vec<Address>,
    /// Rights of the unix sockets among them.
    pub socket: SocketConfig,
    /// Peers that may connect to the TCP sockets among them.
    pub allow_peers: Peers,
    pub control: Option<ControlConfig>,
    /// The sockets for Prometheus.
    pub metrics: Vec<Address>,
    pub http: HttpConfig,
    pub max_connections: usize,
    /// The time zone of calendar windows, and of the days of the report.
    pub time_zone: TimeZone,
    pub log: LogConfig,
    /// The log of inetd mode: its standard error is the policy connection.
    pub inetd_log: LogTarget,
    pub warnings: Vec<ConfigWarning>,
}

impl Config {
    /// Reads the file that is named, or else the default one if there is such a file.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        Loaded::load(path).map(|loaded| loaded.config)
    }

    /// The same. `before_lists` is shown the configuration before list files are read, if it is right so far: they
    /// may be long.
    pub fn load_telling(path: Option<&Path>, before_lists: &mut dyn FnMut(&Self)) -> Result<Self, ConfigError> {
        Loaded::load_telling(path, before_lists).map(|loaded| loaded.config)
    }

    /// Reads a file; without it the built-in defaults are in force.
    pub fn load_if_there(path: &Path) -> Result<Self, ConfigError> {
        Loaded::load_if_there(path, &mut |_| ()).map(|loaded| loaded.config)
    }

    /// Reads the content of a file, and the list files it names. The path is for messages, and its
    /// directory is that of list files.
    pub fn parse(path: &Path, content: impl AsRef<[u8]>) -> Result<Self, ConfigError> {
        Loaded::parse(path, content).map(|loaded| loaded.config)
    }

    /// The settings of the engine beside the policy.
    pub fn engine(&self) -> engine::ServiceSettings {
        engine::ServiceSettings {
            store: self.store.clone(),
            on_store_failure: self.policy.on_store_failure,
            log: self.log.clone(),
            max_connections: self.max_connections,
            max_delayed: self.max_delayed,
            allow_peers: self.allow_peers.clone(),
            time_zone: self.time_zone.clone(),
            source: engine::service::ConfigSource {
                path: self.path.as_ref().map(|path| path.to_string_lossy().into_owned()),
                form: self.form.into_str(),
                warnings: self.warnings.iter().map(ToString::to_string).collect(),
            },
        }
    }

    /// The configuration as inetd mode uses it. `Err`: it cannot, and why.
    ///
    /// There every policy connection has a process of its own, so nothing that
    /// one process counts says anything.
    pub fn for_inetd(&self) -> Result<Self, String> {
        if self.store.shared.is_none() {
            return Err(format!(
                "in inetd mode every policy connection has a process of its own, which cannot share counts: set {}, \
                 of which sqlite_file needs no server, or run the daemon",
                resolve::store::choices("or", "")
            ));
        }
        if self.store.on_failure == Some(OnStoreFailure::Local) {
            return Err("in inetd mode every policy connection has a process of its own, \
                        which cannot count while the store is down: \
                        set on_store_failure to \"dunno\" or \"defer\", or run the daemon"
                .into());
        }
        let mut config = self.clone();
        config.policy.on_store_failure = *config.store.on_failure.get_or_insert(OnStoreFailure::Dunno);
        config.log.target = self.inetd_log.clone();
        Ok(config)
    }

    /// Frees the limits with their files, the lists and the databases. The daemon keeps the configuration of its start
    /// for the other keys, and a reload would not replace these in it.
    pub fn free_policy(&mut self) {
        let policy = &mut self.policy;
        (policy.limits, policy.lists, policy.origins) = Default::default();
        self.own_lists = None;
    }

    /// The limit that stands at the top level: connection_shaper's own.
    pub fn top(&self) -> &Limit {
        self.policy.limits.first().expect("every configuration has it")
    }

    /// The netblocks that are exempt.
    pub fn whitelist(&self) -> impl Iterator<Item = &IpNet> {
        self.policy
            .lists
            .netblocks
            .iter()
            .filter(|(_, entry)| *entry == ListEntry::Whitelist)
            .map(|(netblock, _)| netblock)
    }
}

impl Default for Config {
    fn default() -> Self {
        Loaded::built_in(&mut |_| ()).config
    }
}

/// A configuration with its effective values, for `connshaper check`.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    pub config: Config,
    pub effective: Effective,
}

impl Loaded {
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        Self::load_telling(path, &mut |_| ())
    }

    fn load_telling(path: Option<&Path>, before_lists: &mut dyn FnMut(&Config)) -> Result<Self, ConfigError> {
        let Some(path) = path else {
            return Self::load_if_there(Path::new(DEFAULT_PATH), before_lists);
        };
        let source = source::read(path).map_err(|error| error.at(path))?;
        Self::read(&source, before_lists)
    }

    fn load_if_there(path: &Path, before_lists: &mut dyn FnMut(&Config)) -> Result<Self, ConfigError> {
        match source::read(path) {
            Ok(source) => Self::read(&source, before_lists),
            Err(error) if error.is_absent() => Ok(Self::built_in(before_lists)),
            Err(error) => Err(error.at(path)),
        }
    }

    /// The defaults: what an empty file means.
    fn built_in(before_lists: &mut dyn FnMut(&Config)) -> Self {
        let source = ConfigText::new(Path::new(""), b"");
        resolve::read(&source, Form::BuiltIn, before_lists).expect("an empty file is right")
    }

    pub fn parse(path: &Path, content: impl AsRef<[u8]>) -> Result<Self, ConfigError> {
        Self::read(&ConfigText::new(path, content.as_ref()), &mut |_| ())
    }

    fn read(source: &ConfigText, before_lists: &mut dyn FnMut(&Config)) -> Result<Self, ConfigError> {
        if legacy::form(&source.text) == Some(Form::ConnectionShaper) {
            return legacy::read(source, before_lists);
        }
        source.require_utf8()?;
        resolve::read(source, Form::Toml, before_lists)
    }

    /// Reads a file that is known to be connection_shaper's, so even one of nothing but comments.
    fn of_original(path: &Path, source: &ConfigText) -> Result<Self, ConfigError> {
        if legacy::form(&source.text) == Some(Form::Toml) {
            let problem = "this is not a connection_shaper file, which has lines of `key value`";
            let remedy = "see whether `connshaper check` takes it as it is";
            return Err(ConfigError::whole(path, problem, remedy));
        }
        legacy::read(source, &mut |_| ())
    }
}

/// The form of a configuration file, told by its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr)]
#[strum(const_into_str, serialize_all = "snake_case")]
pub enum Form {
    /// No file: built-in defaults.
    #[strum(serialize = "built-in")]
    BuiltIn,
    /// Our own form.
    Toml,
    /// The original's lines of `key value`.
    ConnectionShaper,
}

/// The file that keeps counts across restarts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StateConfig {
    pub file: Option<PathBuf>,
    /// Time between writes; zero: it is written at the end only.
    pub interval: Duration,
}

/// The doors over HTTP.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpConfig {
    pub listen: Vec<Address>,
    /// The token that a client must send; `None`: none.
    pub token: Option<Token>,
    /// Web servers that are trusted to name the client.
    pub trusted_proxies: Vec<IpNet>,
    /// The header that has the client, in lower case.
    pub client_header: String,
    /// The header that has the user; `None`: the name in `Authorization`.
    pub user_header: Option<String>,
    /// Whether there is a page to look at.
    pub page: bool,
}

/// A secret that programs share.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// No log shows the secret.
impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(...)")
    }
}

/// The control socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlConfig {
    pub path: PathBuf,
    /// `None`: only the daemon's user, and root, may use it.
    pub group: Option<String>,
}
