//! Bans in force: lists and lifts them, and logs their beginnings and ends.
//!
//! A limit's ban is created in `store::bans`. Its beginning and its end are log events, for which `ban_command` runs
//! on every host: on this one when they happen, on the others when the shared list of overrides brings them. The
//! events of an administrator's ban come with the change of that list.

use ipnet::IpNet;

use crate::engine::overrides::{BanEvent, BanEventKind, Change};
use crate::engine::reading::Reading;
use crate::engine::service::{Rules, Service};
use crate::engine::target::{Target, TargetCounter};
use crate::net::clock::Now;
use crate::observe::log::{LogEvent, LogRecord, Severity};
use crate::policy::key::KeyPart;
use crate::policy::key_escape::{is_address, unescaped};
use crate::policy::lists::Listed;
use crate::policy::overrides::{Override, OverrideKind};
use crate::policy::{BLACKLIST, CounterKind, Door, Key, Limit, Operation, Policy};
use crate::store::bans::LostBan;
use crate::store::local::listing::{ListedClient, all_bans};

/// A ban that ends less than this many milliseconds early, because clocks differ, has ended by itself.
const BAN_END_TOLERANCE_MS: u64 = 2000;

/// The keys of a target that limits have banned.
pub struct LimitBans<'p> {
    pub bans: Vec<(TargetCounter<'p>, Reading)>,
    /// Further ones in a netblock.
    pub more: usize,
}

/// The bans of limits that are in force for a target. Where a shared store cannot list its keys, those in a
/// netblock are the ones that this process knows.
pub async fn limit_bans<'p>(service: &Service, rules: &'p Rules, target: &Target, now: Now) -> LimitBans<'p> {
    let (mut counted, mut more) = service.named_keys.counters_of(rules, target, now).await;
    if let Target::Netblock(netblock) = target {
        let (clients, rest) = rules.store.bans_within(rules.policy.limits(), *netblock, now).await;
        counted.extend(clients.iter().filter_map(|client| counted_client(&rules.policy, client)));
        more += rest;
    }
    let mut bans = Vec::new();
    for one in counted.into_iter().filter(|one| one.limit.ban.is_some()) {
        if let Some(reading) = Reading::of(&rules.store, &one, now).await.filter(|reading| reading.banned > 0) {
            bans.push((one, reading));
        }
    }
    LimitBans { bans, more }
}

/// The counters of a client in this process's table; none where the limit is no longer in force.
pub fn counted_client<'p>(policy: &'p Policy, client: &ListedClient) -> Option<TargetCounter<'p>> {
    let limit = policy.limits().iter().find(|limit| limit.id == client.limit)?;
    let part = KeyPart::Client { address: client.address, prefix_length: client.prefix_length };
    Some(TargetCounter { limit, part, threshold: limit.threshold })
}

/// Lifts bans of limits; the violations that led to them are forgotten. Counts at the SMTP door stay. Those at the
/// other doors are reset too: there a client that is still over would be refused and banned again. Returns whether the
/// store has done it, and the changes for other hosts.
pub async fn lift(service: &Service, rules: &Rules, bans: &[TargetCounter<'_>], now: Now) -> (bool, Vec<Change>) {
    let is_lifted = |one: &TargetCounter<'_>, kind| match kind {
        CounterKind::ActiveBan | CounterKind::Violations => true,
        CounterKind::BanCount => false,
        _ => one.limit.door != Door::Smtp,
    };
    let kinds = |one| TargetCounter::kinds(one, now).into_iter().filter(move |kind| is_lifted(one, *kind));
    let keys: Vec<_> = bans.iter().flat_map(|one| kinds(one).map(|kind| one.key(kind))).collect();
    let is_done = keys.is_empty() || rules.store.reset(keys.into_iter(), now).await;
    (is_done, announce_lifted(service, bans, now))
}

/// Logs that these bans were lifted. Returns the changes for other hosts.
pub fn announce_lifted(service: &Service, bans: &[TargetCounter<'_>], now: Now) -> Vec<Change> {
    let mut events = Vec::new();
    // The bans of a limit that is only logged were never announced.
    for one in bans.iter().filter(|one| !one.limit.log_only) {
        let (limit, key) = (one.limit.name.clone(), one.part.to_string());
        say_limit_unbanned(service, &key, one.limit, now);
        events.push(Change::Event(BanEvent::new(limit, key, BanEventKind::Lifted, now)));
    }
    events
}

/// Applies another host's event of a limit's ban, which began or was lifted.
pub fn apply_event(service: &Service, event: &BanEvent, announces: bool, now: Now) {
    let BanEvent { limit, key, kind, .. } = event;
    let rules = service.rules.load();
    let Ok(target) = key.parse::<Target>() else { return };
    let counted = rules.policy.counters_of(&target);
    let Some(counted) = counted.iter().find(|one| one.limit.name == *limit && one.part.to_string() == *key) else {
        return;
    };
    let holds = holds(&rules.policy, &counted.limit.name, &counted.part);
    let ban = counted.key(CounterKind::ActiveBan);
    match kind {
        BanEventKind::Begun { seconds, repetition } => {
            let (table, left) = (rules.store.table(), u64::from(*seconds) * 1000);
            if table.peek(table.counter_id(ban), now.monotonic).is_none() {
                table.observe(table.counter_id(ban), *repetition, left, 0, now.monotonic);
            }
            if holds && announces {
                service.log.event(LogEvent::Ban, Severity::Info, "BANNED", now, |line| {
                    line.field("key", key).field("limit", limit);
                    line.field("seconds", seconds).field("repetition", repetition);
                    name_doors(line, counted.limit);
                    name_parts(line, key);
                });
            }
        }
        BanEventKind::Lifted => {
            rules.store.forget_here(&ban);
            rules.store.forget_here(&counted.key(CounterKind::Violations));
            if holds && announces {
                say_limit_unbanned(service, key, counted.limit, now);
            }
        }
    }
}

/// Logs the bans of administrators that begin and end with a change of the overrides.
pub fn announce_overrides(service: &Service, before: &[Override], after: &[Override], now: Now) {
    let rules = service.rules.load();
    let bans = |entries: &[Override]| -> Vec<Override> {
        let bans = entries.iter().filter(|entry| entry.kind == OverrideKind::Ban);
        bans.filter(|entry| !is_exempt(&rules.policy, entry)).cloned().collect()
    };
    let (before, after) = (bans(before), bans(after));
    for ban in after.iter().filter(|ban| before.iter().all(|known| known.id != ban.id)) {
        say_override_banned(service, ban, now);
    }
    let is_lifted = |ban: &&Override| after.iter().all(|other| other.target != ban.target);
    for ban in before.iter().filter(|ban| ban.ends > now.monotonic + BAN_END_TOLERANCE_MS).filter(is_lifted) {
        say_unbanned(service, &ban.target.to_string(), BLACKLIST, now);
    }
}

/// Logs the bans that a reload ends or brings back: the whitelist has the client now, or the limit no longer bans.
pub async fn announce_reload(service: &Service, before: &Rules, after: &Rules, now: Now) {
    for ban in after.policy.overrides().list().iter().filter(|entry| entry.kind == OverrideKind::Ban) {
        match [before, after].map(|rules| is_exempt(&rules.policy, ban)) {
            [false, true] => say_unbanned(service, &ban.target.to_string(), BLACKLIST, now),
            [true, false] => say_override_banned(service, ban, now),
            _ => {}
        }
    }
    for client in all_bans(after.store.table(), now).await {
        let Some(counted) = counted_client(&before.policy, &client) else { continue };
        let (limit, part) = (&counted.limit.name, &counted.part);
        match [before, after].map(|rules| holds(&rules.policy, limit, part)) {
            [true, false] => say_limit_unbanned(service, &part.to_string(), counted.limit, now),
            [false, true] => service.log.event(LogEvent::Ban, Severity::Info, "BANNED", now, |line| {
                line.field("key", part).field("limit", limit);
                line.field("seconds", client.hit.left_seconds()).field("repetition", client.hit.count);
                name_doors(line, counted.limit);
                name_parts(line, &part.to_string());
            }),
            _ => {}
        }
    }
}

/// Reads every ban that this process knows, so that the store notes those it has lost. Bans of keys that are not
/// addresses cannot be listed.
pub async fn look_for_lost(rules: &Rules, now: Now) {
    for client in all_bans(rules.store.table(), now).await {
        if let Some(counted) = counted_client(&rules.policy, &client) {
            let read = Operation { key: counted.key(CounterKind::ActiveBan), amount: 0, exptime: 0, threshold: 0 };
            let _ = rules.store.count([read], now).await;
        }
    }
}

/// Logs the bans that ended because the store has lost them. Every host logs those that it knows.
pub fn announce_lost(service: &Service, lost: &[LostBan], now: Now) {
    let rules = service.rules.load();
    for LostBan { limit, part } in lost {
        let key = part.to_string();
        if holds(&rules.policy, limit, part)
            && !is_known(&rules, limit, part, now)
            && !service.overrides.is_lifted(limit, &key)
        {
            say_unbanned(service, &key, limit, now);
        }
    }
}

/// Whether this process knows of a limit's ban of a key: it may have begun again.
fn is_known(rules: &Rules, limit: &str, part: &KeyPart, now: Now) -> bool {
    let Some(limit) = rules.policy.limits().iter().find(|known| known.name == limit) else { return false };
    let table = rules.store.table();
    table.peek(table.counter_id(Key { limit, part, kind: CounterKind::ActiveBan }), now.monotonic).is_some()
}

/// Whether a limit's ban of a key has an effect.
fn holds(policy: &Policy, limit: &str, part: &KeyPart) -> bool {
    let limit = policy.limits().iter().find(|known| known.name == limit);
    let is_exempt = match part {
        KeyPart::Client { address, prefix_length } => {
            let netblock = IpNet::new(*address, *prefix_length).unwrap_or(IpNet::from(*address));
            is_whitelisted(policy, netblock)
        }
        KeyPart::Text(_) => false,
    };
    limit.is_some_and(|limit| limit.ban.is_some() && !limit.log_only) && !is_exempt
}

/// Whether the whitelist has all of a netblock.
fn is_whitelisted(policy: &Policy, netblock: IpNet) -> bool {
    let listed = policy.listed(netblock.network());
    matches!(listed, Some((white, Listed::White)) if white.contains(&netblock))
}

/// Whether an administrator's ban has no effect.
fn is_exempt(policy: &Policy, ban: &Override) -> bool {
    ban.target.netblock().is_some_and(|netblock| is_whitelisted(policy, netblock))
}

fn say_override_banned(service: &Service, ban: &Override, now: Now) {
    service.log.event(LogEvent::Ban, Severity::Info, "BANNED", now, |line| {
        line.field("key", &ban.target).field("limit", BLACKLIST).field("seconds", ban.left(now));
        line.field("by", &ban.by);
        if let Some(note) = &ban.note {
            line.field("note", note);
        }
        name_parts(line, &ban.target.to_string());
    });
}

fn say_limit_unbanned(service: &Service, key: &str, limit: &Limit, now: Now) {
    service.log.event(LogEvent::Unban, Severity::Info, "UNBANNED", now, |line| {
        line.field("key", key).field("limit", &limit.name);
        name_doors(line, limit);
        name_parts(line, key);
    });
}

/// Adds the client, the login and the sender of a key to a log line.
fn name_parts(line: &mut LogRecord, key: &str) {
    if is_address(key) {
        line.field("client", key);
    }
    for (word, value) in KeyPart::of_text(key).pairs() {
        let name = match word {
            "client" => "client",
            "sender" => "sender",
            "login" | "sasl_username" => "login",
            _ => continue,
        };
        line.field(name, unescaped(value));
    }
}

/// Adds the doors at which a limit's bans hold, unless that is Postfix's alone.
fn name_doors(line: &mut LogRecord, limit: &Limit) {
    if !limit.ban_doors.is_smtp() {
        line.field("doors", limit.ban_doors.words());
    }
}

fn say_unbanned(service: &Service, key: &str, limit: &str, now: Now) {
    service.log.event(LogEvent::Unban, Severity::Info, "UNBANNED", now, |line| {
        line.field("key", key).field("limit", limit);
        name_parts(line, key);
    });
}
