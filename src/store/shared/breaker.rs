//! The circuit breaker before one server: while it is open, no request is sent there.

use std::time::Duration;

use tokio::time::Instant;

use super::backend::{SavedOutage, StoreError};

/// Whether a server is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    Closed,
    /// The server is down and left alone.
    Open,
    /// The server is down and being tried, by a probe and not by requests.
    HalfOpen,
}

impl BreakerState {
    pub const ALL: [Self; 3] = [Self::Closed, Self::Open, Self::HalfOpen];

    pub fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
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
}

impl Outage {
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

    /// Opens it, after `decisions` requests that had no reply. Returns whether it was closed.
    pub fn open(&mut self, decisions: u64) -> bool {
        let was_closed = self.outage.is_none();
        let new = || Outage { since: Instant::now(), decisions: 0, probing: false };
        let outage = self.outage.get_or_insert_with(new);
        outage.probing = false;
        outage.decisions += decisions;
        was_closed
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

    /// The outage, for the program that takes over.
    pub fn save(&self, server: &str) -> Option<SavedOutage> {
        let Outage { since, decisions, .. } = self.outage.as_ref()?;
        let milliseconds = since.elapsed().as_millis() as u64;
        Some(SavedOutage { server: server.to_owned(), milliseconds, decisions: *decisions })
    }

    /// Opens it as it was in the program before.
    pub fn restore(&mut self, saved: &SavedOutage) {
        let now = Instant::now();
        let since = now.checked_sub(Duration::from_millis(saved.milliseconds)).unwrap_or(now);
        // The server may have been found down again meanwhile.
        let outage = self.outage.get_or_insert(Outage { since, decisions: 0, probing: false });
        outage.since = outage.since.min(since);
        outage.decisions += saved.decisions;
    }
}
