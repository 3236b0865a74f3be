//! The circuit breaker before one server: while it is open, no request is sent there.

use std::time::Duration;

use strum::{IntoStaticStr, VariantArray};
use tokio::time::Instant;

use super::backend::{SavedOutage, StoreError};

/// Between two log lines on why one server is down.
const CAUSE_INTERVAL: Duration = Duration::from_secs(10);

/// Causes that the log has of one outage at most.
const MAX_CAUSES: usize = 4;

/// Whether a server is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(const_into_str, serialize_all = "snake_case")]
pub enum BreakerState {
    Closed,
    /// The server is down and left alone.
    Open,
    /// The server is down and being tried, by a probe and not by requests.
    HalfOpen,
}

/// The state of a server, for status and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerHealth {
    /// Its address.
    pub server: String,
    pub breaker: BreakerState,
    /// How long it has been down; `None`: it is up.
    pub down_for: Option<Duration>,
}

/// The breaker of one server.
#[derive(Debug, Default)]
pub struct Breaker {
    outage: Option<Outage>,
}

/// The time in which a server is down.
#[derive(Debug)]
pub struct Outage {
    since: Instant,
    /// Requests that were decided without the server.
    pub decisions: u64,
    probing: bool,
    /// The causes that were logged, and when the last one was.
    causes: Vec<String>,
    logged: Option<Instant>,
}

/// What is logged of a breaker that was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DownLog {
    /// It was closed.
    Begins,
    /// It was open already, for a cause that is not logged yet.
    AnotherCause,
    Nothing,
}

impl Outage {
    fn new(since: Instant) -> Self {
        Self { since, decisions: 0, probing: false, causes: Vec::new(), logged: None }
    }

    /// Notes a cause, and returns whether to log it: each one once, at most one in a while, and few in all.
    fn note_cause(&mut self, cause: &str, now: Instant) -> bool {
        let is_due = self.logged.is_none_or(|logged| now.saturating_duration_since(logged) >= CAUSE_INTERVAL);
        let is_logged = is_due && self.causes.len() < MAX_CAUSES && self.causes.iter().all(|known| known != cause);
        if is_logged {
            self.causes.push(cause.to_owned());
            self.logged = Some(now);
        }
        is_logged
    }

    pub fn seconds(&self) -> u64 {
        self.since.elapsed().as_secs()
    }
}

impl Breaker {
    pub fn is_open(&self) -> bool {
        self.outage.is_some()
    }

    pub fn health(&self, server: &str) -> ServerHealth {
        let breaker = match &self.outage {
            None => BreakerState::Closed,
            Some(Outage { probing: false, .. }) => BreakerState::Open,
            Some(Outage { probing: true, .. }) => BreakerState::HalfOpen,
        };
        let down_for = self.outage.as_ref().map(|outage| outage.since.elapsed());
        ServerHealth { server: server.to_owned(), breaker, down_for }
    }

    /// Whether a command may be sent. `decision`: else a request is decided without the server, which is counted.
    pub fn admit(&mut self, decision: bool) -> Result<(), StoreError> {
        match &mut self.outage {
            None => Ok(()),
            Some(outage) => {
                outage.decisions += u64::from(decision);
                Err(StoreError::Unavailable)
            }
        }
    }

    /// Opens it for a cause, after `decisions` requests that had no reply.
    pub fn open(&mut self, cause: &str, decisions: u64, now: Instant) -> DownLog {
        let begins = self.outage.is_none();
        let outage = self.outage.get_or_insert_with(|| Outage::new(now));
        outage.probing = false;
        outage.decisions += decisions;
        // Of an outage that began in the old program, the first cause is logged already.
        let is_first = outage.causes.is_empty();
        match outage.note_cause(cause, now) {
            true if begins => DownLog::Begins,
            true if !is_first => DownLog::AnotherCause,
            _ => DownLog::Nothing,
        }
    }

    /// The server is being tried.
    pub fn probe(&mut self) {
        if let Some(outage) = &mut self.outage {
            outage.probing = true;
        }
    }

    /// Closes it, and returns the outage that ends.
    pub fn close(&mut self) -> Option<Outage> {
        self.outage.take()
    }

    /// The outage, for the new program of an upgrade.
    pub fn save(&self, server: &str) -> Option<SavedOutage> {
        let Outage { since, decisions, .. } = self.outage.as_ref()?;
        let milliseconds = since.elapsed().as_millis() as u64;
        Some(SavedOutage { server: server.to_owned(), milliseconds, decisions: *decisions })
    }

    /// Opens it as it was in the old program.
    pub fn restore(&mut self, saved: &SavedOutage) {
        let now = Instant::now();
        let since = now.checked_sub(Duration::from_millis(saved.milliseconds)).unwrap_or(now);
        // The server may have been found down again meanwhile.
        let outage = self.outage.get_or_insert_with(|| Outage::new(since));
        outage.since = outage.since.min(since);
        outage.decisions += saved.decisions;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(causes: impl IntoIterator<Item = (u64, String)>) -> Vec<(u64, DownLog)> {
        let (mut breaker, begin) = (Breaker::default(), Instant::now());
        let open =
            |(second, cause): (u64, String)| (second, breaker.open(&cause, 0, begin + Duration::from_secs(second)));
        causes.into_iter().map(open).filter(|(_, logged)| *logged != DownLog::Nothing).collect()
    }

    #[test]
    fn one_outage_is_told_once_and_its_further_causes_seldom_and_few() {
        use DownLog::{AnotherCause, Begins};
        // A cause that never changes, four times a second for an hour.
        let same = (0..4 * 3600).map(|quarter| (quarter / 4, "connection refused".to_owned()));
        assert_eq!(lines(same), [(0, Begins)]);
        // One that is another each time.
        let ever_new = (0..4 * 3600).map(|quarter| (quarter / 4, format!("cause {quarter}")));
        assert_eq!(lines(ever_new), [(0, Begins), (10, AnotherCause), (20, AnotherCause), (30, AnotherCause)]);
        // Two in turn: each is told once, the second when its time has come.
        let in_turn = (0..4 * 3600).map(|quarter| (quarter / 4, format!("cause {}", quarter % 2)));
        assert_eq!(lines(in_turn), [(0, Begins), (10, AnotherCause)]);
    }

    #[test]
    fn the_next_outage_is_told_anew() {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        assert_eq!(breaker.open("refused", 3, now), DownLog::Begins);
        assert_eq!(breaker.close().map(|outage| outage.decisions), Some(3));
        assert_eq!(breaker.open("refused", 1, now), DownLog::Begins);
    }

    #[test]
    fn an_outage_of_the_program_before_is_not_told_again() {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        let saved = SavedOutage { server: "a".to_owned(), milliseconds: 7000, decisions: 4 };
        breaker.restore(&saved);
        let later = now + CAUSE_INTERVAL;
        assert_eq!(breaker.open("refused", 1, now), DownLog::Nothing);
        assert_eq!(breaker.open("refused", 1, later), DownLog::Nothing);
        assert_eq!(breaker.open("timed out", 1, later), DownLog::AnotherCause);
        assert_eq!(breaker.save("a").unwrap().decisions, 7);
    }
}
