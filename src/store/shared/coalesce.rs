//! Hits that are so close together that they are one.
//!
//! What this process counted last is remembered here, so hosts that share a
//! store coalesce each for themselves.

use std::sync::{Mutex, MutexGuard};

use crate::net::clock::Now;
use crate::net::lock;
use crate::net::recent_map::RecentMap;
use crate::net::secret;
use crate::policy::key::KeyPart;
use crate::policy::{Limit, Operation};

/// Keys remembered at once, in about 2 MB. Beyond this those that were counted longest ago are forgotten;
/// their next hit counts.
pub const MAX_KEYS: usize = 65_536;

/// When which key was counted last, on the monotonic clock.
#[derive(Debug, Default)]
pub struct Coalesce {
    generations: Mutex<RecentMap<u64, MAX_KEYS>>,
}

impl Coalesce {
    /// Makes a hit that comes too soon after the last one that was counted a read, with 0 `added`.
    #[inline]
    pub fn apply(&self, operation: &mut Operation<'_>, now: Now) {
        // Few limits coalesce, and the others are not to pay for it.
        if operation.key.limit.coalesce > 0 && operation.amount > 0 && !self.counts(operation, now) {
            operation.amount = 0;
        }
    }

    /// The next hit counts, however soon it comes: the last one that was counted has been taken back.
    pub fn forget(&self, limit: &Limit, part: &KeyPart) {
        if limit.coalesce > 0 {
            self.lock().forget(key(limit, part));
        }
    }

    /// What is remembered, the longest ago first, for the process that takes this one's place.
    pub fn save(&self) -> Vec<(u64, u64)> {
        self.lock().iter().map(|(key, last)| (*key, *last)).collect()
    }

    /// Takes that over, from a program with the same secret and the same clock.
    pub fn restore(&self, saved: Vec<(u64, u64)>) {
        let mut generations = self.lock();
        for (key, last) in saved {
            *generations.touch(key) = last;
        }
    }

    fn counts(&self, operation: &Operation<'_>, now: Now) -> bool {
        let limit = operation.key.limit;
        let key = key(limit, operation.key.part);
        let mut generations = self.lock();
        let last = generations.find(key);
        let counts = last.is_none_or(|last| now.monotonic.saturating_sub(last) >= u64::from(limit.coalesce));
        if counts {
            *generations.touch(key) = now.monotonic;
        }
        counts
    }

    fn lock(&self) -> MutexGuard<'_, RecentMap<u64, MAX_KEYS>> {
        lock(&self.generations)
    }
}

/// Not of the counter: the slots of a sliding window are one key. Nor of the limit's id, which is another in the
/// program that comes after this one.
fn key(limit: &Limit, part: &KeyPart) -> u64 {
    let Limit { name, counts, window, log_only, .. } = limit;
    secret::hash((name, counts, window, log_only, part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_bounded_and_the_latest_are_kept() {
        let mut generations = RecentMap::<u64, MAX_KEYS>::default();
        let many = 5 * MAX_KEYS as u64;
        for key in 0..many {
            *generations.touch(key) = key;
            assert!(generations.len() <= MAX_KEYS);
        }
        for key in many - MAX_KEYS as u64 / 2..many {
            assert_eq!(generations.find(key), Some(key));
        }
        assert_eq!(generations.find(0), None);
    }
}
