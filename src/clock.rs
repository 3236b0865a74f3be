//! The one place that reads the clock.
//!
//! Everything that judges or counts is handed a `Now`. Windows are measured on
//! the monotonic part, which no step of the system clock can move; the Unix
//! part is for what leaves this process (memcached expiries, logs).

use std::sync::OnceLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// A moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds on a clock that never steps; its zero means nothing.
    pub monotonic: u64,
    /// Seconds since the Unix epoch, as the system clock has it.
    pub unix: u64,
}

impl Now {
    /// Reads the clock.
    pub fn read() -> Self {
        static START: OnceLock<Instant> = OnceLock::new();
        let start = START.get_or_init(Instant::now);
        Self {
            monotonic: start.elapsed().as_millis() as u64,
            unix: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs()),
        }
    }

    /// A moment of a simulated clock that stood at Unix time 1,700,000,000 when it began.
    pub fn simulated(milliseconds: u64) -> Self {
        Self { monotonic: milliseconds, unix: 1_700_000_000 + milliseconds / 1000 }
    }
}
