//! Settings of the log, and the programs that are run on events.

use std::path::{Path, PathBuf};
use std::time::Duration;

use strum::VariantArray;

use super::super::diagnostics::quoted;
use super::super::settings::{self, TableSettings};
use super::super::{LogConfig, LogTarget};
use crate::observe::log::hooks::{ALERTS, BANS, Hook};
use crate::observe::log::{Events, Facility, LogEvent};

/// The socket of journald.
const JOURNAL: &str = "/run/systemd/journal/socket";

pub(super) fn log(s: &TableSettings) -> LogConfig {
    let facility = facility(s);
    let targets = [
        ("stderr", LogTarget::Stderr),
        ("json", LogTarget::Json),
        ("syslog", syslog(s)),
        ("journal", LogTarget::Journal { socket: JOURNAL.into(), facility }),
    ];
    LogConfig {
        target: s.choice("log", &targets),
        level: s.variant("log_level"),
        interval: s.get("log_interval"),
        rate: s.get("log_rate"),
        events: events(s),
        hooks: hooks(s),
        statistics_interval: s.get("statistics_interval"),
    }
}

/// The log of inetd mode, whatever `log` says: its standard error is the policy connection.
pub(super) fn syslog(s: &TableSettings) -> LogTarget {
    let socket = PathBuf::from(s.get::<String>("syslog_socket"));
    if !socket.is_absolute() {
        s.error::<()>(
            "syslog_socket",
            "`syslog_socket` is not an absolute path",
            "write an absolute path, as in \"/dev/log\"",
        );
    }
    let format = s.variant("syslog_format");
    LogTarget::Syslog { socket, facility: facility(s), format }
}

fn facility(s: &TableSettings) -> Facility {
    let name: String = s.get("syslog_facility");
    name.parse().unwrap_or_else(|_| {
        let remedy = "write one as syslog.conf(5) has them: \"mail\", \"daemon\", \"local0\"";
        s.error::<()>("syslog_facility", format!("{} is not a syslog facility", quoted(&name)), remedy);
        settings::default_word("syslog_facility").parse().expect("the default is a facility")
    })
}

fn events(s: &TableSettings) -> Events {
    let mut events = Events::NONE;
    let list = s.strings("log_events").unwrap_or_default();
    for (word, span) in list {
        match LogEvent::VARIANTS.iter().find(|known| known.into_str() == word) {
            Some(event) => events = events.with(*event),
            None if word == "all" => events = Events::ALL,
            None if word == "none" && list.len() == 1 => {}
            None => {
                let known: Vec<&str> = LogEvent::VARIANTS.iter().map(LogEvent::into_str).collect();
                let remedy = format!("write all, none, or some of {}", known.join(", "));
                s.diagnostics.error::<()>(span, format!("{} is not an event", quoted(word)), remedy);
            }
        }
    }
    if !events.has(LogEvent::Store) {
        s.warn("log_events", "has no \"store\": the log does not say when the store is down");
    }
    events
}

fn hooks(s: &TableSettings) -> Vec<Hook> {
    let hooks = [("ban_command", BANS, Duration::ZERO), ("alert_command", ALERTS, s.get("alert_interval"))];
    let hook = |(key, keywords, interval): (&str, _, _)| {
        let command = s.strings(key)?;
        let (program, span) = &command[0];
        if !Path::new(program).is_absolute() || command.iter().any(|(word, _)| word.contains('\0')) {
            let remedy = "write the program's absolute path, and arguments after it: [\"/usr/local/bin/tell\", \"me\"]";
            return s.diagnostics.error(span, format!("`{key}` is not a command"), remedy);
        }
        Some(Hook { command: command.iter().map(|(word, _)| word.clone()).collect(), keywords, interval })
    };
    hooks.into_iter().filter_map(hook).collect()
}
