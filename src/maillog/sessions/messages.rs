//! Messages on their way through the queue, across changes of their queue id.
//!
//! A message counts for a client from the client's line of smtpd on. Its queue id
//! changes when a content filter hands it back, when MailScanner or `postsuper -r`
//! puts it back into the queue; what becomes of the new id counts for the client
//! of the old one. The lines about the two ids come in any order.

use std::collections::VecDeque;
use std::net::IpAddr;

use hashbrown::HashMap;

use super::{SessionSink, Sums};
use crate::maillog::lines::event::DeliveryOutcome;

/// Messages remembered between the client's line and the end of their delivery.
const MAX_MESSAGES: usize = 262_144;

/// Messages remembered after they were removed: a filter's reply may come only then.
const MAX_REMOVED: usize = 4_096;

/// The messages under way, by the hashes of their queue ids.
#[derive(Default)]
pub struct Messages {
    under_way: HashMap<u64, Message>,
    /// The queue ids in the order they came.
    order: VecDeque<u64>,
    /// Outcomes of messages that have left the queue and count for no client: a filter's reply may name them later.
    removed: HashMap<u64, Option<DeliveryOutcome>>,
    removed_order: VecDeque<u64>,
}

/// A message under way.
#[derive(Clone, Debug, Default)]
pub struct Message {
    /// The client it came from, if its delivery counts for one.
    counts_for: Option<IpAddr>,
    /// When it began, in milliseconds since the epoch.
    accepted: i64,
    /// What to tell once it is in the queue.
    arrival: Option<Box<Arrival>>,
    is_queued: bool,
    is_sent: bool,
    is_discarded: bool,
    /// A filter handed it back.
    is_from_filter: bool,
    /// It goes on under another queue id.
    is_handed_on: bool,
}

/// Where a message came from.
#[derive(Clone, Debug, Default)]
pub struct Arrival {
    pub client: Option<IpAddr>,
    pub login: Box<[u8]>,
    pub is_submission: bool,
}

impl Messages {
    /// A message begins.
    pub fn begin(&mut self, id: u64, message: Message, sink: &mut impl SessionSink) {
        self.under_way.insert(id, message);
        self.order.push_back(id);
        while self.order.len() > MAX_MESSAGES {
            let oldest = self.order.pop_front().and_then(|id| self.under_way.remove(&id));
            oldest.into_iter().for_each(|message| message.end_of_log(sink));
        }
    }

    /// A filter hands back a message of this client, which had the queue id `original` before.
    pub fn begin_again(
        &mut self,
        id: u64,
        mut message: Message,
        original: Option<u64>,
        client: Option<IpAddr>,
        sink: &mut impl SessionSink,
    ) {
        message.is_from_filter = true;
        let original = original.filter(|original| self.under_way.contains_key(original));
        message.counts_for = client.filter(|_| original.is_none());
        self.begin(id, message, sink);
        if let Some(original) = original {
            self.hand_on(original, id, sink);
        }
    }

    /// A message is complete. Returns where it came from, the first time.
    pub fn queue(&mut self, id: u64, sink: &mut impl SessionSink) -> Option<Box<Arrival>> {
        if !self.under_way.contains_key(&id) {
            // From the local pickup service, or with an id of which only the end is known yet.
            self.begin(id, Message::default(), sink);
        }
        let message = self.under_way.get_mut(&id)?;
        message.is_queued = true;
        message.arrival.take()
    }

    /// A message left for a recipient; `next` is its queue id there.
    pub fn deliver(&mut self, id: u64, outcome: DeliveryOutcome, next: Option<u64>, sink: &mut impl SessionSink) {
        let is_handed_on = next.is_some_and(|next| self.hand_on(id, next, sink));
        let Some(message) = self.under_way.get_mut(&id) else {
            return;
        };
        message.is_handed_on |= is_handed_on;
        match outcome {
            _ if message.is_handed_on => {}
            DeliveryOutcome::Sent => message.sent(sink),
            DeliveryOutcome::Discarded => message.is_discarded = true,
        }
    }

    /// What becomes of `new` counts for the client of `old`. `false`: there is no such message on this host.
    pub fn hand_on(&mut self, old: u64, new: u64, sink: &mut impl SessionSink) -> bool {
        let (counts_for, accepted) = match self.under_way.get(&old) {
            Some(message) => (message.counts_for, message.accepted),
            None => (None, 0),
        };
        let is_known = if let Some(message) = self.under_way.get_mut(&new) {
            match message.counts_for {
                // Of another client: this host is one of its own clients.
                Some(client) => Some(client) == counts_for,
                None => {
                    (message.counts_for, message.accepted) = (counts_for, accepted);
                    if std::mem::take(&mut message.is_sent) {
                        message.sent(sink);
                    }
                    true
                }
            }
        } else if let Some(outcome) = self.removed.remove(&new) {
            match (outcome, counts_for) {
                (Some(DeliveryOutcome::Sent), Some(client)) => sink.delivered(client, accepted),
                (Some(DeliveryOutcome::Discarded), Some(client)) => sink.discarded(client),
                _ => {}
            }
            true
        } else {
            // A further recipient of what was handed on already.
            self.under_way.get(&old).is_some_and(|message| message.is_handed_on)
        };
        if let Some(message) = self.under_way.get_mut(&old).filter(|_| is_known) {
            message.is_handed_on = true;
        }
        is_known
    }

    /// A message has a new queue id, and the old one is no more.
    pub fn rename(&mut self, old: u64, new: u64, sink: &mut impl SessionSink) {
        if !self.hand_on(old, new, sink) {
            if let Some(message) = self.under_way.remove(&old) {
                self.begin(new, message, sink);
            }
        } else if let Some(old) = self.under_way.remove(&old)
            && let Some(new) = self.under_way.get_mut(&new)
        {
            new.arrival = new.arrival.take().or(old.arrival);
        }
    }

    /// A message has left the queue. What was neither sent nor discarded was returned or deleted.
    pub fn remove(&mut self, id: u64, sums: &mut Sums, sink: &mut impl SessionSink) {
        let Some(message) = self.under_way.remove(&id) else {
            return;
        };
        let outcome = match () {
            () if message.is_handed_on => None,
            () if message.is_sent => Some(DeliveryOutcome::Sent),
            () if message.is_discarded => Some(DeliveryOutcome::Discarded),
            () => None,
        };
        match message.counts_for {
            Some(client) if outcome == Some(DeliveryOutcome::Discarded) => {
                sums.discarded += 1;
                sink.discarded(client);
            }
            Some(_) if !message.is_from_filter => {}
            counts_for => {
                // What counted for a client has been told.
                self.removed.insert(id, outcome.filter(|_| counts_for.is_none()));
                self.removed_order.push_back(id);
                if self.removed_order.len() > MAX_REMOVED
                    && let Some(oldest) = self.removed_order.pop_front()
                {
                    self.removed.remove(&oldest);
                }
            }
        }
    }

    /// The log ends.
    pub fn finish(&mut self, sink: &mut impl SessionSink) {
        self.under_way.values().for_each(|message| message.end_of_log(sink));
        *self = Self::default();
    }
}

impl Message {
    pub fn new(counts_for: Option<IpAddr>, accepted: i64, arrival: Option<Box<Arrival>>) -> Self {
        Self { counts_for, accepted, arrival, ..Self::default() }
    }

    fn sent(&mut self, sink: &mut impl SessionSink) {
        if !std::mem::replace(&mut self.is_sent, true)
            && let Some(client) = self.counts_for
        {
            sink.delivered(client, self.accepted);
        }
    }

    /// A message that is still in the queue was accepted, and is as good as delivered.
    fn end_of_log(&self, sink: &mut impl SessionSink) {
        let is_pending = self.is_queued && !self.is_sent && !self.is_handed_on && !self.is_discarded;
        if let Some(client) = self.counts_for.filter(|_| is_pending) {
            sink.delivered(client, self.accepted);
        }
    }
}
