//! What is decided about a request: the verdict with its reason, and what follows from it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::action::Action;
use super::checks::{CheckState, LimitCheck, LimitChecks};
use super::door::Door;
use super::key::{CounterKind, CounterValue, KeyPart};
use super::limit::{CountKind, Limit, SessionLimitId, Window};
use super::message::HeldHits;
use super::overrides::Override;
use super::record::{BlacklistState, CountRecord, CountRecords, Scope, SessionRecord};
use super::request::Request;
use super::template::Values;
use super::{LimitOutcome, sliding_window};
use crate::net::clock::Now;

/// The answer to one request.
#[must_use]
#[derive(Clone, Debug)]
pub enum Verdict<'p> {
    /// `DUNNO`.
    Pass(Pass),
    /// `DUNNO` after a delay; a refusal if too many answers are delayed already.
    Delay(Delayed<'p>),
    /// An action. In a box, for verdicts are moved and most let the client pass.
    Refuse(Box<Refusal<'p>>),
    /// The store is down and `on_store_failure` is `defer`: a temporary refusal whatever the limit's action is, for
    /// it is not the client's fault.
    StoreDown,
}

impl<'p> Verdict<'p> {
    /// What it refuses, or delays so as not to refuse it.
    pub fn refusal(&self) -> Option<&Refusal<'p>> {
        match self {
            Self::Refuse(refusal) | Self::Delay(Delayed { refusal, .. }) => Some(refusal),
            Self::Pass(_) | Self::StoreDown => None,
        }
    }

    /// Takes another limit's verdict on the same request into account: a ban comes first, then the first
    /// refusal, then the longest delay, then a pass without a count: it is not known to be within its limits.
    pub(super) fn merge(&mut self, other: Self) {
        let rank = |verdict: &Self| match verdict {
            Self::Refuse(refusal) if refusal.reason == Reason::Banned => (5, Duration::ZERO),
            Self::Refuse(_) => (4, Duration::ZERO),
            Self::StoreDown => (3, Duration::ZERO),
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
    pub refusal: Box<Refusal<'p>>,
    /// How long.
    pub time: Duration,
    /// How many may wait at once for the refusal's key.
    pub max_concurrent: u32,
    /// The count that it follows from; none for the blacklist.
    pub(super) count: Option<(SessionLimitId, Scope)>,
}

impl<'p> Delayed<'p> {
    pub(super) fn new(
        refusal: Box<Refusal<'p>>,
        time: Duration,
        max_concurrent: u32,
        count: Option<&CountRecord>,
    ) -> Self {
        Self { refusal, time, max_concurrent, count: count.map(|count| (count.limit, count.scope)) }
    }

    /// The refusal of one that may not even wait.
    pub(super) fn over_delay_limit(mut self) -> Box<Refusal<'p>> {
        self.refusal.reason = Reason::DelayLimit;
        self.refusal
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
    pub client: IpAddr,
    pub door: Door,
    pub reason: Reason<'p>,
    /// The name of the limit; `blacklist` where it is none of them.
    pub limit: &'p str,
    /// The key that was counted.
    pub key: KeyPart,
    /// Hits in this window.
    pub count: u64,
    /// Hits the limit allows.
    pub threshold: u64,
    /// Seconds until the window or the ban ends; 0: it does not end by itself.
    pub left: u32,
    pub action: &'p Action,
    /// The override that it follows from.
    pub entry: Option<Arc<Override>>,
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
    /// The answer in one word, for the log.
    pub fn keyword(&self) -> &str {
        match self.door {
            Door::Smtp => self.action.keyword(),
            Door::Login => "refuse",
            Door::Web => self.action.status_text(),
        }
    }

    /// What the action's placeholders stand for; `request` is the one that is refused.
    pub fn values<'a>(&'a self, request: &'a Request<'_>, now: Now) -> Values<'a> {
        let Self { client, limit, key, count, threshold, left, entry, .. } = self;
        let (client, request, now) = (*client, Some(request), now.unix());
        let note = entry.as_ref().and_then(|entry| entry.note.as_deref());
        Values { client, limit, count: *count, threshold: *threshold, left: *left, key, request, note, now }
    }

    /// The reason in the blacklist, or in the administrator's override.
    pub fn note(&self) -> Option<&str> {
        match self.reason {
            Reason::Blacklisted(note) => note,
            _ => self.entry.as_ref()?.note.as_deref(),
        }
    }
}

/// What is decided about a request, and what follows from it.
///
/// A delay needs a permit, of which there are only so many. So a decision changes nothing until
/// [`settle`](Self::settle) is called with whether there was one.
#[derive(Debug)]
pub struct Decision<'p> {
    pub verdict: Verdict<'p>,
    pub effects: Vec<Effect<'p>>,
    /// It is to be reported even if its session is not new.
    pub must_report: bool,
    /// Refunds that become effects if the verdict is a refusal.
    refunds_if_refused: Vec<Refund<'p>>,
    /// What the session is to remember of the message.
    notes: Vec<MessageNote>,
    /// What the session is to remember.
    pub(super) blacklist: Option<BlacklistState>,
    pub(super) counts: CountRecords,
}

/// What a session is to remember of the message at hand.
#[derive(Debug)]
enum MessageNote {
    /// A recipient was counted.
    Recipient {
        limit: SessionLimitId,
        scope: Scope,
        /// If another limit refuses the recipient, its hit is taken back, as if it had never been counted.
        released: bool,
        /// It stays counted if it is refused.
        stays: bool,
        /// Hits that may go back later.
        held: Option<HeldHits>,
    },
    /// More recipients were counted at once.
    More(SessionLimitId, u32),
    /// A key went over.
    Violated(SessionLimitId, u64),
}

impl MessageNote {
    /// Whether this count is dropped if the request is refused.
    fn releases(&self, count: &CountRecord) -> bool {
        matches!(self, Self::Recipient { limit, scope, released: true, .. } if (*limit, *scope) == (count.limit, count.scope))
    }
}

/// What is done after a decision, with no request waiting for it.
#[derive(Debug)]
pub enum Effect<'p> {
    /// Report what a limit that is only logged would have refused.
    WouldRefuse(Box<Refusal<'p>>),
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

/// Hits to be taken back because the request was refused.
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
        let (effects, refunds_if_refused, notes) = (Vec::new(), Vec::new(), Vec::new());
        Self {
            verdict,
            effects,
            must_report: false,
            refunds_if_refused,
            notes,
            blacklist: None,
            counts: CountRecords::new(),
        }
    }

    /// Adds what follows from the outcome of a count that was just made.
    pub(super) fn add_effects(
        &mut self,
        check: &LimitCheck<'p>,
        count: &CountRecord,
        outcome: &LimitOutcome<'p>,
        record: &SessionRecord,
        now: Now,
    ) {
        let limit = check.limit;
        // A recipient that another limit refuses does not count here. `count_refused` is about this limit's refusals.
        let released = matches!(count.scope, Scope::Recipient(_))
            && limit.counts != CountKind::Clients
            && !matches!(outcome, LimitOutcome::Refuse(_) | LimitOutcome::Delay(_));
        if (released || !limit.count_refused)
            && let Some(refund) = Refund::of(check, count, now)
        {
            match limit.log_only && !released {
                false => self.refunds_if_refused.push(refund),
                // A log-only limit refunds by its own outcome, not the request's.
                true if matches!(outcome, LimitOutcome::Refuse(_)) => self.effects.push(Effect::Refund(refund)),
                true => {}
            }
        }
        self.note_recipients(check, count, released, now);
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
            // A message is one violation of a key, however many of its recipients are refused.
            if count.scope != Scope::Session {
                let key = CountRecord::key_hash(&check.part);
                if record.message().is_some_and(|message| message.has_violated(limit.memory_id, key)) {
                    return;
                }
                self.notes.push(MessageNote::Violated(limit.memory_id, key));
            }
            self.effects.push(Effect::Violation(Violation { limit, part: check.part.clone() }));
        }
    }

    /// Notes recipients that were just counted.
    fn note_recipients(&mut self, check: &LimitCheck<'p>, count: &CountRecord, released: bool, now: Now) {
        let limit = check.limit;
        let added = count.hit.map_or(0, |hit| hit.added);
        match count.scope {
            Scope::Recipient(_) if limit.counts == CountKind::Recipients => {
                let stays = !released && (limit.count_refused || limit.log_only);
                let held = HeldHits::of(check, count, now);
                let (limit, scope) = (limit.memory_id, count.scope);
                self.notes.push(MessageNote::Recipient { limit, scope, released, stays, held });
            }
            Scope::Recipient(_) if released => {
                let (limit, scope) = (limit.memory_id, count.scope);
                self.notes.push(MessageNote::Recipient { limit, scope, released, stays: false, held: None });
            }
            Scope::Message if limit.counts == CountKind::Recipients => {
                self.notes.push(MessageNote::More(limit.memory_id, added));
            }
            _ => {}
        }
    }

    /// The checks that it was made from, each with its count. `counts` may begin with others: of limits that a client
    /// on the whitelist is exempt from.
    pub fn hits<'c, 'l>(
        &self,
        checks: &'c LimitChecks<'l>,
    ) -> impl Iterator<Item = (&'c LimitCheck<'l>, CounterValue)> {
        let others = self.counts.len().saturating_sub(checks.checks.len());
        let counted = checks.checks.iter().zip(&self.counts[others..]);
        counted.filter_map(|(check, count)| Some((check, count.hit?)))
    }

    /// What limits that are only logged would have refused.
    pub fn would_refuse(&self) -> impl Iterator<Item = &Refusal<'p>> {
        self.effects.iter().filter_map(|effect| match effect {
            Effect::WouldRefuse(refusal) => Some(&**refusal),
            Effect::Violation(_) | Effect::Refund(_) => None,
        })
    }

    /// Whether the request is let pass, if need be after a delay.
    pub fn passes(&self) -> bool {
        matches!(self.verdict, Verdict::Pass(_) | Verdict::Delay(_))
    }

    /// Makes the decision final. `delay_granted` says whether an answer that is to be delayed can be; if not, the
    /// client is refused. The session remembers what came of it.
    pub fn settle(&mut self, delay_granted: bool, record: &mut SessionRecord) {
        if let Some(blacklist) = self.blacklist {
            record.blacklist = blacklist;
        }
        let refused = match &self.verdict {
            Verdict::Refuse(_) => true,
            Verdict::Delay(_) => !delay_granted,
            Verdict::Pass(_) | Verdict::StoreDown => false,
        };
        if refused && !self.notes.is_empty() {
            let notes = &self.notes;
            self.counts.retain(|count| !notes.iter().any(|note| note.releases(count)));
        }
        record.keep_all(&mut self.counts);
        for note in self.notes.drain(..) {
            match note {
                MessageNote::Recipient { stays, .. } if refused && !stays => {}
                MessageNote::Recipient { limit, held, .. } => {
                    let held = held.map(|held| HeldHits { passed: if refused { 0 } else { held.passed }, ..held });
                    record.message_mut().hold(limit, held);
                }
                MessageNote::More(limit, more) => record.message_mut().cover(limit, more),
                MessageNote::Violated(limit, key) => record.message_mut().violate(limit, key),
            }
        }
        if let Verdict::Delay(delay) = &self.verdict {
            record.delay(delay.count, delay_granted);
            self.must_report = true;
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
    /// The refund of a check's count if the request is refused.
    fn of(check: &LimitCheck<'p>, count: &CountRecord, now: Now) -> Option<Self> {
        // The window may end before the refund arrives; then it would be taken from the next one.
        const LEAST_LEFT: u32 = 2;
        let limit = check.limit;
        let hit = count.hit.filter(|hit| hit.added > 0)?;
        let kind = match &limit.window {
            Window::Fixed | Window::Calendar(_) if hit.left < LEAST_LEFT => return None,
            Window::Fixed => CounterKind::FixedWindow,
            // The store has not kept it.
            Window::Exact if hit.count > check.threshold && !limit.keeps_hits_over() => return None,
            Window::Exact => CounterKind::ExactWindow,
            Window::Sliding => CounterKind::Slot(sliding_window::slot(limit.exptime, now.unix_ms)),
            Window::Calendar(calendar) => CounterKind::Calendar(calendar.window(now)),
        };
        match check.state {
            CheckState::ToCount { .. } => Some(Self { limit, part: check.part.clone(), kind, amount: hit.added }),
            CheckState::Cached(_) | CheckState::ToReadBan { .. } => None,
        }
    }
}

impl HeldHits {
    /// The hits of a check's count of a recipient, which go back if the message is not sent.
    fn of(check: &LimitCheck<'_>, count: &CountRecord, now: Now) -> Option<Self> {
        let limit = check.limit;
        let Refund { part, kind, amount, .. } = Refund::of(check, count, now)?;
        let left = match limit.window {
            Window::Fixed | Window::Calendar(_) => count.hit?.left,
            Window::Sliding | Window::Exact => sliding_window::lifetime(limit.exptime),
        };
        Some(Self {
            limit: limit.id,
            memory_id: limit.memory_id,
            part,
            kind,
            amount,
            passed: amount,
            recipient: limit.per.is_of_recipient().then_some(count.scope),
            ends: now.monotonic + u64::from(left) * 1000,
            count_unsent: limit.count_unsent,
        })
    }
}
