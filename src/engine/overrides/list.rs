//! The list that hosts share: how it changes, and its form in the store.

use std::collections::HashSet;
use std::io;

use serde::{Deserialize, Serialize};

use crate::engine::target::Target;
use crate::net::clock::Now;
use crate::net::secret;
use crate::policy::override_target::OverrideTarget;
use crate::policy::overrides::{MAX_NOTE, MAX_OVERRIDES, Override, OverrideKind};

/// The version of the list's form.
const VERSION: u64 = 3;

/// The version before, in which targets are netblocks only. It is read, but never written.
const NETBLOCKS_ONLY: u64 = 2;

/// Resets that the list has at once. Of more, the oldest are left out: other hosts read the list every second.
const MAX_RESETS: usize = 1000;

/// Events of limits' bans that the list has at once: as many as one command can lift. Of more, beginnings are left out
/// first, for a firewall that misses an end goes on to block.
pub const MAX_EVENTS: usize = 1000;

/// How long a reset or an event stays in the list, in seconds.
const TOLD: u64 = 60;

/// The longest name of a user that is taken from the list, in characters.
const MAX_USER: usize = 100;

/// A change to the list.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Change {
    /// A ban or an allowance, in place of what the target had.
    Set(Override),
    /// The ban or allowance of this target ends.
    Remove(OverrideTarget),
    Reset(Reset),
    Event(BanEvent),
}

/// A reset, which every host has to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reset {
    pub id: u64,
    pub target: Target,
    /// When it leaves the list, in seconds since the Unix epoch.
    pub ends: u64,
    pub by: String,
}

impl Reset {
    pub fn new(target: Target, by: String, now: Now) -> Self {
        Self { id: secret::random()[0], target, ends: now.unix() + TOLD, by }
    }
}

/// The beginning or the end of a limit's ban, for which `ban_command` runs on every host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BanEvent {
    pub id: u64,
    pub limit: String,
    pub key: String,
    pub kind: BanEventKind,
    /// When it leaves the list, in seconds since the Unix epoch.
    pub ends: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BanEventKind {
    Begun { seconds: u32, repetition: u32 },
    Lifted,
}

impl BanEvent {
    pub fn new(limit: String, key: String, kind: BanEventKind, now: Now) -> Self {
        Self { id: secret::random()[0], limit, key, kind, ends: now.unix() + TOLD }
    }
}

/// An override as hosts share it: its end is on the system clock, the only one they have in common.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SharedOverride {
    id: u64,
    #[serde(alias = "netblock")]
    target: OverrideTarget,
    kind: OverrideKind,
    /// In seconds since the Unix epoch.
    ends: u64,
    by: String,
    #[serde(default)]
    note: Option<String>,
}

impl SharedOverride {
    fn of(entry: &Override, now: Now) -> Self {
        let Override { id, target, kind, by, note, .. } = entry.clone();
        Self { id, target, kind, ends: now.unix() + entry.left(now), by, note }
    }
}

/// All of the list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverrideList {
    v: u64,
    overrides: Vec<SharedOverride>,
    pub resets: Vec<Reset>,
    pub events: Vec<BanEvent>,
}

impl OverrideList {
    /// The list of one host.
    pub fn of(overrides: &[Override], now: Now) -> Self {
        let overrides = overrides.iter().map(|entry| SharedOverride::of(entry, now)).collect();
        Self { v: VERSION, overrides, ..Self::default() }
    }

    /// The list after these changes.
    pub fn after(mut self, changes: &[Change], now: Now) -> Self {
        for change in changes {
            match change {
                Change::Set(entry) => {
                    self.overrides.retain(|other| other.target != entry.target);
                    if entry.left(now) > 0 {
                        self.overrides.push(SharedOverride::of(entry, now));
                    }
                }
                Change::Remove(target) => self.overrides.retain(|other| other.target != *target),
                Change::Reset(reset) => {
                    self.resets.retain(|other| other.target != reset.target);
                    self.resets.push(reset.clone());
                }
                Change::Event(event) => {
                    // It may be there already: at an upgrade the old program may have written it without an answer.
                    self.events.retain(|other| other.id != event.id);
                    self.events.push(event.clone());
                }
            }
        }
        self
    }

    /// Without what has ended, and within its bounds.
    pub fn at(mut self, now: Now) -> Self {
        self.overrides.retain(|entry| entry.ends > now.unix());
        self.resets.retain(|reset| reset.ends > now.unix());
        self.events.retain(|event| event.ends > now.unix());
        self.overrides.truncate(MAX_OVERRIDES);
        self.resets.drain(..self.resets.len().saturating_sub(MAX_RESETS));
        let mut excess = self.events.len().saturating_sub(MAX_EVENTS);
        self.events.retain(|event| {
            let is_left_out = excess > 0 && event.kind != BanEventKind::Lifted;
            excess -= usize::from(is_left_out);
            !is_left_out
        });
        self.events.drain(..excess);
        self
    }

    pub fn is_empty(&self) -> bool {
        self.ends().next().is_none()
    }

    /// When each entry ends, in seconds since the Unix epoch.
    pub fn ends(&self) -> impl Iterator<Item = u64> {
        let overrides = self.overrides.iter().map(|entry| entry.ends);
        overrides.chain(self.resets.iter().map(|reset| reset.ends)).chain(self.events.iter().map(|event| event.ends))
    }

    /// The ids of its resets and events.
    pub fn ids(&self) -> HashSet<u64> {
        self.resets.iter().map(|reset| reset.id).chain(self.events.iter().map(|event| event.id)).collect()
    }

    /// The overrides as they hold on this host. One that it knows already ends when it was to end, whatever the system
    /// clock was set to meanwhile.
    pub fn overrides(&self, known: &[Override], now: Now) -> Vec<Override> {
        let local = |shared: &SharedOverride| {
            let SharedOverride { id, target, kind, ends, by, note } = shared.clone();
            let left = ends.saturating_sub(now.unix()).saturating_mul(1000);
            let ends = known.iter().find(|entry| entry.id == id).map(|entry| entry.ends);
            Override { id, target, kind, ends: ends.unwrap_or(now.monotonic.saturating_add(left)), by, note }
        };
        let mut overrides: Vec<Override> = self.overrides.iter().map(local).collect();
        overrides.retain(|entry| entry.ends > now.monotonic);
        overrides
    }

    /// The list's form in the store.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a list has string keys only")
    }

    /// Reads it.
    ///
    /// # Errors
    ///
    /// When it is not a list of this version.
    pub fn parse(value: &[u8]) -> io::Result<Self> {
        #[derive(Deserialize)]
        struct ListVersion {
            v: u64,
        }
        let version = serde_json::from_slice::<ListVersion>(value)?.v;
        if !(NETBLOCKS_ONLY..=VERSION).contains(&version) {
            return Err(io::Error::other(format!("its version is {version}, not {VERSION}")));
        }
        let list: Self = serde_json::from_slice(value)?;
        let mut list = Self { v: VERSION, ..list };
        for note in list.overrides.iter_mut().filter_map(|entry| entry.note.as_mut()) {
            *note = note.chars().take(MAX_NOTE).collect();
        }
        let users = list.overrides.iter_mut().map(|entry| &mut entry.by);
        for by in users.chain(list.resets.iter_mut().map(|reset| &mut reset.by)) {
            *by = by.chars().take(MAX_USER).collect();
        }
        Ok(list)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Now {
        Now::simulated(seconds * 1000)
    }

    fn entry(target: &str, kind: OverrideKind) -> Override {
        Override::new(target.parse().unwrap(), kind, 3600, "root".to_owned(), at(0))
    }

    fn reset(target: &str, second: u64) -> Change {
        Change::Reset(Reset::new(target.parse().unwrap(), "root".to_owned(), at(second)))
    }

    #[test]
    fn the_last_override_of_a_target_holds_and_a_reset_leaves_it_alone() {
        let changes = [
            Change::Set(entry("192.0.2.0/24", OverrideKind::Ban)),
            reset("192.0.2.0/24", 0),
            Change::Set(entry("192.0.2.0/24", OverrideKind::Allow)),
            Change::Set(entry("2001:db8::/32", OverrideKind::Ban)),
        ];
        let list = OverrideList::default().after(&changes, at(0));
        let kinds: Vec<_> = list.overrides.iter().map(|entry| entry.kind).collect();
        assert_eq!((kinds, list.resets.len()), (vec![OverrideKind::Allow, OverrideKind::Ban], 1));
        let list = list.after(&[Change::Remove("192.0.2.0/24".parse().unwrap())], at(0));
        assert_eq!((list.overrides.len(), list.resets.len()), (1, 1));
    }

    #[test]
    fn a_second_reset_of_one_target_within_a_second_is_another_one() {
        let list = OverrideList::default().after(&[reset("192.0.2.1", 0)], at(0));
        let first = list.resets[0].id;
        let list = list.after(&[reset("192.0.2.1", 0)], at(0));
        assert_eq!(list.resets.len(), 1);
        assert_ne!(list.resets[0].id, first);
    }

    #[test]
    fn resets_and_events_leave_room_for_overrides() {
        let resets: Vec<_> = (0..3000).map(|number| reset(&format!("sender=a{number}"), 0)).collect();
        let list = OverrideList::default().after(&resets, at(0)).at(at(1));
        assert_eq!((list.resets.len(), list.resets[999].target.to_string()), (MAX_RESETS, "sender=a2999".to_owned()));
        let list = list.after(&[Change::Set(entry("192.0.2.0/24", OverrideKind::Ban))], at(1)).at(at(1));
        assert_eq!(list.overrides(&[], at(1)).len(), 1);
    }

    #[test]
    fn an_override_ends_by_the_time_that_passes_on_this_host() {
        let known = entry("192.0.2.0/24", OverrideKind::Allow);
        let list = OverrideList::of(std::slice::from_ref(&known), at(0));
        let later = Now { unix_ms: at(10).unix_ms + 3_000_000, ..at(10) };
        assert_eq!(list.overrides(std::slice::from_ref(&known), later), [known]);
        // A host that does not know it has nothing but the system clock.
        assert_eq!(list.overrides(&[], later)[0].left(later), 3600 - 10 - 3000);
    }

    #[test]
    fn a_list_of_the_version_before_is_read() {
        let old = r#"{"v":2,"overrides":[{"id":7,"netblock":"192.0.2.1/32","kind":"ban","ends":1800000000,"by":"root"}],
            "resets":[],"events":[]}"#;
        let list = OverrideList::parse(old.as_bytes()).unwrap();
        assert_eq!((list.v, list.overrides[0].target.to_string()), (VERSION, "192.0.2.1".to_owned()));
        assert_eq!(OverrideList::parse(list.to_json().as_bytes()).unwrap(), list);
    }

    #[test]
    fn a_list_reads_back_as_it_was_written_and_nothing_else_is_one() {
        let lifted = BanEvent::new("a".to_owned(), "192.0.2.1".to_owned(), BanEventKind::Lifted, at(0));
        let begun = BanEventKind::Begun { seconds: 60, repetition: 1 };
        let changes = [
            Change::Set(entry("192.0.2.0/24", OverrideKind::Ban)),
            Change::Set(entry("2001:db8::1/128", OverrideKind::Allow)),
            Change::Set(Override { note: Some("stolen".to_owned()), ..entry("login=joe%20doe", OverrideKind::Ban) }),
            reset("sasl_username=joe%20doe", 0),
            Change::Event(BanEvent { kind: begun, ..lifted.clone() }),
            Change::Event(lifted),
        ];
        let list = OverrideList::of(&[], at(0)).after(&changes, at(0));
        assert_eq!(OverrideList::parse(list.to_json().as_bytes()).unwrap(), list);
        let text = list.to_json();
        let wrong =
            ["", "11", "{}", "{\"v\":1,\"words\":[],\"keys\":[]}", &text[..text.len() - 1], &text.replace("ban", "x")];
        for wrong in wrong {
            assert!(OverrideList::parse(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
