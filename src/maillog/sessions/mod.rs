//! SMTP sessions, as the daemon would be asked about them, and what became of their mail.
//!
//! The lines of one smtpd process between `connect from` and `disconnect from`
//! are one session. It is asked about when the client connects or, where Postfix
//! delays its checks, at the first recipient. A session that is under way when
//! the log begins is known from its first recipient on.

mod sink;

use std::collections::VecDeque;
use std::hash::{BuildHasherDefault, Hasher};
use std::net::IpAddr;

use hashbrown::HashMap;

use super::lines::event::{Client, Event, EventKind, Place};
use crate::net::netblock_table::NetblockTable;
pub use sink::{Seen, Session, SessionSink};

/// smtpd processes remembered. Postfix runs a hundred unless told otherwise; each host has its own.
const MAX_PROCESSES: usize = 65_536;

/// Messages remembered between the client's line and the end of their delivery.
const MAX_MESSAGES: usize = 262_144;

/// Why sessions are not among those asked about, and how many there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Sessions of smtpd.
    pub sessions: u64,
    /// Those the daemon would have been asked about, and count.
    pub asked: u64,
    /// Clients in `$mynetworks`.
    pub mynetworks: u64,
    /// Clients that logged in before they were asked about.
    pub authenticated: u64,
    /// Clients that were asked about and turned out to have logged in.
    pub authenticated_late: u64,
    /// Sessions that ended without getting to a recipient.
    pub without_recipient: u64,
    /// Clients whose address Postfix did not know.
    pub unknown: u64,
    /// Sessions of submission services.
    pub submission: u64,
    /// Clients of postscreen.
    pub postscreen: u64,
    /// Those that it handed to smtpd.
    pub postscreen_passed: u64,
}

/// The state between the lines.
pub struct Sessions {
    seen: Seen,
    mynetworks: NetblockTable<()>,
    processes: HashMap<u64, Open, Hashed>,
    messages: HashMap<u64, Message, Hashed>,
    /// The queue ids in the order they came.
    order: VecDeque<u64>,
    /// The numbers so far.
    pub sums: Sums,
}

/// Processes and queue ids are hashes already.
type Hashed = BuildHasherDefault<Identity>;

#[derive(Default)]
struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.0 = self.0.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

/// A session under way.
#[derive(Clone, Copy, Debug)]
struct Open {
    client: Option<IpAddr>,
    is_settled: bool,
    is_asked: bool,
    number: u64,
    /// Messages that began so far.
    messages: u32,
}

/// A message under way.
#[derive(Clone, Copy, Debug)]
struct Message {
    client: IpAddr,
    is_queued: bool,
    is_sent: bool,
}

impl Sessions {
    /// Of a site that is seen so and trusts these networks.
    pub fn new(seen: Seen, mynetworks: NetblockTable<()>) -> Self {
        Self {
            seen,
            mynetworks,
            processes: HashMap::default(),
            messages: HashMap::default(),
            order: VecDeque::new(),
            sums: Sums::default(),
        }
    }

    /// Takes in what happened.
    pub fn take(&mut self, time: i64, event: &Event, names: &[u8], sink: &mut impl SessionSink) {
        match event.kind {
            EventKind::Connect { process, who } => self.connect(time, process, who, names, sink),
            EventKind::Recipient { process, who, authenticated, message } => {
                let mut open = self.recipient(process, who, authenticated);
                self.ask(&mut open, time, process, name(who.name, names), sink);
                if let Some(id) = message.filter(|_| open.is_asked) {
                    self.further(&mut open, time, process, name(who.name, names), sink);
                    open.client.into_iter().for_each(|client| self.begin_message(id, client, sink));
                }
                self.keep(process, open);
            }
            EventKind::Disconnect { process, name: place, asked, authenticated } => {
                if let Some(mut open) = self.disconnect(process, asked, authenticated) {
                    self.ask(&mut open, time, process, name(place, names), sink);
                }
            }
            EventKind::Queued(id) => {
                if let Some(message) = self.messages.get_mut(&id) {
                    message.is_queued = true;
                }
            }
            EventKind::Sent(id) => {
                if let Some(message) = self.messages.get_mut(&id)
                    && !std::mem::replace(&mut message.is_sent, true)
                {
                    sink.delivered(message.client);
                }
            }
            // Nothing was sent of it: it was returned, or somebody deleted it.
            EventKind::Removed(id) => drop(self.messages.remove(&id)),
            EventKind::ScreenConnect => self.sums.postscreen += 1,
            EventKind::ScreenPass => self.sums.postscreen_passed += 1,
            EventKind::Submission => self.sums.submission += 1,
        }
    }

    /// The log ends: what is still in the queue was accepted, and is as good as delivered.
    pub fn finish(&mut self, sink: &mut impl SessionSink) {
        for message in self.messages.values().filter(|message| message.is_queued && !message.is_sent) {
            sink.delivered(message.client);
        }
        self.messages.clear();
        self.order.clear();
    }

    fn connect(&mut self, time: i64, process: u64, who: Client, names: &[u8], sink: &mut impl SessionSink) {
        let mut open = self.begin(who);
        if self.seen == Seen::Connect {
            self.ask(&mut open, time, process, name(who.name, names), sink);
        }
        self.keep(process, open);
    }

    /// The session that a recipient belongs to.
    fn recipient(&mut self, process: u64, who: Client, authenticated: bool) -> Open {
        // Another client than the one that connected: a proxy speaks for it, or the log began in between.
        let known = self.processes.get(&process).filter(|open| open.client == who.address).copied();
        let mut open = known.unwrap_or_else(|| self.begin(who));
        if !open.is_settled && authenticated {
            open.is_settled = true;
            self.sums.authenticated += 1;
        }
        open
    }

    /// Returns a session that has to be asked about now, for nothing of it got into the log before.
    fn disconnect(&mut self, process: u64, asked: bool, authenticated: bool) -> Option<Open> {
        let open = self.processes.remove(&process)?;
        if authenticated && open.is_asked {
            self.sums.authenticated_late += 1;
        }
        if open.is_settled {
            return None;
        }
        match (authenticated, asked) {
            (true, _) => self.sums.authenticated += 1,
            (false, true) => return Some(open),
            (false, false) => self.sums.without_recipient += 1,
        }
        None
    }

    fn begin(&mut self, who: Client) -> Open {
        self.sums.sessions += 1;
        let mut open =
            Open { client: who.address, is_settled: false, is_asked: false, number: self.sums.sessions, messages: 0 };
        match who.address {
            None => {
                open.is_settled = true;
                self.sums.unknown += 1;
            }
            Some(client) if self.mynetworks.lookup(client).is_some() => {
                open.is_settled = true;
                self.sums.mynetworks += 1;
            }
            Some(_) => {}
        }
        open
    }

    /// Asks about a session that was not asked about yet.
    fn ask(&mut self, open: &mut Open, time: i64, process: u64, name: &[u8], sink: &mut impl SessionSink) {
        let Some(client) = open.client.filter(|_| !open.is_settled) else {
            return;
        };
        (open.is_settled, open.is_asked) = (true, true);
        self.sums.asked += 1;
        sink.asked(&Session { time, client, name, process, number: open.number, message: 0 });
    }

    /// A message begins in a session that was asked about. The first one is part of that question; for
    /// each further one Postfix asks again, unless it asks when clients connect.
    fn further(&self, open: &mut Open, time: i64, process: u64, name: &[u8], sink: &mut impl SessionSink) {
        open.messages += 1;
        if let (Some(client), 2.., Seen::Rcpt) = (open.client, open.messages, self.seen) {
            let message = open.messages - 1;
            sink.asked_again(&Session { time, client, name, process, number: open.number, message });
        }
    }

    fn keep(&mut self, process: u64, open: Open) {
        if self.processes.len() >= MAX_PROCESSES && !self.processes.contains_key(&process) {
            // Processes that ended without a word; the older half of all goes.
            let middle = self.sums.sessions.saturating_sub(MAX_PROCESSES as u64 / 2);
            self.processes.retain(|_, open| open.number > middle);
        }
        self.processes.insert(process, open);
    }

    fn begin_message(&mut self, id: u64, client: IpAddr, sink: &mut impl SessionSink) {
        self.messages.insert(id, Message { client, is_queued: false, is_sent: false });
        self.order.push_back(id);
        while self.order.len() > MAX_MESSAGES {
            let oldest = self.order.pop_front().and_then(|id| self.messages.remove(&id));
            if let Some(message) = oldest.filter(|message| message.is_queued && !message.is_sent) {
                sink.delivered(message.client);
            }
        }
    }
}

fn name(place: Place, names: &[u8]) -> &[u8] {
    let start = place.start as usize;
    &names[start..start + usize::from(place.length)]
}

#[cfg(test)]
mod tests;
