//! The entries of one width, dealt out to shards by their hashes: hash tables whose upkeep is spread over the operations
//! on them.
//!
//! Each shard has a lock of its own, held for one step on that shard. At most one is held at a time.
//!
//! Each new entry has a few buckets looked at, where expired entries are freed. So a shard holds few expired entries,
//! and no operation takes long: the longest is to grow or shrink the shard.
//!
//! Time is in milliseconds since the table's epoch.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use hashbrown::HashTable;
use hashbrown::hash_table::Entry as Bucket;
use siphasher::sip::SipHasher13;

use crate::net::{lock, secret};
use crate::store::local::LOW_BYTE;

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

    /// Calls `step` with the live entry of a key, and replaces the entry by what `step` returns.
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
    /// `hash`, though never that of the key `spared`, and returns what it held.
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

/// Buckets looked at for expired entries each time a new entry comes in. At most 2.3 buckets belong to an entry while
/// the shard grows, so a whole round is done before it has grown by a third.
const SWEPT_PER_INSERT: usize = 8;

/// Buckets that are searched for entries to compare when one has to go.
const NEIGHBOURHOOD: usize = 64;

/// Below this many buckets a shard is too small to be worth shrinking until it is empty.
const SHRINKABLE: usize = 32;

/// What is known of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Hits of this window, at most [`Entry::MAX_COUNT`].
    pub(crate) count: u32,
    /// Whether the count was over its limit when it was last hit.
    pub(crate) over: bool,
    /// When the window ends: an entry is expired from this millisecond on. From 1 to [`Entry::LAST`].
    pub(crate) expiry: u64,
}

impl Entry {
    /// Where counts stop.
    pub(crate) const MAX_COUNT: u32 = OVER - 1;

    /// The last end that a slot can hold: 34 years after the epoch.
    pub(crate) const LAST: u64 = (1 << 40) - 1;

    /// An entry whose window ends at `expiry`, marked if it is over `threshold`.
    pub(crate) fn new(count: u32, expiry: u64, threshold: u32) -> Self {
        Self { count: count.min(Self::MAX_COUNT), over: count > threshold, expiry: expiry.clamp(1, Self::LAST) }
    }

    /// What makes one entry worth more than another when the table is full.
    pub(crate) fn worth(&self, now: u64) -> (bool, bool, u64) {
        (self.expiry > now, self.over, self.expiry)
    }
}

/// The bit of a slot's count that marks a key over its limit.
const OVER: u32 = 1 << 31;

/// An entry with its key, packed.
///
/// Ends take 40 bits, so that windows end at their millisecond and a slot has no more than eight bytes beside
/// the key. The low byte of a key's first word is always 0; a slot keeps the low byte of the end there.
#[derive(Clone, Copy)]
struct Slot<const N: usize> {
    words: [u32; N],
    count: u32,
    /// The end without its low byte.
    expiry: u32,
}

impl<const N: usize> Slot<N> {
    fn new(key: [u32; N], entry: Entry) -> Self {
        debug_assert!(key[0] & LOW_BYTE == 0 && entry.count <= Entry::MAX_COUNT);
        debug_assert!((1..=Entry::LAST).contains(&entry.expiry));
        let mut words = key;
        words[0] |= entry.expiry as u32 & LOW_BYTE;
        let count = entry.count | if entry.over { OVER } else { 0 };
        Self { words, count, expiry: (entry.expiry >> 8) as u32 }
    }

    fn key(&self) -> [u32; N] {
        let mut key = self.words;
        key[0] &= !LOW_BYTE;
        key
    }

    fn expiry(&self) -> u64 {
        u64::from(self.expiry) << 8 | u64::from(self.words[0] & LOW_BYTE)
    }

    fn entry(&self) -> Entry {
        Entry { count: self.count & !OVER, over: self.count & OVER != 0, expiry: self.expiry() }
    }
}

/// A table of entries under keys of `N` words.
pub(crate) struct Shard<const N: usize> {
    slots: HashTable<Slot<N>>,
    /// The next bucket that is looked at for an expired entry.
    hand: usize,
    hashing: Hashing,
}

impl<const N: usize> Shard<N> {
    /// An empty shard, which holds no memory of its own yet.
    pub(crate) fn new(hashing: Hashing) -> Self {
        Self { slots: HashTable::new(), hand: 0, hashing }
    }

    /// Entries held, with expired ones that were not swept yet.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Buckets, filled or not.
    pub(crate) fn buckets(&self) -> usize {
        // A table that has allocated nothing reports one bucket.
        if self.slots.capacity() == 0 { 0 } else { self.slots.num_buckets() }
    }

    /// Calls `step` with the live entry of a key, and replaces the entry by what `step` returns.
    pub(crate) fn update<R>(
        &mut self,
        key: &Hashed<N>,
        now: u64,
        step: impl FnOnce(Option<Entry>) -> (Option<Entry>, R),
    ) -> R {
        match self.slots.find_entry(key.hash, |slot| slot.key() == key.key) {
            Ok(mut found) => {
                let live = Some(found.get().entry()).filter(|entry| entry.expiry > now);
                let (entry, result) = step(live);
                match entry {
                    Some(entry) => *found.get_mut() = Slot::new(key.key, entry),
                    None => drop(found.remove()),
                }
                result
            }
            Err(_) => {
                let (entry, result) = step(None);
                if let Some(entry) = entry {
                    let hashing = self.hashing;
                    self.slots.insert_unique(key.hash, Slot::new(key.key, entry), |slot| hashing.hash(&slot.key()));
                    self.sweep(SWEPT_PER_INSERT, now);
                }
                result
            }
        }
    }

    /// Looks at up to `buckets` buckets, from where the last look ended, and frees the expired entries.
    pub(crate) fn sweep(&mut self, buckets: usize, now: u64) {
        let all = self.buckets();
        for _ in 0..buckets.min(all) {
            if self.hand >= all {
                self.hand = 0;
            }
            if self.slots.get_bucket(self.hand).is_some_and(|slot| slot.expiry() <= now)
                && let Ok(expired) = self.slots.get_bucket_entry(self.hand)
            {
                expired.remove();
            }
            self.hand += 1;
        }
        self.shrink();
    }

    /// The entries in some buckets from that of `hash` on.
    pub(crate) fn neighbours(&self, hash: u64) -> impl Iterator<Item = ([u32; N], Entry)> {
        let all = self.buckets();
        let near = (0..NEIGHBOURHOOD.min(all)).map(move |step| (hash as usize).wrapping_add(step) % all);
        near.filter_map(|bucket| self.slots.get_bucket(bucket)).map(|slot| (slot.key(), slot.entry()))
    }

    /// Makes room for so many entries at once, instead of bit by bit.
    pub(crate) fn reserve(&mut self, entries: usize) {
        let hashing = self.hashing;
        self.slots.reserve(entries.saturating_sub(self.len()), |slot| hashing.hash(&slot.key()));
    }

    /// Inserts a live entry, unless there is one under its key. Sweeps nothing, so that the room made for many entries
    /// is not given back before they are inserted.
    pub(crate) fn insert_restored(&mut self, key: &Hashed<N>, entry: Entry, now: u64) {
        let hashing = self.hashing;
        let same = |slot: &Slot<N>| slot.key() == key.key;
        match self.slots.entry(key.hash, same, |slot| hashing.hash(&slot.key())) {
            Bucket::Occupied(found) if found.get().expiry() > now => {}
            bucket => drop(bucket.insert(Slot::new(key.key, entry))),
        }
    }

    /// The entries whose windows still run.
    pub(crate) fn live(&self, now: u64) -> impl Iterator<Item = ([u32; N], Entry)> {
        let live = self.slots.iter().filter(move |slot| slot.expiry() > now);
        live.map(|slot| (slot.key(), slot.entry()))
    }

    pub(crate) fn hashed(&self, key: [u32; N]) -> Hashed<N> {
        self.hashing.hashed(key)
    }

    /// Frees everything.
    pub(crate) fn clear(&mut self) {
        *self = Self::new(self.hashing);
    }

    /// Gives memory back once less than a sixth of the buckets are filled. When deleted entries make the table grow,
    /// more than a fifth are, so it does not shrink again at once.
    fn shrink(&mut self) {
        if self.slots.is_empty() {
            if self.buckets() > 0 {
                self.clear();
            }
        } else if self.buckets() >= SHRINKABLE && self.len() * 6 < self.buckets() {
            let hashing = self.hashing;
            self.slots.shrink_to(self.len() * 3 / 2, |slot| hashing.hash(&slot.key()));
        }
    }
}

/// A hash function of its own for every table.
///
/// Clients choose their addresses. SipHash-1-3 under a random key keeps them
/// from choosing ones that meet in one place of the table.
#[derive(Clone, Copy)]
pub(crate) struct Hashing {
    keys: [u64; 2],
}

impl Hashing {
    pub(crate) fn random() -> Self {
        Self { keys: secret::random() }
    }

    /// With the secret of another table, so that equal texts have equal hashes.
    pub(crate) fn with_secret(keys: [u64; 2]) -> Self {
        Self { keys }
    }

    pub(crate) fn secret(self) -> [u64; 2] {
        self.keys
    }

    /// The hash of a text: with 128 bits and a secret, collisions can be neglected.
    pub(crate) fn text(&self, text: &str) -> u128 {
        let [a, b] = self.keys;
        siphasher::sip128::SipHasher13::new_with_keys(a, b).hash(text.as_bytes()).as_u128()
    }

    pub(crate) fn hashed<const N: usize>(&self, key: [u32; N]) -> Hashed<N> {
        // The length is known when this is compiled, which saves a third of the hash.
        let [a, b] = self.keys;
        let bytes = key.map(u32::to_ne_bytes);
        Hashed { key, hash: SipHasher13::new_with_keys(a, b).hash(bytes.as_flattened()) }
    }

    /// Hashes the words of a key, at most five.
    #[inline]
    pub(crate) fn hash(&self, words: &[u32]) -> u64 {
        let mut bytes = [0; 20];
        for (four, word) in bytes.chunks_exact_mut(4).zip(words) {
            four.copy_from_slice(&word.to_ne_bytes());
        }
        let [a, b] = self.keys;
        SipHasher13::new_with_keys(a, b).hash(&bytes[..4 * words.len()])
    }
}

/// A key with its hash, made once for the choice of the shard and of the slot.
#[derive(Clone, Copy)]
pub(crate) struct Hashed<const N: usize> {
    pub(crate) key: [u32; N],
    pub(crate) hash: u64,
}

/// Maps a hash to a number below `range`, in order.
pub(crate) fn scale(hash: u64, range: usize) -> usize {
    ((u128::from(hash) * range as u128) >> 64) as usize
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn put(shard: &mut Shard<2>, key: u32, expiry: u64, now: u64) {
        let key = shard.hashed([0, key]);
        shard.update(&key, now, |_| (Some(Entry::new(1, expiry, 0)), ()));
    }

    fn expiry(shard: &mut Shard<2>, key: u32, now: u64) -> Option<u64> {
        let key = shard.hashed([0, key]);
        shard.update(&key, now, |live| (live, live.map(|entry| entry.expiry)))
    }

    #[derive(Clone, Debug)]
    enum Step {
        Put { key: u32, window: u64 },
        Remove { key: u32 },
        Wait { time: u64 },
        Sweep { slots: usize },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            8 => (0..300u32, 1..60u64).prop_map(|(key, window)| Step::Put { key, window }),
            2 => (0..300u32).prop_map(|key| Step::Remove { key }),
            1 => (0..60u64).prop_map(|time| Step::Wait { time }),
            1 => (0..100usize).prop_map(|slots| Step::Sweep { slots }),
        ]
    }

    proptest! {
        #[test]
        fn a_shard_holds_what_a_map_would(steps in prop::collection::vec(step(), 0..800)) {
            let mut shard = Shard::new(Hashing::random());
            let mut model = HashMap::new();
            let mut now = 1;
            for step in steps {
                match step {
                    Step::Put { key, window } => {
                        put(&mut shard, key, now + window, now);
                        model.insert(key, now + window);
                    }
                    Step::Remove { key } => {
                        let hashed = shard.hashed([0, key]);
                        shard.update(&hashed, now, |_| (None, ()));
                        model.remove(&key);
                    }
                    Step::Wait { time } => now += time,
                    Step::Sweep { slots } => shard.sweep(slots, now),
                }
                prop_assert!(shard.len() * 8 <= shard.buckets() * 7);
            }
            model.retain(|_, expiry| *expiry > now);
            for key in 0..300 {
                prop_assert_eq!(expiry(&mut shard, key, now), model.get(&key).copied());
            }
            // Shrinking moves entries before the hand; a second round sees them all.
            for _ in 0..2 {
                shard.sweep(shard.buckets(), now);
            }
            prop_assert_eq!(shard.len(), model.len());
        }
    }

    #[test]
    fn a_slot_costs_its_key_and_eight_bytes() {
        assert_eq!(size_of::<Slot<2>>(), 16);
        assert_eq!(size_of::<Slot<3>>(), 20);
        assert_eq!(size_of::<Slot<5>>(), 28);
    }

    #[test]
    fn growing_and_shrinking_keep_every_live_entry() {
        let mut shard = Shard::new(Hashing::random());
        for key in 0..10_000 {
            // All but every hundredth end soon.
            put(&mut shard, key, if key % 100 == 0 { 1000 } else { 10 }, 1);
        }
        assert_eq!(shard.len(), 10_000);
        assert_eq!(shard.buckets(), 16_384);
        while shard.len() > 100 {
            shard.sweep(64, 10);
        }
        shard.sweep(64, 10);
        assert!(shard.buckets() <= 512);
        for key in (0..10_000).step_by(100) {
            assert_eq!(expiry(&mut shard, key, 10), Some(1000));
        }
        for _ in 0..10 {
            shard.sweep(64, 1000);
        }
        assert_eq!(shard.buckets(), 0);
    }

    #[test]
    fn new_entries_sweep_out_expired_ones() {
        let mut shard = Shard::new(Hashing::random());
        // A thousand entries live at any time; without sweeping there would be 100,000.
        for now in 1..100_000 {
            put(&mut shard, now as u32, now + 1000, now);
        }
        assert!(shard.len() < 1300, "{} entries", shard.len());
    }

    #[test]
    fn every_table_hashes_in_its_own_way() {
        let (one, other) = (Hashing::random(), Hashing::random());
        assert_ne!(one.hash(&[1, 2]), other.hash(&[1, 2]));
        assert_eq!(one.hash(&[1, 2]), one.hash(&[1, 2]));
        assert_ne!(one.hash(&[1, 2]), one.hash(&[2, 1]));
    }
}
