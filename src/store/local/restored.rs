//! Copies counts out of a table and into another one, for the state file or the next process.
//!
//! They are copied shard by shard, so that a request waits for the copying of one
//! at most. A key that is a text is known by its hash only, so the table that
//! takes it over needs the secret of the one it came from.

use serde::{Deserialize, Serialize};

use super::{CounterId, Table};
use crate::store::local::shard::{Entry, Hashing, SHARDS};

/// One count outside of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoredEntry {
    pub id: CounterId,
    /// Hits of this window.
    pub count: u32,
    /// Whether the count was over its limit when it was last hit.
    pub over: bool,
    /// When the window ends, in milliseconds on the monotonic clock; in a snapshot, how many are left.
    pub ends: u64,
}

impl Table {
    /// Shards that are copied one by one.
    pub const SHARDS: usize = SHARDS;

    /// An empty table that knows texts by the same hashes as the table with this secret.
    pub fn with_secret(max_clients: usize, secret: [u64; 2]) -> Self {
        Self::hashed_by(Hashing::with_secret(secret), max_clients)
    }

    /// The key of the hash of texts. With it an attacker could choose texts that meet in one bucket.
    pub fn secret(&self) -> [u64; 2] {
        self.hashing.secret()
    }

    /// How many entries it holds of each width, for `reserve`.
    pub fn widths(&self) -> [usize; 3] {
        [self.narrow.len(), self.middle.len(), self.wide.len()]
    }

    /// Makes room for so many entries of each width at once, or as many as there may be.
    pub fn reserve(&self, widths: [usize; 3]) {
        let [narrow, middle, wide] = widths.map(|entries| entries.min(self.max_clients()));
        self.narrow.reserve(narrow);
        self.middle.reserve(middle);
        self.wide.reserve(wide);
    }

    /// Copies the windows of one shard that still run to `counts`.
    pub fn copy_shard(&self, number: usize, now: u64, counts: &mut Vec<RestoredEntry>) {
        // Not in the order of the shards: a smaller table that takes the counts over makes room around the newest, and
        // should find counts of every worth there. 633 is odd, so no shard of the 1024 is left out.
        let shard = number * 633 % SHARDS;
        let mut each = |id: CounterId, Entry { count, over, expiry: ends }: Entry| {
            counts.push(RestoredEntry { id, count, over, ends });
        };
        self.narrow.show(shard, now, |key, entry| each(CounterId::Narrow(key), entry));
        self.middle.show(shard, now, |key, entry| each(CounterId::Middle(key), entry));
        self.wide.show(shard, now, |key, entry| each(CounterId::Wide(key), entry));
    }

    /// Takes a count over, unless its window is over or the key is counted here already.
    pub fn insert_restored(&self, restored: &RestoredEntry, now: u64) {
        if restored.ends <= now {
            return;
        }
        let entry = Entry { over: restored.over, ..Entry::new(restored.count, restored.ends, 0) };
        match restored.id {
            CounterId::Narrow(key) => self.narrow.insert_restored(self.hashing.hashed(key), entry, now),
            CounterId::Middle(key) => self.middle.insert_restored(self.hashing.hashed(key), entry, now),
            CounterId::Wide(key) => self.wide.insert_restored(self.hashing.hashed(key), entry, now),
        }
        self.make_room(restored.id, now);
    }
}
