//! The counter table: how often each key was hit in its current window.
//!
//! It is the embedded store. Beside a shared store it remembers the last reply about each key.
//! A window starts with a key's first hit and ends at a fixed time after it,
//! whatever happens in between; the next hit starts another.
//!
//! Entries are bounded in number and small: an IPv4 client takes a slot of 17
//! bytes, an IPv6 network of at most 64 bits one of 21, anything else one of 29.
//! While the table grows, 44 to 88 % of the slots are filled.
//! No operation takes long: each locks one of many shards and frees a bounded number
//! of expired entries. The longest is to grow or shrink one shard.
//!
//! An id is only as wide as it has to be, because ten million of them are kept:
//! two words for an IPv4 client, three for an IPv6 network of at most 64 bits,
//! five for anything wider. The first word is a tag that keeps limits, families
//! and prefix lengths apart, so that equal words always mean the same key.
//!
//! Time is an argument: `now` in milliseconds on the monotonic clock, whose zero
//! is the table's epoch. Windows end at their millisecond; ends reach 34 years
//! beyond the epoch.

pub mod listing;
mod restored;
pub mod shard;

use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};

use crate::policy::key::KeyPart;
use crate::policy::limit::{CounterLimitId, MAX_ID};
use crate::policy::{CounterKind, Key};
use crate::store::local::shard::{Entry, Hashing, SHARDS, SWEPT_AT_ONCE, Sharded, scale};

pub use restored::RestoredEntry;

/// What is known of a key in its current window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableEntry {
    /// Hits so far, this one included; stops at 2,147,483,647.
    pub count: u32,
    /// Milliseconds until the window ends, at least 1.
    pub left_ms: u64,
}

impl TableEntry {
    /// Seconds until the window ends, rounded up.
    pub fn left_seconds(&self) -> u32 {
        // No end is farther away than 2^40 milliseconds.
        self.left_ms.div_ceil(1000) as u32
    }

    fn of(live: Entry, now: u64) -> Self {
        Self { count: live.count, left_ms: live.expiry.saturating_sub(now) }
    }
}

/// Counters of many keys, shared by threads.
pub struct Table {
    narrow: Sharded<2>,
    middle: Sharded<3>,
    wide: Sharded<5>,
    hashing: Hashing,
    max_clients: AtomicUsize,
    evictions: AtomicU64,
    /// The next shards to be swept.
    hand: AtomicUsize,
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl Table {
    /// An empty table of at most `max_clients` entries.
    pub fn new(max_clients: usize) -> Self {
        Self::hashed_by(Hashing::random(), max_clients)
    }

    fn hashed_by(hashing: Hashing, max_clients: usize) -> Self {
        Self {
            narrow: Sharded::new(hashing),
            middle: Sharded::new(hashing),
            wide: Sharded::new(hashing),
            hashing,
            max_clients: AtomicUsize::new(max_clients),
            evictions: AtomicU64::new(0),
            hand: AtomicUsize::new(0),
        }
    }

    /// The id of a key in this table.
    pub fn counter_id(&self, key: Key<'_>) -> CounterId {
        let client = |address, prefix_length| CounterId::client(key.limit.id, address, prefix_length);
        match (key.part, key.kind) {
            // Its end tells in which window of the calendar it is.
            (KeyPart::Client { address, prefix_length }, CounterKind::FixedWindow | CounterKind::Calendar(_)) => {
                client(*address, *prefix_length)
            }
            (KeyPart::Client { address, prefix_length }, CounterKind::ActiveBan) => {
                client(*address, *prefix_length).of_ban()
            }
            _ => {
                let mut text = String::new();
                key.write(&mut text).expect("a string grows as needed");
                let id = CounterId::text(key.limit.id, self.hashing.text(&text));
                if key.kind == CounterKind::ActiveBan { id.of_ban() } else { id }
            }
        }
    }

    /// Counts `amount` hits. A live entry keeps its end, otherwise a window of
    /// `exptime_ms` starts. A key with more than `threshold` hits is kept
    /// longest when the table is full.
    pub fn hit(&self, id: CounterId, amount: u32, exptime_ms: u64, threshold: u32, now: u64) -> TableEntry {
        let hit = self.update(id, now, |live| {
            let (before, expiry) = match live {
                Some(entry) => (entry.count, entry.expiry),
                None => (0, now.saturating_add(exptime_ms)),
            };
            let entry = Entry::new(before.saturating_add(amount), expiry, threshold);
            (Some(entry), TableEntry::of(entry, now))
        });
        self.make_room(id, now);
        hit
    }

    /// Counts `amount` hits, and moves the end of the window to `exptime_ms` from now. Returns its hits.
    pub fn renew(&self, id: CounterId, amount: u32, exptime_ms: u64, threshold: u32, now: u64) -> u32 {
        let expiry = now.saturating_add(exptime_ms);
        let count = self.update(id, now, |live| {
            let before = live.map_or(0, |entry| entry.count);
            let entry = Entry::new(before.saturating_add(amount), expiry, threshold);
            (Some(entry), entry.count)
        });
        self.make_room(id, now);
        count
    }

    /// Begins a window with `count` hits, unless one runs. Returns whether it did, which is true for one of several
    /// threads that do this at once.
    pub fn add(&self, id: CounterId, count: u32, exptime_ms: u64, threshold: u32, now: u64) -> bool {
        let expiry = now.saturating_add(exptime_ms);
        let added = self.update(id, now, |live| {
            let entry = live.unwrap_or(Entry::new(count, expiry, threshold));
            (Some(entry), live.is_none())
        });
        self.make_room(id, now);
        added
    }

    /// Sets the reply of a shared store: `count` hits, and `left_ms` milliseconds until the window ends. With 0 left
    /// the key is forgotten. Returns what was known before.
    pub fn observe(&self, id: CounterId, count: u32, left_ms: u64, threshold: u32, now: u64) -> Option<TableEntry> {
        let expiry = now.saturating_add(left_ms);
        let told = (left_ms > 0).then(|| Entry::new(count, expiry, threshold));
        let before = self.update(id, now, |live| (told, live.map(|entry| TableEntry::of(entry, now))));
        self.make_room(id, now);
        before
    }

    /// What is known of a key, without counting. Its `count` may be 0 after
    /// [`take_back`](Self::take_back).
    pub fn peek(&self, id: CounterId, now: u64) -> Option<TableEntry> {
        self.update(id, now, |live| (live, live.map(|entry| TableEntry::of(entry, now))))
    }

    /// Ends a window, unless it has `left_ms` milliseconds left, give or take `tolerance`: then it gets exactly those.
    pub fn end_unless(&self, id: CounterId, left_ms: u64, tolerance: u64, now: u64) {
        let expiry = now.saturating_add(left_ms);
        self.update(id, now, |live| {
            let of_this = live.filter(|entry| entry.expiry.abs_diff(expiry) <= tolerance);
            (of_this.map(|entry| Entry { expiry: expiry.clamp(1, Entry::LAST), ..entry }), ())
        });
    }

    /// Takes hits back, down to 0. Neither makes an entry nor moves its end, and
    /// a key that was over its limit stays marked as such until its next hit.
    pub fn take_back(&self, id: CounterId, amount: u32, now: u64) {
        self.update(id, now, |live| {
            let less = live.map(|entry| Entry { count: entry.count.saturating_sub(amount), ..entry });
            (less, ())
        });
    }

    /// Ends a key's window at once.
    pub fn forget(&self, id: CounterId) {
        self.update(id, 0, |_| (None, ()));
    }

    /// The same, and returns what was known of it.
    pub fn take(&self, id: CounterId, now: u64) -> Option<TableEntry> {
        self.update(id, now, |live| (None, live.map(|entry| TableEntry::of(entry, now))))
    }

    /// Ends every window at once and gives the memory back.
    pub fn clear(&self) {
        for index in 0..SHARDS {
            self.narrow.clear(index);
            self.middle.clear(index);
            self.wide.clear(index);
        }
    }

    /// Entries held, with expired ones that were not swept yet.
    pub fn len(&self) -> usize {
        self.narrow.len() + self.middle.len() + self.wide.len()
    }

    /// Live entries given up because the table was full, since it was made.
    pub fn evictions(&self) -> u64 {
        self.evictions.load(Relaxed)
    }

    /// The most entries held. Threads that add entries at the same moment may
    /// exceed it by one each until they have made room.
    pub fn max_clients(&self) -> usize {
        self.max_clients.load(Relaxed)
    }

    /// Sets the most entries held. Lowering it frees nothing at once: every
    /// hit, and every sweep, then gives up a few until the bound is met.
    pub fn set_max_clients(&self, max_clients: usize) {
        self.max_clients.store(max_clients, Relaxed);
    }

    /// Frees expired entries, going on where the last sweep ended, and memory
    /// that is no longer needed. Looks at about `budget` slots, and at no shard twice.
    ///
    /// Each new entry sweeps a part of its shard, so a busy table needs no other
    /// sweeps. A table that falls idle keeps its memory without them.
    pub fn sweep(&self, now: u64, budget: usize) {
        let mut looked = 0;
        // One round at most: an empty table has nothing more to show in another.
        for _ in 0..SHARDS {
            if looked >= budget {
                break;
            }
            let index = self.hand.fetch_add(1, Relaxed) % SHARDS;
            looked += self.narrow.sweep(index, now) + self.middle.sweep(index, now) + self.wide.sweep(index, now);
        }
        for _ in 0..budget / SWEPT_AT_ONCE {
            if self.len() <= self.max_clients() {
                break;
            }
            let anywhere = self.hashing.hash(&[self.hand.fetch_add(1, Relaxed) as u32]);
            self.evict(anywhere, &[], now);
        }
    }

    fn update<R>(&self, id: CounterId, now: u64, step: impl FnOnce(Option<Entry>) -> (Option<Entry>, R)) -> R {
        match id {
            CounterId::Narrow(key) => self.narrow.update(self.hashing.hashed(key), now, step),
            CounterId::Middle(key) => self.middle.update(self.hashing.hashed(key), now, step),
            CounterId::Wide(key) => self.wide.update(self.hashing.hashed(key), now, step),
        }
    }

    /// Keeps the bound after `newest` may have come in.
    fn make_room(&self, newest: CounterId, now: u64) {
        // One new entry needs one place; the second catches up with a lowered bound.
        for _ in 0..2 {
            if self.len() <= self.max_clients() {
                return;
            }
            let words = newest.words();
            self.evict(self.hashing.hash(words), words, now);
        }
    }

    /// Gives up one entry around the place of `hash`, but not that of the key `spared`.
    fn evict(&self, hash: u64, spared: &[u32], now: u64) {
        // Each width loses entries in proportion to its number, so that none displaces another.
        let narrow_end = self.narrow.len();
        let middle_end = narrow_end + self.middle.len();
        let turn = scale(hash.rotate_left(32), self.len());
        let give = |keep_over| {
            let narrow = || self.narrow.evict(hash, spared, now, keep_over);
            let middle = || self.middle.evict(hash, spared, now, keep_over);
            let wide = || self.wide.evict(hash, spared, now, keep_over);
            if turn < narrow_end {
                narrow().or_else(middle).or_else(wide)
            } else if turn < middle_end {
                middle().or_else(wide).or_else(narrow)
            } else {
                wide().or_else(narrow).or_else(middle)
            }
        };
        // Clients over their limit go last, even if their width has few others.
        let evicted = give(true).or_else(|| give(false));
        if evicted.is_some_and(|entry| entry.expiry > now) {
            self.evictions.fetch_add(1, Relaxed);
        }
    }
}

/// The key of one counter, in the three widths that slots have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum CounterId {
    /// Tag and one word: IPv4.
    Narrow(#[serde(deserialize_with = "tagged")] [u32; 2]),
    /// Tag and two words: IPv6 networks of at most 64 bits.
    Middle(#[serde(deserialize_with = "tagged")] [u32; 3]),
    /// Tag and four words: longer IPv6 networks, and texts.
    Wide(#[serde(deserialize_with = "tagged")] [u32; 5]),
}

impl CounterId {
    /// A client of a limit: an address and how many of its bits count.
    ///
    /// The address is taken as it is. It must have been masked to `prefix_length`
    /// bits before, with IPv4-mapped IPv6 folded to IPv4, as
    /// [`mask`](crate::net::netblock::mask) does; otherwise addresses of one
    /// network are different keys.
    pub fn client(limit: CounterLimitId, address: IpAddr, prefix_length: u8) -> Self {
        match address {
            IpAddr::V4(address) => Self::Narrow([tag(limit, prefix_length), address.to_bits()]),
            IpAddr::V6(address) => {
                let tag = tag(limit, IPV6 + prefix_length);
                let [a, b, c, d] = words(address.to_bits());
                // The words alone decide, so that a badly masked address never
                // shares the counter of another one.
                if c == 0 && d == 0 { Self::Middle([tag, a, b]) } else { Self::Wide([tag, a, b, c, d]) }
            }
        }
    }

    /// Any counter of a limit that is not the window of a client, by the hash of its text.
    pub fn text(limit: CounterLimitId, hash: u128) -> Self {
        let [a, b, c, d] = words(hash);
        Self::Wide([tag(limit, TEXT), a, b, c, d])
    }

    /// The id of a ban, which is found among the others by that.
    #[must_use]
    pub fn of_ban(mut self) -> Self {
        *self.tag_mut() |= BAN;
        self
    }

    /// The same of another limit.
    #[must_use]
    pub fn of_limit(mut self, limit: CounterLimitId) -> Self {
        let tag = self.tag_mut();
        *tag = u32::from(limit.0) << 16 | *tag & (BAN | 0xffff);
        self
    }

    fn tag_mut(&mut self) -> &mut u32 {
        match self {
            Self::Narrow(words) => &mut words[0],
            Self::Middle(words) => &mut words[0],
            Self::Wide(words) => &mut words[0],
        }
    }

    pub(crate) fn is_ban(&self) -> bool {
        self.words()[0] & BAN != 0
    }

    /// The limit it belongs to.
    pub fn limit(&self) -> CounterLimitId {
        CounterLimitId((self.words()[0] >> 16) as u16 & MAX_ID)
    }

    /// The limit, address and prefix length; `None`: it was made of a text.
    pub(crate) fn as_client(&self) -> Option<(CounterLimitId, IpAddr, u8)> {
        let words = self.words();
        let (address, prefix_length) = match ((words[0] >> 8) as u8, words) {
            (length @ 0..=32, [_, bits]) => (IpAddr::from(bits.to_be_bytes()), length),
            (code @ IPV6..=IPV6_END, [_, high @ ..]) => {
                let upper = high.iter().fold(0_u128, |bits, word| bits << 32 | u128::from(*word));
                (IpAddr::V6((upper << (128 - 32 * high.len())).into()), code - IPV6)
            }
            _ => return None,
        };
        Some((self.limit(), address, prefix_length))
    }

    /// What it is made of: two, three or five words.
    pub fn words(&self) -> &[u32] {
        match self {
            Self::Narrow(words) => words,
            Self::Middle(words) => words,
            Self::Wide(words) => words,
        }
    }
}

/// Reads words that begin with a tag.
fn tagged<'de, D: Deserializer<'de>, const N: usize>(deserializer: D) -> Result<[u32; N], D::Error>
where
    [u32; N]: Deserialize<'de>,
{
    let words = <[u32; N]>::deserialize(deserializer)?;
    if words[0] & LOW_BYTE == 0 { Ok(words) } else { Err(D::Error::custom("no counter has such words")) }
}

/// Codes of a tag: up to 32 the prefix length of an IPv4 client, then that of an IPv6 client plus this, then texts.
const IPV6: u8 = 64;
const IPV6_END: u8 = IPV6 + 128;
const TEXT: u8 = 255;

/// In a tag, the bit above the limit's id: a ban.
const BAN: u32 = 1 << 31;

/// The byte of a tag that stays 0: the table keeps a part of the end of the window in it.
pub(crate) const LOW_BYTE: u32 = 0xff;

/// The limit and a code.
fn tag(limit: CounterLimitId, code: u8) -> u32 {
    u32::from(limit.0) << 16 | u32::from(code) << 8
}

fn words(bits: u128) -> [u32; 4] {
    [96, 64, 32, 0].map(|shift| (bits >> shift) as u32)
}

#[cfg(test)]
mod tests;
