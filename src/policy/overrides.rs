//! Overrides by an administrator: netblocks that pass, or are refused, for a while, whatever the counts.
//!
//! There are few of them and they change while requests are judged, so they stand beside the rules: a reload
//! does not lose them, and a request that meets none pays for one look at a flag.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::net::clock::Now;
use crate::net::netblock_table::NetblockTable;

/// The most of them at once. They travel as a whole, once a second.
pub const MAX_OVERRIDES: usize = 1000;

/// What an administrator said of one netblock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Override {
    pub netblock: IpNet,
    /// What.
    pub kind: OverrideKind,
    /// Until when, in seconds since the Unix epoch.
    pub ends: u64,
    /// Who said it, for people to read.
    pub by: String,
}

/// What can be said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OverrideKind {
    /// They pass and are not counted.
    Allow,
    /// They are refused as those on the blacklist are.
    Ban,
    /// Their counts were reset, and every host drops what it remembers of them. No client passes by it.
    Reset,
}

impl OverrideKind {
    /// Its word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Ban => "ban",
            Self::Reset => "reset",
        }
    }
}

/// What holds for one client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ActiveOverride {
    /// The netblock it was said of.
    pub netblock: IpNet,
    /// What was said.
    pub kind: OverrideKind,
    /// Seconds until it ends.
    pub left: u32,
}

/// All words in force; a clone sees the same.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Read with every request, so that most need not look further.
    any: AtomicBool,
    words: ArcSwap<OverrideTable>,
}

#[derive(Debug, Default)]
struct OverrideTable {
    list: Vec<Override>,
    netblocks: NetblockTable<(OverrideKind, u64)>,
}

impl Overrides {
    /// The longest netblock around a client that something was said of. Of equal ones the last word counts.
    pub fn lookup(&self, client: IpAddr, now: Now) -> Option<ActiveOverride> {
        if !self.shared.any.load(Ordering::Relaxed) {
            return None;
        }
        let words = self.shared.words.load();
        let (netblock, (kind, ends)) = words.netblocks.lookup(client)?;
        let left = ends.checked_sub(now.unix()).filter(|left| *left > 0)?;
        Some(ActiveOverride { netblock: *netblock, kind: *kind, left: u32::try_from(left).unwrap_or(u32::MAX) })
    }

    /// All of them.
    pub fn list(&self) -> Vec<Override> {
        self.shared.words.load().list.clone()
    }

    /// Puts this list in force, without what has ended.
    pub fn set(&self, mut list: Vec<Override>, now: Now) {
        list.retain(|word| word.ends > now.unix());
        let lasting = list.iter().filter(|word| word.kind != OverrideKind::Reset);
        let netblocks: NetblockTable<_> = lasting.map(|word| (word.netblock, (word.kind, word.ends))).collect();
        let any = !netblocks.is_empty();
        self.shared.words.store(Arc::new(OverrideTable { list, netblocks }));
        self.shared.any.store(any, Ordering::Relaxed);
    }

    /// Drops what has ended, so that it no longer hides what was said of a network around it.
    pub fn expire(&self, now: Now) {
        let words = self.shared.words.load();
        if words.list.iter().any(|word| word.ends <= now.unix()) {
            self.set(words.list.clone(), now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(netblock: &str, kind: OverrideKind, ends: u64) -> Override {
        Override { netblock: netblock.parse().unwrap(), kind, ends: Now::simulated(0).unix() + ends, by: "root".into() }
    }

    #[test]
    fn the_longest_netblock_decides_while_its_word_lasts() {
        let overrides = Overrides::default();
        let said = |client: &str, seconds: u64| {
            let word = overrides.lookup(client.parse().unwrap(), Now::simulated(seconds * 1000))?;
            Some((word.kind, word.left))
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
    fn a_reset_is_told_but_lets_nobody_pass() {
        let overrides = Overrides::default();
        overrides.set(vec![word("192.0.2.0/24", OverrideKind::Reset, 60)], Now::simulated(0));
        assert_eq!(overrides.lookup([192, 0, 2, 1].into(), Now::simulated(0)), None);
        assert_eq!(overrides.list().len(), 1);
    }
}
