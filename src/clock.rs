//! The one place that reads the clock.
//!
//! Everything that judges or counts is handed a `Now`. Windows are measured on
//! the monotonic part, which no step of the system clock can move; the Unix
//! part is for what leaves this process (memcached expiries, logs).

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// A moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds on a clock that never steps; its zero means nothing.
    pub monotonic: u64,
    /// Seconds since the Unix epoch, as the system clock had it within the last second.
    pub unix: u64,
}

impl Now {
    /// Reads the clock.
    pub fn read() -> Self {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        let monotonic = START.elapsed().as_millis() as u64;
        Self { monotonic, unix: unix(monotonic / 1000 + 1) }
    }

    /// A moment of a simulated clock that stood at Unix time 1,700,000,000 when it began.
    pub fn simulated(milliseconds: u64) -> Self {
        Self { monotonic: milliseconds, unix: 1_700_000_000 + milliseconds / 1000 }
    }
}

/// Unix time changes once a second, and few ask for it: that is how often it is read.
/// `second` counts from 1.
fn unix(second: u64) -> u64 {
    static READ_IN: AtomicU64 = AtomicU64::new(0);
    static UNIX: AtomicU64 = AtomicU64::new(0);
    // Two threads may both read it; then both are right.
    if READ_IN.load(Ordering::Acquire) != second {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        UNIX.store(unix, Ordering::Relaxed);
        READ_IN.store(second, Ordering::Release);
    }
    UNIX.load(Ordering::Relaxed)
}
