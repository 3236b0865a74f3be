//! Hits that are so close together that they are one.
//!
//! What this process counted last is remembered here, so hosts that share a
//! store coalesce each for themselves.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::mem;
use std::sync::{Mutex, PoisonError};

use crate::clock::Now;
use crate::policy::per::Part;
use crate::policy::{Limit, Operation};

/// Keys remembered at once, in about 2 MB. Beyond this those that were counted longest ago are forgotten;
/// their next hit counts.
pub const MAX_KEYS: usize = 65_536;

/// When which key was counted last.
#[derive(Debug, Default)]
pub struct Coalesce {
    hashing: RandomState,
    generations: Mutex<Generations>,
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
    pub fn forget(&self, limit: &Limit, part: &Part) {
        if limit.coalesce > 0 {
            let key = self.hashing.hash_one((limit.id, part));
            self.generations.lock().unwrap_or_else(PoisonError::into_inner).forget(key);
        }
    }

    fn counts(&self, operation: &Operation<'_>, now: Now) -> bool {
        let limit = operation.key.limit;
        // Not of the counter: the slots of a sliding window are one key.
        let key = self.hashing.hash_one((limit.id, operation.key.part));
        // Numbers are whole after any panic.
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        let last = generations.find(key);
        let counts = last.is_none_or(|last| now.monotonic.saturating_sub(last) >= u64::from(limit.coalesce));
        if counts {
            generations.keep(key, now.monotonic);
        }
        counts
    }
}

/// Moments on the monotonic clock. When the young are full they become the old, which are forgotten as a whole.
#[derive(Debug, Default)]
struct Generations {
    young: HashMap<u64, u64>,
    old: HashMap<u64, u64>,
}

impl Generations {
    fn find(&self, key: u64) -> Option<u64> {
        self.young.get(&key).or_else(|| self.old.get(&key)).copied()
    }

    fn forget(&mut self, key: u64) {
        self.young.remove(&key);
        self.old.remove(&key);
    }

    fn keep(&mut self, key: u64, moment: u64) {
        if self.young.len() >= MAX_KEYS / 2 && !self.young.contains_key(&key) {
            mem::swap(&mut self.young, &mut self.old);
            self.young.clear();
        }
        self.young.insert(key, moment);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_bounded_and_the_latest_are_kept() {
        let mut generations = Generations::default();
        let many = 5 * MAX_KEYS as u64;
        for key in 0..many {
            generations.keep(key, key);
            assert!(generations.young.len() + generations.old.len() <= MAX_KEYS);
        }
        for key in many - MAX_KEYS as u64 / 2..many {
            assert_eq!(generations.find(key), Some(key));
        }
        assert_eq!(generations.find(0), None);
    }
}
