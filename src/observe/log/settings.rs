//! What a configuration says about the log.

use std::path::PathBuf;
use std::time::Duration;

use super::hooks::Hook;
use super::{Events, Facility, Severity, SyslogFormat};

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
    /// What of clients is logged.
    pub events: Events,
    /// What is run when something happens.
    pub hooks: Vec<Hook>,
    /// Between two STATISTICS lines; zero: none.
    pub statistics_interval: Duration,
}

/// Where log lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogTarget {
    /// Standard error, with priority prefixes when that is the journal.
    Stderr,
    /// Standard error, a line of JSON each.
    Json,
    /// The journal's own socket, with a field for each of a line's.
    Journal {
        /// Where it is.
        socket: PathBuf,
        /// The facility of every line.
        facility: Facility,
    },
    /// The system logger's datagram socket.
    Syslog {
        /// Where it is, `/dev/log` unless configured.
        socket: PathBuf,
        /// The facility of every line.
        facility: Facility,
        format: SyslogFormat,
    },
}
