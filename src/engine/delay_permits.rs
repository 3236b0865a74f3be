//! Sessions whose answer is delayed: how many there may be, of one key and in all.
//!
//! Each of them keeps an smtpd process from serving others, so their number has a bound.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::net::lock;
use crate::net::secret;
use crate::policy::Delayed;

/// The answers that are delayed.
#[derive(Debug, Default)]
pub struct DelayedReplies {
    of: Mutex<HashMap<u64, u32>>,
}

/// A permit to delay one answer; dropping it returns it.
#[must_use]
#[derive(Debug)]
pub struct DelayPermit {
    waiting: Arc<DelayedReplies>,
    key: u64,
}

impl DelayedReplies {
    /// A permit, unless `max_delayed` answers are delayed already, or as many of this key as may be.
    pub fn try_acquire(self: &Arc<Self>, wait: &Delayed<'_>, max_delayed: usize) -> Option<DelayPermit> {
        let key = secret::hash((wait.refusal.limit, &wait.refusal.key));
        let mut of = self.lock();
        if of.values().map(|waiting| *waiting as usize).sum::<usize>() >= max_delayed {
            return None;
        }
        let here = of.entry(key).or_insert(0);
        if *here >= wait.max_concurrent {
            return None;
        }
        *here += 1;
        Some(DelayPermit { waiting: Arc::clone(self), key })
    }

    /// The permit that a connection had in the old program, with this `key`.
    pub fn restore(self: &Arc<Self>, key: u64) -> DelayPermit {
        *self.lock().entry(key).or_insert(0) += 1;
        DelayPermit { waiting: Arc::clone(self), key }
    }

    pub fn len(&self) -> usize {
        self.lock().values().map(|waiting| *waiting as usize).sum()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, u32>> {
        lock(&self.of)
    }
}

impl DelayPermit {
    /// The hash of the limit and key it counts for.
    pub fn key_hash(&self) -> u64 {
        self.key
    }
}

impl Drop for DelayPermit {
    fn drop(&mut self) {
        if let Entry::Occupied(mut waiting) = self.waiting.lock().entry(self.key) {
            *waiting.get_mut() -= 1;
            if *waiting.get() == 0 {
                waiting.remove();
            }
        }
    }
}
