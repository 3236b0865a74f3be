//! Finds out that a server has lost counts: it was restarted, flushed, or short of memory.
//!
//! The server's own statistics tell it; they are read every few seconds, beside the requests.

use tokio::time::Instant;

use super::server::MemcachedServer;
use crate::store::memcached::protocol::ServerStats;
use crate::store::shared::losses::LossLog;

/// Seconds by which a server's uptime may lag without a restart: it counts whole seconds, by a coarse clock.
const UPTIME_TOLERANCE: u64 = 2;

/// The last statistics of a server.
#[derive(Debug, Default)]
pub struct LossDetector {
    last: Option<(ServerStats, Instant)>,
    /// Its uptime lagged for the first time.
    lags: bool,
    /// It answers no `stats`.
    without_statistics: bool,
    log: LossLog,
}

impl LossDetector {
    /// Why counts were lost since the last statistics, if they were, and how many keys were evicted.
    fn compare(&mut self, server_stats: ServerStats, now: Instant) -> (Option<&'static str>, u64) {
        let Some((before, at)) = self.last else {
            self.last = Some((server_stats, now));
            return (None, 0);
        };
        let lags = server_stats.uptime + UPTIME_TOLERANCE < before.uptime + (now - at).as_secs();
        if lags && server_stats.uptime >= before.uptime && !self.lags {
            // A server that was frozen may answer before it updates its clock.
            self.lags = true;
            return (None, 0);
        }
        (self.last, self.lags) = (Some((server_stats, now)), false);
        match () {
            () if lags => (Some("it was started again"), server_stats.evictions),
            () => {
                let flushed = server_stats.flushes > before.flushes;
                (flushed.then_some("flush_all"), server_stats.evictions.saturating_sub(before.evictions))
            }
        }
    }
}

impl MemcachedServer {
    /// Whether the server answers `stats`.
    pub(crate) fn asks_server_stats(&self) -> bool {
        !self.losses().without_statistics
    }

    /// The server does not answer `stats`.
    pub(crate) fn mark_without_statistics(&self) {
        self.losses().without_statistics = true;
    }

    /// Compares statistics with those before, and logs and counts what was lost.
    pub(crate) fn take_server_stats(&self, server_stats: ServerStats) {
        let mut losses = self.losses();
        let (cause, evictions) = losses.compare(server_stats, Instant::now());
        losses.log.add(&self.queue.server, cause, server_stats.uptime, evictions);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// What comes of it to hear these uptimes at these seconds.
    fn causes(told: &[(u64, u64)]) -> Vec<Option<&'static str>> {
        let (mut losses, begin) = (LossDetector::default(), Instant::now());
        let compare = |(second, uptime): &(u64, u64)| {
            let server_stats = ServerStats { uptime: *uptime, ..ServerStats::default() };
            losses.compare(server_stats, begin + Duration::from_secs(*second)).0
        };
        told.iter().map(compare).collect()
    }

    #[test]
    fn a_restart_is_told_from_a_server_that_was_frozen() {
        let again = Some("it was started again");
        assert_eq!(causes(&[(0, 100), (5, 105), (10, 111), (15, 114)]), [None; 4]);
        assert_eq!(causes(&[(0, 100), (5, 0), (10, 5)]), [None, again, None]);
        // It has not looked at its clock yet; then it has.
        assert_eq!(causes(&[(0, 100), (30, 101), (35, 135), (40, 140)]), [None; 4]);
        // It was away for longer than it had been up.
        assert_eq!(causes(&[(0, 1), (60, 30), (65, 35), (70, 40)]), [None, None, again, None]);
    }
}
