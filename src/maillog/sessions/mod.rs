//! SMTP sessions, as the daemon would be asked about them, and what became of their mail.
//!
//! The lines of one smtpd process between `connect from` and `disconnect from`
//! are one session. It is asked about when the client connects or, where Postfix
//! delays its checks, at the first recipient. A session that is under way when
//! the log begins is known from its first recipient on. `messages` follows the mail.

mod messages;
mod sink;

use std::net::IpAddr;

use hashbrown::{HashMap, HashSet};
use serde::Serialize;

use super::lines::event::{Client, Event, EventKind, NameSpan};
use crate::net::netblock::NetblockTable;
use messages::{Arrival, Message, Messages};
pub use sink::{AcceptedMessage, LoggedSession, Seen, SessionSink};

/// smtpd processes remembered. Postfix runs a hundred unless told otherwise; each host has its own.
const MAX_PROCESSES: usize = 65_536;

/// Addresses that connected lately, in each of two generations.
const MAX_CONNECTED: usize = 32_768;

/// How many sessions there were, and why some of them are not asked about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Sums {
    /// Sessions of smtpd.
    pub sessions: u64,
    /// Those the daemon would have been asked about, and count.
    pub asked: u64,
    /// Clients in `$mynetworks`.
    pub mynetworks: u64,
    /// Content filters outside of `$mynetworks` that handed mail back.
    pub filters: u64,
    /// Clients that logged in before they were asked about.
    pub authenticated: u64,
    /// Clients that were asked about and turned out to have logged in.
    pub authenticated_late: u64,
    /// Sessions that ended without getting to a recipient.
    pub without_recipient: u64,
    /// Clients whose address Postfix did not know.
    #[serde(rename = "unknown_address")]
    pub unknown: u64,
    /// Sessions of submission services.
    pub submission: u64,
    /// Clients of postscreen.
    pub postscreen: u64,
    /// Those that it handed to smtpd.
    pub postscreen_passed: u64,
    /// Messages that were accepted, and then discarded, returned by a filter, or kept in quarantine.
    #[serde(rename = "discarded_messages")]
    pub discarded: u64,
}

/// The sessions and messages under way.
pub struct SessionTracker {
    seen: Seen,
    /// `$mynetworks`; `false` stands for an exception.
    mynetworks: NetblockTable<bool>,
    processes: HashMap<u64, OpenSession>,
    messages: Messages,
    /// Addresses that connected to this host themselves: a filter may speak for them.
    connected: HashSet<IpAddr>,
    connected_before: HashSet<IpAddr>,
    /// The time of the event, in milliseconds since the epoch, and whether the log tells fractions.
    now: i64,
    has_fraction: bool,
    /// The numbers so far.
    pub sums: Sums,
}

/// A session under way.
#[derive(Clone, Copy, Debug)]
struct OpenSession {
    client: Option<IpAddr>,
    /// A client of `$mynetworks`, or this host: it may be a filter.
    is_trusted: bool,
    /// Nothing is to be asked about it any more.
    is_settled: bool,
    is_asked: bool,
    number: u64,
    /// Messages that began so far.
    messages: u32,
}

impl SessionTracker {
    /// Of a site that is seen so and trusts these networks, but not those with `false`.
    pub fn new(seen: Seen, mynetworks: NetblockTable<bool>) -> Self {
        Self {
            seen,
            mynetworks,
            processes: HashMap::new(),
            messages: Messages::default(),
            connected: HashSet::new(),
            connected_before: HashSet::new(),
            now: 0,
            has_fraction: false,
            sums: Sums::default(),
        }
    }

    /// Takes in what happened.
    pub fn take(&mut self, time: i64, event: &Event, names: &[u8], sink: &mut impl SessionSink) {
        (self.now, self.has_fraction) = (time, event.stamp.has_fraction);
        match event.kind {
            EventKind::Connect { process, who } => self.connect(process, who, names, sink),
            EventKind::Recipient { process, who, login, begins_message, message } => {
                let (mut open, counts_for) = self.recipient(process, who, login.length > 0);
                self.ask(&mut open, process, who.name.text(names), sink);
                if begins_message && open.is_asked {
                    self.further(&mut open, process, who.name.text(names), sink);
                }
                if let Some(id) = message {
                    if counts_for.is_some() {
                        self.messages.begin_again(id, Message::new(None, time, None), None, counts_for, sink);
                    } else {
                        let counts_for = open.client.filter(|_| open.is_asked);
                        let arrival = self.arrival(who, login, names, false);
                        self.messages.begin(id, Message::new(counts_for, time, arrival), sink);
                    }
                }
                self.keep(process, open);
            }
            EventKind::FromFilter { process, who, message, original, client } => {
                self.behind_filter(process, who, message, original, client, sink);
            }
            EventKind::Disconnect { process, name, asked, authenticated } => {
                if let Some(mut open) = self.disconnect(process, asked, authenticated) {
                    self.ask(&mut open, process, name.text(names), sink);
                }
            }
            EventKind::Submission => self.sums.submission += 1,
            EventKind::Submitted { who, login, message } => {
                let arrival = self.arrival(who, login, names, true);
                self.messages.begin(message, Message::new(None, time, arrival), sink);
            }
            EventKind::Queued { message, sender, recipients } => {
                if let Some(arrival) = self.messages.queue(message, sink) {
                    let Arrival { client, ref login, is_submission } = *arrival;
                    let sender = sender.text(names);
                    let has_fraction = self.has_fraction;
                    sink.accepted(&AcceptedMessage {
                        time,
                        has_fraction,
                        client,
                        login,
                        sender,
                        recipients,
                        is_submission,
                    });
                }
            }
            EventKind::Delivery { message, outcome, next } => self.messages.deliver(message, outcome, next, sink),
            EventKind::Renamed { old, new } => self.messages.rename(old, new, sink),
            EventKind::Removed(id) => self.messages.remove(id, &mut self.sums, sink),
            EventKind::ScreenConnect => self.sums.postscreen += 1,
            EventKind::ScreenPass => self.sums.postscreen_passed += 1,
        }
    }

    /// The log ends: what is still in the queue was accepted, and is as good as delivered.
    pub fn finish(&mut self, sink: &mut impl SessionSink) {
        self.messages.finish(sink);
    }

    fn connect(&mut self, process: u64, who: Client, names: &[u8], sink: &mut impl SessionSink) {
        let mut open = self.begin(who);
        if let Some(client) = who.address.filter(|_| !open.is_trusted) {
            self.note_connected(client);
        }
        if self.seen == Seen::Connect {
            self.ask(&mut open, process, who.name.text(names), sink);
        }
        self.keep(process, open);
    }

    /// The session that a recipient belongs to; and, when a filter speaks, the client it speaks for.
    fn recipient(&mut self, process: u64, who: Client, authenticated: bool) -> (OpenSession, Option<IpAddr>) {
        let known = self.processes.get(&process).copied();
        let mut open = match known {
            Some(open) if open.client == who.address => open,
            // Postfix up to 2.5 logs the client that the filter names as if it had connected.
            Some(open) if open.is_trusted && who.address.is_some_and(|client| self.has_connected(client)) => {
                return (open, who.address);
            }
            // A proxy speaks for the client (XCLIENT), or the log began in between.
            _ => self.begin(who),
        };
        if !open.is_settled && authenticated {
            open.is_settled = true;
            self.sums.authenticated += 1;
        }
        (open, None)
    }

    fn behind_filter(
        &mut self,
        process: u64,
        who: Client,
        message: u64,
        original: Option<u64>,
        client: Option<IpAddr>,
        sink: &mut impl SessionSink,
    ) {
        let known = self.processes.get(&process).filter(|open| open.client == who.address).copied();
        let mut open = known.unwrap_or_else(|| self.begin(who));
        if !open.is_settled {
            open.is_settled = true;
            self.sums.filters += 1;
        }
        self.keep(process, open);
        let client = client.filter(|client| !self.is_trusted(*client));
        // Behind a before-queue filter the message has its first queue id only here.
        let arrival = Arrival { client, ..Arrival::default() };
        let arrival = (original.is_none() && client.is_some()).then(|| Box::new(arrival));
        let begun = Message::new(None, self.now, arrival);
        self.messages.begin_again(message, begun, original, client, sink);
    }

    /// Returns a session that has to be asked about now, for nothing of it got into the log before.
    fn disconnect(&mut self, process: u64, asked: bool, authenticated: bool) -> Option<OpenSession> {
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

    fn begin(&mut self, who: Client) -> OpenSession {
        self.sums.sessions += 1;
        let mut open = OpenSession {
            client: who.address,
            is_trusted: false,
            is_settled: false,
            is_asked: false,
            number: self.sums.sessions,
            messages: 0,
        };
        match who.address {
            None => {
                open.is_settled = true;
                self.sums.unknown += 1;
            }
            Some(client) if self.is_in_mynetworks(client) => {
                (open.is_settled, open.is_trusted) = (true, true);
                self.sums.mynetworks += 1;
            }
            Some(client) => open.is_trusted = client.is_loopback(),
        }
        open
    }

    fn is_in_mynetworks(&self, client: IpAddr) -> bool {
        self.mynetworks.lookup(client).is_some_and(|(_, is_member)| *is_member)
    }

    fn is_trusted(&self, client: IpAddr) -> bool {
        client.is_loopback() || self.is_in_mynetworks(client)
    }

    fn note_connected(&mut self, client: IpAddr) {
        if self.connected.len() >= MAX_CONNECTED && !self.connected.contains(&client) {
            self.connected_before = std::mem::take(&mut self.connected);
        }
        self.connected.insert(client);
    }

    fn has_connected(&self, client: IpAddr) -> bool {
        self.connected.contains(&client) || self.connected_before.contains(&client)
    }

    /// Where a message came from, unless from this host: that may be a filter.
    fn arrival(&self, who: Client, login: NameSpan, names: &[u8], is_submission: bool) -> Option<Box<Arrival>> {
        let is_local = who.address.is_some_and(|client| client.is_loopback()) && login.length == 0;
        let login = login.text(names).into();
        (!is_local).then(|| Box::new(Arrival { client: who.address, login, is_submission }))
    }

    /// Asks about a session that was not asked about yet.
    fn ask(&mut self, open: &mut OpenSession, process: u64, name: &[u8], sink: &mut impl SessionSink) {
        let Some(client) = open.client.filter(|_| !open.is_settled) else {
            return;
        };
        (open.is_settled, open.is_asked) = (true, true);
        self.sums.asked += 1;
        sink.asked(&self.session(client, open.number, 0, process, name));
    }

    /// A message begins in a session that was asked about. The first one is part of that question; for
    /// each further one Postfix asks again, unless it asks when clients connect.
    fn further(&self, open: &mut OpenSession, process: u64, name: &[u8], sink: &mut impl SessionSink) {
        open.messages += 1;
        if let (Some(client), 2.., Seen::Rcpt) = (open.client, open.messages, self.seen) {
            sink.asked_again(&self.session(client, open.number, open.messages - 1, process, name));
        }
    }

    fn session<'n>(
        &self,
        client: IpAddr,
        number: u64,
        message: u32,
        process: u64,
        name: &'n [u8],
    ) -> LoggedSession<'n> {
        LoggedSession { time: self.now, has_fraction: self.has_fraction, client, name, process, number, message }
    }

    fn keep(&mut self, process: u64, open: OpenSession) {
        if self.processes.len() >= MAX_PROCESSES && !self.processes.contains_key(&process) {
            // Processes that ended without a word; the older half of all goes.
            let middle = self.sums.sessions.saturating_sub(MAX_PROCESSES as u64 / 2);
            self.processes.retain(|_, open| open.number > middle);
        }
        self.processes.insert(process, open);
    }
}

#[cfg(test)]
mod tests;
