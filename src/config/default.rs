//! The built-in defaults, as `keys` lists them and the sample shows them.

use std::time::Duration;

use super::keys::KEYS;
use super::{Config, Form, LogConfig, LogTarget, Setting, SocketConfig, StateConfig, StoreConfig};
use crate::config::resolve::reply::BLACKLIST_TEXT;
use crate::listener::Peers;
use crate::observe::log::{Events, Facility, Severity};
use crate::policy::action::{self, Action};
use crate::policy::lists::Lists;
use crate::policy::{Blacklist, Limit};

/// What keys in memcached begin with unless configured.
const KEY_PREFIX: &str = "connshaper:";

pub(super) const SYSLOG_SOCKET: &str = "/dev/log";

pub(super) fn mail() -> Facility {
    "mail".parse().expect("every syslog has this facility")
}

/// The default action, with a text of the blacklist's own.
fn blacklist_action() -> Action {
    let action = Action::new(action::DEFAULT_ACTION, BLACKLIST_TEXT, action::DEFAULT_CODE, &[]);
    action.expect("the defaults are an action")
}

impl Default for Config {
    fn default() -> Self {
        let loopback = ["127.0.0.0/8", "::1/128"];
        Self {
            path: None,
            form: Form::BuiltIn,
            lists: Lists::whitelist(loopback.map(|net| net.parse().expect("a netblock"))),
            own_lists: None,
            list_files: Vec::new(),
            list_check_interval: Duration::ZERO,
            blacklist: Blacklist { action: blacklist_action(), delay: None, max_concurrent: 3 },
            limits: vec![Limit::top(KEY_PREFIX.into())],
            log_only: false,
            max_delayed: 10,
            store: StoreConfig {
                servers: Vec::new(),
                replicas: 1,
                failover: false,
                over_memory: Duration::from_secs(2),
                timeout: Duration::from_millis(100),
                on_failure: None,
                key_prefix: KEY_PREFIX.into(),
                max_clients: 1_000_000,
            },
            state: StateConfig { file: None, interval: Duration::from_secs(300) },
            listen: vec!["inet:127.0.0.1:10040".parse().expect("an address")],
            socket: SocketConfig { mode: 0o660, owner: None, group: None },
            control: None,
            metrics: Vec::new(),
            allow_peers: Peers::default(),
            max_connections: 4096,
            log: LogConfig {
                target: LogTarget::Stderr,
                level: Severity::Info,
                interval: Duration::from_secs(10),
                rate: 100,
                events: Events::default(),
                hooks: Vec::new(),
                statistics_interval: Duration::from_secs(600),
            },
            inetd_log: LogTarget::Syslog { socket: SYSLOG_SOCKET.into(), facility: mail() },
            settings: KEYS.iter().map(Setting::default_of).collect(),
            limit_settings: Vec::new(),
            warnings: Vec::new(),
        }
    }
}
