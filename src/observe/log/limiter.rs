//! How often what a stranger causes is logged.
//!
//! A client's first refusal in a window is written, then at most one line per
//! `interval` with the number left out; all lines a stranger can cause share
//! one rate. Pure: no clock is read and nothing is written here.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Severity;
use crate::net::clock::Now;
use crate::net::recent_map::RecentMap;

/// Clients remembered at once, in about 1 MB. Beyond this the least recently
/// refused are forgotten; their next refusal is a first one, which the rate bounds.
pub const MAX_REMEMBERED_CLIENTS: usize = 16384;

/// What was written lately, and what was left out.
#[derive(Debug)]
pub struct LineLimiter {
    interval: u64,
    clients: RecentMap<LastLine, MAX_REMEMBERED_CLIENTS>,
    rate: LineRate,
    suppressed: u64,
}

impl LineLimiter {
    /// At most one line per `interval` and client, and `rate` lines a second in all.
    pub fn new(interval: Duration, rate: u32) -> Self {
        let mut repeat = Self { interval: 0, clients: RecentMap::default(), rate: LineRate::default(), suppressed: 0 };
        repeat.reconfigure(interval, rate);
        repeat
    }

    /// Changes the bounds and keeps what is remembered.
    pub fn reconfigure(&mut self, interval: Duration, rate: u32) {
        self.interval = interval.as_millis() as u64;
        self.rate.limit = rate;
    }

    /// Whether one more line that a stranger caused is written. Debugging
    /// leaves half of the rate to what matters more.
    #[must_use]
    pub fn admits(&mut self, severity: Severity, now: Now) -> bool {
        let limit = self.rate.limit;
        let admitted = match severity {
            Severity::Debug => self.rate.admits(limit.div_ceil(2), now),
            _ => self.rate.admits(limit, now),
        };
        self.suppressed += u64::from(!admitted);
        admitted
    }

    /// Whether the refusal of `client`, whose window has `left` seconds left,
    /// is written, and then how many of its refusals were not since its last line.
    #[must_use]
    pub fn refused(&mut self, client: u64, left: u32, now: Now) -> Option<u64> {
        let past = self.clients.touch(client);
        let due = past.window_ends <= now.monotonic || past.next_line <= now.monotonic;
        if !due || !self.rate.admits(self.rate.limit, now) {
            past.suppressed += 1;
            self.suppressed += 1;
            return None;
        }
        if past.window_ends <= now.monotonic {
            // A refusal without a window (the store is down) is held to the interval alone.
            let length = if left == 0 { self.interval } else { u64::from(left) * 1000 };
            past.window_ends = now.monotonic + length;
        }
        past.next_line = now.monotonic + self.interval;
        Some(std::mem::take(&mut past.suppressed))
    }

    /// The lines that the rate kept back and that no line has mentioned yet;
    /// at most once a second.
    #[must_use]
    pub fn unmentioned(&mut self, now: Now) -> Option<u64> {
        self.rate.unmentioned(now)
    }

    /// What is remembered, for the new program of an upgrade.
    pub fn save(&self) -> SavedLimiter {
        let clients = self.clients.iter().map(|(client, last)| (*client, *last)).collect();
        SavedLimiter { suppressed: self.suppressed, clients }
    }

    /// Takes that over; the moments are those of the same clock.
    pub fn restore(&mut self, saved: SavedLimiter) {
        self.suppressed += saved.suppressed;
        for (client, last) in saved.clients {
            *self.clients.touch(client) = last;
        }
    }

    /// All that was ever left out.
    pub fn suppressed(&self) -> u64 {
        self.suppressed
    }
}

/// What a limiter remembers.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedLimiter {
    suppressed: u64,
    /// The least recently refused first.
    clients: Vec<(u64, LastLine)>,
}

/// What is known of one client; a new one's times have passed already.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct LastLine {
    window_ends: u64,
    next_line: u64,
    suppressed: u64,
}

/// Lines a second, counted in seconds of the monotonic clock.
#[derive(Debug, Default)]
struct LineRate {
    limit: u32,
    second: u64,
    written: u32,
    kept_back: u64,
}

impl LineRate {
    fn admits(&mut self, limit: u32, now: Now) -> bool {
        let second = now.monotonic / 1000;
        if self.second != second {
            self.second = second;
            self.written = 0;
        }
        let admitted = self.written < limit;
        if admitted {
            self.written += 1;
        } else {
            self.kept_back += 1;
        }
        admitted
    }

    fn unmentioned(&mut self, now: Now) -> Option<u64> {
        // While its second runs the number still grows.
        let over = self.second != now.monotonic / 1000;
        (over && self.kept_back > 0).then(|| std::mem::take(&mut self.kept_back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(number: u64) -> u64 {
        number
    }

    fn at(milliseconds: u64) -> Now {
        Now::simulated(milliseconds)
    }

    /// Interval 10 s, window 60 s that began at 0.
    #[test]
    fn a_client_is_logged_at_first_then_once_per_interval() {
        let mut repeat = LineLimiter::new(Duration::from_secs(10), 100);
        let story = [
            (1_000, 59, Some(0)), // first refused
            (1_001, 59, None),
            (9_000, 51, None),
            (10_999, 50, None),
            (11_000, 49, Some(3)), // an interval after the line before
            (20_999, 40, None),
            (50_000, 10, Some(1)),
            (59_000, 1, None),
            (60_000, 60, Some(1)), // first refused in the next window, 10 s after its last line
            (61_000, 59, None),
            (70_000, 50, Some(1)),
            (900_000, 60, Some(0)),
        ];
        for (time, left, written) in story {
            assert_eq!(repeat.refused(client(1), left, at(time)), written, "at {time} ms");
        }
        assert_eq!(repeat.suppressed(), 6);
    }

    #[test]
    fn a_new_window_is_logged_before_the_interval_is_over() {
        let mut repeat = LineLimiter::new(Duration::from_secs(10), 100);
        let story = [(0, 2, Some(0)), (1_900, 1, None), (2_000, 2, Some(1)), (3_999, 1, None), (4_000, 2, Some(1))];
        for (time, left, written) in story {
            assert_eq!(repeat.refused(client(1), left, at(time)), written, "at {time} ms");
        }
    }

    #[test]
    fn a_refusal_without_a_window_is_held_to_the_interval() {
        let mut repeat = LineLimiter::new(Duration::from_secs(10), 100);
        let written = |repeat: &mut LineLimiter, time| repeat.refused(client(1), 0, at(time));
        assert_eq!(written(&mut repeat, 0), Some(0));
        assert_eq!(written(&mut repeat, 9_999), None);
        assert_eq!(written(&mut repeat, 10_000), Some(1));
    }

    #[test]
    fn all_lines_share_the_rate_and_the_rest_is_mentioned_later() {
        let mut repeat = LineLimiter::new(Duration::from_secs(10), 3);
        let written = (0..10).filter(|n| repeat.refused(client(*n), 60, at(500)).is_some()).count();
        assert_eq!(written, 3);
        assert!(!repeat.admits(Severity::Notice, at(999)));
        assert_eq!(repeat.unmentioned(at(999)), None, "its second still runs");
        assert_eq!(repeat.unmentioned(at(1_000)), Some(8));
        assert_eq!(repeat.unmentioned(at(1_000)), None);
        assert!(repeat.admits(Severity::Notice, at(1_001)));
        assert_eq!(repeat.suppressed(), 8);
    }

    #[test]
    fn a_line_the_rate_kept_back_is_made_up_for() {
        let mut repeat = LineLimiter::new(Duration::from_secs(10), 1);
        assert_eq!(repeat.refused(client(1), 60, at(0)), Some(0));
        assert_eq!(repeat.refused(client(2), 60, at(1)), None);
        assert_eq!(repeat.refused(client(2), 59, at(1_000)), Some(1));
    }

    #[test]
    fn a_flood_of_clients_is_bounded_and_the_latest_are_remembered() {
        let mut repeat = LineLimiter::new(Duration::from_secs(10), 1_000_000);
        for n in 0..100_000 {
            assert_eq!(repeat.refused(client(n), 60, at(5)), Some(0));
            assert!(repeat.clients.len() <= MAX_REMEMBERED_CLIENTS);
        }
        for n in 100_000 - MAX_REMEMBERED_CLIENTS as u64 / 2..100_000 {
            assert_eq!(repeat.refused(client(n), 60, at(6)), None, "client {n} was forgotten");
        }
        assert_eq!(repeat.refused(client(0), 60, at(7)), Some(0));
    }

    #[test]
    fn a_client_refused_again_and_again_outlives_a_flood() {
        let mut repeat = LineLimiter::new(Duration::from_secs(10), 1_000_000);
        assert_eq!(repeat.refused(client(1), 60, at(0)), Some(0));
        for n in 2..200_000 {
            let _ = repeat.refused(client(n), 60, at(1));
            if n % 1000 == 0 {
                assert_eq!(repeat.refused(client(1), 60, at(1)), None);
            }
        }
    }

    #[test]
    fn new_bounds_hold_at_once() {
        let mut repeat = LineLimiter::new(Duration::from_secs(10), 1);
        assert!(repeat.admits(Severity::Notice, at(0)));
        assert!(!repeat.admits(Severity::Notice, at(0)));
        repeat.reconfigure(Duration::from_secs(1), 2);
        assert!(repeat.admits(Severity::Notice, at(0)));
        assert!(!repeat.admits(Severity::Notice, at(0)));
    }

    #[test]
    fn debugging_leaves_half_of_the_rate_to_refusals() {
        let mut repeat = LineLimiter::new(Duration::from_secs(10), 5);
        let passed = (0..10).filter(|_| repeat.admits(Severity::Debug, at(0))).count();
        let refused = (0..10).filter(|n| repeat.refused(client(*n), 60, at(0)).is_some()).count();
        assert_eq!((passed, refused), (3, 2));
    }
}
