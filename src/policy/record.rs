//! What a session remembers of its judgements, limit by limit.
//!
//! Postfix asks many times within a session. A client at its limit must not pass
//! for one recipient and be refused for the next, so each count has a scope within
//! which it is made once and judged the same every time.

use std::sync::{Arc, Mutex, MutexGuard};

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use super::key::CounterValue;
use super::key::KeyPart;
use super::limit::SessionLimitId;
use super::message::{HeldHits, MessageRecord};
use crate::net::lock;
use crate::net::secret;

/// One count of one limit, as a session remembers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CountRecord {
    pub limit: SessionLimitId,
    /// For how long it stands.
    pub scope: Scope,
    /// What the store said; `None` when it was down and nothing counted in its place.
    pub hit: Option<CounterValue>,
    /// Seconds its ban had left; 0: it was not banned.
    pub banned: u32,
    /// It was judged by `stress_threshold`.
    pub stress: bool,
    /// It was judged to pass, and that stands.
    pub passed: bool,
    /// It was to be delayed, but too many answers were; so it is refused.
    pub delay_limit: bool,
    /// The hash of what it was counted under, where it was not judged to pass; else 0.
    pub key: u64,
    /// When it was made, in milliseconds of the monotonic clock.
    pub at: u64,
    /// How many messages of the session had begun then.
    pub messages: u32,
}

/// A session counts again when so many more messages have begun. What looks like one session may be many, of a client
/// that uses its source port again.
pub const MESSAGES_PER_COUNT: u32 = 50;

/// It also counts again at the first message after so many milliseconds, or after the limit's `exptime` if that is
/// longer: Postfix itself sends over one connection for 300 seconds at most (`smtp_connection_reuse_time_limit`).
pub const TIME_PER_COUNT: u64 = 300_000;

/// A `VRFY` or `ETRN` outside of a message counts as so many messages. Few clients send any.
const MESSAGES_PER_VERIFICATION: u32 = 3;

impl CountRecord {
    /// A count that the store has just made, to be judged. The caller sets `at` and `messages`.
    pub fn new(limit: SessionLimitId, scope: Scope, hit: Option<CounterValue>, banned: u32, stress: bool) -> Self {
        Self { limit, scope, hit, banned, stress, passed: false, delay_limit: false, key: 0, at: 0, messages: 0 }
    }

    /// The hash of a key. It has a secret, for strangers choose the values of most keys.
    pub fn key_hash(part: &KeyPart) -> u64 {
        secret::hash(part)
    }
}

/// For how long a count stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Scope {
    /// This request alone.
    Request,
    /// The session.
    Session,
    /// The mail transaction.
    Message,
    /// The recipient of the mail transaction with this hash, or the key made of that recipient.
    Recipient(u64),
}

impl Scope {
    /// The scope of a recipient, or of the key made of it. The hash has a secret, for senders choose recipients.
    pub fn recipient(text: &[u8]) -> Self {
        Self::Recipient(secret::hash(text))
    }
}

/// Counts of a session or a message; nearly always one.
pub type CountRecords = SmallVec<[CountRecord; 1]>;

/// What a session remembers of the blacklist.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum BlacklistState {
    /// It is not known yet, or the session was refused.
    #[default]
    Unchecked,
    /// The session passed it.
    Passed,
    /// The session passed it with an earlier message; this one is checked again.
    PassedBefore,
    /// The client is on it and the answer was delayed; its connection is not counted.
    Delayed,
    /// The client is on it and the answer was to be delayed, but too many were.
    TooManyDelayed,
}

/// All a session remembers.
#[derive(Clone, Debug, Default)]
pub struct SessionRecord {
    pub blacklist: BlacklistState,
    /// An answer was delayed; no further one is.
    pub delayed: bool,
    /// Messages begun so far; a VRFY or ETRN counts as some.
    pub messages: u32,
    /// This request is the first of its message, or a VRFY or ETRN.
    pub begins_message: bool,
    /// Counts that hold for the session or the message.
    counts: CountRecords,
    /// Counts that hold for recipients of the message, and how far it has come.
    message: Option<Arc<Mutex<MessageRecord>>>,
}

impl SessionRecord {
    /// The record of a session that has passed the blacklist and nothing else.
    pub fn admitted() -> Self {
        Self { blacklist: BlacklistState::Passed, ..Self::default() }
    }

    /// Forgets everything, and keeps the memory for it.
    pub fn clear(&mut self) {
        let Self { blacklist, delayed, messages, begins_message, counts, message } = self;
        (*blacklist, *delayed, *messages, *begins_message) = (BlacklistState::Unchecked, false, 0, false);
        counts.clear();
        *message = None;
    }

    /// Remembers that an answer is delayed, or, if not `granted`, that it is refused because too many are. `count` is
    /// what the delay follows from; `None`: the blacklist.
    pub(super) fn delay(&mut self, count: Option<(SessionLimitId, Scope)>, granted: bool) {
        self.delayed |= granted;
        let Some((limit, scope)) = count else {
            self.blacklist = if granted { BlacklistState::Delayed } else { BlacklistState::TooManyDelayed };
            return;
        };
        if let Some(count) = self.find(limit, scope) {
            self.keep(CountRecord { passed: granted, delay_limit: count.delay_limit || !granted, ..count });
        }
    }

    /// Whether a limit has counted anything of the session or the message.
    #[inline]
    pub fn knows(&self, limit: SessionLimitId) -> bool {
        // Of a new session nothing is known, which saves a look at each limit.
        (!self.counts.is_empty() || self.message.is_some()) && self.has_counted(limit)
    }

    fn has_counted(&self, limit: SessionLimitId) -> bool {
        self.counts.iter().any(|count| count.limit == limit)
            || self.message.as_deref().is_some_and(|message| lock(message).knows(limit))
    }

    /// What a limit has counted in this scope.
    #[inline]
    pub fn find(&self, limit: SessionLimitId, scope: Scope) -> Option<CountRecord> {
        match scope {
            Scope::Request => None,
            Scope::Session | Scope::Message => {
                self.counts.iter().find(|count| count.limit == limit && count.scope == scope).copied()
            }
            Scope::Recipient(_) => lock(self.message.as_ref()?).find(limit, scope),
        }
    }

    /// Remembers counts of one request, no two of which have the same limit and scope, in place of earlier ones.
    pub fn keep_all(&mut self, counts: &mut CountRecords) {
        // Nearly always the session is new.
        if self.counts.is_empty() && counts.iter().all(|count| matches!(count.scope, Scope::Session | Scope::Message)) {
            std::mem::swap(&mut self.counts, counts);
            return;
        }
        let earlier = self.counts.len();
        for count in counts.drain(..) {
            match count.scope {
                Scope::Request => {}
                Scope::Session | Scope::Message => {
                    let same = |other: &&mut CountRecord| other.limit == count.limit && other.scope == count.scope;
                    match self.counts[..earlier].iter_mut().find(same) {
                        Some(other) => *other = count,
                        None => self.counts.push(count),
                    }
                }
                Scope::Recipient(_) => self.message_mut().keep(count),
            }
        }
    }

    /// Remembers a count, in place of an earlier one of the same scope.
    pub fn keep(&mut self, count: CountRecord) {
        self.keep_all(&mut CountRecords::from_buf([count]));
    }

    /// The counts that stand for the session or the whole message.
    pub fn counts_of_all(&self) -> Vec<CountRecord> {
        self.counts.to_vec()
    }

    /// What is remembered of the recipients of the current message; `None`: nothing.
    pub fn message(&self) -> Option<MutexGuard<'_, MessageRecord>> {
        self.message.as_deref().map(lock)
    }

    /// The same, to be changed.
    pub fn message_mut(&mut self) -> MutexGuard<'_, MessageRecord> {
        lock(self.message.get_or_insert_default())
    }

    /// Takes over what was remembered of the message.
    pub fn restore_message(&mut self, message: MessageRecord) {
        self.message = Some(Arc::new(Mutex::new(message)));
    }

    /// How many recipients of the message a limit has counted.
    pub fn covered(&self, limit: SessionLimitId) -> u32 {
        self.message().map_or(0, |message| message.covered(limit))
    }

    /// The message is not sent: returns the hits that go back. `is_unsent` takes a limit's `count_unsent`.
    pub fn give_up_message(&mut self, is_unsent: impl Fn(Option<bool>) -> bool) -> Vec<HeldHits> {
        let unsent = self.message().map(|mut message| message.give_up(is_unsent)).unwrap_or_default();
        // Should it go on after all, it is counted as a whole.
        let is_taken = |count: &CountRecord| {
            count.scope == Scope::Message && unsent.iter().any(|held| held.memory_id == count.limit)
        };
        self.counts.retain(|count| !is_taken(count));
        unsent
    }

    /// Turns refusals among these counts into passes, which are not counted again. Returns whether there was any.
    pub fn clear_refusals(&mut self, concerns: impl Fn(&CountRecord) -> bool) -> bool {
        let mut cleared = false;
        let mut clear = |count: &mut CountRecord| {
            if !count.passed && concerns(count) {
                cleared = true;
                *count = CountRecord { passed: true, banned: 0, delay_limit: false, ..*count };
            }
        };
        self.counts.iter_mut().for_each(&mut clear);
        if let Some(message) = &self.message {
            lock(message).counts_mut().for_each(clear);
        }
        cleared
    }

    /// Another message begins: what was counted for the one before has ended.
    pub fn begin_message(&mut self) {
        self.counts.retain(|count| count.scope == Scope::Session);
        self.message = None;
        self.begin(1);
    }

    /// A `VRFY` or `ETRN` outside of a message.
    pub fn begin_verification(&mut self) {
        if let Some(mut message) = self.message() {
            message.forget_violations();
        }
        self.begin(MESSAGES_PER_VERIFICATION);
    }

    fn begin(&mut self, messages: u32) {
        self.messages = self.messages.saturating_add(messages);
        self.begins_message = true;
        if self.blacklist == BlacklistState::Passed {
            self.blacklist = BlacklistState::PassedBefore;
        }
    }

    /// Whether the session counts again at this request, for it was counted long ago by a limit with this `exptime`.
    pub(super) fn counts_again(&self, count: &CountRecord, exptime: u32, now: u64) -> bool {
        let time = TIME_PER_COUNT.max(u64::from(exptime) * 1000);
        self.begins_message
            && (self.messages.saturating_sub(count.messages) >= MESSAGES_PER_COUNT
                || now.saturating_sub(count.at) >= time)
    }

    /// Whether nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.blacklist == BlacklistState::Unchecked && !self.delayed && self.counts.is_empty() && self.message.is_none()
    }
}
