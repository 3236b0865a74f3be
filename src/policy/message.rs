//! What a session remembers of the message at hand: the recipients that limits counted, and how far it has come.
//!
//! Recipients are counted one by one as they are named, and some of them never get
//! the message: Postfix refuses them after us, or the client gives up. So their
//! hits are held until the message is sent, and taken back if it is not: never
//! below zero, never twice. `session::unsent` finds out which messages are not sent.

use std::collections::{BTreeSet, HashMap};

use serde::{Deserialize, Serialize};

use super::key::{CounterKind, KeyPart};
use super::limit::{CounterLimitId, SessionLimitId};
use super::record::{CountRecord, Scope};
use super::record_snapshot::LimitIds;
use crate::net::clock::Now;

/// The most recipients of a message that are remembered for a limit: Postfix's own bound, `smtpd_recipient_limit`.
pub const MAX_RECIPIENTS: usize = 1000;

/// The most bytes of recipients of a message that are remembered as they are.
const MAX_ACCEPTED: usize = 128 * 1024;

/// Keys of a message that are remembered to have gone over. Further ones go over once more for each recipient.
const MAX_VIOLATED: usize = 100;

/// A hit on a window that ends within this many milliseconds is not taken back: it would be taken from the next one.
const LEAST_LEFT: u64 = 2000;

/// How far a message has come, as far as Postfix has asked about it and was not told to refuse it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum MessageProgress {
    /// Recipients were named.
    #[default]
    Recipients,
    /// DATA.
    Data,
    /// END-OF-MESSAGE.
    Whole,
}

/// Hits for recipients that may still go back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldHits {
    pub limit: CounterLimitId,
    pub part: KeyPart,
    pub kind: CounterKind,
    pub amount: u32,
    /// How many of them are for recipients that were let pass.
    pub passed: u32,
    /// The recipient, where each has a counter of its own.
    pub recipient: Option<Scope>,
    /// When the window ends, on the monotonic clock.
    pub ends: u64,
    pub memory_id: SessionLimitId,
    /// The limit's `count_unsent`.
    pub count_unsent: Option<bool>,
}

/// What is remembered of a message.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageRecord {
    limits: HashMap<SessionLimitId, RecipientCounts>,
    /// The recipients that were let pass, where a limit has to know them when the message has come.
    accepted: BTreeSet<Box<[u8]>>,
    /// The keys that went over with it, by limit.
    violated: Vec<(SessionLimitId, u64)>,
    progress: MessageProgress,
    /// The hash of what tells the services of one Postfix apart.
    service: u64,
    /// When a recipient was named last, on the monotonic clock.
    named: u64,
    /// It was taken for one that is not sent.
    given_up: bool,
}

/// What one limit has counted of a message's recipients.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct RecipientCounts {
    counts: HashMap<Scope, CountRecord>,
    /// Recipients whose hits are counted.
    covered: u32,
    held: Vec<HeldHits>,
}

impl MessageRecord {
    /// Whether anything is remembered of a limit.
    pub fn knows(&self, limit: SessionLimitId) -> bool {
        self.limits.contains_key(&limit)
    }

    /// What a limit has counted in this scope.
    pub fn find(&self, limit: SessionLimitId, scope: Scope) -> Option<CountRecord> {
        self.limits.get(&limit)?.counts.get(&scope).copied()
    }

    /// Remembers a count, in place of an earlier one of the same scope.
    pub fn keep(&mut self, count: CountRecord) {
        let own = self.limits.entry(count.limit).or_default();
        // Beyond Postfix's own bound a recipient is counted with every request about it.
        if own.counts.len() < MAX_RECIPIENTS || own.counts.contains_key(&count.scope) {
            own.counts.insert(count.scope, count);
        }
    }

    pub fn counts_mut(&mut self) -> impl Iterator<Item = &mut CountRecord> {
        self.limits.values_mut().flat_map(|own| own.counts.values_mut())
    }

    /// A limit has counted one more recipient; it may have coalesced with another.
    pub fn hold(&mut self, limit: SessionLimitId, hits: Option<HeldHits>) {
        let own = self.limits.entry(limit).or_default();
        own.covered = own.covered.saturating_add(1);
        self.given_up = false;
        let Some(hits) = hits else { return };
        // Those of a login have one counter; windows are told apart by their ends, which are known to the second.
        let same = |last: &&mut HeldHits| {
            (last.limit, last.kind, last.recipient, &last.part) == (hits.limit, hits.kind, hits.recipient, &hits.part)
                && last.ends.abs_diff(hits.ends) <= LEAST_LEFT
        };
        if let Some(last) = own.held.last_mut().filter(same) {
            last.amount = last.amount.saturating_add(hits.amount);
            last.passed = last.passed.saturating_add(hits.passed);
        } else if own.held.len() < MAX_RECIPIENTS {
            own.held.push(hits);
        }
    }

    /// How many recipients of the message a limit has counted.
    pub fn covered(&self, limit: SessionLimitId) -> u32 {
        self.limits.get(&limit).map_or(0, |own| own.covered)
    }

    /// More of them were counted at once.
    pub fn cover(&mut self, limit: SessionLimitId, more: u32) {
        let own = self.limits.entry(limit).or_default();
        own.covered = own.covered.saturating_add(more);
    }

    /// Remembers a recipient that was let pass, or forgets one that is refused. Beyond the bounds none is added.
    pub fn accept(&mut self, recipient: &[u8], passes: bool) {
        let recipient = recipient.to_ascii_lowercase();
        if !passes {
            self.accepted.remove(&*recipient);
        } else if self.accepted.len() < MAX_RECIPIENTS {
            let length: usize = self.accepted.iter().map(|accepted| accepted.len()).sum();
            if length + recipient.len() <= MAX_ACCEPTED {
                self.accepted.insert(recipient.into());
            }
        }
    }

    pub fn accepted(&self) -> impl Iterator<Item = &Box<[u8]>> {
        self.accepted.iter()
    }

    /// Whether there are hits that may go back.
    pub fn holds(&self) -> bool {
        self.limits.values().any(|own| !own.held.is_empty())
    }

    /// Whether this key went over with this message before.
    pub fn has_violated(&self, limit: SessionLimitId, key: u64) -> bool {
        self.violated.contains(&(limit, key))
    }

    pub fn violate(&mut self, limit: SessionLimitId, key: u64) {
        if self.violated.len() < MAX_VIOLATED {
            self.violated.push((limit, key));
        }
    }

    /// Forgets them before a request that is not about a message, whose violations count on their own.
    pub fn forget_violations(&mut self) {
        self.violated.clear();
    }

    /// Postfix has asked about a recipient for this service.
    pub fn name_recipient(&mut self, service: u64, now: Now) {
        (self.service, self.named) = (service, now.monotonic);
    }

    /// The hash of the service that asks, how far the message has come, and when a recipient was named last. `None`:
    /// nothing is held, or it was given up.
    pub fn state(&self) -> Option<(u64, MessageProgress, u64)> {
        (self.holds() && !self.given_up).then_some((self.service, self.progress, self.named))
    }

    /// The message has reached this stage with so many recipients; `only` is the recipient if there is just one.
    /// Returns the held hits of recipients that it does not go to. Where recipients have counters of their own and more
    /// than one remains, it returns none: nothing tells which were refused after us.
    pub fn proceed(&mut self, progress: MessageProgress, recipients: u32, only: Option<Scope>) -> Vec<HeldHits> {
        self.progress = self.progress.max(progress);
        let mut surplus = Vec::new();
        for own in self.limits.values_mut() {
            if let Some(only) = only.filter(|_| own.held.iter().all(|held| held.recipient.is_some())) {
                surplus.extend(own.held.extract_if(.., |held| held.recipient != Some(only)));
            } else if own.held.iter().all(|held| held.part == own.held[0].part) {
                own.take(recipients, &mut surplus);
            }
        }
        surplus
    }

    /// The message is not sent: returns the hits for its recipients. `is_unsent` takes a limit's `count_unsent`.
    pub fn give_up(&mut self, is_unsent: impl Fn(Option<bool>) -> bool) -> Vec<HeldHits> {
        self.given_up = true;
        let mut unsent = Vec::new();
        for own in self.limits.values_mut() {
            for held in own.held.extract_if(.., |held| is_unsent(held.count_unsent)) {
                // Should it go on after all, DATA tells how many there are.
                own.covered = own.covered.saturating_sub(held.amount);
                unsent.push(held);
            }
        }
        unsent
    }

    /// An administrator has reset these keys, whose hits are gone.
    pub fn forget(&mut self, is_reset: impl Fn(&HeldHits) -> bool) {
        self.limits.values_mut().for_each(|own| own.held.retain(|held| !is_reset(held)));
    }

    /// The same under the ids that limits have now, by those they had before.
    pub fn renamed(self, ids: &LimitIds) -> Self {
        let counts = |own: RecipientCounts, limit| RecipientCounts {
            counts: own.counts.into_iter().map(|(scope, count)| (scope, CountRecord { limit, ..count })).collect(),
            covered: own.covered,
            held: own.held.into_iter().filter_map(|held| held.renamed(ids)).collect(),
        };
        let limits = self.limits.into_iter().filter_map(|(limit, own)| {
            let limit = ids.session(limit)?;
            Some((limit, counts(own, limit)))
        });
        let violated = self.violated.iter().filter_map(|(limit, key)| Some((ids.session(*limit)?, *key)));
        Self { limits: limits.collect(), violated: violated.collect(), ..self }
    }
}

impl RecipientCounts {
    /// Takes what is held beyond so many, the newest first.
    fn take(&mut self, keep: u32, surplus: &mut Vec<HeldHits>) {
        let held = self.held.iter().fold(0_u32, |sum, held| sum.saturating_add(held.amount));
        let mut rest = held.saturating_sub(keep);
        while let Some(last) = self.held.last_mut().filter(|_| rest > 0) {
            let amount = rest.min(last.amount);
            rest -= amount;
            // Hits of refused recipients are taken first.
            let passed = amount.saturating_sub(last.amount - last.passed);
            last.amount -= amount;
            last.passed -= passed;
            self.covered = self.covered.saturating_sub(amount);
            surplus.push(HeldHits { amount, passed, ..last.clone() });
            if last.amount == 0 {
                self.held.pop();
            }
        }
    }
}

impl HeldHits {
    fn renamed(self, ids: &LimitIds) -> Option<Self> {
        Some(Self { limit: ids.counter(self.limit)?, memory_id: ids.session(self.memory_id)?, ..self })
    }

    /// Whether there is a window to take them from.
    pub fn lasts(&self, now: Now) -> bool {
        self.ends >= now.monotonic + LEAST_LEFT
    }
}
