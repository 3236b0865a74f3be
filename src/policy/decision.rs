//! What is decided about a request: the verdict with its reason, and what follows from it.

use std::net::IpAddr;
use std::time::Duration;

use super::action::Action;
use super::checks::{CheckState, LimitCheck, LimitOutcome};
use super::key::{CounterKind, KeyPart};
use super::limit::{Limit, LimitId, Window};
use super::record::{BlacklistState, CountRecord, Scope, SessionRecord};
use super::template::Values;
use super::window;
use crate::net::clock::Now;

/// The answer to one request.
#[must_use]
#[derive(Clone, Debug)]
pub enum Verdict<'p> {
    /// `DUNNO`.
    Pass(Pass),
    /// `DUNNO` after a wait; a refusal where nobody more may wait.
    Delay(Delayed<'p>),
    /// An action.
    Refuse(Refusal<'p>),
    /// The store is away, and `on_store_failure` is `defer`: a temporary refusal whatever the
    /// limit's action is, for this is our trouble, not the client's.
    Defer,
}

impl<'p> Verdict<'p> {
    /// Takes another limit's verdict on the same request into account: a ban comes first, then the first
    /// refusal, then the longest wait. Without the store nothing is said to be within its limits.
    pub(super) fn weigh(&mut self, other: Self) {
        let rank = |verdict: &Self| match verdict {
            Self::Refuse(refusal) if refusal.reason == Reason::Banned => (5, Duration::ZERO),
            Self::Refuse(_) => (4, Duration::ZERO),
            Self::Defer => (3, Duration::ZERO),
            Self::Delay(wait) => (2, wait.time),
            Self::Pass(Pass::StoreAway) => (1, Duration::ZERO),
            Self::Pass(_) => (0, Duration::ZERO),
        };
        if rank(&other) > rank(self) {
            *self = other;
        }
    }
}

/// A wait, after which the client passes.
#[derive(Clone, Debug)]
pub struct Delayed<'p> {
    /// Why; and the answer where nobody more may wait.
    pub refusal: Refusal<'p>,
    /// How long.
    pub time: Duration,
    /// How many may wait at once for the refusal's key.
    pub max_concurrent: u32,
    /// Whose count it was; none for the blacklist.
    count: Option<(LimitId, Scope)>,
}

impl<'p> Delayed<'p> {
    pub(super) fn new(refusal: Refusal<'p>, time: Duration, max_concurrent: u32, count: Option<&CountRecord>) -> Self {
        Self { refusal, time, max_concurrent, count: count.map(|count| (count.limit, count.scope)) }
    }

    /// The session waits once; whatever it asks later passes.
    pub fn begin(&self, memory: &mut SessionRecord) {
        memory.blacklist = if self.count.is_some() { BlacklistState::Passed } else { BlacklistState::Delayed };
        memory.delayed = true;
        self.settle(memory, |count| CountRecord { passed: true, ..count });
    }

    /// Nobody more may wait, so it is refused, and that stands.
    pub fn refuse(self, memory: &mut SessionRecord) -> Refusal<'p> {
        if self.count.is_none() {
            memory.blacklist = BlacklistState::TooManyDelayed;
        }
        self.settle(memory, |count| CountRecord { passed: false, delay_limit: true, ..count });
        self.over_delay_limit()
    }

    /// The refusal of one that may not even wait.
    pub(super) fn over_delay_limit(self) -> Refusal<'p> {
        Refusal { reason: Reason::DelayLimit, ..self.refusal }
    }

    fn settle(&self, memory: &mut SessionRecord, change: impl FnOnce(CountRecord) -> CountRecord) {
        if let Some(count) = self.count.and_then(|(limit, scope)| memory.find(limit, scope)) {
            memory.keep(change(count));
        }
    }
}

/// Why a client passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// Postfix does not know the address, so there is nothing to count by.
    UnknownClient,
    /// The client is on the whitelist; it is not counted.
    Whitelisted,
    /// An administrator lets it pass for a while; it is not counted.
    Allowed,
    /// No limit is exceeded.
    WithinLimits,
    /// The store was away, and `on_store_failure` is `dunno`.
    StoreAway,
}

impl Pass {
    /// The word for it in the log.
    pub fn reason(self) -> &'static str {
        match self {
            Self::UnknownClient => "unknown_client",
            Self::Whitelisted => "whitelisted",
            Self::Allowed => "allowed",
            Self::WithinLimits => "within_limits",
            Self::StoreAway => "store_away",
        }
    }
}

/// A refusal, and what it is made of.
#[derive(Clone, Debug)]
pub struct Refusal<'p> {
    /// Who is refused.
    pub client: IpAddr,
    /// Why.
    pub reason: Reason<'p>,
    /// The name of the limit; `blacklist` where it is none of them.
    pub limit: &'p str,
    /// What was counted together, as its key names it.
    pub key: KeyPart,
    /// Hits in this window.
    pub count: u64,
    /// Hits the limit allows.
    pub threshold: u64,
    /// Seconds until it ends; 0 where that does not end by itself.
    pub left: u32,
    /// What Postfix is told.
    pub action: &'p Action,
}

/// Why a client is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason<'p> {
    /// It is over a limit.
    Over,
    /// It is banned.
    Banned,
    /// It is on the blacklist, for this reason if one is noted there.
    Blacklisted(Option<&'p str>),
    /// It would have to wait, but too many do.
    DelayLimit,
}

impl Reason<'_> {
    /// The word for it in the log.
    pub fn word(self) -> &'static str {
        match self {
            Self::Over => "over",
            Self::Banned => "banned",
            Self::Blacklisted(_) => "blacklisted",
            Self::DelayLimit => "crowded",
        }
    }
}

impl Refusal<'_> {
    /// What the action's placeholders stand for.
    pub fn values(&self) -> Values<'_> {
        let Self { client, limit, count, threshold, left, .. } = self;
        Values { client: *client, limit, count: *count, threshold: *threshold, left: *left }
    }
}

/// The verdict on a case, and what follows from it.
#[derive(Debug)]
pub struct Judgement<'p> {
    /// The answer.
    pub verdict: Verdict<'p>,
    /// What limits that are only logged would have refused.
    pub log_only: Vec<Refusal<'p>>,
    /// What of the case went over, and may be banned for it.
    pub violations: Vec<Violation<'p>>,
    /// Hits that are to be taken back.
    pub refunds: Vec<Refund<'p>>,
    /// Hits that are to be taken back too if the request is refused in the end.
    pub refunds_if_refused: Vec<Refund<'p>>,
}

/// Something went over a limit that remembers that.
#[derive(Debug)]
pub struct Violation<'p> {
    /// The limit.
    pub limit: &'p Limit,
    /// What of it.
    pub part: KeyPart,
}

/// Hits that do not count, for the request was refused.
#[derive(Debug)]
pub struct Refund<'p> {
    /// Whose they are.
    pub limit: &'p Limit,
    /// What was counted.
    pub part: KeyPart,
    /// Under which of its keys.
    pub purpose: CounterKind,
    /// How many.
    pub amount: u32,
}

impl Default for Judgement<'_> {
    fn default() -> Self {
        Self {
            verdict: Verdict::Pass(Pass::WithinLimits),
            log_only: Vec::new(),
            violations: Vec::new(),
            refunds: Vec::new(),
            refunds_if_refused: Vec::new(),
        }
    }
}

impl<'p> Judgement<'p> {
    /// Notes what follows from a limit's opinion of a count that was just made.
    pub(crate) fn follow(&mut self, item: &LimitCheck<'p>, count: &CountRecord, opinion: &LimitOutcome<'p>, now: Now) {
        if let Some(refund) = Refund::of(item, count, now) {
            match item.limit.log_only {
                false => self.refunds_if_refused.push(refund),
                // It is on its own, in this too.
                true if opinion.refuses() => self.refunds.push(refund),
                true => {}
            }
        }
        match opinion {
            LimitOutcome::Refuse(refusal) | LimitOutcome::Delay(Delayed { refusal, .. }) if item.limit.log_only => {
                self.log_only.push(refusal.clone());
            }
            LimitOutcome::Refuse(_) | LimitOutcome::Delay(_) | LimitOutcome::AlreadyDelayed => {}
            LimitOutcome::Pass | LimitOutcome::Uncounted(_) => return,
        }
        // Going on while banned is no further violation, nor is what is one with an earlier hit.
        let remembers = item.limit.ban.is_some() || item.limit.delay.is_some();
        if remembers && count.banned == 0 && count.hit.is_some_and(|hit| hit.added > 0) {
            self.violations.push(Violation { limit: item.limit, part: item.part.clone() });
        }
    }
}

impl<'p> Refund<'p> {
    /// What an item's count is worth if the request is refused.
    pub(crate) fn of(item: &LimitCheck<'p>, count: &CountRecord, now: Now) -> Option<Self> {
        // What the window leaves behind in a moment might be taken from the next one.
        const LEAST_LEFT: u32 = 2;
        let limit = item.limit;
        let hit = count.hit.filter(|hit| hit.added > 0 && !limit.count_refused)?;
        let purpose = match limit.window {
            Window::Fixed if hit.left < LEAST_LEFT => return None,
            Window::Fixed => CounterKind::Window,
            Window::Sliding => CounterKind::Slot(window::slot(limit.exptime, now.unix_ms)),
        };
        match item.state {
            CheckState::ToCount { .. } => Some(Self { limit, part: item.part.clone(), purpose, amount: hit.added }),
            CheckState::Cached(_) => None,
        }
    }
}
