//! What a session remembers of its judgements, limit by limit.
//!
//! Postfix asks many times within a session, and a client that is at its limit
//! must not be let in for one recipient and refused for the next. So each count
//! has a scope within which it is made once and judged the same every time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use smallvec::SmallVec;

use super::limit::LimitId;
use super::operation::Hit;
use crate::secret;

/// The most recipients of a message that are remembered: Postfix's own bound, `smtpd_recipient_limit`.
pub const MAX_RECIPIENTS: usize = 1000;

/// What a session was counted for by one limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// The limit.
    pub limit: LimitId,
    /// For how long it stands.
    pub scope: Scope,
    /// What the store said; `None` when it was away and nothing counted in its place.
    pub hit: Option<Hit>,
    /// Seconds its ban had left; 0: it was not banned.
    pub banned: u32,
    /// It was judged by the threshold for times of stress.
    pub stress: bool,
    /// It was judged to pass, and that stands.
    pub passed: bool,
    /// It had to wait but could not, so it is refused.
    pub crowded: bool,
}

impl Count {
    /// What the store has just said, to be judged.
    pub fn new(limit: LimitId, scope: Scope, hit: Option<Hit>, banned: u32, stress: bool) -> Self {
        Self { limit, scope, hit, banned, stress, passed: false, crowded: false }
    }
}

/// For how long a count stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// This request alone.
    Request,
    /// The session.
    Session,
    /// The mail transaction.
    Message,
    /// The recipient of the mail transaction with this hash, or whatever of it makes the key.
    Recipient(u64),
}

impl Scope {
    /// That of a recipient, or of what makes a key of it. The hash has a secret, for senders choose recipients.
    pub fn recipient(text: &[u8]) -> Self {
        Self::Recipient(secret::hash(text))
    }
}

/// Counts of a session or a message; nearly always one.
pub type Counts = SmallVec<[Count; 1]>;

/// All a session remembers.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// The session got past the blacklist.
    pub admitted: bool,
    /// What stands for the session or the message.
    counts: Counts,
    /// What stands for recipients of the message.
    recipients: Option<Arc<Mutex<Recipients>>>,
}

type Recipients = HashMap<(LimitId, Scope), Count>;

impl Memory {
    /// What a limit has counted in this scope.
    pub fn find(&self, limit: LimitId, scope: Scope) -> Option<Count> {
        match scope {
            Scope::Request => None,
            Scope::Session | Scope::Message => {
                self.counts.iter().find(|count| count.limit == limit && count.scope == scope).copied()
            }
            Scope::Recipient(_) => lock(self.recipients.as_ref()?).get(&(limit, scope)).copied(),
        }
    }

    /// Remembers a count, in place of an earlier one of the same scope.
    pub fn keep(&mut self, count: Count) {
        match count.scope {
            Scope::Request => {}
            Scope::Session | Scope::Message => {
                let same = |other: &&mut Count| other.limit == count.limit && other.scope == count.scope;
                match self.counts.iter_mut().find(same) {
                    Some(other) => *other = count,
                    None => self.counts.push(count),
                }
            }
            Scope::Recipient(_) => {
                let mut recipients = lock(self.recipients.get_or_insert_default());
                // Whoever gets more past Postfix has each of them counted whenever it is asked about.
                if recipients.len() < MAX_RECIPIENTS || recipients.contains_key(&(count.limit, count.scope)) {
                    recipients.insert((count.limit, count.scope), count);
                }
            }
        }
    }

    /// All counts, of recipients too, in no order.
    pub fn counts(&self) -> Vec<Count> {
        let recipients =
            self.recipients.as_ref().map(|recipients| lock(recipients).values().copied().collect::<Vec<_>>());
        self.counts.iter().copied().chain(recipients.into_iter().flatten()).collect()
    }

    /// How much a limit has counted for recipients of the message, one by one.
    pub fn recipients(&self, limit: LimitId) -> u32 {
        let Some(recipients) = &self.recipients else {
            return 0;
        };
        let recipients = lock(recipients);
        let own = recipients.keys().filter(|(id, _)| *id == limit).count();
        u32::try_from(own).unwrap_or(u32::MAX)
    }

    /// Another message begins.
    pub fn end_message(&mut self) {
        self.counts.retain(|count| count.scope == Scope::Session);
        self.recipients = None;
    }

    /// Whether nothing is remembered.
    pub fn is_empty(&self) -> bool {
        !self.admitted && self.counts.is_empty() && self.recipients.is_none()
    }
}

fn lock(recipients: &Arc<Mutex<Recipients>>) -> MutexGuard<'_, Recipients> {
    // A map is whole after any panic.
    recipients.lock().unwrap_or_else(PoisonError::into_inner)
}
