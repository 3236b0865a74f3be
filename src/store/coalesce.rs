//! `coalesce`: hits of one key that are close together count as one.
//!
//! This process remembers when it last counted a key, so each of several hosts that
//! share a store coalesces its own hits only.

use std::sync::{Mutex, MutexGuard};

use crate::net::clock::Now;
use crate::net::lock;
use crate::net::recent_map::RecentMap;
use crate::net::secret;
use crate::policy::key::KeyPart;
use crate::policy::{CounterKind, Limit, Operation};

/// Keys remembered at once, in about 2 MB. Beyond this those counted longest ago are forgotten, and their next hit
/// counts.
pub const MAX_KEYS: usize = 65_536;

/// The moment at which each key was last counted, on the monotonic clock.
#[derive(Debug, Default)]
pub struct Coalesce {
    last_hits: Mutex<RecentMap<u64, MAX_KEYS>>,
}

impl Coalesce {
    /// Makes a hit that comes too soon after the last counted one a read, with 0 `added`.
    pub fn apply(&self, operation: &mut Operation<'_>, now: Now) {
        let is_hit = operation.amount > 0 && !matches!(operation.key.kind, CounterKind::Member(_));
        if operation.key.limit.coalesce > 0 && is_hit && !self.counts(operation, now) {
            operation.amount = 0;
        }
    }

    /// Has the next hit count, however soon it comes, because the last counted one was taken back.
    pub fn forget(&self, limit: &Limit, part: &KeyPart) {
        if limit.coalesce > 0 {
            self.lock().forget(key_hash(limit, part));
        }
    }

    /// What is remembered, the longest ago first, for the new program of an upgrade.
    pub fn save(&self) -> Vec<(u64, u64)> {
        self.lock().iter().map(|(key, last)| (*key, *last)).collect()
    }

    /// Takes that over, from a program with the same secret and the same clock.
    pub fn restore(&self, saved: Vec<(u64, u64)>) {
        let mut last_hits = self.lock();
        for (key, last) in saved {
            *last_hits.touch(key) = last;
        }
    }

    fn counts(&self, operation: &Operation<'_>, now: Now) -> bool {
        let limit = operation.key.limit;
        let key = key_hash(limit, operation.key.part);
        let mut last_hits = self.lock();
        let last = last_hits.find(key);
        let counts = last.is_none_or(|last| now.monotonic.saturating_sub(last) >= u64::from(limit.coalesce));
        if counts {
            *last_hits.touch(key) = now.monotonic;
        }
        counts
    }

    fn lock(&self) -> MutexGuard<'_, RecentMap<u64, MAX_KEYS>> {
        lock(&self.last_hits)
    }
}

/// The hash of a limit and what it counts: not of the counter, since the slots of a sliding window are one key; nor of
/// the limit's id, which may differ in the new program of an upgrade.
fn key_hash(limit: &Limit, part: &KeyPart) -> u64 {
    let Limit { name, counts, window, log_only, .. } = limit;
    secret::hash((name, counts, window.word(), log_only, part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_bounded_and_the_latest_are_kept() {
        let mut last_hits = RecentMap::<u64, MAX_KEYS>::default();
        let many = 5 * MAX_KEYS as u64;
        for key in 0..many {
            *last_hits.touch(key) = key;
            assert!(last_hits.len() <= MAX_KEYS);
        }
        for key in many - MAX_KEYS as u64 / 2..many {
            assert_eq!(last_hits.find(key), Some(key));
        }
        assert_eq!(last_hits.find(0), None);
    }
}
