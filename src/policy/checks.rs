//! The limits that apply to a request: what is counted already, and what the store has to be asked.

use std::collections::HashSet;
use std::net::IpAddr;

use ipnet::IpNet;
use smallvec::SmallVec;

use super::attribute::Attribute;
use super::door::Door;
use super::key::{CounterKind, CounterValue, Key, KeyPart, Operation};
use super::limit::{CountKind, CounterLimitId, Limit, Rate, RatePer, Window};
use super::lists::ListEntry;
use super::overrides::ActiveOverride;
use super::record::{CountRecord, Scope, SessionRecord};
use super::request::{LoginOutcome, Request, Stage};
use super::thresholds::UNLIMITED;
use super::{NetblockRate, sliding_window};
use crate::net::clock::Now;

/// A request and the limits that apply to it, in the order of the file.
#[derive(Debug)]
pub struct LimitChecks<'p> {
    pub client: IpAddr,
    pub door: Door,
    /// It is on the whitelist, and these are the limits that count it nevertheless.
    pub whitelisted: bool,
    /// The entry of its name in the lists.
    pub named: Option<ListEntry>,
    /// An administrator's override that holds for it and is not enforced.
    pub active: Option<ActiveOverride>,
    /// Postfix reports stress.
    pub stress: bool,
    /// How many limits are looked at; 0: not known.
    pub limits: usize,
    /// Nearly always one.
    pub checks: SmallVec<[LimitCheck<'p>; 1]>,
}

/// What one request needs of the store; nearly always one hit.
pub type Operations<'a> = SmallVec<[Operation<'a>; 1]>;

/// The counters of a request as the store has answered, found by limit and kind.
#[derive(Clone, Debug, Default)]
pub struct Readings(SmallVec<[(CounterLimitId, CounterKind, Option<CounterValue>); 1]>);

impl Readings {
    /// What the store has answered to these operations, in their order.
    pub fn new(operations: &Operations<'_>, answers: impl IntoIterator<Item = Option<CounterValue>>) -> Self {
        let mut readings = SmallVec::with_capacity(operations.len());
        for (operation, answer) in operations.iter().zip(answers) {
            readings.push((operation.key.limit.id, operation.key.kind, answer));
        }
        Self(readings)
    }

    /// Counts each operation with `count`, which does not wait.
    pub fn count<'a>(
        checks: &'a LimitChecks<'_>,
        now: Now,
        mut count: impl FnMut(Operation<'a>) -> Option<CounterValue>,
    ) -> Self {
        let mut readings = SmallVec::with_capacity(checks.checks.len());
        checks.each_operation(now, |operation| {
            readings.push((operation.key.limit.id, operation.key.kind, count(operation)));
        });
        Self(readings)
    }

    /// A counter of a check whose counters begin at `begin`; `None`: the store was down, or was not asked.
    fn find(&self, begin: usize, check: &LimitCheck<'_>, kind: CounterKind) -> Option<CounterValue> {
        let wanted = (check.limit.id, kind);
        let of_check = &self.0[begin.min(self.0.len())..];
        of_check.iter().find(|(id, its_kind, _)| (*id, *its_kind) == wanted).and_then(|(.., counter)| *counter)
    }

    /// Where the counters of a check begin, which matters where its limit has several.
    fn begin(&self, check: &LimitCheck<'_>) -> usize {
        if check.nth == 0 {
            return 0;
        }
        let first = self.0.iter().position(|(id, ..)| *id == check.limit.id).unwrap_or(0);
        (first + usize::from(check.nth) * check.operations()).min(self.0.len())
    }
}

/// One limit that applies to a request.
#[derive(Debug)]
pub struct LimitCheck<'p> {
    pub limit: &'p Limit,
    /// Hits it allows this client.
    pub threshold: u32,
    pub part: KeyPart,
    /// How many checks of the same limit come before it and are counted: those of a message's other recipients.
    pub nth: u16,
    pub state: CheckState,
}

/// Whether a check has its count.
#[derive(Debug)]
pub enum CheckState {
    /// The session was counted before.
    Cached(CountRecord),
    /// It has to be counted.
    ToCount {
        /// For how long that stands.
        scope: Scope,
        /// Hits it stands for.
        amount: u32,
    },
    /// The limit is at another door; whether it has banned the client has to be read.
    ToReadBan {
        /// For how long that stands.
        scope: Scope,
    },
}

/// The counters of one check, as the store returned them.
#[derive(Clone, Copy, Debug)]
pub struct CounterReading {
    /// Hits; `None`: the store was down.
    pub hit: Option<CounterValue>,
    /// Seconds its ban has left; 0: there is none.
    pub banned: u32,
    /// Violations before this request.
    pub violations: u32,
}

impl<'p> LimitChecks<'p> {
    /// Before any limit was looked at.
    pub fn new(client: IpAddr, request: &Request, whitelisted: bool) -> Self {
        let stress = is_stressed(request);
        let (door, named, active, checks) = (request.door, None, None, SmallVec::new());
        Self { client, door, whitelisted, named, active, stress, limits: 0, checks }
    }

    /// Adds the check of a limit, if the limit applies. `rate` calls `rate_of`.
    #[inline]
    pub fn consider(
        &mut self,
        limit: &'p Limit,
        rate: impl FnOnce() -> Option<Option<NetblockRate<'p>>>,
        request: &Request,
        record: &SessionRecord,
        now: Now,
    ) {
        // Most limits that do not count a request end here, so it comes first.
        let known_before = record.knows(limit.memory_id);
        if known_before || is_about(limit, request) {
            self.consider_request(limit, rate, request, record, known_before, now);
        }
    }

    /// The same of a request that the limit is about, unless the session was counted before.
    fn consider_request(
        &mut self,
        limit: &'p Limit,
        rate: impl FnOnce() -> Option<Option<NetblockRate<'p>>>,
        request: &Request,
        record: &SessionRecord,
        known_before: bool,
        now: Now,
    ) {
        let Some(rate) = rate() else { return };
        let client = client_part(limit, rate, self.client);
        let usual = rate.map_or(limit.threshold, |(_, rate)| rate.threshold);
        let threshold = |own: Option<u32>, stress: bool| {
            let usual = own.unwrap_or(usual);
            limit.stress_threshold.filter(|_| stress).map_or(usual, |stressed| stressed.min(usual))
        };
        let known = |count: CountRecord, part, own| {
            let threshold = threshold(own, count.stress);
            LimitCheck { limit, threshold, part, nth: 0, state: CheckState::Cached(count) }
        };
        // The count of a session stands, even if a request does not have all of the key any more.
        if limit.counts == CountKind::Connections
            && let Some(count) = record.find(limit.memory_id, Scope::Session)
        {
            let counts_again = record.counts_again(&count, limit.exptime, now.monotonic)
                && limit.part(request, client.clone()).is_some()
                && is_about(limit, request);
            if !counts_again {
                return match counted_own(limit, &count, client.clone(), request) {
                    Some(UNLIMITED) => {}
                    own => self.push(known(count, client, own)),
                };
            }
        }
        // Without all of its key a limit does not apply yet.
        let Some(part) = limit.part(request, client) else {
            return;
        };
        let Some(scope) = scope(limit, &part, request) else {
            return;
        };
        let own = limit.thresholds.as_ref().and_then(|own| own.of_request(&part, request, &limit.spellings));
        let own = own.map(|own| own.threshold);
        if own == Some(UNLIMITED) {
            return;
        }
        if scope != Scope::Session
            && let Some(count) = record.find(limit.memory_id, scope)
        {
            return self.push(known(count, part, own));
        }
        let amount = if !known_before || is_about(limit, request) { amount(limit, scope, request, record) } else { 0 };
        if amount > 0 {
            let state = CheckState::ToCount { scope, amount };
            self.push(LimitCheck { limit, threshold: threshold(own, self.stress), part, nth: 0, state });
        }
    }

    /// Adds the checks of a limit for a message whose recipients the request does not name. The recipients that the
    /// session has let pass and that meet the conditions make the keys, and each key has one check.
    pub fn consider_recipients(
        &mut self,
        limit: &'p Limit,
        rate: impl FnOnce() -> Option<Option<NetblockRate<'p>>>,
        request: &Request,
        record: &SessionRecord,
        now: Now,
    ) {
        let Some(rate) = rate() else { return };
        let recipients: Vec<Box<[u8]>> =
            record.message().map(|message| message.accepted().cloned().collect()).unwrap_or_default();
        let mut seen = HashSet::new();
        let mut counted = 0;
        for recipient in recipients {
            let before = self.checks.len();
            self.consider(limit, || Some(rate), &request.about(&recipient), record, now);
            let Some(check) = self.checks.get_mut(before) else { continue };
            if !seen.insert(Scope::recipient(check.part.to_string().as_bytes())) {
                self.checks.truncate(before);
            } else if matches!(check.state, CheckState::ToCount { .. }) {
                check.nth = counted;
                counted += 1;
            }
        }
    }

    /// Adds the check of another door's limit whose bans hold here. The ban is read once for a session, and again in a
    /// session that lasts long.
    pub fn consider_ban(&mut self, limit: &'p Limit, rate: Option<(&IpNet, &Rate)>, record: &SessionRecord, now: Now) {
        let part = client_part(limit, rate, self.client);
        let threshold = rate.map_or(limit.threshold, |(_, rate)| rate.threshold);
        let known = record.find(limit.memory_id, Scope::Session);
        let state = match known.filter(|count| !record.counts_again(count, 0, now.monotonic)) {
            Some(count) => CheckState::Cached(count),
            None => CheckState::ToReadBan { scope: Scope::Session },
        };
        self.push(LimitCheck { limit, threshold, part, nth: 0, state });
    }

    fn push(&mut self, check: LimitCheck<'p>) {
        // Most requests have one check, which takes no memory, however many limits there are.
        if self.checks.len() == 1 {
            self.checks.reserve(self.limits);
        }
        self.checks.push(check);
    }

    /// Whether the store has to be asked.
    pub fn must_count(&self) -> bool {
        self.checks.iter().any(|item| !matches!(item.state, CheckState::Cached(_)))
    }

    /// What the store is asked, all of it at once.
    pub fn operations(&self, now: Now) -> Operations<'_> {
        let mut operations = Operations::with_capacity(self.checks.len());
        self.each_operation(now, |operation| operations.push(operation));
        operations
    }

    fn each_operation<'a>(&'a self, now: Now, mut each: impl FnMut(Operation<'a>)) {
        for check in &self.checks {
            match check.state {
                CheckState::ToCount { amount, .. } => check.ask(amount, now, &mut each),
                CheckState::ToReadBan { .. } => each(check.read(CounterKind::ActiveBan)),
                CheckState::Cached(_) => {}
            }
        }
    }
}

impl LimitCheck<'_> {
    fn ask<'a>(&'a self, amount: u32, now: Now, each: &mut impl FnMut(Operation<'a>)) {
        let limit = self.limit;
        let mut ask = |kind, amount, exptime| {
            let key = Key { limit, part: &self.part, kind };
            each(Operation { key, amount, exptime, threshold: self.threshold });
        };
        match &limit.window {
            Window::Fixed => ask(CounterKind::FixedWindow, amount, limit.exptime),
            Window::Exact => ask(CounterKind::ExactWindow, amount, limit.exptime),
            Window::Calendar(calendar) => {
                let window = calendar.window(now);
                ask(CounterKind::Calendar(window), amount, window.lifetime(now));
            }
            Window::Sliding => {
                let lifetime = sliding_window::lifetime(limit.exptime);
                let [newest, older @ ..] = sliding_window::slots(limit.exptime, now.unix_ms);
                ask(CounterKind::Slot(newest), amount, lifetime);
                older.into_iter().for_each(|slot| ask(CounterKind::Slot(slot), 0, lifetime));
            }
        }
        if limit.ban.is_some() {
            each(self.read(CounterKind::ActiveBan));
        }
        if limit.delay.is_some() {
            each(self.read(CounterKind::Violations));
        }
    }

    /// How many operations it takes to count it.
    fn operations(&self) -> usize {
        let window = match self.limit.window {
            Window::Fixed | Window::Exact | Window::Calendar(_) => 1,
            Window::Sliding => sliding_window::OLDER as usize + 1,
        };
        window + usize::from(self.limit.ban.is_some()) + usize::from(self.limit.delay.is_some())
    }

    /// Reads a counter of what went over.
    fn read(&self, kind: CounterKind) -> Operation<'_> {
        let key = Key { limit: self.limit, part: &self.part, kind };
        Operation { key, amount: 0, exptime: self.limit.forget_after, threshold: self.threshold }
    }

    /// How many answers of the store are about it.
    pub fn answers(&self) -> usize {
        match self.state {
            CheckState::ToCount { .. } => self.operations(),
            CheckState::ToReadBan { .. } => 1,
            CheckState::Cached(_) => 0,
        }
    }

    /// The counters of this check.
    pub fn reading(&self, readings: &Readings, now: Now) -> CounterReading {
        self.reading_at(readings, readings.begin(self), now)
    }

    /// The same with `begin`, the number of readings of the checks before it, which is not searched for then.
    pub fn reading_at(&self, readings: &Readings, begin: usize, now: Now) -> CounterReading {
        let limit = self.limit;
        let hit = match &limit.window {
            _ if matches!(self.state, CheckState::ToReadBan { .. }) => {
                readings.find(begin, self, CounterKind::ActiveBan).map(|_| CounterValue { count: 0, left: 0, added: 0 })
            }
            Window::Fixed => readings.find(begin, self, CounterKind::FixedWindow),
            Window::Exact => readings.find(begin, self, CounterKind::ExactWindow),
            Window::Sliding => self.slide(readings, begin, now),
            Window::Calendar(calendar) => {
                let window = calendar.window(now);
                let counter = readings.find(begin, self, CounterKind::Calendar(window));
                counter.map(|counter| CounterValue { left: window.left(now), ..counter })
            }
        };
        let read = |kind| readings.find(begin, self, kind).filter(|counter| counter.count > 0);
        let banned = limit.ban.and_then(|_| read(CounterKind::ActiveBan)).map_or(0, |ban| ban.left.max(1));
        let violations = limit.delay.and_then(|_| read(CounterKind::Violations)).map_or(0, |counter| counter.count);
        CounterReading { hit, banned, violations }
    }

    fn slide(&self, readings: &Readings, begin: usize, now: Now) -> Option<CounterValue> {
        let limit = self.limit;
        let counters = sliding_window::slots(limit.exptime, now.unix_ms)
            .map(|slot| readings.find(begin, self, CounterKind::Slot(slot)));
        let counts = counters.map(|counter| counter.map_or(0, |counter| counter.count));
        let count = counts.iter().fold(0_u32, |sum, count| sum.saturating_add(*count));
        let left = sliding_window::left(&counts, self.threshold, limit.exptime, now.unix_ms);
        counters[0].map(|newest| CounterValue { count, left, added: newest.added })
    }
}

/// Whether Postfix says that it has no more processes to spare.
pub(crate) fn is_stressed(request: &Request) -> bool {
    !request.value(Attribute::Stress).is_empty()
}

/// The client's part of a key: the client alone, or with others of its netblock.
#[inline]
pub(crate) fn client_part(limit: &Limit, rate: Option<(&IpNet, &Rate)>, client: IpAddr) -> KeyPart {
    let (v4, v6) = (limit.ipv4_prefix_length, limit.ipv6_prefix_length);
    match rate {
        None => KeyPart::client(client, v4, v6),
        Some((netblock, rate)) => match &rate.per {
            // Clients of one masked address may be in different netblocks.
            RatePer::Ip => KeyPart::client(client, v4.max(netblock.prefix_len()), v6.max(netblock.prefix_len())),
            RatePer::Netblock => KeyPart::client(netblock.addr(), netblock.prefix_len(), netblock.prefix_len()),
            RatePer::Group(name) => KeyPart::group(name),
        },
    }
}

/// The own threshold of the key that a session was counted under. A request may lack that key: then a session that was
/// refused gets a threshold that its count exceeds, so that it stays refused.
fn counted_own(limit: &Limit, count: &CountRecord, client: KeyPart, request: &Request) -> Option<u32> {
    let thresholds = limit.thresholds.as_ref()?;
    let part = limit.part(request, client);
    match part.filter(|part| count.passed || count.key == CountRecord::key_hash(part)) {
        Some(part) => thresholds.of_request(&part, request, &limit.spellings).map(|own| own.threshold),
        None => count.hit.map(|hit| hit.count.saturating_sub(1)),
    }
}

/// For how long a count made for this request stands; `None`: the request is not what the limit counts.
fn scope(limit: &Limit, part: &KeyPart, request: &Request) -> Option<Scope> {
    match limit.counts {
        CountKind::Requests | CountKind::Logins | CountKind::FailedLogins | CountKind::FailedPasswords => {
            Some(Scope::Request)
        }
        CountKind::Connections => Some(Scope::Session),
        _ if request.instance.is_none() => None,
        CountKind::Bytes if request.state != Stage::EndOfMessage => None,
        CountKind::Messages | CountKind::Bytes | CountKind::Clients => match limit.per.is_of_recipient() {
            true => Some(Scope::recipient(part.to_string().as_bytes())),
            false => Some(Scope::Message),
        },
        CountKind::Recipients => match request.state {
            Stage::Rcpt => Some(Scope::recipient(&request.value(Attribute::Recipient).to_ascii_lowercase())),
            // The recipients that no request at RCPT was about.
            Stage::Data | Stage::EndOfMessage if !limit.per.is_of_recipient() => Some(Scope::Message),
            _ => None,
        },
    }
}

/// Whether a request meets the conditions of a limit, and has the recipient if `unless` needs it.
#[inline]
fn is_about(limit: &Limit, request: &Request) -> bool {
    // Most limits have no conditions.
    limit.conditions.is_empty() || limit.conditions.hold(request) && !is_recipient_missing(limit, request)
}

/// Whether `unless` excludes some recipients, and the request does not say which one it is about. Postfix names
/// them at RCPT, and at DATA only where a message has one.
fn is_recipient_missing(limit: &Limit, request: &Request) -> bool {
    matches!(limit.counts, CountKind::Connections | CountKind::Messages | CountKind::Recipients | CountKind::Clients)
        && limit.conditions.exclude_some_of(Attribute::Recipient)
        && request.value(Attribute::Recipient).is_empty()
}

/// Hits that this request stands for.
fn amount(limit: &Limit, scope: Scope, request: &Request, record: &SessionRecord) -> u32 {
    let number = |attribute| {
        let digits = str::from_utf8(request.value(attribute)).ok();
        digits.and_then(|digits| digits.parse::<u64>().ok()).unwrap_or(0)
    };
    let amount = match (limit.counts, scope) {
        (CountKind::Bytes, _) => number(Attribute::Size).div_ceil(1024).max(1),
        (CountKind::FailedLogins | CountKind::FailedPasswords, _) => {
            u64::from(request.login != LoginOutcome::Succeeded)
        }
        (CountKind::Recipients, Scope::Message) => {
            number(Attribute::RecipientCount).saturating_sub(record.covered(limit.memory_id).into())
        }
        _ => 1,
    };
    // Far below where counters end, so that no single request makes one overflow.
    u32::try_from(amount).unwrap_or(u32::MAX).min(MOST_AT_ONCE)
}

/// A request counts at most this many hits: a message of 1 TiB.
const MOST_AT_ONCE: u32 = 1 << 30;
