//! What is logged, and where to.

use std::path::PathBuf;
use std::time::Duration;

use super::super::remarks::quoted;
use super::super::settings::Settings;
use super::super::{LogConfig, LogTarget, SYSLOG_SOCKET, mail};
use super::{DAY, SECOND};
use crate::log::{Facility, Severity};

pub(super) fn log(s: &Settings, default: LogConfig, syslog: &LogTarget) -> LogConfig {
    let targets = [("stderr", LogTarget::Stderr), ("syslog", syslog.clone())];
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
        statistics_interval: s
            .duration("statistics_interval", Duration::ZERO..=365 * DAY, SECOND)
            .unwrap_or(default.statistics_interval),
    }
}

pub(super) fn syslog(s: &Settings) -> LogTarget {
    let socket = s.string("syslog_socket").and_then(|(path, span)| {
        let path = PathBuf::from(path);
        if path.is_absolute() {
            return Some(path);
        }
        let remedy = "write an absolute path, as in \"/dev/log\"";
        s.remarks.wrong(&span, "`syslog_socket` is no absolute path", remedy)
    });
    let facility = s.string("syslog_facility").and_then(|(name, span)| {
        if let Ok(facility) = name.parse::<Facility>() {
            return Some(facility);
        }
        let problem = format!("{} is no syslog facility", quoted(&name));
        let remedy = "write one as syslog.conf(5) has them: \"mail\", \"daemon\", \"local0\"";
        s.remarks.wrong(&span, problem, remedy)
    });
    LogTarget::Syslog {
        socket: socket.unwrap_or_else(|| SYSLOG_SOCKET.into()),
        facility: facility.unwrap_or_else(mail),
    }
}
