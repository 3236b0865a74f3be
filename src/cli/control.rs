//! The commands to a running daemon.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde_json::{Map, Value, json};

use super::{File, attribute, line};
use crate::config::{Config, ConfigError, units};
use crate::control::ban::LONGEST;
use crate::control::client;
use crate::control::hit::MOST;

/// How to reach the daemon, and how to print what it says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub struct Connection {
    /// The configuration file, which tells where the control socket is.
    #[command(flatten)]
    pub file: File,
    /// The daemon's control socket, instead of the one the configuration names
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

impl Connection {
    /// Where the control socket is.
    ///
    /// # Errors
    ///
    /// When the configuration has to be read for that, and is wrong.
    pub fn path(&self) -> Result<PathBuf, ConfigError> {
        if let Some(path) = &self.socket {
            return Ok(path.clone());
        }
        let config = Config::load(self.file.config.as_deref())?;
        Ok(config.control.map_or_else(|| Path::new(client::USUAL).to_owned(), |control| control.path))
    }
}

/// Options of commands about a client.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct About {
    /// How to reach the daemon.
    #[command(flatten)]
    pub connection: Connection,
    /// An address, a netblock, or a key as the log shows it, like sender=joe@example.org
    #[arg(value_name = "CLIENT", value_parser = line)]
    pub target: String,
}

impl About {
    /// What the daemon is told.
    pub fn target(&self) -> Value {
        json!({ "target": self.target })
    }
}

/// Options of `ban`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct Ban {
    /// Whom.
    #[command(flatten)]
    pub about: About,
    /// The word before the duration
    #[arg(value_name = "for", value_parser = ["for"], hide_possible_values = true, requires = "lasting")]
    pub preposition: Option<String>,
    /// For how long: 90s, 2h, 1d; one hour if not said
    #[arg(value_name = "DURATION", value_parser = duration)]
    pub lasting: Option<Duration>,
}

impl Ban {
    /// What the daemon is told.
    pub fn word(&self) -> Value {
        word(&self.about, self.lasting.unwrap_or(Duration::from_secs(3600)))
    }
}

/// Options of `allow`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct Allow {
    /// Whom.
    #[command(flatten)]
    pub about: About,
    /// The word before the duration
    #[arg(value_name = "for", value_parser = ["for"], hide_possible_values = true)]
    pub preposition: String,
    /// For how long: 90s, 2h, 1d
    #[arg(value_name = "DURATION", value_parser = duration)]
    pub lasting: Duration,
}

impl Allow {
    /// What the daemon is told.
    pub fn word(&self) -> Value {
        word(&self.about, self.lasting)
    }
}

fn word(about: &About, lasting: Duration) -> Value {
    json!({ "target": about.target, "seconds": lasting.as_secs() })
}

fn duration(text: &str) -> Result<Duration, String> {
    let duration = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => units::duration(text)?,
    };
    if duration.subsec_nanos() != 0 || !(1..=LONGEST).contains(&duration.as_secs()) {
        return Err("write whole seconds, from 1s to 365d".to_owned());
    }
    Ok(duration)
}

/// Options of `hit`, `revoke` and `check-hit`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct Hit {
    /// How to reach the daemon.
    #[command(flatten)]
    pub connection: Connection,
    /// How many hits; one if not said
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..=MOST))]
    pub amount: Option<u64>,
    /// The limit's name; connections is the one at the top level
    #[arg(value_parser = line)]
    pub limit: String,
    /// What is counted: an address, the value of the one attribute of the limit's keys, or all of a key as the
    /// log shows it
    #[arg(value_parser = line)]
    pub key: String,
}

impl Hit {
    /// What the daemon is told.
    pub fn named(&self) -> Value {
        json!({ "limit": self.limit, "key": self.key, "amount": self.amount.unwrap_or(1) })
    }
}

/// Options of `explain`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct Explain {
    /// How to reach the daemon.
    #[command(flatten)]
    pub connection: Connection,
    /// The client's address
    #[arg(value_parser = line)]
    pub client: String,
    /// Further attributes of the request, or others for those that are assumed
    #[arg(value_name = "NAME=VALUE", value_parser = attribute)]
    pub attributes: Vec<(String, String)>,
}

impl Explain {
    /// What the daemon is told.
    pub fn request(&self) -> Value {
        let attributes: Map<String, Value> =
            self.attributes.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect();
        json!({ "client": self.client, "attributes": attributes })
    }
}

pub(super) const STATUS_NOTES: &str = "\
Exit codes of this and all commands to the daemon: 0 done, 64 wrong command line or
nothing of that name, 69 no daemon answers, 78 wrong configuration.";

pub(super) const DOCTOR_NOTES: &str = "\
Run it on the mail host, as root. It asks postconf, the daemon and memcached, counts
nothing and changes nothing.
Exit codes: 0 nothing is wrong, 1 something is, 64 wrong command line.";

pub(super) const TOP_NOTES: &str = "\
Keys: up and down select a client; c, l and a sort by count, seconds left and
address; b bans the client for an hour, u lifts its bans, r resets it; q ends.
Without a terminal a line is printed each second; with --json one object, once.";

pub(super) const COMPLETIONS_NOTES: &str = "\
Examples:
  connshaper completions bash > /etc/bash_completion.d/connshaper
  connshaper completions zsh > /usr/local/share/zsh/site-functions/_connshaper
  connshaper completions fish > /etc/fish/completions/connshaper.fish";

pub(super) const SHOW_NOTES: &str = "\
Examples:
  connshaper show 198.51.100.7
  connshaper show 198.51.100.0/24
  connshaper show sasl_username=joe

memcached cannot list its keys: a prefix shows the clients this daemon has seen.";

pub(super) const EXPLAIN_NOTES: &str = "\
Examples:
  connshaper explain 198.51.100.7
  connshaper explain 198.51.100.7 protocol_state=RCPT instance=1.2.3.4 sender=joe@example.org";

pub(super) const RESET_NOTES: &str = "\
Sessions that are refused go on; other hosts that share memcached hear of it within
a second. Who did it is logged.";

pub(super) const BAN_NOTES: &str = "\
Examples:
  connshaper ban 198.51.100.7
  connshaper ban 198.51.100.0/24 for 2h

It holds on every host that shares memcached. The whitelist is stronger.";

pub(super) const ALLOW_NOTES: &str = "\
Example:
  connshaper allow 198.51.100.0/24 for 2h

It holds on every host that shares memcached, whatever lists, bans and limits say.";

pub(super) const CHANGE_NOTES: &str = "\
Who did it is logged.";

pub(super) const HIT_NOTES: &str = "\
Example, in a script after a failed login:
  connshaper hit logins joe || echo 'too many'

Exit codes: 0 counted and within the limit, 1 counted and over, 64 there is no such
limit, 69 no daemon answers.";

pub(super) const CHECK_HIT_NOTES: &str = "\
Example, in a script before a login:
  if connshaper check-hit logins joe; then ask_for_password; fi

Exit codes: 0 the next hit would be within the limit, 1 it would be over, 64 there is
no such limit, 69 no daemon answers.";

pub(super) const RELOAD_NOTES: &str = "\
The same as SIGHUP, with an answer. Exit codes: 0 in force, 69 no daemon answers, 78
the configuration is wrong, and the one before it stays in force.";
