//! The entries of one width, dealt out to shards by their hashes.
//!
//! Each shard has a lock of its own, held for one step on that shard. At most
//! one is held at a time.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::shard::{Entry, Shard};
use crate::net::lock;
use crate::store::local::counter_id::{Hashed, Hashing};

/// Enough that the longest step, growing one shard, stays under a millisecond
/// at ten million entries; few enough that an empty table costs little.
pub(crate) const SHARDS: usize = 1024;

/// Buckets looked at under one lock while sweeping.
pub(crate) const SWEPT_AT_ONCE: usize = 256;

/// Entries that are compared when one has to go.
const SAMPLE: usize = 16;

pub(crate) struct Sharded<const N: usize> {
    shards: Box<[Mutex<Shard<N>>]>,
    len: AtomicUsize,
}

impl<const N: usize> Sharded<N> {
    pub(crate) fn new(hashing: Hashing) -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::new(Shard::new(hashing))).collect(), len: AtomicUsize::new(0) }
    }

    /// Entries held, with expired ones that were not swept yet.
    pub(crate) fn len(&self) -> usize {
        self.len.load(Relaxed)
    }

    /// Shows `step` the live entry of a key and makes the entry what `step` says.
    pub(crate) fn update<R>(
        &self,
        key: Hashed<N>,
        now: u64,
        step: impl FnOnce(Option<Entry>) -> (Option<Entry>, R),
    ) -> R {
        self.hold(shard_of(key.hash), |shard| shard.update(&key, now, step))
    }

    #[cfg(test)]
    pub(crate) fn buckets(&self) -> usize {
        (0..SHARDS).map(|index| self.hold(index, |shard| shard.buckets())).sum()
    }

    /// Looks at some buckets of one shard for expired entries, and returns at how many.
    pub(crate) fn sweep(&self, index: usize, now: u64) -> usize {
        self.hold(index, |shard| {
            let buckets = shard.buckets().min(SWEPT_AT_ONCE);
            shard.sweep(buckets, now);
            buckets
        })
    }

    /// Empties one shard.
    pub(crate) fn clear(&self, index: usize) {
        self.hold(index, Shard::clear);
    }

    /// Makes room for so many entries in all.
    pub(crate) fn reserve(&self, entries: usize) {
        for index in 0..SHARDS {
            self.hold(index, |shard| shard.reserve(entries.div_ceil(SHARDS)));
        }
    }

    /// Inserts a live entry, unless there is one under its key.
    pub(crate) fn insert_restored(&self, key: Hashed<N>, entry: Entry, now: u64) {
        self.hold(shard_of(key.hash), |shard| shard.insert_restored(&key, entry, now));
    }

    /// Shows the live entries of one shard.
    pub(crate) fn show(&self, index: usize, now: u64, mut each: impl FnMut([u32; N], Entry)) {
        self.hold(index, |shard| shard.live(now).for_each(|(key, entry)| each(key, entry)));
    }

    /// Frees the entry least worth keeping among a few around the place of
    /// `hash`, though never that of the key `spared`, and says what it held.
    /// `keep_over`: nor one that is over its limit.
    pub(crate) fn evict(&self, hash: u64, spared: &[u32], now: u64, keep_over: bool) -> Option<Entry> {
        if self.len() == 0 {
            return None;
        }
        let (index, key, entry) = self.least_worth(hash, spared, now)?;
        if keep_over && entry.over && entry.expiry > now {
            return None;
        }
        // Another thread may have hit it since it was sampled; one of a sample
        // has to go all the same. If one has freed it, this one has freed nothing.
        self.hold(index, |shard| {
            let before = shard.len();
            shard.update(&shard.hashed(key), now, |_| (None, ()));
            (shard.len() < before).then_some(entry)
        })
    }

    fn least_worth(&self, hash: u64, spared: &[u32], now: u64) -> Option<(usize, [u32; N], Entry)> {
        let mut least: Option<(usize, [u32; N], Entry)> = None;
        let mut seen = 0;
        // One shard is enough unless the table is all but empty.
        for step in 0..SHARDS {
            let index = (shard_of(hash) + step) % SHARDS;
            self.hold(index, |shard| {
                let others = shard.neighbours(hash).filter(|(key, _)| key[..] != *spared);
                for (key, entry) in others.take(SAMPLE - seen) {
                    seen += 1;
                    if least.is_none_or(|(_, _, least)| entry.worth(now) < least.worth(now)) {
                        least = Some((index, key, entry));
                    }
                }
            });
            if seen == SAMPLE {
                break;
            }
        }
        least
    }

    /// Works on one shard, alone, and keeps account of its entries.
    fn hold<R>(&self, index: usize, work: impl FnOnce(&mut Shard<N>) -> R) -> R {
        let mut shard = lock(&self.shards[index]);
        let before = shard.len();
        let result = work(&mut shard);
        let after = shard.len();
        if after != before {
            // Wraps round when entries went, and so subtracts.
            self.len.fetch_add(after.wrapping_sub(before), Relaxed);
        }
        result
    }
}

/// Within a shard the hash table uses the lowest bits of a hash and the seven highest. Shards are chosen by others, or
/// the entries of one shard would meet in few of its buckets.
fn shard_of(hash: u64) -> usize {
    (hash >> 40) as usize % SHARDS
}
