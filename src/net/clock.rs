//! The one place that reads the clock.
//!
//! Everything that judges or counts is handed a `Now`. Windows are measured on
//! the monotonic part, which no step of the system clock can move; the Unix
//! part is for what leaves this process (expiries in a store, logs).

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

/// A moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds on a clock that never steps: since the host was started, for every process of it.
    pub monotonic: u64,
    /// Milliseconds since the Unix epoch; a step of the system clock is noticed within a second.
    pub unix_ms: u64,
}

impl Now {
    /// Reads the clock.
    pub fn read() -> Self {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("every Linux has this clock");
        let monotonic = now.tv_sec() as u64 * 1000 + now.tv_nsec() as u64 / 1_000_000;
        Self { monotonic, unix_ms: epoch(monotonic).wrapping_add(monotonic) }
    }

    /// A moment of a simulated clock that stood at Unix time 1,700,000,000 when it began.
    pub fn simulated(milliseconds: u64) -> Self {
        Self { monotonic: milliseconds, unix_ms: 1_700_000_000_000 + milliseconds }
    }

    /// Seconds since the Unix epoch.
    pub fn unix(self) -> u64 {
        self.unix_ms / 1000
    }
}

/// Unix time in milliseconds at the zero of the monotonic clock. It changes only when somebody sets the
/// clock, so it is read once a second.
fn epoch(monotonic: u64) -> u64 {
    static READ_IN: AtomicU64 = AtomicU64::new(0);
    static EPOCH: AtomicU64 = AtomicU64::new(0);
    let second = monotonic / 1000 + 1;
    // Two threads may both read it; then both are right.
    if READ_IN.load(Ordering::Acquire) != second {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64);
        EPOCH.store(unix.wrapping_sub(monotonic), Ordering::Relaxed);
        READ_IN.store(second, Ordering::Release);
    }
    EPOCH.load(Ordering::Relaxed)
}
