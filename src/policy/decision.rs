//! What is decided about a request: the verdict with its reason, and what follows from it.

use std::net::IpAddr;
use std::time::Duration;

use super::action::Action;
use super::checks::{CheckState, LimitCheck, LimitOutcome};
use super::door::Door;
use super::key::{Counter, CounterKind, KeyPart};
use super::limit::{Limit, LimitId, Window};
use super::record::{BlacklistState, CountRecord, Counts, Scope, SessionRecord};
use super::template::Values;
use super::window;
use crate::net::clock::Now;

/// The answer to one request.
#[must_use]
#[derive(Clone, Debug)]
pub enum Verdict<'p> {
    /// `DUNNO`.
    Pass(Pass),
    /// `DUNNO` after a delay; a refusal if too many answers are delayed already.
    Delay(Delayed<'p>),
    /// An action.
    Refuse(Refusal<'p>),
    /// The store is down and `on_store_failure` is `defer`: a temporary refusal whatever the limit's action is, for
    /// it is not the client's fault.
    Defer,
}

impl<'p> Verdict<'p> {
    /// Takes another limit's verdict on the same request into account: a ban comes first, then the first
    /// refusal, then the longest delay, then a pass without a count: it is not known to be within its limits.
    pub(super) fn weigh(&mut self, other: Self) {
        let rank = |verdict: &Self| match verdict {
            Self::Refuse(refusal) if refusal.reason == Reason::Banned => (5, Duration::ZERO),
            Self::Refuse(_) => (4, Duration::ZERO),
            Self::Defer => (3, Duration::ZERO),
            Self::Delay(wait) => (2, wait.time),
            Self::Pass(Pass::StoreDown) => (1, Duration::ZERO),
            Self::Pass(_) => (0, Duration::ZERO),
        };
        if rank(&other) > rank(self) {
            *self = other;
        }
    }
}

/// A delay of the answer, after which the client passes.
#[derive(Clone, Debug)]
pub struct Delayed<'p> {
    /// Why; and the answer if too many answers are delayed already.
    pub refusal: Refusal<'p>,
    /// How long.
    pub time: Duration,
    /// How many may wait at once for the refusal's key.
    pub max_concurrent: u32,
    /// The count that it follows from; none for the blacklist.
    pub(super) count: Option<(LimitId, Scope)>,
}

impl<'p> Delayed<'p> {
    pub(super) fn new(refusal: Refusal<'p>, time: Duration, max_concurrent: u32, count: Option<&CountRecord>) -> Self {
        Self { refusal, time, max_concurrent, count: count.map(|count| (count.limit, count.scope)) }
    }

    /// The refusal of one that may not even wait.
    pub(super) fn over_delay_limit(self) -> Refusal<'p> {
        Refusal { reason: Reason::DelayLimit, ..self.refusal }
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
    /// The store was down, and `on_store_failure` is `dunno`.
    StoreDown,
}

impl Pass {
    /// The word for it in the log.
    pub fn reason(self) -> &'static str {
        match self {
            Self::UnknownClient => "unknown_client",
            Self::Whitelisted => "whitelisted",
            Self::Allowed => "allowed",
            Self::WithinLimits => "within_limits",
            Self::StoreDown => "store_down",
        }
    }
}

/// A refusal, and what it is made of.
#[derive(Clone, Debug)]
pub struct Refusal<'p> {
    /// Who is refused.
    pub client: IpAddr,
    /// Where.
    pub door: Door,
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
            Self::DelayLimit => "delay_limit",
        }
    }
}

impl Refusal<'_> {
    /// What is answered, in a word, as the log shows it.
    pub fn keyword(&self) -> &str {
        match self.door {
            Door::Smtp => self.action.keyword(),
            Door::Login => "refuse",
            Door::Web => self.action.status_text(),
        }
    }

    /// What the action's placeholders stand for.
    pub fn values(&self) -> Values<'_> {
        let Self { client, limit, count, threshold, left, .. } = self;
        Values { client: *client, limit, count: *count, threshold: *threshold, left: *left }
    }
}

/// What is decided about a request, and what follows from it.
///
/// Whether an answer can be delayed depends on how many are. So a decision changes nothing until
/// [`settle`](Self::settle) is told.
#[derive(Debug)]
pub struct Decision<'p> {
    pub verdict: Verdict<'p>,
    pub effects: Vec<Effect<'p>>,
    /// It is to be reported even if its session is not new.
    pub news: bool,
    /// Effects of a refusal, should it come to one.
    refunds_if_refused: Vec<Refund<'p>>,
    /// What the session is to remember.
    pub(super) blacklist: Option<BlacklistState>,
    pub(super) counts: Counts,
}

/// What is done after a decision, with no request waiting for it.
#[derive(Debug)]
pub enum Effect<'p> {
    /// Report what a limit that is only logged would have refused.
    WouldRefuse(Refusal<'p>),
    /// Tell the store of a violation. It may ban for it.
    Violation(Violation<'p>),
    /// Take hits back.
    Refund(Refund<'p>),
}

/// A key went over a limit that remembers violations.
#[derive(Debug)]
pub struct Violation<'p> {
    pub limit: &'p Limit,
    pub part: KeyPart,
}

/// Hits that do not count, for the request was refused.
#[derive(Debug)]
pub struct Refund<'p> {
    pub limit: &'p Limit,
    pub part: KeyPart,
    pub kind: CounterKind,
    pub amount: u32,
}

impl<'p> Decision<'p> {
    /// One without effects, of which the session remembers nothing.
    pub(super) fn new(verdict: Verdict<'p>) -> Self {
        let (effects, refunds_if_refused) = (Vec::new(), Vec::new());
        Self { verdict, effects, news: false, refunds_if_refused, blacklist: None, counts: Counts::new() }
    }

    /// Adds what follows from the outcome of a count that was just made.
    pub(super) fn add_effects(
        &mut self,
        check: &LimitCheck<'p>,
        count: &CountRecord,
        outcome: &LimitOutcome<'p>,
        now: Now,
    ) {
        if let Some(refund) = Refund::of(check, count, now) {
            match check.limit.log_only {
                false => self.refunds_if_refused.push(refund),
                // A log-only limit refunds by its own outcome, not the request's.
                true if matches!(outcome, LimitOutcome::Refuse(_)) => self.effects.push(Effect::Refund(refund)),
                true => {}
            }
        }
        match outcome {
            LimitOutcome::Refuse(refusal) | LimitOutcome::Delay(Delayed { refusal, .. }) if check.limit.log_only => {
                self.effects.push(Effect::WouldRefuse(refusal.clone()));
            }
            LimitOutcome::Refuse(_) | LimitOutcome::Delay(_) | LimitOutcome::AlreadyDelayed => {}
            LimitOutcome::Pass | LimitOutcome::Uncounted(_) => return,
        }
        // No violation while banned, nor for a coalesced hit.
        let remembers = check.limit.ban.is_some() || check.limit.delay.is_some();
        if remembers && count.banned == 0 && count.hit.is_some_and(|hit| hit.added > 0) {
            self.effects.push(Effect::Violation(Violation { limit: check.limit, part: check.part.clone() }));
        }
    }

    /// The counts it was made of, check by check.
    pub fn hits(&self) -> impl Iterator<Item = Option<Counter>> {
        self.counts.iter().map(|count| count.hit)
    }

    /// What limits that are only logged would have refused.
    pub fn would_refuse(&self) -> impl Iterator<Item = &Refusal<'p>> {
        self.effects.iter().filter_map(|effect| match effect {
            Effect::WouldRefuse(refusal) => Some(refusal),
            Effect::Violation(_) | Effect::Refund(_) => None,
        })
    }

    /// Makes the decision final. `delay_granted` says whether an answer that is to be delayed can be; if not, the
    /// client is refused. The session remembers what came of it.
    pub fn settle(&mut self, delay_granted: bool, record: &mut SessionRecord) {
        if let Some(blacklist) = self.blacklist {
            record.blacklist = blacklist;
        }
        self.counts.drain(..).for_each(|count| record.keep(count));
        if let Verdict::Delay(delay) = &self.verdict {
            record.delay(delay.count, delay_granted);
            self.news = true;
            if !delay_granted {
                self.verdict = Verdict::Refuse(delay.clone().over_delay_limit());
            }
        }
        if matches!(self.verdict, Verdict::Refuse(_)) {
            self.effects.extend(self.refunds_if_refused.drain(..).map(Effect::Refund));
        }
    }
}

impl<'p> Refund<'p> {
    /// What a check's count is worth if the request is refused.
    fn of(check: &LimitCheck<'p>, count: &CountRecord, now: Now) -> Option<Self> {
        // The window may end before the refund arrives; then it would be taken from the next one.
        const LEAST_LEFT: u32 = 2;
        let limit = check.limit;
        let hit = count.hit.filter(|hit| hit.added > 0 && !limit.count_refused)?;
        let kind = match limit.window {
            Window::Fixed if hit.left < LEAST_LEFT => return None,
            Window::Fixed => CounterKind::Window,
            // The store has not kept it.
            Window::Exact if hit.count > check.threshold && !limit.keeps_hits_over() => return None,
            Window::Exact => CounterKind::Hits,
            Window::Sliding => CounterKind::Slot(window::slot(limit.exptime, now.unix_ms)),
        };
        match check.state {
            CheckState::ToCount { .. } => Some(Self { limit, part: check.part.clone(), kind, amount: hit.added }),
            CheckState::Cached(_) | CheckState::ToReadBan { .. } => None,
        }
    }
}
