//! What is logged, and where to.

use std::path::PathBuf;
use std::time::Duration;

use toml::de::DeValue;

use super::super::settings::Settings;
use super::super::{LogConfig, LogTarget, SYSLOG_SOCKET, mail};
use super::{DAY, SECOND};
use crate::config::diagnostics::quoted;
use crate::observe::log::hooks::{ALERTS, BANS, Hook};
use crate::observe::log::{Event, Events, Facility, Severity};

pub(super) fn log(s: &Settings, default: LogConfig, syslog: &LogTarget) -> LogConfig {
    let journal = match syslog {
        LogTarget::Syslog { facility, .. } => LogTarget::Journal { socket: JOURNAL.into(), facility: *facility },
        other => other.clone(),
    };
    let targets =
        [("stderr", LogTarget::Stderr), ("json", LogTarget::Json), ("syslog", syslog.clone()), ("journal", journal)];
    let levels = [
        ("err", Severity::Err),
        ("warning", Severity::Warning),
        ("notice", Severity::Notice),
        ("info", Severity::Info),
        ("debug", Severity::Debug),
    ];
    LogConfig {
        target: s.choice("log", &targets).unwrap_or(default.target),
        level: s.choice("log_level", &levels).unwrap_or(default.level),
        interval: s.duration("log_interval", SECOND..=DAY, SECOND).unwrap_or(default.interval),
        rate: s.integer("log_rate", 1..=100_000).map_or(default.rate, |n| n as u32),
        events: events(s).unwrap_or_default(),
        hooks: hooks(s),
        statistics_interval: s
            .duration("statistics_interval", Duration::ZERO..=365 * DAY, SECOND)
            .unwrap_or(default.statistics_interval),
    }
}

/// Where journald takes datagrams.
const JOURNAL: &str = "/run/systemd/journal/socket";

fn events(s: &Settings) -> Option<Events> {
    let mut events = Events::NONE;
    let list = match s.value("log_events")?.get_ref() {
        DeValue::String(_) => s.one_or_more("log_events")?,
        _ => s.list("log_events")?,
    };
    for (word, span) in &list {
        match Event::WORDS.iter().find(|(known, _)| known == word) {
            Some((_, event)) => events = events.with(*event),
            None if word == "all" => events = Events::ALL,
            None if word == "none" && list.len() == 1 => {}
            None => {
                let known: Vec<&str> = Event::WORDS.iter().map(|(word, _)| *word).collect();
                let remedy = format!("write all, none, or some of {}", known.join(", "));
                s.diagnostics.error::<()>(span, format!("{} is no event", quoted(word)), remedy);
            }
        }
    }
    if !events.has(Event::Store)
        && let Some(span) = s.name("log_events")
    {
        s.diagnostics.warn(&span, "`log_events` has no \"store\": the log does not say when memcached is away");
    }
    Some(events)
}

fn hooks(s: &Settings) -> Vec<Hook> {
    let interval = s.duration("alert_interval", SECOND..=DAY, SECOND).unwrap_or(60 * SECOND);
    let hooks = [("ban_command", BANS, Duration::ZERO), ("alert_command", ALERTS, interval)];
    let hook = |(key, keywords, interval): (&'static str, _, _)| {
        let command = s.one_or_more(key)?;
        let (program, span) = &command[0];
        if !program.starts_with('/') || command.iter().any(|(word, _)| word.contains('\0')) {
            let remedy = "write the program's absolute path, and arguments after it: [\"/usr/local/bin/tell\", \"me\"]";
            return s.diagnostics.error(span, format!("`{key}` is no command"), remedy);
        }
        Some(Hook { command: command.into_iter().map(|(word, _)| word).collect(), keywords, interval })
    };
    hooks.into_iter().filter_map(hook).collect()
}

pub(super) fn syslog(s: &Settings) -> LogTarget {
    let socket = s.string("syslog_socket").and_then(|(path, span)| {
        let path = PathBuf::from(path);
        if path.is_absolute() {
            return Some(path);
        }
        let remedy = "write an absolute path, as in \"/dev/log\"";
        s.diagnostics.error(&span, "`syslog_socket` is no absolute path", remedy)
    });
    let facility = s.string("syslog_facility").and_then(|(name, span)| {
        if let Ok(facility) = name.parse::<Facility>() {
            return Some(facility);
        }
        let problem = format!("{} is no syslog facility", quoted(&name));
        let remedy = "write one as syslog.conf(5) has them: \"mail\", \"daemon\", \"local0\"";
        s.diagnostics.error(&span, problem, remedy)
    });
    LogTarget::Syslog {
        socket: socket.unwrap_or_else(|| SYSLOG_SOCKET.into()),
        facility: facility.unwrap_or_else(mail),
    }
}
