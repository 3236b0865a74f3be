//! The built-in defaults, as `keys` lists them and the sample shows them.

use std::time::Duration;

use super::keys::KEYS;
use super::{Config, Form, LogConfig, LogTarget, Setting, SocketConfig, StoreConfig};
use crate::log::{Facility, Severity};
use crate::policy::action::Action;

pub(super) const SYSLOG_SOCKET: &str = "/dev/log";

pub(super) fn mail() -> Facility {
    "mail".parse().expect("every syslog has this facility")
}

impl Default for Config {
    fn default() -> Self {
        let loopback = ["127.0.0.0/8", "::1/128"];
        Self {
            path: None,
            form: Form::BuiltIn,
            exptime: Duration::from_secs(60),
            threshold: 10,
            whitelist: loopback.map(|net| net.parse().expect("a netblock")).into(),
            ipv4_prefix_length: 32,
            ipv6_prefix_length: 64,
            action: Action::default(),
            store: StoreConfig {
                servers: Vec::new(),
                timeout: Duration::from_millis(100),
                on_failure: None,
                key_prefix: "connshaper:".into(),
                max_clients: 1_000_000,
            },
            listen: vec!["inet:127.0.0.1:10040".parse().expect("an address")],
            socket: SocketConfig { mode: 0o660, owner: None, group: None },
            max_connections: 4096,
            log: LogConfig {
                target: LogTarget::Stderr,
                level: Severity::Info,
                interval: Duration::from_secs(10),
                rate: 100,
                statistics_interval: Duration::from_secs(600),
            },
            inetd_log: LogTarget::Syslog { socket: SYSLOG_SOCKET.into(), facility: mail() },
            settings: KEYS.iter().map(Setting::default_of).collect(),
            warnings: Vec::new(),
        }
    }
}
