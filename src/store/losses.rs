//! Counts that a server has lost: it was started again, told to forget everything, or short of memory.
//!
//! Told by its own numbers, which its task asks for now and then, beside the requests.

use std::time::Duration;

use tokio::time::Instant;

use super::server::Server;
use super::wire::Census;
use crate::statistics::add;

/// Between two lines on evictions by one server.
const EVICTS_INTERVAL: Duration = Duration::from_secs(600);

/// What a server's uptime may seem to go back without a restart: it counts whole seconds, by a coarse clock.
const TOLERANCE: u64 = 2;

/// What a server said of itself last.
#[derive(Debug, Default)]
pub struct Losses {
    last: Option<(Census, Instant)>,
    /// It does not say.
    mute: bool,
    /// Evictions that no line has mentioned.
    untold: u64,
    told: Option<Instant>,
}

impl Server {
    /// Whether it answers when it is asked how it is.
    pub(super) fn tells(&self) -> bool {
        !self.losses().mute
    }

    /// It does not.
    pub(super) fn tells_nothing(&self) {
        self.losses().mute = true;
    }

    /// Compares what it says with what it said before, and tells of what was lost.
    pub(super) fn take_census(&self, census: Census) {
        let now = Instant::now();
        let mut losses = self.losses();
        let Some((before, at)) = losses.last.replace((census, now)) else {
            return;
        };
        let expected = before.uptime + (now - at).as_secs();
        let restarted = census.uptime + TOLERANCE < expected;
        let cause = match () {
            () if restarted => Some("it was started again"),
            () if census.flushes > before.flushes => Some("flush_all"),
            () => None,
        };
        let evictions = if restarted { census.evictions } else { census.evictions.saturating_sub(before.evictions) };
        losses.untold += evictions;
        let due = losses.told.is_none_or(|told| now - told >= EVICTS_INTERVAL);
        let evicted = if due { std::mem::take(&mut losses.untold) } else { 0 };
        if evicted > 0 {
            losses.told = Some(now);
        }
        drop(losses);
        add(&self.statistics.store_evictions, evictions);
        if let Some(cause) = cause {
            add(&self.statistics.store_flushes, 1);
            self.log.store_flushed(self.name(), cause, census.uptime);
        }
        if evicted > 0 {
            self.log.store_evicts(self.name(), evicted);
        }
    }
}
