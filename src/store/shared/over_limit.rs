//! A cache of the keys that are over their limit, so that a flood costs a shared store little.
//!
//! The store is asked about such a key at most once per `over_memory`, and always at
//! the end of its window. In between, hits are answered by what this process knows,
//! and they are sent as one increment with the next command, so that they count for
//! bans and on other hosts. If the key is gone by then, it was reset, and they are dropped.
//!
//! This does not hold for sliding windows, as their slots change. The
//! violations of a limit that delays are held back in the same way.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use crate::net::clock::Now;
use crate::net::lock;
use crate::net::recent_map::RecentMap;
use crate::net::secret;
use crate::policy::Key;

/// Keys remembered at once, in about 4 MB. Beyond this the oldest are forgotten: the store is asked about them again,
/// and their pending hits are not counted.
pub const MAX_KEYS: usize = 65_536;

/// What this process knows of a key.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// Milliseconds until its window ends.
    pub left: u64,
    /// Whether one more hit is to be refused.
    pub is_over: bool,
}

/// How a hit is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// By the store, which is sent these pending hits as well.
    AskStore { pending: u32 },
    /// By what this process knows.
    UseCached,
}

/// The keys that are over.
#[derive(Debug)]
pub struct OverLimitCache {
    /// Milliseconds between two questions; 0: every hit asks.
    pause: u64,
    /// Nothing was ever over, so no request pays for the lock.
    empty: AtomicBool,
    entries: Mutex<RecentMap<OverLimitEntry, MAX_KEYS>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct OverLimitEntry {
    /// The moment of the last question, on the monotonic clock.
    asked: u64,
    /// Hits since then, which were not sent to the store.
    kept: u32,
}

/// A window may end this many milliseconds before the time that the store returned, in whole seconds.
const MARGIN: u64 = 1000;

impl OverLimitCache {
    /// At most one question per `pause`; zero: every hit asks.
    pub fn new(pause: Duration) -> Self {
        Self { pause: pause.as_millis() as u64, empty: AtomicBool::new(true), entries: Mutex::default() }
    }

    /// Remembers a key that is over its limit or banned, by the store's last reply.
    pub fn remember(&self, key: &Key<'_>, now: Now) {
        if self.pause == 0 {
            return;
        }
        self.empty.store(false, Ordering::Relaxed);
        let hash = self.hash(key);
        let mut entries = self.lock();
        if entries.find(hash).is_none() {
            *entries.touch(hash) = OverLimitEntry { asked: now.monotonic, kept: 0 };
        }
    }

    /// Whether a key is remembered.
    pub fn remembers(&self, key: &Key<'_>) -> bool {
        !self.empty.load(Ordering::Relaxed) && self.lock().find(self.hash(key)).is_some()
    }

    /// Hits of a key that were not sent to the store.
    pub fn pending_hits(&self, key: &Key<'_>) -> u32 {
        if self.empty.load(Ordering::Relaxed) {
            return 0;
        }
        self.lock().find(self.hash(key)).map_or(0, |entry| entry.kept)
    }

    /// Takes hits back that were not sent to the store. Returns how many are left to take back from the store.
    pub fn take_back(&self, key: &Key<'_>, amount: u32) -> u32 {
        if self.empty.load(Ordering::Relaxed) || !key.kind.is_whole_window() {
            return amount;
        }
        let hash = self.hash(key);
        let mut entries = self.lock();
        let Some(mut entry) = entries.find(hash).filter(|entry| entry.kept > 0) else {
            return amount;
        };
        let unsent = entry.kept.min(amount);
        entry.kept -= unsent;
        *entries.touch(hash) = entry;
        amount - unsent
    }

    /// How to answer hits, of which `kept` become pending if the store is not asked. `known` is what this process knows
    /// of the key; `None`: nothing, or it must not be used.
    pub fn route(&self, key: &Key<'_>, kept: u32, known: Option<Known>, now: Now) -> Route {
        let hash = self.hash(key);
        let mut entries = self.lock();
        let Some(mut entry) = entries.find(hash) else {
            return Route::AskStore { pending: 0 };
        };
        let running = known.filter(|known| known.left > MARGIN);
        let due = now.monotonic.saturating_sub(entry.asked) >= self.pause;
        let route = match running {
            Some(known) if known.is_over && !due => {
                entry.kept = entry.kept.saturating_add(kept);
                Route::UseCached
            }
            _ => {
                // Hits of another window are not added to this one.
                let kept = running.map_or(0, |_| entry.kept);
                entry = OverLimitEntry { asked: now.monotonic, kept: 0 };
                Route::AskStore { pending: kept }
            }
        };
        *entries.touch(hash) = entry;
        route
    }

    /// The hash of the limit and the part: the window, the ban and the violations go together.
    fn hash(&self, key: &Key<'_>) -> u64 {
        secret::hash((key.limit.id, key.part))
    }

    fn lock(&self) -> MutexGuard<'_, RecentMap<OverLimitEntry, MAX_KEYS>> {
        lock(&self.entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::policy::CounterKind;
    use crate::policy::key::KeyPart;

    const OVER: Option<Known> = Some(Known { left: 60_000, is_over: true });

    fn at(milliseconds: u64) -> Now {
        Now::simulated(milliseconds)
    }

    fn with_key(test: impl FnOnce(&OverLimitCache, &Key<'_>)) {
        let (limit, part) = (Config::default().top().clone(), KeyPart::group("a"));
        test(
            &OverLimitCache::new(Duration::from_secs(2)),
            &Key { limit: &limit, part: &part, kind: CounterKind::FixedWindow },
        );
    }

    #[test]
    fn a_key_that_is_over_asks_once_in_a_while_and_brings_what_was_kept() {
        with_key(|over, key| {
            assert_eq!(over.route(key, 1, OVER, at(0)), Route::AskStore { pending: 0 }, "nothing is remembered");
            over.remember(key, at(0));
            for moment in [0, 1, 1999] {
                assert_eq!(over.route(key, 2, OVER, at(moment)), Route::UseCached);
            }
            assert_eq!(over.route(key, 1, OVER, at(2000)), Route::AskStore { pending: 6 });
            assert_eq!(over.route(key, 1, OVER, at(2001)), Route::UseCached, "while it is being asked");
            assert_eq!(over.route(key, 1, OVER, at(4000)), Route::AskStore { pending: 1 });
        });
    }

    #[test]
    fn it_asks_at_the_end_of_its_window_and_brings_nothing_into_the_next() {
        with_key(|over, key| {
            over.remember(key, at(0));
            assert_eq!(over.route(key, 1, OVER, at(0)), Route::UseCached);
            let ending = Some(Known { left: 1000, ..OVER.unwrap() });
            assert_eq!(over.route(key, 1, ending, at(1)), Route::AskStore { pending: 0 });
            over.route(key, 1, OVER, at(2));
            assert_eq!(over.route(key, 1, None, at(3)), Route::AskStore { pending: 0 });
        });
    }

    #[test]
    fn one_that_is_not_over_any_more_asks_at_once() {
        with_key(|over, key| {
            over.remember(key, at(0));
            over.route(key, 1, OVER, at(0));
            let within = Some(Known { is_over: false, ..OVER.unwrap() });
            assert_eq!(over.route(key, 1, within, at(1)), Route::AskStore { pending: 1 });
        });
    }

    #[test]
    fn memory_is_bounded() {
        let mut entries = RecentMap::<OverLimitEntry, MAX_KEYS>::default();
        for key in 0..5 * MAX_KEYS as u64 {
            *entries.touch(key) = OverLimitEntry { asked: 0, kept: 0 };
            assert!(entries.len() <= MAX_KEYS);
        }
    }
}
