//! Where the daemon listens, which only a restart changes, and what an administrator should know of it.

use crate::config::Config;
use crate::listener::{Listener, Peers};
use crate::net::address::Address;
use crate::observe::log::{Log, Severity};

/// Where it listens, whatever a configuration says later.
#[derive(Debug)]
pub(super) struct Listening {
    /// What `--listen`, or the configuration it was started with, says; nothing where sockets were passed by systemd.
    asked: Vec<Address>,
    /// `--listen` said it, which replaces what the configuration says.
    by_option: bool,
    /// The addresses of the sockets.
    sockets: Vec<Address>,
}

impl Listening {
    /// On these sockets, because of `asked`.
    pub fn new(asked: Vec<Address>, by_option: bool, listeners: &[Listener]) -> Self {
        let sockets = listeners.iter().map(|listener| listener.address().clone()).collect();
        Self { asked, by_option, sockets }
    }

    /// What was asked for; nothing where sockets were passed.
    pub fn asked(&self) -> &[Address] {
        &self.asked
    }

    /// The addresses of the sockets, as a log line has them.
    pub fn sockets(&self) -> String {
        list(&self.sockets)
    }

    /// Whether a configuration asks for other places, which a restart would open.
    pub fn differs(&self, config: &Config) -> bool {
        !self.by_option && !self.asked.is_empty() && self.asked != config.listen
    }

    /// Says what of a configuration does not go with it.
    pub fn warn(&self, config: &Config, log: &Log) {
        if self.differs(config) {
            log.line(Severity::Warning, "LISTEN_UNCHANGED", |line| {
                line.field("listen", list(&self.asked))
                    .field("configured", list(&config.listen))
                    .field("remedy", "restart the daemon");
            });
        }
        // Of those in the configuration its own warnings tell.
        let others = self.by_option || self.asked.is_empty();
        for socket in self.sockets.iter().filter(|socket| others && config.allow_peers.exclude_others_at(socket)) {
            log.line(Severity::Warning, "CONFIGURATION", |line| {
                line.field("warning", format!("listening at {socket}, {}", Peers::EXCLUDES));
            });
        }
    }
}

/// Addresses as a log line has them.
fn list(addresses: &[Address]) -> String {
    let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    addresses.join(",")
}
