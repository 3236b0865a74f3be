//! One server of a shared store, or its file: its name, its time-out, and its log lines and statistics.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use super::backend::BackendContext;
use super::breaker::{Breaker, DownLog, Outage};
use crate::net::lock;
use crate::observe::log::{Log, LogEvent, Severity};
use crate::observe::statistics::{Statistics, add};
use crate::policy::OnStoreFailure;

/// After this many requests in a row without an answer a server is down.
pub const FAILURES: u32 = 3;

/// Between two attempts to reach a server that is down.
pub const PROBE_INTERVAL: Duration = Duration::from_millis(250);

/// For a server that comes up only to fail again the interval is doubled up to this.
const LONGEST_INTERVAL: Duration = Duration::from_secs(5);

/// After a server was used this long the interval is short again.
const LASTING: Duration = Duration::from_secs(60);

/// Between two lines on answers that are errors.
const ERROR_LINE_INTERVAL: Duration = Duration::from_secs(10);

/// The problem of a key that is not ours.
pub const NOT_A_NUMBER: &str = "a value that is not a number is under one of our keys; set key_prefix";

/// One server.
#[derive(Debug)]
pub struct StoreServer {
    /// As logs show it.
    pub name: String,
    /// The longest time that a request waits for it.
    pub timeout: Duration,
    pub log: Log,
    pub statistics: Arc<Statistics>,
    on_failure: OnStoreFailure,
    error_logged: Mutex<Option<Instant>>,
}

impl StoreServer {
    pub fn new(name: String, context: &BackendContext) -> Self {
        let BackendContext { timeout, on_failure, statistics, log, .. } = context.clone();
        Self { name, timeout, log, statistics, on_failure, error_logged: Mutex::default() }
    }

    /// Its breaker: open if it was down for the old program of an upgrade, until it is found up.
    pub fn breaker(&self, context: &BackendContext) -> Breaker {
        let mut breaker = Breaker::default();
        context.outages.iter().filter(|saved| saved.server == self.name).for_each(|saved| breaker.restore(saved));
        breaker
    }

    /// Counts how long a request waited that is to be given up at `deadline`, and is answered now.
    pub fn answered(&self, deadline: Instant, now: Instant) {
        let asked = deadline - self.timeout;
        self.statistics.store_latency.observe(now.saturating_duration_since(asked));
    }

    /// Counts a request that was given up.
    pub fn gave_up(&self) {
        self.statistics.store_latency.observe(self.timeout);
    }

    /// Why it is down after so many requests in a row.
    pub fn unanswered_cause(&self, failures: u32) -> String {
        format!("{failures} requests in a row without an answer in {} ms", self.timeout.as_millis())
    }

    /// The breaker was opened.
    pub fn went_down(&self, logged: DownLog, cause: &str) {
        match logged {
            DownLog::Begins => {
                add(&self.statistics.store_outages, 1);
                self.log.change(LogEvent::Store, Severity::Err, "STORE_DOWN", |line| {
                    line.field("server", &self.name).field("cause", cause);
                    line.field("on_store_failure", self.on_failure.into_str());
                });
            }
            DownLog::AnotherCause => self.log.line(Severity::Warning, "STORE_STILL_DOWN", |line| {
                line.field("server", &self.name).field("cause", cause);
            }),
            DownLog::Nothing => {}
        }
    }

    /// The breaker was closed, which ended an outage if it was open.
    pub fn came_up(&self, outage: Option<Outage>) {
        if let Some(outage) = outage {
            self.end("STORE_UP", outage.seconds(), outage.decisions);
        }
    }

    /// It was down for so long, and others of its cluster have its keys now.
    pub fn was_replaced(&self, seconds: u64, decisions: u64) {
        self.end("STORE_REPLACED", seconds, decisions);
    }

    fn end(&self, keyword: &'static str, seconds: u64, decisions: u64) {
        self.log.change(LogEvent::Store, Severity::Notice, keyword, |line| {
            line.field("server", &self.name).field("seconds", seconds).field("decisions", decisions);
        });
    }

    /// It answered something other than a count.
    pub fn log_error(&self, problem: &str, key: &[u8]) {
        let mut logged = lock(&self.error_logged);
        if logged.is_none_or(|at| at.elapsed() >= ERROR_LINE_INTERVAL) {
            *logged = Some(Instant::now());
            drop(logged);
            self.log.line(Severity::Warning, "STORE_ERROR", |line| {
                line.field("server", &self.name).field("problem", problem).bytes("key", key);
            });
        }
    }

    /// It has lost all its counts. `uptime` is in seconds.
    pub fn flushed(&self, cause: &str, uptime: u64) {
        add(&self.statistics.store_flushes, 1);
        self.log.line(Severity::Warning, "STORE_FLUSHED", |line| {
            line.field("server", &self.name).field("cause", cause).field("uptime", uptime);
        });
    }

    /// It has removed so many counts for want of memory.
    pub fn evicts(&self, evictions: u64) {
        self.log.line(Severity::Warning, "STORE_EVICTS", |line| {
            line.field("server", &self.name).field("evictions", evictions);
        });
    }
}

/// How long a server is left alone that came up and failed again.
#[derive(Debug)]
pub struct ProbePause {
    next: Duration,
}

impl Default for ProbePause {
    fn default() -> Self {
        Self { next: PROBE_INTERVAL }
    }
}

impl ProbePause {
    /// The server was used for so long. Returns whether that was for long.
    pub fn was_used(&mut self, time: Duration) -> bool {
        let lasting = time > LASTING;
        if lasting {
            *self = Self::default();
        }
        lasting
    }

    /// The pause before the next attempt.
    pub fn take(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(LONGEST_INTERVAL);
        pause
    }
}
