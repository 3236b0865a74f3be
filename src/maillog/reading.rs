//! From the names of logs to sessions: what `advise` and `replay` have in common.

use std::collections::HashSet;
use std::fmt;
use std::io::{self, IsTerminal};
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use indicatif::{ProgressBar, ProgressStyle};
use jiff::tz::TimeZone;

use super::lines::event::{Reader, says_submission};
use super::lines::merge::{Merge, ReadStats};
use super::lines::services::Services;
use super::lines::source::{LogSource, Looked, ReadProgress, name_of};
use super::options::LogOptions;
use super::postconf::{Asking, MyNetworks, Site};
use super::sessions::{Seen, SessionSink, SessionTracker, Sums};
use super::text::plain;
use crate::sysexits;

/// Events between two looks at how far the reading is.
const EVENTS_PER_LOOK: u64 = 8 * 1024;

/// Logs about to be read, and how.
pub struct Logs {
    /// When Postfix asks.
    pub seen: Seen,
    /// What to tell about where that, and the networks, come from.
    pub notes: Vec<String>,
    /// The zone of times without an offset.
    pub zone: TimeZone,
    mynetworks: MyNetworks,
    submission: Vec<String>,
    sources: Vec<LogSource>,
    stats: ReadStats,
    progress: Arc<ReadProgress>,
}

/// What was read.
#[derive(Debug)]
pub struct Read {
    /// Logs and lines.
    pub stats: ReadStats,
    /// Sessions.
    pub sums: Sums,
}

/// Why none of the logs can be read: a reason for each.
#[derive(Debug)]
pub struct Unreadable(Vec<String>);

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

impl std::error::Error for Unreadable {}

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
    /// Looks into every log. One that cannot be opened is an error; one without a line of a log is noted.
    pub fn open(options: &LogOptions) -> Result<Self, Unreadable> {
        // It answers while the logs are looked into.
        let is_open = options.seen.is_none() || options.mynetworks.is_none();
        let asking = is_open.then(Asking::start);
        let zone = options.timezone.as_deref().and_then(|name| TimeZone::get(name).ok());
        let zone = zone.unwrap_or_else(TimeZone::system);
        let progress = Arc::new(ReadProgress::default());
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
            return Err(Unreadable(failures));
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

    /// Reads them all, shows a bar on a terminal, and tells the audience what is in them.
    pub fn read(mut self, sink: &mut impl SessionSink, show_bar: bool) -> Read {
        let mut sessions = SessionTracker::new(self.seen, self.mynetworks.table());
        let bar = bar(&self.progress, show_bar);
        let mut merge =
            Merge::new(std::mem::take(&mut self.sources), Reader::new(&self.submission), Arc::clone(&self.progress));
        let mut events = 0_u64;
        merge.for_each(|time, event, names| {
            sessions.take(time, event, names, sink);
            events += 1;
            if events.is_multiple_of(EVENTS_PER_LOOK) {
                bar.set_position(self.progress.read.load(Ordering::Relaxed));
            }
            if sink.has_enough() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        sessions.finish(sink);
        bar.finish_and_clear();
        let mut stats = merge.stats;
        stats.troubles.splice(0..0, self.stats.troubles);
        stats.is_missing |= self.stats.is_missing;
        stats.is_damaged |= self.stats.is_damaged;
        stats.is_not_understood |= self.stats.is_not_understood;
        stats.lines.add(&self.stats.lines);
        stats.logs.extend(self.stats.logs);
        let is_named = stats.is_not_understood;
        if let Some(line) = stats.strange.as_deref().filter(|_| !is_named && stats.lines.told + stats.lines.idle == 0) {
            let line = plain(&String::from_utf8_lossy(line));
            stats.troubles.push(format!("no line of Postfix is understood; {}", forms(&line)));
        }
        Read { stats, sums: sessions.sums }
    }
}

fn bar(progress: &ReadProgress, show_bar: bool) -> ProgressBar {
    if !show_bar || !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let total = progress.total.load(Ordering::Relaxed);
    if total == 0 {
        let bar = ProgressBar::new_spinner();
        bar.enable_steady_tick(std::time::Duration::from_millis(200));
        return bar.with_style(style("{spinner} {bytes} read, {bytes_per_sec}"));
    }
    ProgressBar::new(total).with_style(style("{bar:40} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left"))
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("our own templates are right")
}
