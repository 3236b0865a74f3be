//! From the names of logs to sessions: what `advise` and `replay` have in common.

use std::collections::HashSet;
use std::io::{self, IsTerminal};
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use jiff::tz::TimeZone;

use super::lines::event::{Reader, says_submission};
use super::lines::merge::{Merge, ReadStats};
use super::lines::services::Services;
use super::lines::source::{LogSource, Looked, name_of};
use super::options::LogOptions;
use super::postconf::{Asking, MyNetworks, Site};
use super::sessions::{Seen, SessionSink, SessionTracker, Sums};
use super::text::plain;
use crate::sysexits;

/// Why a command ends early: its exit code, and what it says.
pub type CommandFailure = (u8, String);

/// Logs about to be read, and how.
pub struct Logs {
    /// When Postfix asks.
    pub seen: Seen,
    notes: Vec<String>,
    /// The zone of times without an offset.
    pub zone: TimeZone,
    mynetworks: MyNetworks,
    submission: Vec<String>,
    sources: Vec<LogSource>,
    stats: ReadStats,
    progress: ProgressBar,
}

/// What was read, and how.
#[derive(Debug)]
pub struct Read {
    /// When Postfix asks.
    pub seen: Seen,
    /// What was taken from Postfix on this machine, or assumed.
    pub notes: Vec<String>,
    /// The zone of times without an offset, and of those in the report.
    pub zone: TimeZone,
    /// Logs and lines.
    pub stats: ReadStats,
    /// Sessions.
    pub sums: Sums,
}

impl Read {
    /// The exit code, which says whether all that was named could be read.
    pub fn exit_code(&self) -> u8 {
        match &self.stats {
            stats if stats.is_missing || (stats.lines.all == 0 && !stats.is_not_understood) => sysexits::NO_INPUT,
            stats if stats.is_damaged || stats.is_not_understood => sysexits::DATA,
            _ => 0,
        }
    }
}

/// Which file a path leads to.
fn identity(path: &Path) -> Option<(u64, u64)> {
    let metadata = path.metadata().ok().filter(std::fs::Metadata::is_file)?;
    Some((metadata.dev(), metadata.ino()))
}

/// What to say of a line that is not understood.
fn forms(line: &str) -> String {
    format!("the first: {line:?}; syslog's forms, RFC 5424, journalctl's lines and JSON are known, see connshaper(8)")
}

impl Logs {
    /// Looks into every log. It fails if none can be opened; what is wrong with some of them is noted.
    pub fn open(options: &LogOptions) -> Result<Self, CommandFailure> {
        // It answers while the logs are looked into.
        let is_open = options.seen.is_none() || options.mynetworks.is_none();
        let asking = is_open.then(Asking::start);
        let zone = options.timezone.as_deref().and_then(|name| TimeZone::get(name).ok());
        let zone = zone.unwrap_or_else(TimeZone::system);
        let progress = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::hidden());
        let mut services = Services::default();
        let (mut sources, mut stats) = (Vec::new(), ReadStats::default());
        let (mut seen, mut failures) = (HashSet::new(), Vec::new());
        for path in &options.logs {
            let name = plain(&name_of(path));
            if identity(path).is_some_and(|file| !seen.insert(file)) {
                stats.troubles.push(format!("{name}: named twice, read once"));
                continue;
            }
            match LogSource::open(path, &zone, &progress, &mut services) {
                Ok(Looked::Source(source)) => sources.push(source),
                Ok(Looked::Strange(None)) => stats.trouble(&name, &io::Error::other("no line of a log in it")),
                Ok(Looked::Strange(Some((line, why, lines)))) => {
                    stats.is_not_understood = true;
                    stats.logs.push(name_of(path));
                    (stats.lines.all, stats.lines.strange) = (stats.lines.all + lines, stats.lines.strange + lines);
                    let why = why.unwrap_or_else(|| format!("no line of it is understood; {}", forms(&line)));
                    stats.trouble(&name, &io::Error::other(why));
                }
                Err(error) => {
                    failures.push(format!("{name}: {error}"));
                    stats.trouble(&name, &error);
                    stats.is_missing = true;
                }
            }
        }
        if !failures.is_empty() && failures.len() == stats.troubles.len() && sources.is_empty() {
            return Err((sysexits::NO_INPUT, failures.join("; ")));
        }
        let mut logs = Self {
            seen: Seen::Rcpt,
            notes: Vec::new(),
            zone,
            mynetworks: MyNetworks::default(),
            submission: Vec::new(),
            sources,
            stats,
            progress,
        };
        logs.learn(options, asking.map(Asking::finish).unwrap_or_default(), &services.names());
        Ok(logs)
    }

    /// Takes from Postfix what the command line leaves open, and notes it.
    fn learn(&mut self, options: &LogOptions, site: Site, with_logins: &[String]) {
        let mut note = |text: String| self.notes.push(plain(&text));
        self.seen = options.seen.or(site.seen).unwrap_or(Seen::Rcpt);
        if options.seen.is_none() {
            let value = if self.seen == Seen::Rcpt { "yes" } else { "no" };
            note(match site.seen {
                Some(_) => {
                    format!("smtpd_delay_reject = {value}, as postconf says on this machine; --seen overrides it")
                }
                None => format!("no Postfix here says smtpd_delay_reject: taken as {value}; see --seen"),
            });
        }
        self.mynetworks = match (&options.mynetworks, site.mynetworks) {
            (Some(networks), _) => networks.clone(),
            (None, Some(networks)) => {
                let text = networks.text();
                note(format!("mynetworks = {text}, as postconf says on this machine; --mynetworks overrides it"));
                if !site.unread.is_empty() {
                    note(format!("not read of mynetworks: {}; see --mynetworks", site.unread.join(" ")));
                }
                networks
            }
            (None, None) => {
                note("no Postfix here says mynetworks: taken as 127.0.0.0/8 ::1/128; see --mynetworks".into());
                MyNetworks::loopback()
            }
        };
        let without_daemon = |name: &String| name.strip_suffix("/smtpd").unwrap_or(name).to_owned();
        self.submission = options.submission.iter().map(without_daemon).collect();
        if !site.submission.is_empty() {
            let names = site.submission.join(", ");
            note(format!("submission services log as {names}, as postconf says on this machine"));
            self.submission.extend(site.submission);
        }
        let is_new = |name: &&String| !says_submission(name.as_bytes()) && !self.submission.contains(name);
        let with_logins: Vec<String> = with_logins.iter().filter(is_new).cloned().collect();
        if options.submission.is_empty() && !with_logins.is_empty() {
            let names = with_logins.join(", ");
            note(format!("all clients of {names} log in: taken for submission services; --submission overrides it"));
            self.submission.extend(with_logins);
        }
    }

    /// Reads them all, shows a bar on a terminal, and tells `sink` what is in them.
    pub fn read(self, sink: &mut impl SessionSink) -> Read {
        let Self { seen, notes, zone, mynetworks, submission, sources, stats, progress } = self;
        let mut sessions = SessionTracker::new(seen, mynetworks.table());
        show(&progress);
        let mut merge = Merge::new(sources, Reader::new(&submission), progress.clone(), stats);
        merge.for_each(|time, event, names| {
            sessions.take(time, event, names, sink);
            if sink.has_enough() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        sessions.finish(sink);
        progress.finish_and_clear();
        let mut stats = merge.stats;
        let is_named = stats.is_not_understood;
        if let Some(line) = stats.strange.as_deref().filter(|_| !is_named && stats.lines.told + stats.lines.idle == 0) {
            let line = plain(&String::from_utf8_lossy(line));
            stats.troubles.push(format!("no line of Postfix is understood; {}", forms(&line)));
        }
        Read { seen, notes, zone, stats, sums: sessions.sums }
    }
}

/// Shows the progress on a terminal.
fn show(progress: &ProgressBar) {
    if !io::stderr().is_terminal() {
        return;
    }
    if progress.length() == Some(0) {
        // What can be read but once has no known length.
        progress.enable_steady_tick(std::time::Duration::from_millis(200));
        progress.set_style(style("{spinner} {bytes} read, {bytes_per_sec}"));
    } else {
        progress.set_style(style("{bar:40} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left"));
    }
    progress.set_draw_target(ProgressDrawTarget::stderr());
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("our own templates are right")
}
