//! Recognising SMTP sessions in the requests of policy connections.
//!
//! Postfix asks once per recipient and per restriction list, over one policy
//! connection per smtpd process and endpoint text, and names no session. What
//! does tell sessions apart: an smtpd process has one at a time; a client's
//! address and port with the server's are unique while the session lasts; and
//! `instance` carries the process id and a count of MAIL commands that begins
//! at 0 with each session.
//!
//! Each policy connection holds a `Seat`, which remembers its current session
//! only. The table finds the session of another seat, for sites that ask over
//! two endpoint texts and for a request sent again over a new connection. Its
//! size is bounded by the policy connections, so no flood of clients can push
//! out a session that is still going on.

mod snapshot;
mod table;

use std::net::IpAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::Notify;

use crate::net::clock::Now;
use crate::net::secret;
use crate::policy::attribute::Attribute;
use crate::policy::request::{Instance, Request, Stage};
use crate::policy::{CountRecord, SessionRecord};
use table::{Endpoints, Port, Session, SessionId, Table};

/// Two CONNECTs of one session over two policy connections come within this many milliseconds.
const SAME_CONNECT: u64 = 1_000;

/// Postfix asks again one second after it gave up a policy connection (`smtpd_policy_service_retry_delay`),
/// on a machine that may be busy.
const ASKED_AGAIN: u64 = 5_000;

/// All sessions known to this process.
#[derive(Debug)]
pub struct Sessions {
    table: Mutex<Table>,
    /// Some session that was being counted has been.
    settled: Notify,
}

impl Sessions {
    /// For that many policy connections.
    pub fn new(max_connections: usize) -> Arc<Self> {
        Arc::new(Self { table: Mutex::new(Table::new(max_connections)), settled: Notify::new() })
    }

    /// A place for one policy connection. `peer` is the address of its other end, if it has one.
    pub fn attach(self: &Arc<Self>, peer: Option<IpAddr>) -> SessionHandle {
        let number = self.lock().number();
        SessionHandle {
            number,
            peer,
            current: None,
            opening: false,
            last: None,
            repeated: false,
            sessions: Arc::clone(self),
        }
    }

    /// Sessions remembered.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Drops what sessions remember of these refusals of a client, and says of how many sessions there was any.
    pub fn clear_refusals(&self, concerns: impl Fn(IpAddr, &CountRecord) -> bool) -> usize {
        let mut pardoned = 0;
        self.lock().each(|client, session| {
            pardoned += usize::from(session.memory.clear_refusals(|count| concerns(client, count)));
        });
        pardoned
    }

    /// The sessions of these clients.
    pub fn count(&self, concerns: impl Fn(IpAddr) -> bool) -> usize {
        let mut number = 0;
        self.lock().each(|client, _| number += usize::from(concerns(client)));
        number
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // Nothing below can panic half-way through a change.
        self.table.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// One policy connection's view of the sessions.
#[derive(Debug)]
pub struct SessionHandle {
    number: u64,
    peer: Option<IpAddr>,
    current: Option<SessionId>,
    /// Its last request was a CONNECT or XCLIENT.
    opening: bool,
    /// What its last request asked, if that was about a message.
    last: Option<Asked>,
    /// A request of the current session was the same as the one before.
    repeated: bool,
    sessions: Arc<Sessions>,
}

/// What Postfix asks once from each list: the message, the stage, and the hash of the recipient.
type Asked = (Instance, Stage, u64);

/// How a seat stands to a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Relation {
    /// Its last request was about this session.
    Current,
    /// This is its first request.
    Fresh,
    /// Its last request was about another.
    Other,
}

/// What is known of the session a request belongs to.
#[derive(Debug)]
pub struct SessionLookup {
    /// The request is its first.
    pub new: bool,
    /// Another policy connection was about it before this one.
    pub elsewhere: bool,
    /// It asks what the one before asked over the same policy connection; said of a session once.
    pub repeated: bool,
    /// Another policy connection's request is being counted for it: `settled` tells what came of it.
    pub counting: bool,
    /// What it has been judged for.
    pub memory: SessionRecord,
}

impl SessionHandle {
    /// Finds the session of a request, or begins one.
    pub fn lookup(&mut self, client: IpAddr, request: &Request, now: Now) -> SessionLookup {
        let sessions = Arc::clone(&self.sessions);
        let mut table = sessions.lock();
        table.drop_ended(now.monotonic);
        self.opening = matches!(request.state, Stage::Connect | Stage::Xclient);
        let endpoints = self.endpoints(client, request, &mut table, now.monotonic);
        let hash = table.hash(&endpoints);
        let found = table.find(&endpoints, hash);
        let relation = self.relation(found);
        if let Some(place) = found
            && let Some(session) = table.session(place)
            && session.takes(request, relation, now.monotonic)
        {
            session.unanswered = false;
            session.left = None;
            session.proceed(request.instance);
            let (counting, memory) = (session.counting, session.memory.clone());
            self.move_to(&mut table, place);
            let elsewhere = relation != Relation::Current;
            let repeated = self.repeats(request, !elsewhere);
            return SessionLookup { new: false, elsewhere, repeated, counting, memory };
        }
        self.repeats(request, false);
        let opened = self.opening.then_some(now.monotonic);
        let session = Session::new(opened, request.instance);
        // Before it sits elsewhere, so that the slot it leaves is free.
        self.detach(&mut table);
        let place = table.begin(endpoints, hash, session);
        self.move_to(&mut table, place);
        SessionLookup {
            new: true,
            elsewhere: false,
            repeated: false,
            counting: false,
            memory: SessionRecord::default(),
        }
    }

    /// Says that the current session is being counted; `remember` says what came of it.
    pub fn count(&self) {
        if let Some(place) = self.current
            && let Some(session) = self.sessions.lock().session(place)
        {
            session.counting = true;
        }
    }

    /// Waits until another seat has counted the current session, and says what it remembers.
    pub async fn counted(&self) -> SessionRecord {
        loop {
            let mut settled = pin!(self.sessions.settled.notified());
            // Registers before the look, so that nothing is missed between the two.
            settled.as_mut().enable();
            match self.memory() {
                Some(memory) => return memory,
                None => settled.await,
            }
        }
    }

    /// What the current session remembers; `None` while it is being counted.
    fn memory(&self) -> Option<SessionRecord> {
        let mut table = self.sessions.lock();
        match self.current.and_then(|place| table.session(place)) {
            Some(session) => (!session.counting).then(|| session.memory.clone()),
            None => Some(SessionRecord::default()),
        }
    }

    /// Has the current session remember what it has been judged for.
    pub fn remember(&mut self, memory: SessionRecord) {
        if let Some(place) = self.current
            && let Some(session) = self.sessions.lock().session(place)
        {
            session.memory = memory;
            if std::mem::take(&mut session.counting) {
                self.sessions.settled.notify_waiters();
            }
        }
    }

    /// Gives the place up. `answered`: the last answer reached Postfix, as far as we can know.
    pub fn close(mut self, answered: bool, now: Now) {
        let sessions = Arc::clone(&self.sessions);
        let mut table = sessions.lock();
        if let Some(place) = self.current.take() {
            if let Some(session) = table.session(place) {
                session.unanswered = !answered;
                session.left = self.opening.then_some(now.monotonic);
            }
            table.detach(place, Some(now.monotonic));
        }
    }

    fn move_to(&mut self, table: &mut Table, place: SessionId) {
        if self.current != Some(place) {
            self.detach(table);
            table.attach(place);
            self.current = Some(place);
        }
    }

    /// Whether a request is the first of its session that asks what the one before did. `goes_on`: that was of the same.
    fn repeats(&mut self, request: &Request, goes_on: bool) -> bool {
        let asked = asked(request);
        let same = asked.is_some() && std::mem::replace(&mut self.last, asked) == asked;
        let before = goes_on && self.repeated;
        self.repeated = goes_on && (before || same);
        self.repeated && !before
    }

    fn detach(&mut self, table: &mut Table) {
        if let Some(place) = self.current.take() {
            table.detach(place, None);
        }
    }

    fn relation(&self, found: Option<SessionId>) -> Relation {
        match self.current {
            None => Relation::Fresh,
            current if current == found => Relation::Current,
            Some(_) => Relation::Other,
        }
    }

    fn endpoints(&self, client: IpAddr, request: &Request, table: &mut Table, now: u64) -> Endpoints {
        let with = |port| Endpoints::new(client, port, request.server, self.peer);
        if request.client_port != 0 {
            return with(Port::Client(request.client_port));
        }
        // Postfix before 3.0: the session goes on over its policy connection while the client is the same.
        let own = self.current.and_then(|place| table.endpoints(place).copied());
        let goes_on = own.is_some_and(|own| own == with(own.port()))
            && self
                .current
                .and_then(|place| table.session(place))
                .is_some_and(|session| session.takes(request, Relation::Current, now));
        match (own, request.instance) {
            (Some(own), _) if goes_on => own,
            (_, Some(instance)) => with(Port::Process(instance.pid)),
            (_, None) => with(Port::Seat(self.number)),
        }
    }
}

fn asked(request: &Request) -> Option<Asked> {
    // Before there is a message nothing tells a list that asks again from a client that begins again.
    let recipient = || secret::hash(request.value(Attribute::Recipient));
    request.instance.map(|instance| (instance, request.state, recipient()))
}

impl Session {
    /// Takes a request's message for the newest; what was said of the one before concerns nobody any more.
    fn proceed(&mut self, instance: Option<Instance>) {
        if instance.is_some() && self.instance != instance {
            self.memory.end_message();
            self.instance = instance;
        }
    }

    /// Whether a request with this session's endpoints belongs to it.
    fn takes(&self, request: &Request, seat: Relation, now: u64) -> bool {
        match (request.state, request.instance) {
            (Stage::Connect | Stage::Xclient, _) => seat != Relation::Current && self.begins_again(seat, now),
            (_, None) => true,
            (_, Some(instance)) => self.instance.is_none_or(|last| instance.follows(&last)),
        }
    }

    /// Whether a CONNECT or XCLIENT on another policy connection is about the beginning we know: one
    /// of two that are asked about every session, or the same question again.
    fn begins_again(&self, seat: Relation, now: u64) -> bool {
        let within = |since: Option<u64>, time| since.is_some_and(|since| now.saturating_sub(since) < time);
        let again = self.counting || self.unanswered || (seat == Relation::Fresh && within(self.left, ASKED_AGAIN));
        within(self.opened, SAME_CONNECT) || (self.opened.is_some() && again)
    }
}

impl Instance {
    /// Whether a message can come after `last` in one session: the same smtpd process, and the same
    /// message or a later one. The count begins anew with each session, so a lower number, or the
    /// same number at another time, means that the client's port was used again.
    fn follows(&self, last: &Self) -> bool {
        self == last || (self.pid == last.pid && self.seqno > last.seqno)
    }
}

#[cfg(test)]
mod tests;
