//! Recognising SMTP sessions in the requests of policy connections.
//!
//! Postfix asks once per recipient and per restriction list, over one policy
//! connection per smtpd process and endpoint text, and names no session. What
//! does tell sessions apart: an smtpd process has one at a time; a client's
//! address and port with the server's are unique while the session lasts; and
//! `instance` carries the process id and a count of MAIL commands that begins
//! at 0 with each session.
//!
//! Each policy connection has a `SessionHandle`, which remembers its current
//! session only. The table finds the session of another handle, for sites that
//! ask over two endpoint texts and for a request sent again over a new
//! connection. Its size is bounded by the policy connections, so no flood of
//! clients can push out a session that is still going on.

pub mod snapshot;
mod table;
mod unsent;

use std::net::IpAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::Notify;

use crate::net::clock::Now;
use crate::net::lock;
use crate::net::secret;
use crate::policy::attribute::Attribute;
use crate::policy::message::{HeldHits, MessageProgress};
use crate::policy::request::{Instance, Request, Stage};
use crate::policy::{CountRecord, Scope, SessionRecord};
use table::{Discriminator, Endpoints, Session, SessionId, SessionTable};

/// smtpd queries its next restriction list within this many milliseconds after our answer. Where the process is not
/// known, a later CONNECT over another policy connection is a new session.
const SAME_CONNECT: u64 = 50;

/// Postfix asks again one second after it gave up a policy connection (`smtpd_policy_service_retry_delay`),
/// on a machine that may be busy.
const ASKED_AGAIN: u64 = 5_000;

/// All sessions known to this process.
#[derive(Debug)]
pub struct Sessions {
    table: Mutex<SessionTable>,
    /// Notified when the count of a session is finished.
    counted: Notify,
}

impl Sessions {
    /// A table for at most that many policy connections.
    pub fn new(max_connections: usize) -> Arc<Self> {
        Arc::new(Self { table: Mutex::new(SessionTable::new(max_connections)), counted: Notify::new() })
    }

    /// The handle of a new policy connection.
    pub fn attach(self: &Arc<Self>, peer: impl Into<SessionPeer>) -> SessionHandle {
        let number = self.lock().next_id();
        let peer = peer.into();
        let state = HandleState { number, peer, current: None, opening: false, last: None, repeated: false };
        SessionHandle { state, sessions: Arc::clone(self) }
    }

    /// Sessions remembered.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Clears the refusals that sessions remember and `concerns` accepts. Returns how many sessions had any.
    pub fn clear_refusals(&self, concerns: impl Fn(IpAddr, &CountRecord) -> bool) -> usize {
        let mut cleared = 0;
        self.lock().each(|client, session| {
            cleared += usize::from(session.record.clear_refusals(|count| concerns(client, count)));
        });
        cleared
    }

    /// Hits for recipients of messages that are not sent, to be taken back once.
    pub fn take_unsent(&self) -> Vec<HeldHits> {
        std::mem::take(&mut self.lock().unsent_hits)
    }

    /// Ends messages about which Postfix has asked nothing for too long: they are taken as not sent.
    pub fn end_silent_messages(&self, now: Now) {
        self.lock().end_silent_messages(now);
    }

    /// Drops held hits of counters that an administrator has reset.
    pub fn forget_held(&self, is_reset: impl Fn(&HeldHits) -> bool) {
        self.lock().each(|_, session| {
            if let Some(mut message) = session.record.message() {
                message.forget(&is_reset);
            }
        });
    }

    /// The sessions of these clients.
    pub fn number_of(&self, concerns: impl Fn(IpAddr) -> bool) -> usize {
        let mut number = 0;
        self.lock().each(|client, _| number += usize::from(concerns(client)));
        number
    }

    /// The session of a request over the policy connection of a handle in that state. `Err`: it is being counted.
    fn find_or_begin(
        &self,
        state: &mut HandleState,
        client: IpAddr,
        request: &Request<'_>,
        now: Now,
    ) -> Result<SessionGuard<'_>, (SessionId, SessionLookup)> {
        let mut table = self.lock();
        table.drop_ended(now.monotonic);
        let (id, lookup) = state.find_or_begin(client, request, &mut table, now);
        match table.session(id).is_some_and(|session| session.counting) {
            true => Err((id, lookup)),
            false => Ok(SessionGuard { sessions: self, table, id, lookup, ended: None }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, SessionTable> {
        lock(&self.table)
    }
}

/// One policy connection's view of the sessions.
#[derive(Debug)]
pub struct SessionHandle {
    state: HandleState,
    sessions: Arc<Sessions>,
}

/// The other end of a policy connection, as far as it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionPeer {
    /// Its address, over TCP.
    pub address: Option<IpAddr>,
    /// Its process, over a unix socket.
    pub process: Option<u32>,
}

impl From<Option<IpAddr>> for SessionPeer {
    fn from(address: Option<IpAddr>) -> Self {
        Self { address, process: None }
    }
}

/// What a policy connection remembers: its current session, and its last request.
#[derive(Debug)]
struct HandleState {
    number: u64,
    peer: SessionPeer,
    current: Option<SessionId>,
    /// Its last request was a CONNECT or XCLIENT.
    opening: bool,
    /// What its last request asked, if that was about a message.
    last: Option<Question>,
    /// A request of the current session was the same as the one before.
    repeated: bool,
}

/// What Postfix asks once from each list: the message, the stage, and a hash of the recipient.
type Question = (Instance, Stage, u64);

/// The relation of a policy connection to a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Relation {
    /// Its last request was about this session.
    Current,
    /// This is its first request.
    Fresh,
    /// Its last request was about another.
    Other,
}

/// The relation of a request to its session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionLookup {
    /// The request is its first.
    pub new: bool,
    /// The request before it came over another policy connection.
    pub elsewhere: bool,
    /// It asks what the one before asked over the same policy connection; reported once for a session.
    pub repeated: bool,
}

/// The session of a request, with the lock on the table of all sessions: to be held without waiting for anything.
#[derive(Debug)]
pub struct SessionGuard<'h> {
    sessions: &'h Sessions,
    table: MutexGuard<'h, SessionTable>,
    id: SessionId,
    pub lookup: SessionLookup,
    /// Stands in for the record of a session that ended while its request was counted.
    ended: Option<Box<SessionRecord>>,
}

/// A session whose hits are on their way to the store. The table is not locked meanwhile; requests of other policy
/// connections about the same session wait for the result.
#[derive(Debug)]
pub struct CountInProgress<'h> {
    sessions: &'h Sessions,
    id: SessionId,
    lookup: SessionLookup,
}

impl SessionHandle {
    /// Finds the session of a request, or begins one. Waits while another policy connection's request is being counted
    /// for it.
    pub async fn lookup(&mut self, client: IpAddr, request: &Request<'_>, now: Now) -> SessionGuard<'_> {
        let Self { state, sessions } = self;
        let (id, lookup) = match sessions.find_or_begin(state, client, request, now) {
            Ok(session) => return session,
            Err(counting) => counting,
        };
        loop {
            let mut counted = pin!(sessions.counted.notified());
            // Registers before the look, so that nothing is missed between the two.
            counted.as_mut().enable();
            {
                let mut table = sessions.lock();
                if table.session(id).is_none_or(|session| !session.counting) {
                    return SessionGuard { sessions, table, id, lookup, ended: None };
                }
            }
            counted.await;
        }
    }

    /// The same without waiting; `None` where it would wait.
    pub fn lookup_at_once(&mut self, client: IpAddr, request: &Request<'_>, now: Now) -> Option<SessionGuard<'_>> {
        self.sessions.find_or_begin(&mut self.state, client, request, now).ok()
    }

    /// The answer to the last request has been written.
    pub fn answered(&mut self, now: impl FnOnce() -> Now) {
        let Self { state, sessions } = self;
        if state.opening
            && let Some(id) = state.current
            && let Some(session) = sessions.lock().session(id)
        {
            session.answered = Some(now().monotonic);
        }
    }

    /// Closes the policy connection. `answered`: the last answer reached Postfix, as far as we can know.
    pub fn close(self, answered: bool, now: Now) {
        let Self { state, sessions } = self;
        let mut table = sessions.lock();
        if let Some(id) = state.current {
            if let Some(session) = table.session(id) {
                session.unanswered = !answered;
                session.left_at = state.opening.then_some(now.monotonic);
            }
            table.detach(id, Some(now.monotonic));
        }
    }
}

impl<'h> SessionGuard<'h> {
    /// What the session remembers.
    pub fn record(&mut self) -> &mut SessionRecord {
        let Self { table, id, ended, .. } = self;
        match table.session(*id) {
            Some(session) => &mut session.record,
            None => ended.get_or_insert_default(),
        }
    }

    /// Notes how far the message of a request has come, if hits for its recipients are held.
    pub fn follow_message(&mut self, request: &Request, passes: bool, now: Now) {
        let Self { table, id, .. } = self;
        let progress = match request.state {
            Stage::Rcpt => MessageProgress::Recipients,
            Stage::Data if passes => MessageProgress::Data,
            Stage::EndOfMessage if passes => MessageProgress::Whole,
            _ => return,
        };
        table.follow_message(*id, request, progress, now);
    }

    /// Whether there are hits to take back, of this session or any other.
    pub fn has_unsent(&self) -> bool {
        !self.table.unsent_hits.is_empty()
    }

    /// Those hits, once.
    pub fn take_unsent(&mut self) -> Vec<HeldHits> {
        std::mem::take(&mut self.table.unsent_hits)
    }

    /// Gives up the lock while the session's hits are counted.
    pub fn unlock_to_count(mut self) -> CountInProgress<'h> {
        if let Some(session) = self.table.session(self.id) {
            session.counting = true;
        }
        CountInProgress { sessions: self.sessions, id: self.id, lookup: self.lookup }
    }
}

impl<'h> CountInProgress<'h> {
    /// Takes the lock again, for the result. Requests that wait for it look again when the lock is free.
    pub fn finish(self) -> SessionGuard<'h> {
        let Self { sessions, id, lookup } = self;
        let mut table = sessions.lock();
        if let Some(session) = table.session(id) {
            session.counting = false;
        }
        sessions.counted.notify_waiters();
        SessionGuard { sessions, table, id, lookup, ended: None }
    }
}

impl HandleState {
    /// The session that a request is about.
    ///
    /// It is the known session between the same endpoints: the client's address and port, the server's, and the peer
    /// that asks. Exactly three requests begin a new one instead:
    ///
    /// - one whose endpoints are not known;
    /// - a CONNECT or XCLIENT, unless it comes over another policy connection and is the one that the known session
    ///   began with (`Session::is_same_connect`);
    /// - one with an instance that cannot follow the session's last: another process, or a count that does not go up
    ///   (`Instance::follows`).
    fn find_or_begin(
        &mut self,
        client: IpAddr,
        request: &Request,
        table: &mut SessionTable,
        now: Now,
    ) -> (SessionId, SessionLookup) {
        self.opening = matches!(request.state, Stage::Connect | Stage::Xclient);
        let endpoints = self.endpoints(client, request, table, now.monotonic);
        let hash = table.hash(&endpoints);
        let found = table.find(&endpoints, hash);
        let relation = self.relation(found);
        if let Some(id) = found
            && let Some(session) = table.session(id)
            && session.is_continued_by(request, relation, self.peer.process, now.monotonic)
        {
            session.unanswered = false;
            session.left_at = None;
            if session.begins_message(request) && session.record.message().is_some() {
                table.end_message(id);
            }
            if let Some(session) = table.session(id) {
                session.proceed(request);
            }
            self.move_to(table, id);
            let elsewhere = relation != Relation::Current;
            let repeated = self.note_question(request, !elsewhere, table);
            return (id, SessionLookup { new: false, elsewhere, repeated });
        }
        self.note_question(request, false, table);
        // Before it is attached elsewhere, so that the slot it leaves is free.
        self.detach(table);
        let (id, session) = table.begin(endpoints, hash, found);
        session.opened = self.opening.then_some(now.monotonic);
        (session.process, session.instance) = (self.peer.process, request.instance);
        self.move_to(table, id);
        (id, SessionLookup { new: true, ..SessionLookup::default() })
    }

    fn move_to(&mut self, table: &mut SessionTable, id: SessionId) {
        if self.current != Some(id) {
            self.detach(table);
            table.attach(id);
            self.current = Some(id);
        }
    }

    /// Whether a request asks the same as the one before, for the first time in its session. `goes_on`: both are about
    /// one session. Before there is a message, a list that asks again looks like a client that begins again.
    fn note_question(&mut self, request: &Request, goes_on: bool, table: &SessionTable) -> bool {
        let asked = request.instance.map(|instance| (instance, request.state, table.hash_recipient(request)));
        let same = asked.is_some() && std::mem::replace(&mut self.last, asked) == asked;
        let before = goes_on && self.repeated;
        self.repeated = goes_on && (before || same);
        self.repeated && !before
    }

    fn detach(&mut self, table: &mut SessionTable) {
        if let Some(id) = self.current.take() {
            table.detach(id, None);
        }
    }

    fn relation(&self, found: Option<SessionId>) -> Relation {
        match self.current {
            None => Relation::Fresh,
            current if current == found => Relation::Current,
            Some(_) => Relation::Other,
        }
    }

    fn endpoints(&self, client: IpAddr, request: &Request, table: &mut SessionTable, now: u64) -> Endpoints {
        let with = |discriminator| Endpoints::new(client, discriminator, request.server, self.peer.address);
        if request.client_port != 0 {
            return with(Discriminator::Port(request.client_port));
        }
        // Postfix before 3.0: the session goes on over its policy connection while the client is the same.
        let own = self.current.and_then(|id| table.endpoints(id).copied());
        let goes_on = own.is_some_and(|own| own == with(own.discriminator))
            && self
                .current
                .and_then(|id| table.session(id))
                .is_some_and(|session| session.is_continued_by(request, Relation::Current, self.peer.process, now));
        match (own, request.instance) {
            (Some(own), _) if goes_on => own,
            (_, Some(instance)) => with(Discriminator::Process(instance.pid)),
            (_, None) => with(Discriminator::Handle(self.number)),
        }
    }
}

/// A hash that tells the services of one Postfix apart: some ask at later stages than others, or about other clients.
fn service(request: &Request) -> u64 {
    let has_login = !request.value(Attribute::SaslUsername).is_empty();
    secret::hash((request.value(Attribute::PolicyContext), has_login))
}

/// How many recipients a request's message has, and the recipient if there is just one.
fn recipients(request: &Request) -> (u32, Option<Scope>) {
    let count = str::from_utf8(request.value(Attribute::RecipientCount)).ok();
    let recipient = request.value(Attribute::Recipient);
    let only = (!recipient.is_empty()).then(|| Scope::recipient(&recipient.to_ascii_lowercase()));
    (count.and_then(|count| count.parse().ok()).unwrap_or(0), only)
}

impl Session {
    /// Whether a request is about another message.
    fn begins_message(&self, request: &Request) -> bool {
        request.instance.is_some() && self.instance != request.instance
    }

    /// Makes a request's message the current one.
    fn proceed(&mut self, request: &Request) {
        self.record.begins_message = false;
        match request.instance {
            Some(_) if self.begins_message(request) => {
                self.record.begin_message();
                self.instance = request.instance;
            }
            None if request.state == Stage::Verify => self.record.begin_verification(),
            _ => {}
        }
    }

    /// Whether a request with this session's endpoints belongs to it. `process` is the one that asks, if it is known.
    fn is_continued_by(&self, request: &Request, relation: Relation, process: Option<u32>, now: u64) -> bool {
        match (request.state, request.instance) {
            (Stage::Connect | Stage::Xclient, _) => {
                relation != Relation::Current && self.is_same_connect(relation, process, now)
            }
            (_, None) => true,
            (_, Some(instance)) => self.instance.is_none_or(|last| instance.follows(&last)),
        }
    }

    /// Whether a CONNECT or XCLIENT on another policy connection is the one this session began with: asked for another
    /// list by the same smtpd process, or sent again.
    fn is_same_connect(&self, relation: Relation, process: Option<u32>, now: u64) -> bool {
        let within = |since: Option<u64>, time| since.is_some_and(|since| now.saturating_sub(since) < time);
        if self.opened.is_none() {
            return false;
        }
        if let (Some(process), Some(opener)) = (process, self.process) {
            if process != opener {
                return false;
            }
            if self.handles > 0 {
                return true;
            }
        }
        // One smtpd process asks one thing at a time, so without an answer it is the same question.
        let is_open = self.counting || self.unanswered || self.answered.is_none();
        is_open
            || within(self.answered, SAME_CONNECT)
            || (relation == Relation::Fresh && within(self.left_at, ASKED_AGAIN))
    }
}

impl Instance {
    /// Whether a message can come after `last` in one session: the same smtpd process, and the same
    /// message or a later one. The count begins at 0 in each session, so a lower number, or the
    /// same number at another time, means that the client's port was used again.
    fn follows(&self, last: &Self) -> bool {
        self == last || (self.pid == last.pid && self.seqno > last.seqno)
    }
}

#[cfg(test)]
mod tests;
