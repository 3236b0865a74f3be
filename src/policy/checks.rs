//! One request before the limits: what is known already, and what the store has to be asked.

use std::net::IpAddr;

use ipnet::IpNet;
use smallvec::SmallVec;

use super::key::{CounterKind, Key};
use super::limit::{Counts, Limit, Window};
use super::operation::{Counter, Operation};
use super::per::KeyPart;
use super::rate::{Rate, RatePer};
use super::sliding;
use crate::net::clock::Now;
use crate::policy::attribute::Attribute;
use crate::policy::record::{CountRecord, Scope, SessionRecord};
use crate::policy::request::{Request, Stage};

/// A request and the limits that have a say in it, in their order.
#[derive(Debug)]
pub struct LimitChecks<'p> {
    /// Who connected.
    pub client: IpAddr,
    /// Postfix reports stress.
    pub stress: bool,
    /// Nearly always one.
    pub checks: SmallVec<[LimitCheck<'p>; 1]>,
}

/// What one request needs of the store; nearly always one hit.
pub type Operations<'a> = SmallVec<[Operation<'a>; 1]>;

/// One limit's say.
#[derive(Debug)]
pub struct LimitCheck<'p> {
    /// The limit.
    pub limit: &'p Limit,
    /// Hits it allows this client.
    pub threshold: u32,
    /// What is counted together.
    pub part: KeyPart,
    /// What is known, or asked.
    pub state: CheckState,
}

/// What a limit knows of a request.
#[derive(Debug)]
pub enum CheckState {
    /// It was counted before.
    Cached(CountRecord),
    /// It has to be counted.
    ToCount {
        /// For how long that stands.
        scope: Scope,
        /// Hits it stands for.
        amount: u32,
    },
}

/// What the store said of one open item.
#[derive(Clone, Copy, Debug)]
pub struct CounterReading {
    /// Its hits; `None`: the store was away.
    pub hit: Option<Counter>,
    /// Seconds its ban has left; 0: there is none.
    pub banned: u32,
    /// Violations before this request.
    pub violations: u32,
}

impl<'p> LimitChecks<'p> {
    /// Before any limit was looked at.
    pub fn new(client: IpAddr, request: &Request) -> Self {
        Self { client, stress: is_stressed(request), checks: SmallVec::new() }
    }

    /// Adds what a limit has to say, if anything. `rate` is that of the client's netblock.
    pub fn consider(
        &mut self,
        limit: &'p Limit,
        rate: Option<(&IpNet, &Rate)>,
        request: &Request,
        memory: &SessionRecord,
    ) {
        let client = client_part(limit, rate, self.client);
        let usual = rate.map_or(limit.threshold, |(_, rate)| rate.threshold);
        let threshold = |stress: bool| match limit.stress_threshold {
            Some(stressed) if stress => stressed.min(usual),
            _ => usual,
        };
        let known = |count: CountRecord, part| {
            let threshold = threshold(count.stress);
            LimitCheck { limit, threshold, part, state: CheckState::Cached(count) }
        };
        // What was said of a session stands, also where a request does not say all of the key any more.
        if limit.counts == Counts::Connections
            && let Some(count) = memory.find(limit.memory_id, Scope::Session)
        {
            return self.checks.push(known(count, client));
        }
        // Without all of its key a limit has nothing to say yet.
        let Some(part) = limit.per.part(request, client) else {
            return;
        };
        let Some(scope) = scope(limit, &part, request) else {
            return;
        };
        if let Some(count) = memory.find(limit.memory_id, scope) {
            return self.checks.push(known(count, part));
        }
        let about = !is_recipient_missing(limit, request) && limit.conditions.hold(request);
        let amount = if about { amount(limit, scope, request, memory) } else { 0 };
        if amount > 0 {
            let matter = CheckState::ToCount { scope, amount };
            self.checks.push(LimitCheck { limit, threshold: threshold(self.stress), part, state: matter });
        }
    }

    /// Whether the store has to be asked.
    pub fn must_count(&self) -> bool {
        self.checks.iter().any(|item| matches!(item.state, CheckState::ToCount { .. }))
    }

    /// What the store is asked: everything at once, in the order in which [`Item::finding`] takes the answers.
    pub fn operations(&self, now: Now) -> Operations<'_> {
        let mut operations = Operations::new();
        for item in &self.checks {
            if let CheckState::ToCount { amount, .. } = item.state {
                item.ask(amount, now, &mut operations);
            }
        }
        operations
    }
}

impl LimitCheck<'_> {
    fn ask<'a>(&'a self, amount: u32, now: Now, operations: &mut Operations<'a>) {
        let limit = self.limit;
        let mut ask = |purpose, amount, exptime| {
            let key = Key { limit, part: &self.part, kind: purpose };
            operations.push(Operation { key, amount, exptime, threshold: self.threshold });
        };
        match limit.window {
            Window::Fixed => ask(CounterKind::Window, amount, limit.exptime),
            Window::Sliding => {
                let (newest, lifetime) = (sliding::slot(limit.exptime, now.unix_ms), sliding::lifetime(limit.exptime));
                ask(CounterKind::Slot(newest), amount, lifetime);
                for age in 1..=sliding::OLDER {
                    ask(CounterKind::Slot(newest.saturating_sub(age)), 0, lifetime);
                }
            }
        }
        if limit.ban.is_some() {
            ask(CounterKind::Ban, 0, limit.forget_after);
        }
        if limit.delay.is_some() {
            ask(CounterKind::Violations, 0, limit.forget_after);
        }
    }

    /// Takes the answers to this item's operations.
    pub fn reading(&self, answers: &mut impl Iterator<Item = Option<Counter>>, now: Now) -> CounterReading {
        let mut next = || answers.next().flatten();
        let hit = match self.limit.window {
            Window::Fixed => next(),
            Window::Sliding => self.slide(&mut next, now),
        };
        let read = |answer: Option<Counter>| answer.filter(|hit| hit.count > 0);
        let banned = self.limit.ban.and_then(|_| read(next())).map_or(0, |ban| ban.left.max(1));
        let violations = self.limit.delay.and_then(|_| read(next())).map_or(0, |hit| hit.count);
        CounterReading { hit, banned, violations }
    }

    fn slide(&self, next: &mut impl FnMut() -> Option<Counter>, now: Now) -> Option<Counter> {
        let newest = next();
        let slots: SmallVec<[u32; 11]> = std::iter::once(newest)
            .chain((0..sliding::OLDER).map(|_| next()))
            .map(|hit| hit.map_or(0, |hit| hit.count))
            .collect();
        let count = slots.iter().fold(0_u32, |sum, count| sum.saturating_add(*count));
        let left = sliding::left(&slots, self.threshold, self.limit.exptime, now.unix_ms);
        newest.map(|newest| Counter { count, left, added: newest.added })
    }
}

/// Whether Postfix says that it has no more processes to spare.
pub(crate) fn is_stressed(request: &Request) -> bool {
    !request.value(Attribute::Stress).is_empty()
}

/// The client's part of a key: the client alone, or with others of its netblock.
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

/// For how long a count made for this request stands; `None`: the request is not what the limit counts.
fn scope(limit: &Limit, part: &KeyPart, request: &Request) -> Option<Scope> {
    match limit.counts {
        Counts::Requests => Some(Scope::Request),
        Counts::Connections => Some(Scope::Session),
        _ if request.instance.is_none() => None,
        Counts::Messages if limit.per.is_of_recipient() => Some(Scope::recipient(part.to_string().as_bytes())),
        Counts::Messages => Some(Scope::Message),
        Counts::Bytes => (request.state == Stage::EndOfMessage).then_some(Scope::Message),
        Counts::Recipients => match request.state {
            Stage::Rcpt => Some(Scope::recipient(&request.value(Attribute::Recipient).to_ascii_lowercase())),
            // Recipients that nobody asked us about one by one.
            Stage::Data | Stage::EndOfMessage if !limit.per.is_of_recipient() => Some(Scope::Message),
            _ => None,
        },
    }
}

/// Whether the limit spares some recipients, and the request does not say which it is about. Postfix names
/// them at RCPT, and at DATA only where a message has one.
fn is_recipient_missing(limit: &Limit, request: &Request) -> bool {
    matches!(limit.counts, Counts::Connections | Counts::Messages | Counts::Recipients)
        && limit.conditions.spare_some_of(Attribute::Recipient)
        && request.value(Attribute::Recipient).is_empty()
}

/// Hits that this request stands for.
fn amount(limit: &Limit, scope: Scope, request: &Request, memory: &SessionRecord) -> u32 {
    let number = |attribute| {
        let digits = str::from_utf8(request.value(attribute)).ok();
        digits.and_then(|digits| digits.parse::<u64>().ok()).unwrap_or(0)
    };
    let amount = match (limit.counts, scope) {
        (Counts::Bytes, _) => number(Attribute::Size).div_ceil(1024).max(1),
        (Counts::Recipients, Scope::Message) => {
            number(Attribute::RecipientCount).saturating_sub(memory.recipients(limit.memory_id).into())
        }
        _ => 1,
    };
    // Far below where counters end, so that no single request makes one overflow.
    u32::try_from(amount).unwrap_or(u32::MAX).min(MOST_AT_ONCE)
}

/// A request counts at most this many hits: a message of 1 TiB.
const MOST_AT_ONCE: u32 = 1 << 30;
