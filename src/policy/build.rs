//! The rules in force, made of settings and of the rules before.

use std::collections::HashMap;

use super::attribute::Attribute;
use super::limit::{self, CountKind, CounterLimitId, ExptimeChange, SessionLimitId, Window};
use super::name_patterns::NamePatterns;
use super::{Door, DoorLimits, Limit, Policy, PolicySettings};
use crate::net::clock::Now;
use crate::net::origin::OriginDatabases;

impl Policy {
    /// The rules a configuration asks for. `before` are those it takes the place of.
    pub fn new(settings: &PolicySettings, before: Option<&Self>) -> Self {
        let mut ids = before.map(|before| before.ids.clone()).unwrap_or_default();
        let mut limits = settings.limits.clone();
        limits.sort_by_key(|limit| limit.door as usize);
        for limit in &mut limits {
            let Limit { name, counts, window, log_only, door, .. } = &*limit;
            // `counted` names the counters, in the state file too: a limit that counts something else, or in another
            // way, gets another id. `memory_id` is by the name alone, so a session that passed the limit stays passed.
            let door = if *door == Door::Web { " web" } else { "" };
            let calendar = match window {
                Window::Calendar(calendar) => format!(" {} of {}", calendar.period().into_str(), calendar.zone_name()),
                _ => String::new(),
            };
            let counted = format!("{name} {} {}{calendar} {log_only}{door}", counts.into_str(), window.word());
            limit.memory_id = SessionLimitId(id(&mut ids, name.clone()));
            limit.id = CounterLimitId(id(&mut ids, counted));
        }
        let embedded = &settings.embedded;
        let listed =
            settings.lists.netblocks.iter().map(|(netblock, entry)| (embedded.fold_netblock(*netblock), *entry));
        Self {
            netblocks: listed.collect(),
            embedded: embedded.clone(),
            spellings: settings.spellings.clone(),
            names: NamePatterns::new(settings.lists.names.clone()),
            reasons: settings.lists.reasons.clone(),
            rates: settings.lists.rates.clone(),
            origins: settings.origins.clone(),
            asked_origins: asked_origins(&settings.origins, &limits),
            blacklist: settings.blacklist.clone(),
            windows_changed_until: 0,
            counts_clients: limits.iter().any(|limit| limit.counts == CountKind::Clients),
            need_recipients: limits.iter().filter(|limit| limit.needs_recipients()).map(|limit| limit.id).collect(),
            doors: Door::ALL.map(|door| DoorLimits::of(&limits, door)),
            limits,
            ids,
            on_store_failure: settings.on_store_failure,
            log_only: settings.log_only,
            overrides: before.map(|before| before.overrides.clone()).unwrap_or_default(),
        }
    }

    /// Takes over from the rules before a reload: notes which windows may still have another length, and puts the
    /// overrides in force in these spellings.
    pub fn take_over(&mut self, before: &Self, now: Now) {
        for limit in &mut self.limits {
            let Some(old) = before.limits.iter().find(|old| old.id == limit.id) else { continue };
            limit.exptime_change = match old.exptime == limit.exptime {
                true => old.exptime_change.filter(|change| change.until > now.monotonic),
                false => {
                    let until = now.monotonic + u64::from(old.exptime.max(limit.exptime)) * 1000;
                    Some(ExptimeChange { before: old.exptime, until })
                }
            };
        }
        if self.spellings != before.spellings {
            self.overrides.set(self.overrides.list(), &self.spellings, now);
        }
        let changes = self.limits.iter().filter_map(|limit| limit.exptime_change);
        self.windows_changed_until = changes.map(|change| change.until).max().unwrap_or(0);
    }

    /// The identity of every limit since the start, with its id. Limits of one identity share their counts.
    pub fn identities(&self) -> impl Iterator<Item = (&str, u16)> {
        self.ids.iter().map(|(identity, id)| (identity.as_str(), *id))
    }

    /// The id of the limit with this identity.
    pub fn id(&self, identity: &str) -> Option<u16> {
        self.ids.get(identity).copied()
    }
}

impl DoorLimits {
    fn of(limits: &[Limit], door: Door) -> Self {
        let first = limits.partition_point(|limit| (limit.door as usize) < door as usize);
        let own = first..limits.partition_point(|limit| limit.door as usize <= door as usize);
        let bans_here = |limit: &Limit| limit.door != door && limit.ban.is_some() && limit.ban_doors.contains(door);
        let banning: Vec<usize> = (0..limits.len()).filter(|place| bans_here(&limits[*place])).collect();
        let count_whitelisted =
            own.clone().chain(banning.iter().copied()).any(|place| !limits[place].whitelist_exempts);
        Self { own, count_whitelisted, banning }
    }
}

/// The databases that some limit needs, of those there are.
fn asked_origins(origins: &OriginDatabases, limits: &[Limit]) -> Option<OriginDatabases> {
    let is_asked = |attribute| limits.iter().any(|limit| limit.is_about(attribute));
    let asn = origins.asn.clone().filter(|_| is_asked(Attribute::Asn));
    let country = origins.country.clone().filter(|_| is_asked(Attribute::Country));
    Some(OriginDatabases { asn, country }).filter(|asked| !asked.is_empty())
}

/// The id of a name, a new one if it has none.
fn id(ids: &mut HashMap<String, u16>, name: String) -> u16 {
    // There may be 32,768 in the life of a process; further names share the last one.
    let next = u16::try_from(ids.len()).unwrap_or(u16::MAX).min(limit::MAX_ID);
    *ids.entry(name).or_insert(next)
}
