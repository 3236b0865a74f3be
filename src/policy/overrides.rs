//! Overrides by an administrator: netblocks that pass, or are refused, for a while, whatever the counts.
//!
//! There are few of them and they change while requests are judged, so they stand beside the rules: a reload
//! does not lose them, and a request that meets none pays for one look at a flag.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};

use super::override_target::OverrideTarget;
use crate::net::clock::Now;
use crate::net::netblock_table::NetblockTable;
use crate::net::secret;

/// The most of them at once. They travel as a whole, once a second.
pub const MAX_OVERRIDES: usize = 1000;

/// A ban or an allowance of an administrator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Override {
    /// The same on every host.
    pub id: u64,
    pub target: OverrideTarget,
    pub kind: OverrideKind,
    /// In milliseconds on the monotonic clock: a step of the system clock does not change how long it lasts.
    pub ends: u64,
    /// The user who set it.
    pub by: String,
}

impl Override {
    /// One that lasts for so many seconds from now.
    pub fn new(target: OverrideTarget, kind: OverrideKind, seconds: u64, by: String, now: Now) -> Self {
        let ends = now.monotonic.saturating_add(seconds.saturating_mul(1000));
        Self { id: secret::random()[0], target, kind, ends, by }
    }

    /// Seconds until it ends, rounded up; 0: it has ended.
    pub fn left(&self, now: Now) -> u64 {
        self.ends.saturating_sub(now.monotonic).div_ceil(1000)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OverrideKind {
    /// Clients pass and are not counted.
    Allow,
    /// Clients are refused like those on the blacklist.
    Ban,
}

impl OverrideKind {
    pub const ALL: [Self; 2] = [Self::Allow, Self::Ban];

    pub fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Ban => "ban",
        }
    }
}

/// What holds for one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActiveOverride {
    /// What was said.
    pub word: Arc<Override>,
    /// Seconds until it ends.
    pub left: u32,
}

/// All words in force; a clone sees the same.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    shared: Arc<OverridesInner>,
}

#[derive(Debug, Default)]
struct OverridesInner {
    /// Read with every request, so that most need not look further.
    any: AtomicBool,
    words: ArcSwap<OverrideTable>,
}

#[derive(Debug, Default)]
struct OverrideTable {
    list: Vec<Override>,
    netblocks: NetblockTable<Arc<Override>>,
}

impl Overrides {
    /// The longest netblock around a client that something was said of. Of equal ones the last word counts.
    pub fn lookup(&self, client: IpAddr, now: Now) -> Option<ActiveOverride> {
        if !self.shared.any.load(Ordering::Relaxed) {
            return None;
        }
        let words = self.shared.words.load();
        let (_, word) = words.netblocks.lookup(client)?;
        let left = Some(word.left(now)).filter(|left| *left > 0)?;
        Some(ActiveOverride { word: Arc::clone(word), left: u32::try_from(left).unwrap_or(u32::MAX) })
    }

    /// All of them.
    pub fn list(&self) -> Vec<Override> {
        self.shared.words.load().list.clone()
    }

    /// Puts this list in force, without what has ended.
    pub fn set(&self, mut list: Vec<Override>, now: Now) {
        list.retain(|word| word.ends > now.monotonic);
        let of_netblock = |word: &Override| Some((word.target.netblock()?, Arc::new(word.clone())));
        let netblocks = list.iter().filter_map(of_netblock).collect();
        let any = !list.is_empty();
        self.shared.words.store(Arc::new(OverrideTable { list, netblocks }));
        self.shared.any.store(any, Ordering::Relaxed);
    }

    /// Drops what has ended, so that it no longer hides what was said of a network around it.
    pub fn expire(&self, now: Now) {
        let words = self.shared.words.load();
        if words.list.iter().any(|word| word.ends <= now.monotonic) {
            self.set(words.list.clone(), now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(target: &str, kind: OverrideKind, seconds: u64) -> Override {
        Override::new(target.parse().unwrap(), kind, seconds, "root".into(), Now::simulated(0))
    }

    #[test]
    fn the_longest_netblock_decides_while_its_word_lasts() {
        let overrides = Overrides::default();
        let said = |client: &str, seconds: u64| {
            let active = overrides.lookup(client.parse().unwrap(), Now::simulated(seconds * 1000))?;
            Some((active.word.kind, active.left))
        };
        assert_eq!(said("192.0.2.1", 0), None);
        let words = vec![word("192.0.2.0/24", OverrideKind::Ban, 60), word("192.0.2.1/32", OverrideKind::Allow, 10)];
        overrides.set(words, Now::simulated(0));
        assert_eq!(said("192.0.2.1", 0), Some((OverrideKind::Allow, 10)));
        assert_eq!(said("192.0.2.2", 59), Some((OverrideKind::Ban, 1)));
        assert_eq!(said("192.0.2.2", 60), None);
        assert_eq!(said("198.51.100.1", 0), None);
        overrides.expire(Now::simulated(10_000));
        assert_eq!(said("192.0.2.1", 10), Some((OverrideKind::Ban, 50)));
        assert_eq!(overrides.list().len(), 1);
    }

    #[test]
    fn a_step_of_the_system_clock_changes_no_end() {
        let overrides = Overrides::default();
        overrides.set(vec![word("192.0.2.0/24", OverrideKind::Allow, 60)], Now::simulated(0));
        for (step, second, left) in [(3_600_000, 59, Some(1)), (-3_600_000, 59, Some(1)), (-3_600_000, 60, None)] {
            let now = Now::simulated(second * 1000);
            let now = Now { unix_ms: now.unix_ms.wrapping_add_signed(step), ..now };
            overrides.expire(now);
            assert_eq!(overrides.lookup([192, 0, 2, 1].into(), now).map(|active| active.left), left);
        }
    }
}
