//! The decision: what to count, and what the counts mean.
//!
//! Pure: nothing here reads a clock, a socket or a file. `plan` returns either a
//! finished decision or the keys to hit, the store hits them in one round trip,
//! and `judge` makes the decision from what came back. Both only read what the
//! session remembers; `Decision::settle` writes to it, once.
//!
//! The order of judgement in `plan`:
//!
//! 1. A request without a client address passes.
//! 2. An administrator's allowance passes. An administrator's ban refuses, unless
//!    the session has passed it with this message.
//! 3. The whitelist passes, unless a limit counts its clients too.
//! 4. The blacklist refuses or delays, unless the session has passed it with this
//!    message.
//! 5. The limits of the door, in file order, and the bans of other doors go to the
//!    store, and then to `judge`.
//!
//! In `judge`, `outcome` looks at the ban of each limit before its count, and
//! `Verdict::merge` picks among the limits: a ban, then the first refusal, then the
//! longest delay, else pass.

pub mod action;
pub mod attribute;
mod build;
pub mod calendar;
pub mod checks;
pub mod name_patterns;
pub mod conditions;
pub mod config_key;
pub mod decision;
pub mod door;
pub mod explain;
pub mod key;
pub mod key_field;
pub mod key_escape;
pub mod limit;
pub mod lists;
pub mod message;
pub mod override_target;
pub mod overrides;
pub mod record;
pub mod record_snapshot;
pub mod request;
pub mod restriction_stage;
pub mod settings;
pub mod sliding_window;
pub mod spelling;
pub mod template;
pub mod thresholds;
pub mod value_list;

use std::collections::HashMap;
use std::net::IpAddr;
use std::ops::Range;

use ipnet::IpNet;

use crate::net::clock::Now;
use crate::policy::request::{Request, Stage};

pub use checks::{LimitCheck, LimitChecks, Readings};
pub use decision::{Decision, Delayed, Effect, Pass, Reason, Refund, Refusal, Verdict};
pub use door::Door;
pub use key::{CounterKind, CounterValue, Key, Operation};
pub use limit::Limit;
pub use lists::{BLACKLIST, Blacklist};
pub use overrides::Overrides;
pub use record::{BlacklistState, CountRecord, Scope, SessionRecord};
pub use settings::{OnStoreFailure, PolicySettings};

use crate::net::embedded::EmbeddedIpv4;
use crate::net::netblock::NetblockTable;
use crate::net::origin::{AddressOrigin, OriginDatabases};
use attribute::Attribute;
use checks::{CheckState, CounterReading};
use limit::{CountKind, CounterLimitId, Rate};
use lists::{ListEntry, ListIndex, is_reported};
use name_patterns::{NamePattern, NamePatterns};
use spelling::Spellings;

/// The rules in force.
#[derive(Debug)]
pub struct Policy {
    embedded: EmbeddedIpv4,
    spellings: Spellings,
    pub(crate) netblocks: NetblockTable<ListEntry>,
    pub(crate) names: NamePatterns,
    pub(crate) reasons: Vec<Box<str>>,
    pub(crate) rates: Vec<Rate>,
    origins: OriginDatabases,
    /// The databases that limits need; `None`: no limit needs any.
    asked_origins: Option<OriginDatabases>,
    blacklist: Blacklist,
    /// Grouped by door, in the order of the file.
    pub(crate) limits: Vec<Limit>,
    doors: [DoorLimits; Door::COUNT],
    /// Until when windows may be open that have another length than their limit, on the monotonic clock.
    windows_changed_until: u64,
    /// Some limit counts different clients.
    counts_clients: bool,
    /// Limits that have to know the recipients of a message when Postfix does not name them.
    need_recipients: Vec<CounterLimitId>,
    /// The ids of all limits since the start, by name, and by name with what is counted. A limit keeps its ids over a
    /// reload, and so its counts.
    ids: HashMap<String, u16>,
    on_store_failure: OnStoreFailure,
    log_only: bool,
    overrides: Overrides,
}

/// The limits that apply at a door, by their places.
#[derive(Clone, Debug, Default)]
struct DoorLimits {
    /// Those that count there.
    own: Range<usize>,
    /// Some of them count clients on the whitelist too.
    count_whitelisted: bool,
    /// Those of other doors whose bans hold there.
    banning: Vec<usize>,
}

/// What is to be done about a request.
#[derive(Debug)]
pub enum Plan<'p> {
    /// Nothing: it is decided.
    Done(Decision<'p>),
    /// Have the store do the operations of these, then `judge`.
    Count(LimitChecks<'p>),
}

/// The outcome of a count at its limit.
pub(crate) enum LimitOutcome<'p> {
    /// It may go on.
    Pass,
    /// The store is down.
    Uncounted(OnStoreFailure),
    /// It has to wait.
    Delay(Delayed<'p>),
    /// It would have to wait, but its session has waited already.
    AlreadyDelayed,
    /// It must not go on.
    Refuse(Box<Refusal<'p>>),
}

impl<'p> LimitOutcome<'p> {
    pub(crate) fn verdict(self) -> Verdict<'p> {
        match self {
            Self::Pass | Self::AlreadyDelayed => Verdict::Pass(Pass::WithinLimits),
            Self::Uncounted(OnStoreFailure::Defer) => Verdict::StoreDown,
            Self::Uncounted(_) => Verdict::Pass(Pass::StoreDown),
            Self::Delay(wait) => Verdict::Delay(wait),
            Self::Refuse(refusal) => Verdict::Refuse(refusal),
        }
    }
}

impl Policy {
    /// Whether counts have to be prepared: windows may be open that have another length than their limit, or a limit
    /// counts different clients.
    pub fn prepares_counts(&self, now: Now) -> bool {
        now.monotonic < self.windows_changed_until || self.counts_clients
    }

    /// Whether sessions have to remember the recipients of a message.
    pub fn remembers_recipients(&self) -> bool {
        !self.need_recipients.is_empty()
    }

    /// The limits in force, in their order.
    pub fn limits(&self) -> &[Limit] {
        &self.limits
    }

    /// The limit of this name.
    ///
    /// # Errors
    ///
    /// When there is none; names those that there are.
    pub fn limit_named(&self, name: &str) -> Result<&Limit, String> {
        self.limits.iter().find(|limit| limit.name == name).ok_or_else(|| {
            let names: Vec<&str> = self.limits.iter().map(|limit| limit.name.as_str()).collect();
            format!("there is no limit {name:?}; there are {}", names.join(", "))
        })
    }

    /// The limits that count at a door.
    pub(crate) fn limits_at(&self, door: Door) -> &[Limit] {
        &self.limits[self.doors[door as usize].own.clone()]
    }

    /// The limits of other doors whose bans hold at this one.
    pub(crate) fn banning_at(&self, door: Door) -> impl Iterator<Item = &Limit> {
        self.doors[door as usize].banning.iter().map(|place| &self.limits[*place])
    }

    /// Whose IPv6 addresses are taken for the IPv4 addresses in them.
    pub fn embedded(&self) -> &EmbeddedIpv4 {
        &self.embedded
    }

    /// Which spellings of a mailbox are one.
    pub fn spellings(&self) -> &Spellings {
        &self.spellings
    }

    /// The client of a request: an IPv4 address where its IPv6 address carries one.
    pub fn client(&self, request: &Request) -> Option<IpAddr> {
        match request.client? {
            client @ IpAddr::V4(_) => Some(client),
            client => Some(self.embedded.fold(client)),
        }
    }

    /// The autonomous system and the country of a client, from the databases.
    pub fn origin(&self, client: IpAddr) -> AddressOrigin {
        self.origins.lookup(client)
    }

    pub fn origins(&self) -> &OriginDatabases {
        &self.origins
    }

    /// A request with where its client is from. `None`: no limit asks for that.
    fn with_origin(&self, request: &Request, client: IpAddr) -> Option<Request<'static>> {
        let AddressOrigin { asn, country } = self.asked_origins.as_ref()?.lookup(client);
        let mut digits = itoa::Buffer::new();
        let asn = asn.map(|asn| (Attribute::Asn, digits.format(asn).as_bytes()));
        let country = country.as_ref().map(|country| (Attribute::Country, country.as_str().as_bytes()));
        Some(request.with(asn.into_iter().chain(country)))
    }

    /// The entry in the lists of a client's name, which Postfix has verified.
    pub fn listed_name(&self, request: &Request) -> Option<(&NamePattern, ListEntry)> {
        if self.names.is_empty() {
            return None;
        }
        self.names.lookup(request.value(Attribute::ClientName))
    }

    /// The overrides of administrators, which outlive reloads.
    pub fn overrides(&self) -> &Overrides {
        &self.overrides
    }

    /// What a request needs, given what its session remembers.
    pub fn plan(&self, request: &Request, record: &SessionRecord, now: Now) -> Plan<'_> {
        let Some(client) = self.client(request) else {
            return Plan::Done(Decision::new(Verdict::Pass(Pass::UnknownClient)));
        };
        let listed = self.netblocks.lookup(client);
        let named = self.listed_name(request).map(|(_, entry)| entry);
        let whitelisted = matches!(listed, Some((_, ListEntry::Whitelist))) || named == Some(ListEntry::Whitelist);
        let active = self.overrides.lookup(client, request, whitelisted, now);
        if let Some(active) = &active
            && let Some(decision) = self.override_decision(client, request.door, active, record, now)
        {
            return Plan::Done(decision);
        }
        if whitelisted && !self.doors[request.door as usize].count_whitelisted {
            return Plan::Done(self.exempt_decision(Pass::Whitelisted, record, now));
        }
        let is_checked = matches!(record.blacklist, BlacklistState::Passed | BlacklistState::Delayed);
        let refused = if whitelisted { None } else { blacklisting(client, listed, named) };
        if let Some((netblock, reason)) = refused
            && !is_checked
            && !self.log_only
        {
            let verdict = match self.blacklist_verdict(client, request.door, &netblock, reason) {
                // The same as where a limit delays.
                Verdict::Delay(delay) if record.blacklist == BlacklistState::TooManyDelayed => {
                    Verdict::Refuse(delay.over_delay_limit())
                }
                Verdict::Delay(delay) if checks::is_stressed(request) => Verdict::Refuse(delay.refusal),
                verdict => verdict,
            };
            return Plan::Done(self.on_blacklist(verdict, record));
        }
        let rate = match listed {
            Some((netblock, ListEntry::Rate(place))) => Some((netblock, &self.rates[place.index()])),
            _ => None,
        };
        let with_origin = self.with_origin(request, client);
        let request = with_origin.as_ref().unwrap_or(request);
        let is_blacklisted = active.is_some() || refused.is_some() && !whitelisted;
        let limits = self.limits_at(request.door);
        let mut checks =
            LimitChecks { named, active, limits: limits.len(), ..LimitChecks::new(client, request, whitelisted) };
        for limit in limits {
            if record.blacklist == BlacklistState::Delayed && limit.counts == CountKind::Connections {
                continue;
            }
            if whitelisted && limit.whitelist_exempts {
                continue;
            }
            let rate = || rate_of(limit, client, rate);
            let is_of_all = || {
                matches!(request.state, Stage::Data | Stage::EndOfMessage)
                    && request.value(Attribute::Recipient).is_empty()
            };
            match self.need_recipients.contains(&limit.id) && is_of_all() {
                true => checks.consider_recipients(limit, rate, request, record, now),
                false => checks.consider(limit, rate, request, record, now),
            }
        }
        for limit in self.banning_at(request.door) {
            if whitelisted && limit.whitelist_exempts {
                continue;
            }
            if let Some(rate) = rate_of(limit, client, rate) {
                checks.consider_ban(limit, rate, record, now);
            }
        }
        // Where nothing is enforced a blacklisted client is logged once, even if no limit applies to it.
        let must_report = self.log_only && is_blacklisted && is_reported(checks.active.as_ref(), record);
        if checks.must_count() || must_report {
            Plan::Count(checks)
        } else {
            Plan::Done(self.repeat(checks, record, now))
        }
    }

    /// The decision about a request from what the store has answered.
    pub fn judge<'p>(
        &'p self,
        checks: &LimitChecks<'p>,
        readings: &Readings,
        record: &SessionRecord,
        now: Now,
    ) -> Decision<'p> {
        let mut decision = Decision::new(Verdict::Pass(Pass::WithinLimits));
        if checks.whitelisted {
            self.exempt(&mut decision, Pass::Whitelisted, record, now);
        }
        if record.blacklist != BlacklistState::Delayed {
            decision.blacklist = Some(BlacklistState::Passed);
        }
        if self.log_only && is_reported(checks.active.as_ref(), record) {
            decision.effects.extend(self.would_refuse(checks).map(Effect::WouldRefuse));
        }
        decision.counts.reserve(checks.checks.len());
        let mut begin = 0;
        for check in &checks.checks {
            let (count, violations) = match check.state {
                CheckState::Cached(count) => (count, 0),
                CheckState::ToCount { scope, .. } | CheckState::ToReadBan { scope } => {
                    let CounterReading { hit, banned, violations } = check.reading_at(readings, begin, now);
                    let count = CountRecord::new(check.limit.memory_id, scope, hit, banned, checks.stress);
                    (CountRecord { at: now.monotonic, messages: record.messages, ..count }, violations)
                }
            };
            begin += check.answers();
            let outcome = self.outcome(checks, check, &count, violations, record.delayed);
            let mut finalized = self.finalize(count, check.limit, &outcome);
            if !matches!(check.state, CheckState::Cached(_)) {
                if !finalized.passed {
                    finalized.key = CountRecord::key_hash(&check.part);
                }
                // A session that passes nearly always has no effects.
                let is_plain = count.scope == Scope::Session && check.limit.count_refused;
                if !is_plain || !matches!(outcome, LimitOutcome::Pass) {
                    decision.add_effects(check, &count, &outcome, record, now);
                }
            }
            decision.counts.push(finalized);
            // A pass, the outcome of nearly all, does not change the verdict.
            if !check.limit.log_only && !matches!(outcome, LimitOutcome::Pass | LimitOutcome::AlreadyDelayed) {
                decision.verdict.merge(outcome.verdict());
            }
        }
        // That a client on the whitelist passes is reported once for a session, whatever else is counted.
        decision.must_report = !matches!(decision.verdict, Verdict::Pass(Pass::Whitelisted));
        decision
    }

    /// The decision about a request for which nothing is left to count: the same as before, unless a reload has changed
    /// the rules.
    fn repeat<'p>(&'p self, checks: LimitChecks<'p>, record: &SessionRecord, now: Now) -> Decision<'p> {
        let mut decision = Decision::new(Verdict::Pass(Pass::WithinLimits));
        if checks.whitelisted {
            self.exempt(&mut decision, Pass::Whitelisted, record, now);
        }
        if record.blacklist == BlacklistState::PassedBefore {
            decision.blacklist = Some(BlacklistState::Passed);
        }
        for check in &checks.checks {
            let CheckState::Cached(count) = check.state else { continue };
            let outcome = self.outcome(&checks, check, &count, 0, record.delayed);
            let finalized = self.finalize(count, check.limit, &outcome);
            if finalized != count {
                decision.counts.push(finalized);
            }
            if !check.limit.log_only {
                decision.verdict.merge(outcome.verdict());
            }
        }
        decision
    }

    /// The outcome of a count at its limit. `delayed`: an answer in the session was delayed.
    #[inline]
    fn outcome<'p>(
        &self,
        checks: &LimitChecks<'p>,
        check: &LimitCheck<'p>,
        count: &CountRecord,
        violations: u32,
        delayed: bool,
    ) -> LimitOutcome<'p> {
        let is_within = count.banned == 0 && count.hit.is_some_and(|hit| hit.count <= check.threshold);
        match count.passed || is_within {
            true => LimitOutcome::Pass,
            false => self.outcome_beyond(checks, check, count, violations, delayed),
        }
    }

    /// The same for a count that is over, banned, or not made because the store is down.
    fn outcome_beyond<'p>(
        &self,
        checks: &LimitChecks<'p>,
        check: &LimitCheck<'p>,
        count: &CountRecord,
        violations: u32,
        delayed: bool,
    ) -> LimitOutcome<'p> {
        let (client, stress, limit) = (checks.client, checks.stress, check.limit);
        let refusal = |reason, hit: CounterValue| {
            let unit = u64::from(limit.counts.unit());
            let action = limit.stress_action.as_ref().filter(|_| stress).unwrap_or(&limit.action);
            Box::new(Refusal {
                client,
                door: checks.door,
                reason,
                limit: &limit.name,
                key: check.part.clone(),
                count: u64::from(hit.count) * unit,
                threshold: u64::from(check.threshold) * unit,
                left: hit.left,
                action,
                entry: None,
            })
        };
        let hit = count.hit.unwrap_or(CounterValue { count: 0, left: 0, added: 0 });
        // A reload may have removed the bans of a limit.
        if count.banned > 0 && limit.ban.is_some() {
            return LimitOutcome::Refuse(refusal(Reason::Banned, CounterValue { left: count.banned, ..hit }));
        }
        if count.hit.is_none() {
            return LimitOutcome::Uncounted(self.on_store_failure);
        }
        if hit.count <= check.threshold {
            return LimitOutcome::Pass;
        }
        match limit.delay {
            Some(_) if count.delay_limit => LimitOutcome::Refuse(refusal(Reason::DelayLimit, hit)),
            // A log-only limit never delayed the session, so it cannot excuse it.
            Some(_) if delayed && !limit.log_only => LimitOutcome::AlreadyDelayed,
            Some(delay) if !stress => {
                let time = delay.of(violations.saturating_add(1));
                LimitOutcome::Delay(Delayed::new(refusal(Reason::Over, hit), time, delay.max_concurrent, Some(count)))
            }
            _ => LimitOutcome::Refuse(refusal(Reason::Over, hit)),
        }
    }

    /// A count as the session remembers it. A pass stays a pass, even if a reload lowers the threshold.
    fn finalize(&self, count: CountRecord, limit: &Limit, outcome: &LimitOutcome<'_>) -> CountRecord {
        let passed = match outcome {
            LimitOutcome::Pass | LimitOutcome::AlreadyDelayed => true,
            LimitOutcome::Uncounted(on_failure) => *on_failure != OnStoreFailure::Defer,
            LimitOutcome::Delay(_) | LimitOutcome::Refuse(_) => limit.log_only,
        };
        // One that was refused because of stress is not made to wait once that is over.
        let delay_limit = count.delay_limit || (limit.delay.is_some() && matches!(outcome, LimitOutcome::Refuse(_)));
        CountRecord { passed, delay_limit, ..count }
    }
}

/// The entry that refuses a client: that of its netblock before that of its name.
fn blacklisting(
    client: IpAddr,
    listed: Option<(&IpNet, &ListEntry)>,
    named: Option<ListEntry>,
) -> Option<(IpNet, Option<ListIndex>)> {
    match (listed, named) {
        (Some((netblock, ListEntry::Blacklist(reason))), _) => Some((*netblock, *reason)),
        (_, Some(ListEntry::Blacklist(reason))) => Some((IpNet::from(client), reason)),
        _ => None,
    }
}

/// The rate that applies to a client at a limit. `program` is that of the netblocks at the top level, which only the
/// limit at the top level uses. `None`: the limit does not count the client; `Some(None)`: it has no rate of its own.
pub(crate) fn rate_of<'r>(
    limit: &'r Limit,
    client: IpAddr,
    program: Option<NetblockRate<'r>>,
) -> Option<Option<NetblockRate<'r>>> {
    match limit.netblocks.lookup(client) {
        Some((_, None)) => None,
        Some((netblock, Some(rate))) => Some(Some((netblock, rate))),
        None if limit.name == limit::TOP => Some(program),
        None => Some(None),
    }
}

/// A netblock and the rate it has.
pub(crate) type NetblockRate<'r> = (&'r IpNet, &'r Rate);
