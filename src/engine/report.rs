//! What requests leave in the log and in numbers. Log lines and counters of decisions are made from the verdict:
//! `REFUSED`, `DELAYED`, `PASSED`, `DEFERRED`, `WOULD_REFUSE`, and `OVER_LIMIT` and `NEAR_LIMIT` of keys. No other file
//! logs or counts a verdict.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::IpAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use crate::engine::named_keys::Crossing;
use crate::engine::service::Service;
use crate::net::clock::Now;
use crate::net::lock;
use crate::net::origin::AddressOrigin;
use crate::net::secret;
use crate::observe::log::LogRecord;
use crate::observe::log::{Log, LogEvent, Severity};
use crate::observe::statistics::add;
use crate::policy::attribute::Attribute;
use crate::policy::checks::CheckState;
use crate::policy::key::KeyPart;
use crate::policy::limit::CounterLimitId;
use crate::policy::request::{Request, Stage};
use crate::policy::{CounterValue, Decision, Door, Limit, LimitCheck, LimitChecks, Pass, Reason, Refusal, Verdict};

/// Reports a verdict: at Postfix's door once per session and count, not per request.
pub fn report(service: &Service, door: Door, client: IpAddr, verdict: &Verdict<'_>, now: Now) {
    let Service { statistics, decisions, log, .. } = service;
    let origin = |client| origin(service, client);
    match verdict {
        Verdict::Pass(pass) => {
            add(&statistics.whitelisted, u64::from(*pass == Pass::Whitelisted));
            decisions.passed(door, *pass);
            passed(log, door, &client, *pass, now);
        }
        Verdict::StoreDown => {
            add(&statistics.deferred, 1);
            decisions.deferred(door);
            deferred(log, door, &client, Pass::StoreDown.reason(), now);
        }
        Verdict::Delay(wait) => {
            add(&statistics.delayed, 1);
            decisions.denied(Denial::Delayed, &wait.refusal);
            refused(log, "DELAYED", &wait.refusal, origin, now);
        }
        Verdict::Refuse(refusal) => {
            add(&statistics.refused, 1);
            decisions.denied(Denial::Refused, refusal);
            refused(log, "REFUSED", refusal, origin, now);
        }
    }
}

/// Reports what a log-only limit would have refused.
pub fn would_refuse(service: &Service, refusal: &Refusal<'_>, now: Now) {
    add(&service.statistics.would_refuse, 1);
    service.decisions.denied(Denial::WouldRefuse, refusal);
    refused(&service.log, "WOULD_REFUSE", refusal, |client| origin(service, client), now);
}

/// Notes what was counted for a request.
pub fn note_counts(service: &Service, checks: &LimitChecks<'_>, decision: &Decision<'_>, request: &Request, now: Now) {
    service.tally.note_limits(checks);
    let passes = decision.passes();
    for (check, hit) in decision.hits(checks) {
        let passed = if passes { hit.added } else { 0 };
        if matches!(check.state, CheckState::ToCount { .. }) && !service.tally.note_hits(check, hit, passed) {
            service.daily.note(check, hit, passed, now);
            if let Some(crossing) = service.named_keys.note(check, hit, checks.client, now) {
                crossed(service, checks, check, hit, crossing, request, now);
            }
        }
    }
}

/// Logs a key that goes over its limit, or near it, once in a window and if the limit alerts.
fn crossed(
    service: &Service,
    checks: &LimitChecks<'_>,
    check: &LimitCheck<'_>,
    hit: CounterValue,
    crossing: Crossing,
    request: &Request,
    now: Now,
) {
    let limit = check.limit;
    let unit = u64::from(limit.counts.unit());
    let fill = |line: &mut LogRecord, threshold: u32| {
        line.field("client", checks.client)
            .field("key", &check.part)
            .field("limit", &limit.name)
            .field("count", u64::from(hit.count) * unit)
            .field("threshold", u64::from(threshold) * unit)
            .field("left", hit.left)
            .bytes("login", request.value(request.door.login()))
            .bytes("sender", request.value(Attribute::Sender));
        name_door(line, checks.door);
        name_origin(line, origin(service, checks.client));
    };
    let log = &service.log;
    match (crossing, limit.alerts_beyond(check.threshold)) {
        (Crossing::Over, _) if limit.alert => {
            log.event(LogEvent::Over, Severity::Notice, "OVER_LIMIT", now, |line| fill(line, check.threshold));
        }
        (Crossing::Near, Some(most)) => {
            log.event(LogEvent::Over, Severity::Notice, "NEAR_LIMIT", now, |line| fill(line, most));
        }
        _ => {}
    }
}

/// Logs a refusal, a delay or what would have been refused, by its keyword: the first in a window, then one line per
/// `log_interval` with the number since. `origin` looks up where a client is from.
pub fn refused(
    log: &Log,
    keyword: &'static str,
    refusal: &Refusal<'_>,
    origin: impl Fn(IpAddr) -> AddressOrigin,
    now: Now,
) {
    let event = match (keyword, refusal.reason) {
        ("WOULD_REFUSE", _) => LogEvent::LogOnly,
        ("DELAYED", _) => LogEvent::Delayed,
        (_, Reason::Over) => LogEvent::Over,
        (_, Reason::Banned) => LogEvent::Banned,
        (_, Reason::Blacklisted(_)) => LogEvent::Blacklisted,
        (_, Reason::DelayLimit) => LogEvent::Concurrent,
    };
    if !log.has(event) {
        return;
    }
    let subject = secret::hash((keyword, refusal.limit, &refusal.key));
    log.per_subject(Severity::Info, keyword, subject, refusal.left, now, |line, suppressed| {
        line.field("client", refusal.client)
            .field("key", &refusal.key)
            .field("limit", refusal.limit)
            .field("reason", refusal.reason.word())
            .field("count", refusal.count)
            .field("threshold", refusal.threshold)
            .field("left", refusal.left)
            .field("verdict", refusal.keyword())
            .field("suppressed", suppressed);
        name_door(line, refusal.door);
        name_origin(line, origin(refusal.client));
        if let Some(note) = refusal.note() {
            line.field("note", note);
        }
    });
}

/// Adds the door, unless it is Postfix's.
fn name_door(line: &mut LogRecord, door: Door) {
    if door != Door::Smtp {
        line.field("door", door.into_str());
    }
}

fn origin(service: &Service, client: IpAddr) -> AddressOrigin {
    service.rules.load().policy.origin(client)
}

/// Adds where the client is from, as far as a database knows.
fn name_origin(line: &mut LogRecord, origin: AddressOrigin) {
    let AddressOrigin { asn, country } = origin;
    if let Some(asn) = asn {
        line.field("asn", asn);
    }
    if let Some(country) = country {
        line.field("country", country);
    }
}

/// Logs a client that has to come back because the store is down.
fn deferred(log: &Log, door: Door, client: &dyn Display, reason: &str, now: Now) {
    if log.has(LogEvent::Store) {
        log.limited(Severity::Info, "DEFERRED", now, |line| {
            line.field("client", client).field("reason", reason);
            name_door(line, door);
        });
    }
}

/// Logs a client that passes: at debug, unless `log_events` asks for it.
pub fn passed(log: &Log, door: Door, client: &dyn Display, pass: Pass, now: Now) {
    let event = match pass {
        Pass::Whitelisted | Pass::Allowed => LogEvent::Whitelisted,
        _ => LogEvent::Session,
    };
    let fill = |line: &mut LogRecord| {
        line.field("client", client).field("reason", pass.reason());
        name_door(line, door);
    };
    match log.has(event) {
        true => log.limited(Severity::Info, "PASSED", now, fill),
        false => log.limited(Severity::Debug, "PASSED", now, fill),
    }
}

/// Limits that have counters of their own; further ones, after many reloads, share those of [`OTHERS`].
pub const MAX_TALLIED_NAMES: usize = 1000;

/// The name under which further limits are counted.
pub const OTHERS: &str = "others";

/// A verdict against a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denial {
    /// It was refused.
    Refused,
    /// It had to wait.
    Delayed,
    /// It passed, for a limit that is only logged.
    WouldRefuse,
}

impl Denial {
    const ALL: [(Self, &'static str); 3] =
        [(Self::Refused, "refused"), (Self::Delayed, "delayed"), (Self::WouldRefuse, "would_refuse")];
}

const REASONS: [Reason<'static>; 4] = [Reason::Over, Reason::Banned, Reason::Blacklisted(None), Reason::DelayLimit];

const PASSES: [Pass; 5] = [Pass::UnknownClient, Pass::Whitelisted, Pass::Allowed, Pass::WithinLimits, Pass::StoreDown];

/// One limit's counters at one door, by verdict and reason.
#[derive(Debug, Default)]
struct LimitCounters([[AtomicU64; REASONS.len()]; Denial::ALL.len()]);

/// All counters.
#[derive(Debug, Default)]
pub struct Decisions {
    passes: [[AtomicU64; PASSES.len()]; Door::COUNT],
    deferred: [AtomicU64; Door::COUNT],
    limits: [Mutex<BTreeMap<String, LimitCounters>>; Door::COUNT],
}

/// One counter, and how many there were.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecisionCount {
    /// The limit; empty where it is none.
    pub limit: String,
    pub door: Door,
    pub verdict: &'static str,
    pub reason: &'static str,
    pub number: u64,
}

impl Decisions {
    /// A pass.
    pub fn passed(&self, door: Door, pass: Pass) {
        add(&self.passes[door as usize][PASSES.iter().position(|other| *other == pass).unwrap_or(0)], 1);
    }

    /// A deferral because the store is down.
    pub fn deferred(&self, door: Door) {
        add(&self.deferred[door as usize], 1);
    }

    /// A verdict against a client. Looks the limit up, which a pass does not pay for.
    pub fn denied(&self, denial: Denial, refusal: &Refusal<'_>) {
        let verdict = Denial::ALL.iter().position(|(other, _)| *other == denial).unwrap_or(0);
        let reason = REASONS.iter().position(|other| other.word() == refusal.reason.word()).unwrap_or(0);
        let mut limits = lock(&self.limits[refusal.door as usize]);
        if let Some(tally) = limits.get(refusal.limit) {
            return add(&tally.0[verdict][reason], 1);
        }
        let name = if limits.len() < MAX_TALLIED_NAMES { refusal.limit } else { OTHERS };
        add(&limits.entry(name.to_owned()).or_default().0[verdict][reason], 1);
    }

    /// All counters. Those of passes are listed at another door than Postfix's only if there were any.
    pub fn list(&self) -> Vec<DecisionCount> {
        let mut list = Vec::new();
        for door in Door::ALL {
            let of = |limit: &str, verdict, reason, number: &AtomicU64| DecisionCount {
                limit: limit.to_owned(),
                door,
                verdict,
                reason,
                number: number.load(Relaxed),
            };
            let passes = PASSES.iter().zip(&self.passes[door as usize]);
            let passes = passes.map(|(pass, number)| of("", "passed", pass.reason(), number));
            let deferred = of("", "deferred", Pass::StoreDown.reason(), &self.deferred[door as usize]);
            let is_told = |count: &DecisionCount| door == Door::Smtp || count.number > 0;
            list.extend(passes.chain([deferred]).filter(is_told));
            for (limit, tally) in lock(&self.limits[door as usize]).iter() {
                for ((_, verdict), reasons) in Denial::ALL.iter().zip(&tally.0) {
                    let numbers = REASONS.iter().zip(reasons);
                    list.extend(numbers.map(|(reason, number)| of(limit, verdict, reason.word(), number)));
                }
            }
        }
        list
    }

    /// Creates a limit's counters at 0, so that its first refusal is an increase.
    pub fn begin(&self, limit: &str, door: Door) {
        let mut limits = lock(&self.limits[door as usize]);
        if limits.len() < MAX_TALLIED_NAMES && !limits.contains_key(limit) {
            limits.insert(limit.to_owned(), LimitCounters::default());
        }
    }
}

/// Limits with numbers of their own. Further ones, after many reloads, count as used and have no sums.
pub const MAX_TALLIED: u16 = 1024;

/// Of so many requests of one kind, one shows why limits do not count it.
const PER_EXAMPLE: u64 = 1024;

/// What is noted of every request: at which stage it came, which limits count it, and how much they let pass.
///
/// Only numbers, for each request pays for them. `limit_use` finds out from them which limits never count anything,
/// `daily` what the limits have counted today.
#[derive(Debug)]
pub struct Tally {
    /// Requests at each stage, without and with a login.
    seen: [[AtomicU64; 2]; Stage::COUNT],
    /// Limits that have counted a request, by their ids.
    used: [AtomicU64; MAX_TALLIED as usize / 64],
    /// All of them have.
    all_used: AtomicBool,
    /// Hits of clients within their limits that were let pass, by limit, since they were taken last.
    passed: [AtomicU64; MAX_TALLIED as usize],
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            seen: Default::default(),
            used: Default::default(),
            all_used: AtomicBool::new(false),
            passed: [const { AtomicU64::new(0) }; MAX_TALLIED as usize],
        }
    }
}

impl Tally {
    /// Notes a request. Returns whether it is to be an example of what limits do not count, as one of many is.
    pub fn note_request(&self, request: &Request) -> bool {
        let before = self.seen[request.state as usize][usize::from(has_login(request))].fetch_add(1, Relaxed);
        before.is_multiple_of(PER_EXAMPLE) && !self.all_used.load(Relaxed)
    }

    /// Notes the limits that count a request.
    pub fn note_limits(&self, checks: &LimitChecks<'_>) {
        if self.all_used.load(Relaxed) {
            return;
        }
        for check in &checks.checks {
            if !self.is_used(check.limit) {
                let id = usize::from(check.limit.id.0);
                self.used[id / 64].fetch_or(1 << (id % 64), Relaxed);
            }
        }
    }

    /// Notes hits, of which `passed` were let pass, if they are of a client within its limit. Returns whether they are;
    /// all others are noted by name.
    pub fn note_hits(&self, check: &LimitCheck<'_>, hit: CounterValue, passed: u32) -> bool {
        let limit = check.limit;
        let most = limit.alerts_beyond(check.threshold).map_or(check.threshold, |most| most.min(check.threshold));
        let is_within = matches!(check.part, KeyPart::Client { .. }) && hit.count <= most;
        if is_within && let Some(sum) = self.passed.get(usize::from(limit.id.0)) {
            sum.fetch_add(passed.into(), Relaxed);
        }
        is_within
    }

    /// Takes out the hits of clients within a limit.
    pub fn take_passed(&self, limit: CounterLimitId) -> u64 {
        self.passed.get(usize::from(limit.0)).map_or(0, |sum| sum.swap(0, Relaxed))
    }

    /// Whether a limit has counted a request since others were in force.
    pub fn is_used(&self, limit: &Limit) -> bool {
        let id = usize::from(limit.id.0);
        self.used.get(id / 64).is_none_or(|word| word.load(Relaxed) & (1 << (id % 64)) != 0)
    }

    /// Whether all limits have.
    pub fn set_all_used(&self, all_used: bool) {
        self.all_used.store(all_used, Relaxed);
    }

    /// Requests at these stages, or those of them that had a login.
    pub fn requests(&self, stages: &[Stage], with_login: bool) -> u64 {
        let kinds = stages.iter().flat_map(|stage| &self.seen[*stage as usize][usize::from(with_login)..]);
        kinds.map(|number| number.load(Relaxed)).sum()
    }

    /// Starts over: other limits are in force.
    pub fn begin_anew(&self) {
        self.seen.iter().flatten().chain(&self.used).for_each(|number| number.store(0, Relaxed));
        self.set_all_used(false);
    }
}

/// Whether a request is of a client that has logged in.
pub fn has_login(request: &Request) -> bool {
    !request.value(Attribute::SaslUsername).is_empty()
}
