//! The decision: what to count, and what the counts mean.
//!
//! Pure: nothing here reads a clock, a socket or a file. `plan` returns either a
//! finished decision or the keys to hit, the store hits them in one round trip,
//! and `judge` makes the decision from what came back. Both only read what the
//! session remembers; `Decision::settle` writes to it, once.
//!
//! The order of judgement: in `plan`, can the client be counted, an override that
//! allows, or bans unless the session has passed it with this message; whitelist
//! (unless a limit counts its clients too), then the blacklist, unless passed likewise; then the limits of the door in file order and the bans of other
//! doors. In `judge`, `outcome` looks for each limit at its ban before its
//! count, and `Verdict::weigh` picks among the limits: a ban, then the first
//! refusal, then the longest delay, else pass.

pub mod action;
pub mod attribute;
pub mod calendar;
pub mod checks;
pub mod client_names;
pub mod conditions;
pub mod decision;
pub mod door;
pub mod key;
pub mod limit;
pub mod lists;
pub mod message;
pub mod moments;
pub mod override_target;
pub mod overrides;
pub mod record;
pub mod record_snapshot;
pub mod request;
pub mod settings;
pub mod spelling;
pub mod template;
pub mod thresholds;
pub mod value_list;
pub mod window;

use std::collections::HashMap;
use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::net::clock::Now;
use crate::policy::request::{Request, Stage};

pub use checks::{LimitChecks, Readings};
pub use decision::{Decision, Delayed, Effect, Pass, Reason, Refund, Refusal, Verdict};
pub use door::{Door, DoorSet};
pub use key::{Counter, CounterKind, Key, Operation};
pub use limit::Limit;
pub use overrides::Overrides;
pub use record::{BlacklistState, CountRecord, Scope, SessionRecord};
pub use settings::{OnStoreFailure, PolicySettings};

use crate::net::embedded::EmbeddedIpv4;
use crate::net::netblock_table::NetblockTable;
use crate::net::origin::{AddressOrigin, OriginDatabases};
use action::Action;
use attribute::Attribute;
use checks::{CheckState, CounterReading, LimitOutcome};
use client_names::{ClientName, ClientNames};
use key::KeyPart;
use limit::{CountKind, ExptimeChange, LimitId, Rate, Window};
use lists::{ListEntry, ListIndex};
use overrides::{ActiveOverride, OverrideKind};
use spelling::Spellings;

/// What stands in place of a limit's name where the blacklist refuses.
pub const BLACKLIST: &str = "blacklist";

/// The rules in force.
#[derive(Debug)]
pub struct Policy {
    embedded: EmbeddedIpv4,
    spellings: Spellings,
    pub(crate) netblocks: NetblockTable<ListEntry>,
    pub(crate) names: ClientNames,
    pub(crate) reasons: Vec<Box<str>>,
    pub(crate) rates: Vec<Rate>,
    origins: OriginDatabases,
    /// Those of them that some limit asks.
    asked_origins: OriginDatabases,
    blacklist: Blacklist,
    /// Those of one door stand together, in the order of the file.
    pub(crate) limits: Vec<Limit>,
    doors: [DoorLimits; Door::COUNT],
    /// Until when windows may be open that have another length than their limit, on the monotonic clock.
    windows_changed_until: u64,
    /// Some limit counts different clients.
    counts_clients: bool,
    /// Limits that have to know the recipients of a message when Postfix does not name them.
    need_recipients: Vec<LimitId>,
    /// Every limit there ever was, by its name, and by that with what it counts: so counts keep their meaning over reloads.
    ids: HashMap<String, LimitId>,
    on_store_failure: OnStoreFailure,
    log_only: bool,
    /// What administrators said meanwhile.
    overrides: Overrides,
}

/// The limits that have a say at a door, by their places.
#[derive(Clone, Debug, Default)]
struct DoorLimits {
    /// Those that count there.
    own: Range<usize>,
    /// Some of them count clients on the whitelist too.
    count_whitelisted: bool,
    /// Those of other doors whose bans hold there.
    banning: Vec<usize>,
}

/// What is done about clients on the blacklist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blacklist {
    /// What they are told.
    pub action: Action,
    /// What is answered where a key is banned that is no address.
    pub key_action: Action,
    /// They have to wait this long, and pass then.
    pub delay: Option<Duration>,
    /// Those of one client that may wait at once; the next is refused.
    pub max_concurrent: u32,
}

/// What is to be done about a request.
#[derive(Debug)]
pub enum Plan<'p> {
    /// Nothing: it is decided.
    Done(Decision<'p>),
    /// Have the store do the operations of these, then `judge`.
    Count(LimitChecks<'p>),
}

impl Policy {
    /// The rules a configuration asks for. `before` are those it takes the place of.
    pub fn new(settings: &PolicySettings, before: Option<&Self>) -> Self {
        let mut ids = before.map(|before| before.ids.clone()).unwrap_or_default();
        let mut limits = settings.limits.clone();
        limits.sort_by_key(|limit| limit.door as usize);
        for limit in &mut limits {
            let Limit { name, counts, window, log_only, door, .. } = &*limit;
            // Kept in the state file. A limit that counts something else, or otherwise, has other counters; but a
            // session that passed it stays passed.
            let door = if *door == Door::Web { " web" } else { "" };
            let calendar = match window {
                Window::Calendar(calendar) => format!(" {} of {}", calendar.period().word(), calendar.zone_name()),
                _ => String::new(),
            };
            let counted = format!("{name} {} {}{calendar} {log_only}{door}", counts.word(), window.word());
            (limit.memory_id, limit.id) = (id(&mut ids, name.clone()), id(&mut ids, counted));
        }
        let embedded = &settings.embedded;
        let listed =
            settings.lists.netblocks.iter().map(|(netblock, entry)| (embedded.fold_netblock(*netblock), *entry));
        Self {
            netblocks: listed.collect(),
            embedded: embedded.clone(),
            spellings: settings.spellings.clone(),
            names: ClientNames::new(settings.lists.names.clone()),
            reasons: settings.lists.reasons.clone(),
            rates: settings.lists.rates.clone(),
            origins: settings.origins.clone(),
            asked_origins: OriginDatabases {
                asn: settings.origins.asn.clone().filter(|_| limits.iter().any(|limit| limit.is_about(Attribute::Asn))),
                country: settings
                    .origins
                    .country
                    .clone()
                    .filter(|_| limits.iter().any(|limit| limit.is_about(Attribute::Country))),
            },
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

    /// Takes the place of other rules: notes which windows may be open that have another length, and has what
    /// administrators said hold in these spellings.
    pub fn succeed(&mut self, before: &Self, now: Now) {
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

    /// Whether windows may be open that have another length than their limit.
    pub fn has_changed_windows(&self, now: Now) -> bool {
        now.monotonic < self.windows_changed_until
    }

    /// Whether some limit counts different clients.
    pub fn counts_clients(&self) -> bool {
        self.counts_clients
    }

    /// Whether sessions have to remember the recipients of a message.
    pub fn remembers_recipients(&self) -> bool {
        !self.need_recipients.is_empty()
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

    /// What databases know of a client.
    pub fn origin(&self, client: IpAddr) -> AddressOrigin {
        self.origins.lookup(client)
    }

    /// The databases.
    pub fn origins(&self) -> &OriginDatabases {
        &self.origins
    }

    /// A request with where its client is from. `None`: no limit asks for that.
    fn with_origin(&self, request: &Request, client: IpAddr) -> Option<Request> {
        if self.asked_origins.is_empty() {
            return None;
        }
        let AddressOrigin { asn, country } = self.asked_origins.lookup(client);
        let mut digits = itoa::Buffer::new();
        let asn = asn.map(|asn| (Attribute::Asn, digits.format(asn).as_bytes()));
        let country = country.as_ref().map(|country| (Attribute::Country, country.as_str().as_bytes()));
        Some(request.with(asn.into_iter().chain(country)))
    }

    /// What the lists say of the name of a client, which Postfix has verified.
    pub fn listed_name(&self, request: &Request) -> Option<(&ClientName, ListEntry)> {
        if self.names.is_empty() {
            return None;
        }
        self.names.lookup(request.value(Attribute::ClientName))
    }

    /// A reason noted in the lists.
    pub fn reason(&self, place: ListIndex) -> &str {
        &self.reasons[place.index()]
    }

    /// What administrators said, which outlives reloads.
    pub fn overrides(&self) -> &Overrides {
        &self.overrides
    }

    /// What every limit is known by that there is or was, with its id. Two that have the same count the same.
    pub fn identities(&self) -> impl Iterator<Item = (&str, LimitId)> {
        self.ids.iter().map(|(identity, id)| (identity.as_str(), *id))
    }

    /// The id of the limit that is known by this.
    pub fn id(&self, identity: &str) -> Option<LimitId> {
        self.ids.get(identity).copied()
    }

    /// What a request needs, given what its session remembers.
    pub fn plan(&self, request: &Request, record: &SessionRecord, now: Now) -> Plan<'_> {
        let Some(client) = self.client(request) else {
            return Plan::Done(Decision::new(Verdict::Pass(Pass::UnknownClient)));
        };
        let listed = self.netblocks.lookup(client);
        let named = self.listed_name(request).map(|(_, entry)| entry);
        let whitelisted = matches!(listed, Some((_, ListEntry::Whitelist))) || named == Some(ListEntry::Whitelist);
        let said = self.overrides.lookup(client, request, whitelisted, now);
        if let Some(said) = &said
            && let Some(decision) = self.overridden(client, request.door, said, record, now)
        {
            return Plan::Done(decision);
        }
        if whitelisted && !self.doors[request.door as usize].count_whitelisted {
            return Plan::Done(self.exempted(Pass::Whitelisted, record, now));
        }
        let is_checked = matches!(record.blacklist, BlacklistState::Passed | BlacklistState::Delayed);
        let refused = if whitelisted { None } else { blacklisting(client, listed, named) };
        if let Some((netblock, reason)) = refused
            && !is_checked
            && !self.log_only
        {
            let verdict = match self.blacklisted(client, request.door, &netblock, reason) {
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
        let news = said.is_some() || refused.is_some() && !whitelisted;
        let mut checks = LimitChecks { named, said, ..LimitChecks::new(client, request, whitelisted) };
        let limits = self.limits_at(request.door);
        checks.checks.reserve(limits.len());
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
        let news = self.log_only && news && is_told_of(checks.said.as_ref(), record);
        if checks.must_count() || news { Plan::Count(checks) } else { Plan::Done(self.repeat(checks, record, now)) }
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
        if self.log_only && is_told_of(checks.said.as_ref(), record) {
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
                    finalized.key = CountRecord::key(&check.part);
                }
                decision.add_effects(check, &count, &outcome, record, now);
            }
            decision.counts.push(finalized);
            // Nearly all pass, which weighs nothing.
            if !check.limit.log_only && !matches!(outcome, LimitOutcome::Pass | LimitOutcome::AlreadyDelayed) {
                decision.verdict.weigh(outcome.verdict());
            }
        }
        // That a client on the whitelist passes is told once for a session, whatever else is counted.
        decision.news = !matches!(decision.verdict, Verdict::Pass(Pass::Whitelisted));
        decision
    }

    /// The decision about a client that is on the blacklist. If its session has passed before, that is news.
    fn on_blacklist<'p>(&'p self, verdict: Verdict<'p>, record: &SessionRecord) -> Decision<'p> {
        let mut decision = Decision::new(verdict);
        if record.blacklist == BlacklistState::PassedBefore {
            decision.news = true;
            decision.blacklist = Some(BlacklistState::Unchecked);
        }
        decision
    }

    /// A session of an exempt client passes the limits that it is exempt from without a count, and stays passed.
    fn exempt(&self, decision: &mut Decision<'_>, pass: Pass, record: &SessionRecord, now: Now) {
        decision.verdict = Verdict::Pass(pass);
        decision.blacklist = Some(BlacklistState::Passed);
        let exempts = |limit: &&Limit| pass != Pass::Whitelisted || limit.whitelist_exempts;
        for limit in self.limits.iter().filter(exempts).filter(|limit| limit.counts == CountKind::Connections) {
            let count = record.find(limit.memory_id, Scope::Session);
            let count = count.unwrap_or(CountRecord::new(limit.memory_id, Scope::Session, None, 0, false));
            if !count.passed {
                decision.counts.push(CountRecord {
                    passed: true,
                    at: now.monotonic,
                    messages: record.messages,
                    ..count
                });
            }
        }
    }

    /// The decision about a client that passes all limits that it is exempt from.
    fn exempted(&self, pass: Pass, record: &SessionRecord, now: Now) -> Decision<'_> {
        let mut decision = Decision::new(Verdict::Pass(pass));
        self.exempt(&mut decision, pass, record, now);
        decision
    }

    /// The decision about a request of which everything is counted: that of before, unless a reload has changed the
    /// rules.
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
                decision.verdict.weigh(outcome.verdict());
            }
        }
        decision
    }

    /// What an administrator's word makes of a request; `None`: nothing, here.
    fn overridden(
        &self,
        client: IpAddr,
        door: Door,
        said: &ActiveOverride,
        record: &SessionRecord,
        now: Now,
    ) -> Option<Decision<'_>> {
        let target = &said.word.target;
        let (is_key, is_of_recipient) = (target.netblock().is_none(), target.is_of_recipient());
        if said.word.kind == OverrideKind::Allow {
            if !is_key {
                return Some(self.exempted(Pass::Allowed, record, now));
            }
            // The session may go on with what it is not said of.
            let mut decision = Decision::new(Verdict::Pass(Pass::Allowed));
            decision.blacklist = (!is_of_recipient).then_some(BlacklistState::Passed);
            return Some(decision);
        }
        let is_checked = match record.blacklist {
            BlacklistState::Passed => !is_of_recipient,
            BlacklistState::Delayed => !is_key,
            _ => false,
        };
        if self.log_only || is_checked {
            return None;
        }
        let verdict = Verdict::Refuse(self.banned(client, door, said));
        if !is_of_recipient {
            return Some(self.on_blacklist(verdict, record));
        }
        let mut decision = Decision::new(verdict);
        decision.news = true;
        Some(decision)
    }

    /// What an administrator's ban or the blacklist has to say where nothing is enforced.
    fn would_refuse(&self, checks: &LimitChecks<'_>) -> Option<Refusal<'_>> {
        let (client, door) = (checks.client, checks.door);
        if let Some(said) = &checks.said {
            return Some(self.banned(client, door, said));
        }
        if checks.whitelisted {
            return None;
        }
        let (netblock, reason) = blacklisting(client, self.netblocks.lookup(client), checks.named)?;
        match self.blacklisted(client, door, &netblock, reason) {
            Verdict::Refuse(refusal) | Verdict::Delay(Delayed { refusal, .. }) => Some(refusal),
            Verdict::Pass(_) | Verdict::Defer => None,
        }
    }

    /// An administrator's ban, which is an entry of the blacklist for a while.
    fn banned(&self, client: IpAddr, door: Door, said: &ActiveOverride) -> Refusal<'_> {
        Refusal {
            client,
            door,
            reason: Reason::Banned,
            limit: BLACKLIST,
            key: said.word.target.key(),
            count: 0,
            threshold: 0,
            left: said.left,
            action: match said.word.target.netblock() {
                Some(_) => &self.blacklist.action,
                None => &self.blacklist.key_action,
            },
            said: Some(Arc::clone(&said.word)),
        }
    }

    fn blacklisted(&self, client: IpAddr, door: Door, netblock: &IpNet, reason: Option<ListIndex>) -> Verdict<'_> {
        let refusal = Refusal {
            client,
            door,
            reason: Reason::Blacklisted(reason.map(|place| &*self.reasons[place.index()])),
            limit: BLACKLIST,
            key: KeyPart::Client { address: netblock.addr(), prefix_length: netblock.prefix_len() },
            count: 0,
            threshold: 0,
            left: 0,
            action: &self.blacklist.action,
            said: None,
        };
        match self.blacklist.delay {
            None => Verdict::Refuse(refusal),
            Some(time) => Verdict::Delay(Delayed::new(refusal, time, self.blacklist.max_concurrent, None)),
        }
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

/// Whether a refusal that is not enforced is told of: once for a session, where a key is banned with each message.
fn is_told_of(said: Option<&ActiveOverride>, record: &SessionRecord) -> bool {
    match record.blacklist {
        BlacklistState::Unchecked => true,
        BlacklistState::Passed => false,
        _ => said.is_some_and(|said| said.word.target.netblock().is_none()),
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

/// The rate of a client's netblock at a limit, which has `program`'s where it is the one at the top level; `None`: the
/// limit does not count it.
fn rate_of<'r>(
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

/// The number of a name.
fn id(ids: &mut HashMap<String, LimitId>, name: String) -> LimitId {
    // There may be 65,536 in the life of a process; who has more shares the last one.
    let next = LimitId::try_from(ids.len()).unwrap_or(LimitId::MAX).min(limit::MAX_ID);
    *ids.entry(name).or_insert(next)
}
