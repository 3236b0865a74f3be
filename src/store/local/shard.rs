//! One shard of the counter table: slots in a row, found by linear probing.
//!
//! A slot's home is its hash scaled to the number of slots, so a shard may have
//! any number of them, and slots lie in the order of their hashes but for those
//! that were pushed on by collisions. A slot is freed by moving later ones back,
//! never by marking it: there is nothing that would have to be rebuilt in time.
//!
//! Time is in milliseconds since the table's epoch.

use std::mem;

use crate::store::local::counter_id::{Hashed, Hashing};

/// Slots looked at for expired entries each time a new one comes in. A whole
/// round is done before the shard has grown by an eighth.
const SWEPT_PER_INSERT: usize = 8;

/// Slots that are neighbours of each other when an entry has to go.
const NEIGHBOURHOOD: usize = 64;

/// Below this many slots a shard is too small to be worth shrinking until it is empty.
const SHRINKABLE: usize = 32;

/// What is known of one subject.
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

/// The bit of a slot's count that marks a subject over its limit.
const OVER: u32 = 1 << 31;

/// Room for one entry. An end of 0 marks an empty slot.
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
    const EMPTY: Self = Self { words: [0; N], count: 0, expiry: 0 };

    fn new(key: [u32; N], entry: Entry) -> Self {
        debug_assert!(key[0] & LOW_BYTE == 0 && entry.count <= Entry::MAX_COUNT);
        debug_assert!((1..=Entry::LAST).contains(&entry.expiry));
        let mut words = key;
        words[0] |= entry.expiry as u32 & LOW_BYTE;
        let count = entry.count | if entry.over { OVER } else { 0 };
        Self { words, count, expiry: (entry.expiry >> 8) as u32 }
    }

    fn is_empty(&self) -> bool {
        self.expiry() == 0
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

const LOW_BYTE: u32 = 0xff;

/// An open-addressing table of entries under keys of `N` words.
pub(crate) struct Shard<const N: usize> {
    slots: Box<[Slot<N>]>,
    len: u32,
    /// The next slot that is looked at for an expired entry.
    hand: u32,
    hashing: Hashing,
}

impl<const N: usize> Shard<N> {
    /// An empty shard, which holds no memory of its own yet.
    pub(crate) fn new(hashing: Hashing) -> Self {
        Self { slots: Box::default(), len: 0, hand: 0, hashing }
    }

    /// Entries held, with expired ones that were not swept yet.
    pub(crate) fn len(&self) -> usize {
        self.len as usize
    }

    /// Slots, filled or not.
    pub(crate) fn capacity(&self) -> usize {
        self.slots.len()
    }

    /// Shows `step` the live entry of a key and makes the entry what `step` says.
    pub(crate) fn update<R>(
        &mut self,
        key: &Hashed<N>,
        now: u64,
        step: impl FnOnce(Option<Entry>) -> (Option<Entry>, R),
    ) -> R {
        let place = self.find(key);
        let live = place.ok().map(|at| self.slots[at].entry());
        let (entry, result) = step(live.filter(|entry| entry.expiry > now));
        match (place, entry) {
            (Ok(at), Some(entry)) => self.slots[at] = Slot::new(key.key, entry),
            (Ok(at), None) => self.remove(at),
            (Err(vacant), Some(entry)) => self.insert(key, vacant, entry, now),
            (Err(_), None) => {}
        }
        result
    }

    /// Shows the live entries.
    pub(crate) fn visit(&self, now: u64, show: &mut impl FnMut(&[u32; N], Entry)) {
        self.slots.iter().filter(|slot| slot.expiry() > now).for_each(|slot| show(&slot.key(), slot.entry()));
    }

    /// Looks at up to `slots` slots, from where the last look ended, and frees the expired ones.
    pub(crate) fn sweep(&mut self, slots: usize, now: u64) {
        let mut hand = self.hand as usize;
        for _ in 0..slots.min(self.capacity()) {
            if hand >= self.capacity() {
                hand = 0;
            }
            let slot = &self.slots[hand];
            if !slot.is_empty() && slot.expiry() <= now {
                // What moves back into this slot is looked at next.
                self.remove(hand);
            } else {
                hand += 1;
            }
        }
        self.hand = hand as u32;
        self.shrink(now);
    }

    /// The entries in some slots from the home of `hash` on.
    pub(crate) fn neighbours(&self, hash: u64) -> impl Iterator<Item = ([u32; N], Entry)> {
        let (before, after) = self.slots.split_at(self.home(hash));
        let near = after.iter().chain(before).take(NEIGHBOURHOOD);
        near.filter(|slot| !slot.is_empty()).map(|slot| (slot.key(), slot.entry()))
    }

    /// Makes room for so many entries at once, instead of bit by bit.
    pub(crate) fn reserve(&mut self, entries: usize) {
        let capacity = entries * 5 / 4 + 4;
        if entries > 0 && capacity > self.capacity() {
            self.resize(capacity, 0);
        }
    }

    /// Takes a live entry in, unless there is one under its key. Sweeps nothing, so that the room made for many
    /// is not given back before they are there.
    pub(crate) fn take_in(&mut self, key: &Hashed<N>, entry: Entry, now: u64) {
        let mut place = self.find(key);
        if place.is_err() && (self.len() + 1) * 8 > self.capacity() * 7 {
            self.resize(self.capacity() * 5 / 4 + 4, now);
            place = Err(self.vacant(key.hash));
        }
        match place {
            Ok(at) if self.slots[at].expiry() > now => {}
            Ok(at) => self.slots[at] = Slot::new(key.key, entry),
            Err(vacant) => {
                self.slots[vacant] = Slot::new(key.key, entry);
                self.len += 1;
            }
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

    /// The slot of a key, or else the empty one where it would go.
    fn find(&self, key: &Hashed<N>) -> Result<usize, usize> {
        if self.slots.is_empty() {
            return Err(0);
        }
        let mut at = self.home(key.hash);
        loop {
            let slot = &self.slots[at];
            if slot.is_empty() {
                return Err(at);
            }
            if slot.key() == key.key {
                return Ok(at);
            }
            at = self.after(at);
        }
    }

    fn insert(&mut self, key: &Hashed<N>, mut vacant: usize, entry: Entry, now: u64) {
        // Probing slows down steeply beyond seven eighths.
        if (self.len() + 1) * 8 > self.capacity() * 7 {
            self.resize(self.capacity() * 5 / 4 + 4, now);
            vacant = self.vacant(key.hash);
        }
        self.slots[vacant] = Slot::new(key.key, entry);
        self.len += 1;
        self.sweep(SWEPT_PER_INSERT, now);
    }

    /// Frees a slot and moves those behind it that were pushed beyond it back.
    fn remove(&mut self, at: usize) {
        let mut hole = at;
        let mut next = self.after(hole);
        while !self.slots[next].is_empty() {
            let home = self.home(self.hashing.hash(&self.slots[next].key()));
            if self.distance(home, next) >= self.distance(hole, next) {
                self.slots[hole] = self.slots[next];
                hole = next;
            }
            next = self.after(next);
        }
        self.slots[hole] = Slot::EMPTY;
        self.len -= 1;
    }

    /// Gives memory back once less than a third of the slots are filled.
    fn shrink(&mut self, now: u64) {
        if self.len == 0 {
            self.clear();
        } else if self.capacity() >= SHRINKABLE && self.len() * 3 < self.capacity() {
            self.resize(self.len() * 5 / 3 + 4, now);
        }
    }

    /// Moves to as many slots as said, which must suffice, and leaves expired entries behind.
    fn resize(&mut self, capacity: usize, now: u64) {
        let fresh = vec![Slot::EMPTY; capacity].into_boxed_slice();
        let old = mem::replace(&mut self.slots, fresh);
        // The hand stays where it is in the order of hashes: slots that it has
        // not seen for long remain the next ones.
        self.hand = (self.hand as usize * capacity / old.len().max(1)) as u32;
        self.len = 0;
        for slot in old.iter().filter(|slot| slot.expiry() > now) {
            let vacant = self.vacant(self.hashing.hash(&slot.key()));
            self.slots[vacant] = *slot;
            self.len += 1;
        }
    }

    /// The first empty slot from the home of `hash` on.
    fn vacant(&self, hash: u64) -> usize {
        let mut at = self.home(hash);
        while !self.slots[at].is_empty() {
            at = self.after(at);
        }
        at
    }

    fn home(&self, hash: u64) -> usize {
        scale(hash, self.slots.len())
    }

    fn after(&self, at: usize) -> usize {
        if at + 1 == self.slots.len() { 0 } else { at + 1 }
    }

    /// Steps forward from one slot to another.
    fn distance(&self, from: usize, to: usize) -> usize {
        if to >= from { to - from } else { to + self.slots.len() - from }
    }
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

    /// What linear probing rests on: no empty slot between an entry and its home.
    fn assert_whole(shard: &Shard<2>) {
        let filled = shard.slots.iter().filter(|slot| !slot.is_empty());
        assert_eq!(filled.clone().count(), shard.len());
        for slot in filled {
            assert!(shard.find(&shard.hashed(slot.key())).is_ok());
        }
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
                assert_whole(&shard);
                prop_assert!(shard.len() * 8 <= shard.capacity() * 7);
            }
            model.retain(|_, expiry| *expiry > now);
            for key in 0..300 {
                prop_assert_eq!(expiry(&mut shard, key, now), model.get(&key).copied());
            }
            // Freeing moves entries back before the hand; a second round sees them all.
            for _ in 0..2 {
                shard.sweep(shard.capacity(), now);
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
        assert!(shard.capacity() <= 10_000 * 10 / 7 + 4);
        while shard.len() > 100 {
            shard.sweep(64, 10);
        }
        shard.sweep(64, 10);
        assert!(shard.capacity() <= 300);
        for key in (0..10_000).step_by(100) {
            assert_eq!(expiry(&mut shard, key, 10), Some(1000));
        }
        for _ in 0..10 {
            shard.sweep(64, 1000);
        }
        assert_eq!(shard.capacity(), 0);
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
}
