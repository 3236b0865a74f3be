//! Overrides by an administrator: clients, logins, senders, domains that pass, or are refused, for a while, whatever
//! the counts.
//!
//! There are few of them and they change while requests are judged, so they stand beside the rules: a reload
//! does not lose them, and a request that meets none pays for one look at a flag.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use strum::IntoStaticStr;

use super::attribute::Attribute;
use super::door::Door;
use super::key_field::KeyField;
use super::override_target::OverrideTarget;
use super::request::Request;
use super::spelling::Spellings;
use crate::net::clock::Now;
use crate::net::netblock::{self, NetblockTable};
use crate::net::secret;

/// The most overrides at once: hosts read the whole list once a second.
pub const MAX_OVERRIDES: usize = 1000;

/// The longest note of an administrator, in characters: it is part of an SMTP reply.
pub const MAX_NOTE: usize = 100;

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
    /// The reason, if one was given.
    pub note: Option<String>,
}

impl Override {
    /// One that lasts for so many seconds from now.
    pub fn new(target: OverrideTarget, kind: OverrideKind, seconds: u64, by: String, now: Now) -> Self {
        let ends = now.monotonic.saturating_add(seconds.saturating_mul(1000));
        Self { id: secret::random()[0], target, kind, ends, by, note: None }
    }

    /// Seconds until it ends, rounded up; 0: it has ended.
    pub fn left(&self, now: Now) -> u64 {
        self.ends.saturating_sub(now.monotonic).div_ceil(1000)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, IntoStaticStr)]
#[strum(const_into_str, serialize_all = "snake_case")]
#[serde(rename_all = "lowercase")]
pub enum OverrideKind {
    /// Requests pass and are not counted.
    Allow,
    /// Requests are refused like those of clients on the blacklist.
    Ban,
}

/// The override that holds for one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActiveOverride {
    pub entry: Arc<Override>,
    /// Seconds until it ends.
    pub left: u32,
}

/// All overrides in force; a clone shares them.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    shared: Arc<OverridesInner>,
}

#[derive(Debug, Default)]
struct OverridesInner {
    /// Read with every request, so that most need not look further.
    any: AtomicBool,
    table: ArcSwap<OverrideTable>,
}

#[derive(Debug, Default)]
struct OverrideTable {
    list: Vec<Override>,
    netblocks: NetblockTable<Arc<Override>>,
    keys: KeyedOverrides,
    /// The spellings of the keys.
    spellings: Spellings,
}

/// Overrides of keys, found by one field of the key and its value.
#[derive(Debug, Default)]
struct KeyedOverrides(Vec<(KeyField, HashMap<String, Vec<KeyedOverride>>)>);

#[derive(Debug)]
struct KeyedOverride {
    entry: Arc<Override>,
    /// The other fields that a request must have.
    fields: Vec<(KeyField, String)>,
}

impl Overrides {
    /// The override of a request. A ban of a netblock does not hold for a `whitelisted` client.
    #[inline]
    pub fn lookup(&self, client: IpAddr, request: &Request, whitelisted: bool, now: Now) -> Option<ActiveOverride> {
        if !self.shared.any.load(Ordering::Relaxed) {
            return None;
        }
        self.find(client, request, whitelisted, now)
    }

    /// The narrower of two overrides holds; of two about different things, the ban; of two with the same target, the last.
    #[cold]
    fn find(&self, client: IpAddr, request: &Request, whitelisted: bool, now: Now) -> Option<ActiveOverride> {
        let table = self.shared.table.load();
        let of_netblock = table.netblocks.lookup(client).map(|(_, entry)| entry);
        let of_netblock = of_netblock.filter(|entry| !whitelisted || entry.kind == OverrideKind::Allow);
        let mut found: SmallVec<[&Arc<Override>; 4]> = of_netblock.into_iter().collect();
        table.keys.find(client, request, &table.spellings, |entry| found.push(entry));
        found.retain(|entry| entry.left(now) > 0);
        let is_overruled = |entry: &Override| {
            found.iter().any(|other| other.target != entry.target && entry.target.contains(&other.target))
        };
        let holding = found.iter().filter(|entry| !is_overruled(entry));
        let entry = Arc::clone(holding.max_by_key(|entry| entry.kind == OverrideKind::Ban)?);
        let left = u32::try_from(entry.left(now)).unwrap_or(u32::MAX);
        Some(ActiveOverride { entry, left })
    }

    /// All overrides in force.
    pub fn list(&self) -> Vec<Override> {
        self.shared.table.load().list.clone()
    }

    /// Puts a list in force, without the overrides that have ended. Keys are compared in these spellings.
    pub fn set(&self, mut list: Vec<Override>, spellings: &Spellings, now: Now) {
        list.retain(|entry| entry.ends > now.monotonic);
        let (keys, spellings) = (KeyedOverrides::new(&list, spellings), spellings.clone());
        let of_netblock = |entry: &Override| Some((entry.target.netblock()?, Arc::new(entry.clone())));
        let netblocks = list.iter().filter_map(of_netblock).collect();
        let any = !list.is_empty();
        self.shared.table.store(Arc::new(OverrideTable { list, netblocks, keys, spellings }));
        self.shared.any.store(any, Ordering::Relaxed);
    }

    /// Drops the overrides that have ended, so that they no longer hide those of networks around them.
    pub fn expire(&self, now: Now) {
        let table = self.shared.table.load();
        if table.list.iter().any(|entry| entry.ends <= now.monotonic) {
            self.set(table.list.clone(), &table.spellings, now);
        }
    }
}

impl KeyedOverrides {
    fn new(list: &[Override], spellings: &Spellings) -> Self {
        let mut keyed = Self::default();
        for entry in list.iter().filter(|entry| entry.target.netblock().is_none()) {
            let spelled = |(field, value): (KeyField, &str)| match field {
                KeyField::Client => (field, value.to_owned()),
                field => (field, spellings.written(field, value)),
            };
            let mut fields: Vec<_> = entry.target.fields().map(spelled).collect();
            let Some(first) = fields.iter().position(|(field, _)| *field != KeyField::Client) else { continue };
            let (field, value) = fields.swap_remove(first);
            let at = keyed.0.iter().position(|(known, _)| *known == field).unwrap_or_else(|| {
                keyed.0.push((field, HashMap::new()));
                keyed.0.len() - 1
            });
            let entry = Arc::new(entry.clone());
            keyed.0[at].1.entry(value).or_default().push(KeyedOverride { entry, fields });
        }
        keyed
    }

    /// Passes each override of a request to `show`.
    fn find<'o>(
        &'o self,
        client: IpAddr,
        request: &Request,
        spellings: &Spellings,
        mut show: impl FnMut(&'o Arc<Override>),
    ) {
        let has = |(field, wanted): &(KeyField, String)| match field {
            KeyField::Client => netblock::parse(wanted).is_some_and(|netblock| netblock.contains(&client)),
            field => value(*field, request, spellings).as_ref() == Some(wanted),
        };
        for (field, by_value) in &self.0 {
            let Some(value) = value(*field, request, spellings) else { continue };
            let candidates = by_value.get(&value).into_iter().flatten();
            candidates.filter(|one| one.fields.iter().all(has)).for_each(|one| show(&one.entry));
        }
    }
}

/// The value of a field in a request, in the form of keys. A login is the same at each door.
fn value(field: KeyField, request: &Request, spellings: &Spellings) -> Option<String> {
    let field = match (field, request.door) {
        (KeyField::Whole(Attribute::Login), Door::Smtp) => KeyField::Whole(Attribute::SaslUsername),
        (KeyField::MailDomain(Attribute::Login), Door::Smtp) => KeyField::MailDomain(Attribute::SaslUsername),
        (field, door) if field.is_at(door) => field,
        _ => return None,
    };
    field.escaped(request, spellings)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(target: &str, kind: OverrideKind, seconds: u64) -> Override {
        Override::new(target.parse().unwrap(), kind, seconds, "root".into(), Now::simulated(0))
    }

    fn of_client(client: &str) -> Request<'static> {
        Request::at(Door::Web, Some(client.parse().unwrap()), [])
    }

    fn at_login_door(client: &str, login: &str) -> Request<'static> {
        Request::at(Door::Login, Some(client.parse().unwrap()), [(Attribute::Login, login.as_bytes())])
    }

    #[test]
    fn the_narrower_override_holds_and_of_two_about_different_things_the_ban() {
        use OverrideKind::{Allow, Ban};
        let overrides = Overrides::default();
        let start = Now::simulated(0);
        let spellings = Spellings { delimiters: "+".into(), canonical_senders: false };
        let set = |entries: &[(&str, OverrideKind)]| {
            let entries = entries.iter().map(|(target, kind)| entry(target, *kind, 60));
            overrides.set(entries.collect(), &spellings, start);
        };
        let active = |client: &str, login: &str, whitelisted| {
            let request = at_login_door(client, login);
            overrides.lookup(request.client.unwrap(), &request, whitelisted, start).map(|active| active.entry.kind)
        };
        set(&[("login=joe@example.org", Ban), ("192.0.2.1", Allow), ("login_domain=example.net", Ban)]);
        assert_eq!(active("198.51.100.1", "Joe+lists@Example.ORG.", false), Some(Ban));
        assert_eq!(active("192.0.2.1", "joe@example.org", true), Some(Ban));
        assert_eq!(active("192.0.2.1", "ann@example.org", false), Some(Allow));
        assert_eq!(active("192.0.2.2", "ann@example.org", false), None);
        assert_eq!(active("192.0.2.2", "ann@example.net", false), Some(Ban));
        set(&[("login=joe", Ban), ("client=192.0.2.0/24,login=joe", Allow), ("192.0.2.7", Ban)]);
        assert_eq!(active("192.0.2.1", "joe", false), Some(Allow));
        assert_eq!(active("198.51.100.1", "joe", false), Some(Ban));
        assert_eq!(active("192.0.2.7", "joe", false), Some(Ban));
        assert_eq!(active("192.0.2.7", "joe", true), Some(Allow));
        // Written on a host that has other spellings.
        set(&[("login=joe%2blists@example.org", Ban), ("sasl_username=joe", Ban)]);
        assert_eq!(
            (active("192.0.2.1", "joe@example.org", false), active("192.0.2.1", "joe", false)),
            (Some(Ban), None)
        );
    }

    #[test]
    fn the_longest_netblock_decides_while_its_override_lasts() {
        let overrides = Overrides::default();
        let active = |client: &str, seconds: u64| {
            let (client, now) = (client.parse().unwrap(), Now::simulated(seconds * 1000));
            let active = overrides.lookup(client, &of_client("192.0.2.9"), false, now)?;
            Some((active.entry.kind, active.left))
        };
        assert_eq!(active("192.0.2.1", 0), None);
        let entries =
            vec![entry("192.0.2.0/24", OverrideKind::Ban, 60), entry("192.0.2.1/32", OverrideKind::Allow, 10)];
        overrides.set(entries, &Spellings::default(), Now::simulated(0));
        assert_eq!(active("192.0.2.1", 0), Some((OverrideKind::Allow, 10)));
        assert_eq!(active("192.0.2.2", 59), Some((OverrideKind::Ban, 1)));
        assert_eq!(active("192.0.2.2", 60), None);
        assert_eq!(active("198.51.100.1", 0), None);
        overrides.expire(Now::simulated(10_000));
        assert_eq!(active("192.0.2.1", 10), Some((OverrideKind::Ban, 50)));
        assert_eq!(overrides.list().len(), 1);
    }

    #[test]
    fn a_step_of_the_system_clock_changes_no_end() {
        let overrides = Overrides::default();
        overrides.set(vec![entry("192.0.2.0/24", OverrideKind::Allow, 60)], &Spellings::default(), Now::simulated(0));
        for (step, second, left) in [(3_600_000, 59, Some(1)), (-3_600_000, 59, Some(1)), (-3_600_000, 60, None)] {
            let now = Now::simulated(second * 1000);
            let now = Now { unix_ms: now.unix_ms.wrapping_add_signed(step), ..now };
            overrides.expire(now);
            let active = overrides.lookup([192, 0, 2, 1].into(), &of_client("192.0.2.1"), false, now);
            assert_eq!(active.map(|active| active.left), left);
        }
    }
}
