//! Log lines about counts that a server has lost: one for each flush, and one in ten minutes for evictions.

use std::time::Duration;

use tokio::time::Instant;

use super::server::StoreServer;
use crate::observe::statistics::add;

/// Between two looks at the statistics of a server.
pub const SERVER_STATS_INTERVAL: Duration = Duration::from_secs(5);

/// Between two lines on evictions by one server.
const EVICTS_INTERVAL: Duration = Duration::from_secs(600);

/// What was logged of one server's losses.
#[derive(Debug, Default)]
pub struct LossLog {
    /// Evictions since the last line.
    unlogged: u64,
    logged: Option<Instant>,
}

impl LossLog {
    /// Logs and counts what a server has lost since the last look: all counts for a `cause`, if there is one, and so
    /// many keys by eviction. `uptime` is in seconds.
    pub fn add(&mut self, server: &StoreServer, cause: Option<&str>, uptime: u64, evictions: u64) {
        let now = Instant::now();
        self.unlogged += evictions;
        add(&server.statistics.store_evictions, evictions);
        if let Some(cause) = cause {
            server.flushed(cause, uptime);
        }
        if self.unlogged > 0 && self.logged.is_none_or(|logged| now - logged >= EVICTS_INTERVAL) {
            self.logged = Some(now);
            server.evicts(std::mem::take(&mut self.unlogged));
        }
    }
}
