//! The log: a record for each event, a keyword and fields.
//!
//! Session, store and daemon hand their records to a `Log`. `limiter` holds back what a stranger causes too often,
//! `sink` has the rest written on a thread of its own, so that no request ever waits for a logger, and `encode` makes
//! text or JSON of it there. `hooks` runs commands for some.

pub mod encode;
pub mod hooks;
pub mod limiter;
pub mod record;
pub mod settings;
pub mod severity;
pub mod sink;
mod writer;

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU8, AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use strum::{IntoStaticStr, VariantArray};

use crate::net::clock::Now;
use crate::net::lock;
use hooks::{Hooks, Run};
use limiter::{LineLimiter, SavedLimiter};
use sink::Sink;

pub use record::LogRecord;
pub use settings::{LogConfig, LogTarget};
pub use severity::{Facility, Severity, SyslogFormat};

/// The log. A clone writes to the same one.
#[derive(Clone)]
pub struct Log {
    shared: Arc<LogInner>,
}

struct LogInner {
    level: AtomicU8,
    events: AtomicU16,
    hooks: Hooks,
    /// Locked for a few map operations at a time, never while anything is written.
    limiter: Mutex<LineLimiter>,
    sink: Sink,
}

impl Log {
    /// The log an administrator configured. Starts the writing thread; a
    /// logger that is not there yet is no error.
    pub fn open(config: &LogConfig) -> io::Result<Self> {
        let sink = Sink::open(&config.target)?;
        let log = Self::new(config.level, config.events, LineLimiter::new(config.interval, config.rate), sink);
        log.reconfigure(config);
        Ok(log)
    }

    /// A log that keeps its lines, for tests to read with `lines`. It has no lines about passes.
    pub fn in_memory(level: Severity) -> Self {
        let events = Events::ALL.without(LogEvent::Whitelisted).without(LogEvent::Session);
        Self::new(level, events, LineLimiter::new(Duration::from_secs(10), 100), Sink::memory())
    }

    fn new(level: Severity, events: Events, limiter: LineLimiter, sink: Sink) -> Self {
        let (level, events) = (AtomicU8::new(level as u8), AtomicU16::new(events.0));
        let (limiter, hooks) = (Mutex::new(limiter), Hooks::default());
        Self { shared: Arc::new(LogInner { level, events, hooks, limiter, sink }) }
    }

    /// Takes over what a reload changed. The target stays what it was.
    pub fn reconfigure(&self, config: &LogConfig) {
        self.shared.level.store(config.level as u8, Ordering::Relaxed);
        self.shared.events.store(config.events.0, Ordering::Relaxed);
        self.limiter().reconfigure(config.interval, config.rate);
        self.shared.hooks.set(config.hooks.clone());
        self.start_commands();
    }

    /// Starts the task that runs commands, once there are any. Then it must be called within a runtime.
    fn start_commands(&self) {
        if self.shared.hooks.needs_start() {
            let log = self.clone();
            tokio::spawn(async move {
                log.shared.hooks.run_all(|run, problem| log.command_failed(run, problem)).await;
            });
        }
    }

    fn command_failed(&self, run: &Run, problem: &str) {
        self.limited(Severity::Warning, "COMMAND_FAILED", Now::read(), |line| {
            line.field("command", run.program())
                .field("event", run.event())
                .field("key", run.subject())
                .field("problem", problem);
        });
    }

    /// Starts no further command until `resume_commands`, and waits for the one that runs. Returns whether that has
    /// ended.
    pub async fn pause_commands(&self) -> bool {
        self.shared.hooks.pause().await
    }

    /// Goes on with the commands that wait.
    pub fn resume_commands(&self) {
        self.shared.hooks.resume();
    }

    /// Waits for the commands that wait and run, at most for `patience`, and logs those that were left out. For the
    /// end of the process: no command is run from then on.
    pub async fn finish_commands(&self, patience: Duration) {
        for run in self.shared.hooks.finish(patience).await {
            self.line(Severity::Warning, "COMMAND_FAILED", |line| {
                line.field("command", run.program())
                    .field("event", run.event())
                    .field("key", run.subject())
                    .field("problem", "left out because the daemon stops");
            });
        }
    }

    /// The commands that wait, for the new program of an upgrade.
    pub fn save_commands(&self) -> Vec<Run> {
        self.shared.hooks.save()
    }

    /// Has this program run those of the old one.
    pub fn restore_commands(&self, saved: Vec<Run>) {
        self.shared.hooks.restore(saved);
        self.start_commands();
    }

    /// Whether `log_events` has this.
    pub fn has(&self, event: LogEvent) -> bool {
        Events(self.shared.events.load(Ordering::Relaxed)).has(event)
    }

    /// Logs something that hooks may be run for, whether or not it is logged. A stranger can repeat it, so it is subject
    /// to the rate.
    pub fn event(
        &self,
        event: LogEvent,
        severity: Severity,
        keyword: &'static str,
        now: Now,
        fill: impl FnOnce(&mut LogRecord),
    ) {
        let Some(record) = self.hooked(event, severity, keyword, fill) else { return };
        self.mention_suppressed(now);
        if self.limiter().admits(severity, now) {
            self.shared.sink.push(severity, record);
        }
    }

    /// Has hooks run for what has waited for their interval. Called once a second.
    pub fn tell_held(&self) {
        for run in self.shared.hooks.tell_held() {
            self.command_failed(&run, "left out because too many wait");
        }
    }

    /// Logs a change of state, which a stranger cannot repeat at will, and has hooks run for it.
    pub fn change(
        &self,
        event: LogEvent,
        severity: Severity,
        keyword: &'static str,
        fill: impl FnOnce(&mut LogRecord),
    ) {
        if let Some(record) = self.hooked(event, severity, keyword, fill) {
            self.shared.sink.push(severity, record);
        }
    }

    /// Has hooks run for what is filled in; returns it if it is to be logged too.
    fn hooked(
        &self,
        event: LogEvent,
        severity: Severity,
        keyword: &'static str,
        fill: impl FnOnce(&mut LogRecord),
    ) -> Option<LogRecord> {
        let (is_hooked, is_logged) = (self.shared.hooks.wants(keyword), self.has(event) && self.writes(severity));
        if !is_hooked && !is_logged {
            return None;
        }
        let mut record = LogRecord::new(keyword);
        fill(&mut record);
        if is_hooked {
            for run in self.shared.hooks.happened(&record) {
                self.command_failed(&run, "left out because too many wait");
            }
        }
        is_logged.then_some(record)
    }

    /// Whether lines of this severity are written.
    pub fn writes(&self, severity: Severity) -> bool {
        severity as u8 <= self.shared.level.load(Ordering::Relaxed)
    }

    /// Writes a line. Never for events that a stranger can repeat: see `limited`.
    pub fn line(&self, severity: Severity, keyword: &'static str, fill: impl FnOnce(&mut LogRecord)) {
        if self.writes(severity) {
            let mut record = LogRecord::new(keyword);
            fill(&mut record);
            self.shared.sink.push(severity, record);
        }
    }

    /// Writes a line for an event that a stranger can repeat, unless the rate is used up.
    pub fn limited(&self, severity: Severity, keyword: &'static str, now: Now, fill: impl FnOnce(&mut LogRecord)) {
        if !self.writes(severity) {
            return;
        }
        self.mention_suppressed(now);
        if self.limiter().admits(severity, now) {
            self.line(severity, keyword, fill);
        }
    }

    /// Writes a line about a client or peer, unless one about the same subject was written less than `log_interval`
    /// ago or the rate is used up. `subject` is a hash of the keyword and of what the line is about; a subject is new
    /// again after `left` seconds. `fill` is given the number of such lines that were not written since the last.
    pub fn per_subject(
        &self,
        severity: Severity,
        keyword: &'static str,
        subject: u64,
        left: u32,
        now: Now,
        fill: impl FnOnce(&mut LogRecord, u64),
    ) {
        if !self.writes(severity) {
            return;
        }
        self.mention_suppressed(now);
        let suppressed = self.limiter().refused(subject, left, now);
        if let Some(suppressed) = suppressed {
            self.line(severity, keyword, |line| fill(line, suppressed));
        }
    }

    /// Says how many lines the rate kept back, if any and if their second is
    /// over. Every line under the rate does this; call it where none may follow.
    pub fn mention_suppressed(&self, now: Now) {
        let unmentioned = self.limiter().unmentioned(now);
        if let Some(lines) = unmentioned {
            self.line(Severity::Notice, "SUPPRESSED", |line| {
                line.field("lines", lines);
            });
        }
    }

    /// Lines not written so far, because of the rate or a client's interval.
    pub fn suppressed(&self) -> u64 {
        self.limiter().suppressed()
    }

    /// Who was mentioned lately, for the new program of an upgrade.
    pub fn save(&self) -> SavedLimiter {
        self.limiter().save()
    }

    /// Takes that over.
    pub fn restore(&self, saved: SavedLimiter) {
        self.limiter().restore(saved);
    }

    /// Lines lost so far, because the logger was down or slower than we.
    pub fn dropped(&self) -> u64 {
        self.shared.sink.dropped()
    }

    /// Waits until every line so far is written, at most for `patience`; says
    /// whether they are. For the end of the process; blocks its thread.
    pub fn flush(&self, patience: Duration) -> bool {
        self.shared.sink.flush(patience)
    }

    /// The lines of a log made by `in_memory`; none of any other.
    pub fn lines(&self) -> Vec<String> {
        self.shared.sink.lines()
    }

    fn limiter(&self) -> MutexGuard<'_, LineLimiter> {
        lock(&self.shared.limiter)
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").finish_non_exhaustive()
    }
}

/// A kind of log line about clients, by its word in `log_events`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(const_into_str, serialize_all = "kebab-case")]
pub enum LogEvent {
    /// A client on the whitelist, or that an administrator allowed, passes.
    Whitelisted,
    /// A client on the blacklist is refused, or waits.
    Blacklisted,
    /// A client over a limit is refused.
    Over,
    /// A ban begins.
    Ban,
    /// A ban is lifted.
    Unban,
    /// A client is refused because it is banned.
    Banned,
    /// A client has to wait.
    Delayed,
    /// A client is refused because too many wait.
    Concurrent,
    /// What a limit that is only logged would have done.
    LogOnly,
    /// A server of the store goes down or is up again, or a client is deferred for that.
    Store,
    /// Any other session passes.
    Session,
}

/// Some kinds of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Events(u16);

impl Events {
    /// All of them.
    pub const ALL: Self = Self((1 << LogEvent::VARIANTS.len()) - 1);

    /// None.
    pub const NONE: Self = Self(0);

    /// Whether it is among them.
    pub fn has(self, event: LogEvent) -> bool {
        self.0 & 1 << event as u16 != 0
    }

    /// These and one more.
    pub fn with(self, event: LogEvent) -> Self {
        Self(self.0 | 1 << event as u16)
    }

    /// These but one.
    pub fn without(self, event: LogEvent) -> Self {
        Self(self.0 & !(1 << event as u16))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_word_is_an_event_of_its_own() {
        for (place, event) in LogEvent::VARIANTS.iter().copied().enumerate() {
            assert_eq!(event as usize, place);
            assert!(Events::NONE.with(event).has(event) && !Events::ALL.without(event).has(event));
        }
    }
}
