//! Numbers of what was answered, and the STATISTICS line that tells them.

pub mod latency;

use std::sync::atomic::{AtomicU64, Ordering};

use crate::observe::log::{Log, Severity};
use latency::Latency;

/// Counts since the start.
#[derive(Debug, Default)]
pub struct Statistics {
    /// Requests answered.
    pub queries: AtomicU64,
    /// SMTP sessions recognised in them.
    pub sessions: AtomicU64,
    /// Sessions of clients on the whitelist.
    pub whitelisted: AtomicU64,
    /// Refusals of what was counted: a session, a message or a recipient, once each.
    pub refused: AtomicU64,
    /// Answers that were delayed.
    pub delayed: AtomicU64,
    /// What limits that are only logged would have refused.
    pub would_refuse: AtomicU64,
    /// Bans begun by this process.
    pub banned: AtomicU64,
    /// Sessions that have to come back because the store was away.
    pub deferred: AtomicU64,
    /// Requests without a client address.
    pub unknown_client: AtomicU64,
    /// Requests for which the shared store did not do all that was asked.
    pub store_bypassed: AtomicU64,
    /// Hits of keys over their limit that the shared store was not asked about.
    pub over_memory: AtomicU64,
    /// How often a server of the shared store lost all its counts.
    pub store_flushes: AtomicU64,
    /// Keys that servers of the shared store gave up for want of memory.
    pub store_evictions: AtomicU64,
    /// Counters that the shared store began anew although their window had not ended.
    pub windows_lost: AtomicU64,
    /// Policy connections that ended because of a request that was none.
    pub bad_requests: AtomicU64,
    /// Policy connections turned away because there were `max_connections`.
    pub connections_rejected: AtomicU64,
    /// Times that a server of the shared store went away.
    pub outages: AtomicU64,
    /// How long requests waited for the shared store.
    pub store_latency: Latency,
    /// Policy connections turned away because `allow_peers` does not have the peer.
    pub refused_peers: AtomicU64,
}

/// Adds to a number. Nothing is ordered by it, so the cheapest way will do.
pub fn add(number: &AtomicU64, amount: u64) {
    number.fetch_add(amount, Ordering::Relaxed);
}

impl Statistics {
    /// Every number with its name, in the order of the STATISTICS line.
    pub fn numbers(&self) -> [(&'static str, &AtomicU64); 17] {
        [
            ("queries", &self.queries),
            ("sessions", &self.sessions),
            ("whitelisted", &self.whitelisted),
            ("refused", &self.refused),
            ("deferred", &self.deferred),
            ("delayed", &self.delayed),
            ("would_refuse", &self.would_refuse),
            ("banned", &self.banned),
            ("unknown_client", &self.unknown_client),
            ("without_store", &self.store_bypassed),
            ("over_memory", &self.over_memory),
            ("store_flushes", &self.store_flushes),
            ("store_evictions", &self.store_evictions),
            ("began_anew", &self.windows_lost),
            ("bad_requests", &self.bad_requests),
            ("turned_away", &self.connections_rejected),
            ("refused_peers", &self.refused_peers),
        ]
    }

    /// Writes the STATISTICS line; `store` is how the store is, `more` are numbers kept elsewhere.
    pub fn report(&self, log: &Log, store: &str, more: &[(&'static str, u64)]) {
        log.line(Severity::Info, "STATISTICS", |line| {
            for (name, number) in self.numbers() {
                line.field(name, number.load(Ordering::Relaxed));
            }
            for (name, number) in more {
                line.field(name, *number);
            }
            line.field("store", store);
            line.field("suppressed_lines", log.suppressed()).field("dropped_lines", log.dropped());
        });
    }
}
