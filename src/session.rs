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

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::Notify;

use crate::clock::Now;
use crate::codec::{Instance, Request, State};
use crate::policy::Counts;

/// How long a session outlives its last policy connection: Postfix may close an idle one in mid-session.
pub const LINGER: u64 = 300_000;

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

#[derive(Debug)]
struct Table {
    sessions: HashMap<Endpoints, Session>,
    /// Sessions whose policy connections are all closed, in the order of their end.
    lingering: VecDeque<Lingering>,
    max_lingering: usize,
    newest: u64,
}

#[derive(Debug)]
struct Lingering {
    until: u64,
    endpoints: Endpoints,
    id: u64,
}

/// What a session is found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Endpoints {
    client: IpAddr,
    client_port: Port,
    server: Option<(IpAddr, u16)>,
    /// Where Postfix does not tell its own address, that of the policy connection's other end stands in.
    peer: Option<IpAddr>,
}

/// What stands beside the client's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Port {
    Known(u16),
    /// Postfix before 3.0 tells no port; the smtpd process is the next best.
    Process(u64),
    /// Nor is there a process id before the first MAIL command, so only its own seat can find it.
    Seat(u64),
}

#[derive(Debug)]
struct Session {
    id: u64,
    /// Open policy connections whose current session this is.
    seats: u32,
    /// When it is forgotten, once there are none.
    ends: u64,
    /// When its CONNECT or XCLIENT came.
    opened: Option<u64>,
    /// The policy connection that asked closed before our answer was written, so Postfix will ask again.
    unanswered: bool,
    /// When a policy connection closed after it had asked about the beginning only: the answer may have been lost.
    left: Option<u64>,
    /// Its first hits are on their way to the store.
    counting: bool,
    /// The newest message.
    instance: Option<Instance>,
    counts: Counts,
}

impl Sessions {
    /// A table for that many policy connections.
    pub fn new(max_connections: usize) -> Arc<Self> {
        let table =
            Table { sessions: HashMap::new(), lingering: VecDeque::new(), max_lingering: max_connections, newest: 0 };
        Arc::new(Self { table: Mutex::new(table), settled: Notify::new() })
    }

    /// A place for one policy connection. `peer` is the address of its other end, if it has one.
    pub fn seat(self: &Arc<Self>, peer: Option<IpAddr>) -> Seat {
        let mut table = self.lock();
        table.newest += 1;
        Seat { number: table.newest, peer, current: None, opening: false, sessions: Arc::clone(self) }
    }

    /// Sessions remembered.
    pub fn len(&self) -> usize {
        self.lock().sessions.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // Nothing below can panic half-way through a change.
        self.table.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// One policy connection's view of the sessions.
#[derive(Debug)]
pub struct Seat {
    number: u64,
    peer: Option<IpAddr>,
    current: Option<(Endpoints, u64)>,
    /// Its last request was a CONNECT or XCLIENT.
    opening: bool,
    sessions: Arc<Sessions>,
}

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
pub struct Joined {
    /// The request is its first.
    pub new: bool,
    /// Another policy connection's request is being counted for it: `settled` tells what came of it.
    pub counting: bool,
    /// What it has been counted for.
    pub counts: Counts,
}

impl Seat {
    /// Finds the session of a request, or begins one.
    pub fn join(&mut self, client: IpAddr, request: &Request, now: Now) -> Joined {
        let sessions = Arc::clone(&self.sessions);
        let mut table = sessions.lock();
        table.drop_ended(now.monotonic);
        self.opening = matches!(request.state, State::Connect | State::Xclient);
        let endpoints = self.endpoints(client, request, &table, now.monotonic);
        if let Some(session) = table.sessions.get_mut(&endpoints)
            && session.takes(request, self.relation(&endpoints, session), now.monotonic)
        {
            session.unanswered = false;
            session.left = None;
            session.instance = request.instance.or(session.instance);
            let (id, counting, counts) = (session.id, session.counting, session.counts.clone());
            self.sit(&mut table, endpoints, id);
            return Joined { new: false, counting, counts };
        }
        let id = table.begin(endpoints, request, now.monotonic);
        self.sit(&mut table, endpoints, id);
        Joined { new: true, counting: false, counts: Counts::new() }
    }

    /// Says that the current session is being counted; `remember` says what came of it.
    pub fn count(&self) {
        if let Some((endpoints, id)) = self.current
            && let Some(session) = self.sessions.lock().session(&endpoints, id)
        {
            session.counting = true;
        }
    }

    /// Waits until another seat has counted the current session, and says for what.
    pub async fn settled(&self) -> Counts {
        loop {
            let mut settled = pin!(self.sessions.settled.notified());
            // Registers before the look, so that nothing is missed between the two.
            settled.as_mut().enable();
            match self.current.and_then(|(endpoints, id)| {
                self.sessions.lock().session(&endpoints, id).map(|it| (it.counting, it.counts.clone()))
            }) {
                Some((true, _)) => settled.await,
                Some((false, counts)) => return counts,
                None => return Counts::new(),
            }
        }
    }

    /// Remembers what the current session has been counted for.
    pub fn remember(&mut self, counts: Counts) {
        if let Some((endpoints, id)) = self.current
            && let Some(session) = self.sessions.lock().session(&endpoints, id)
        {
            session.counts = counts;
            session.counting = false;
        }
        self.sessions.settled.notify_waiters();
    }

    /// Gives the place up. `answered`: the last answer reached Postfix, as far as we can know.
    pub fn leave(mut self, answered: bool, now: Now) {
        let sessions = Arc::clone(&self.sessions);
        let mut table = sessions.lock();
        if let Some((endpoints, id)) = self.current.take() {
            if let Some(session) = table.session(&endpoints, id) {
                session.unanswered = !answered;
                session.left = self.opening.then_some(now.monotonic);
            }
            table.unseat(&endpoints, id, Some(now.monotonic + LINGER));
        }
    }

    fn sit(&mut self, table: &mut Table, endpoints: Endpoints, id: u64) {
        if self.current == Some((endpoints, id)) {
            return;
        }
        if let Some((endpoints, id)) = self.current.replace((endpoints, id)) {
            table.unseat(&endpoints, id, None);
        }
        if let Some(session) = table.session(&endpoints, id) {
            session.seats += 1;
        }
    }

    fn relation(&self, endpoints: &Endpoints, session: &Session) -> Relation {
        match self.current {
            None => Relation::Fresh,
            Some(current) if current == (*endpoints, session.id) => Relation::Current,
            Some(_) => Relation::Other,
        }
    }

    fn endpoints(&self, client: IpAddr, request: &Request, table: &Table, now: u64) -> Endpoints {
        let peer = if request.server.is_some() { None } else { self.peer };
        let with = |client_port| Endpoints { client, client_port, server: request.server, peer };
        if request.client_port != 0 {
            return with(Port::Known(request.client_port));
        }
        let current = self.current.filter(|(endpoints, _)| *endpoints == with(endpoints.client_port));
        let session =
            current.and_then(|(endpoints, id)| table.sessions.get(&endpoints).filter(|session| session.id == id));
        match (current, session, request.instance) {
            (Some((endpoints, _)), Some(session), _) if session.takes(request, Relation::Current, now) => endpoints,
            (_, _, Some(instance)) => with(Port::Process(instance.pid)),
            (_, _, None) => with(Port::Seat(self.number)),
        }
    }
}

impl Session {
    /// Whether a request with this session's endpoints belongs to it.
    fn takes(&self, request: &Request, seat: Relation, now: u64) -> bool {
        match (request.state, request.instance) {
            (State::Connect | State::Xclient, _) => seat != Relation::Current && self.begins_again(seat, now),
            (State::Other, None) => true,
            (State::Other, Some(instance)) => self.instance.is_none_or(|last| instance.follows(&last)),
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

impl Table {
    fn begin(&mut self, endpoints: Endpoints, request: &Request, now: u64) -> u64 {
        self.newest += 1;
        let opened = matches!(request.state, State::Connect | State::Xclient).then_some(now);
        let session = Session {
            id: self.newest,
            seats: 0,
            ends: 0,
            opened,
            unanswered: false,
            left: None,
            counting: false,
            instance: request.instance,
            counts: Counts::new(),
        };
        self.sessions.insert(endpoints, session);
        self.newest
    }

    fn session(&mut self, endpoints: &Endpoints, id: u64) -> Option<&mut Session> {
        self.sessions.get_mut(endpoints).filter(|session| session.id == id)
    }

    /// One seat less; the last one ends the session, at once or after lingering.
    fn unseat(&mut self, endpoints: &Endpoints, id: u64, linger_until: Option<u64>) {
        let Some(session) = self.session(endpoints, id) else {
            return;
        };
        session.seats -= 1;
        if session.seats > 0 {
            return;
        }
        let Some(until) = linger_until else {
            self.sessions.remove(endpoints);
            return;
        };
        session.ends = until;
        self.lingering.push_back(Lingering { until, endpoints: *endpoints, id });
        if self.lingering.len() > self.max_lingering {
            self.drop_oldest();
        }
    }

    fn drop_ended(&mut self, now: u64) {
        while self.lingering.front().is_some_and(|oldest| oldest.until <= now) {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        // It may have found a seat again since, and even lost that one too.
        if let Some(Lingering { until, endpoints, id }) = self.lingering.pop_front()
            && self.session(&endpoints, id).is_some_and(|session| session.seats == 0 && session.ends == until)
        {
            self.sessions.remove(&endpoints);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use tokio_util::codec::Decoder;

    use super::*;
    use crate::codec::RequestDecoder;

    /// A site's policy connections, and the sessions they were recognised as.
    struct Site {
        sessions: Arc<Sessions>,
        seats: Vec<Option<Seat>>,
    }

    impl Site {
        fn new(connections: usize) -> Self {
            let sessions = Sessions::new(connections);
            let seats = (0..connections).map(|_| Some(sessions.seat(None))).collect();
            Self { sessions, seats }
        }

        /// Whether a request begins a session. `line` is `STATE CLIENT PORT INSTANCE`, `-` for nothing.
        fn begins(&mut self, connection: usize, at: u64, line: &str) -> bool {
            let field: Vec<&str> = line.split(' ').map(|field| if field == "-" { "" } else { field }).collect();
            let text = format!(
                "request=smtpd_access_policy\nprotocol_state={}\nclient_address={}\nclient_port={}\n\
                 instance={}\nserver_address=192.0.2.25\nserver_port=25\n\n",
                field[0], field[1], field[2], field[3],
            );
            let request = RequestDecoder::default().decode(&mut BytesMut::from(text.as_str())).unwrap().unwrap();
            let seat = self.seats[connection].as_mut().unwrap();
            seat.join(request.client.unwrap(), &request, Now::simulated(at)).new
        }

        /// Postfix closes a policy connection and opens another in its place.
        fn reconnect(&mut self, connection: usize, at: u64, answered: bool) {
            let seat = self.seats[connection].replace(self.sessions.seat(None));
            seat.unwrap().leave(answered, Now::simulated(at));
        }
    }

    /// Plays a dialog on two policy connections: (connection, time, request, begins a session).
    fn play(dialog: &[(usize, u64, &str, bool)]) {
        let mut site = Site::new(2);
        for (number, (connection, at, line, begins)) in dialog.iter().enumerate() {
            assert_eq!(site.begins(*connection, *at, line), *begins, "request {number}: {line}");
        }
    }

    #[test]
    fn recipients_messages_and_lists_of_one_session_are_one() {
        play(&[
            (0, 0, "RCPT 198.51.100.1 4711 a1.10.0.0", true),
            (0, 1, "RCPT 198.51.100.1 4711 a1.10.0.0", false),
            (0, 2, "DATA 198.51.100.1 4711 a1.10.0.0", false),
            (0, 3, "VRFY 198.51.100.1 4711 -", false),
            (0, 4, "RCPT 198.51.100.1 4711 a1.11.0.1", false),
            (1, 5, "RCPT 198.51.100.1 4711 a1.11.0.1", false),
            (0, 6, "RCPT 198.51.100.1 4711 a1.12.0.3", false),
        ]);
    }

    #[test]
    fn without_delay_reject_a_session_begins_at_connect() {
        play(&[
            (0, 0, "CONNECT 198.51.100.1 4711 -", true),
            (0, 1, "EHLO 198.51.100.1 4711 -", false),
            (0, 2, "MAIL 198.51.100.1 4711 -", false),
            (0, 3, "RCPT 198.51.100.1 4711 a1.10.0.0", false),
            (0, 4, "CONNECT 198.51.100.1 4711 -", true),
            (0, 5, "CONNECT 198.51.100.1 4712 -", true),
        ]);
    }

    #[test]
    fn a_source_port_used_again_is_another_session() {
        play(&[
            (0, 0, "RCPT 198.51.100.1 4711 a1.10.0.0", true),
            (0, 1, "RCPT 198.51.100.1 4711 a1.11.0.1", false),
            (0, 2, "RCPT 198.51.100.1 4711 a1.20.0.0", true),
            (0, 3, "RCPT 198.51.100.1 4711 a1.21.0.0", true),
            (1, 4, "RCPT 198.51.100.1 4711 a2.22.0.1", true),
        ]);
    }

    #[test]
    fn two_connects_of_one_session_over_two_policy_connections_are_one() {
        play(&[
            (0, 0, "CONNECT 198.51.100.1 4711 -", true),
            (1, 999, "CONNECT 198.51.100.1 4711 -", false),
            (1, 1500, "RCPT 198.51.100.1 4711 a1.10.0.0", false),
            (0, 1600, "CONNECT 198.51.100.1 4711 -", true),
            (1, 1700, "CONNECT 198.51.100.1 4711 -", false),
            (0, 5000, "CONNECT 198.51.100.1 4711 -", true),
            (1, 6000, "CONNECT 198.51.100.1 4711 -", true),
        ]);
    }

    #[test]
    fn a_connect_sent_again_because_our_answer_was_late_or_lost_is_the_same_session() {
        for (answered, pause, begins) in [(false, 10_000, false), (true, 4_999, false), (true, 5_000, true)] {
            let mut site = Site::new(1);
            assert!(site.begins(0, 0, "CONNECT 198.51.100.1 4711 -"));
            site.reconnect(0, 10_000, answered);
            assert_eq!(site.begins(0, 10_000 + pause, "CONNECT 198.51.100.1 4711 -"), begins);
        }
    }

    #[test]
    fn each_client_of_a_proxy_has_sessions_of_its_own() {
        play(&[
            (0, 0, "CONNECT 192.0.2.80 4711 -", true),
            (0, 1, "XCLIENT 198.51.100.1 4711 -", true),
            (1, 2, "XCLIENT 198.51.100.1 4711 -", false),
            (0, 3, "RCPT 198.51.100.1 4711 a1.10.0.0", false),
            (0, 4, "XCLIENT 198.51.100.1 4711 -", true),
            (1, 5, "XCLIENT 198.51.100.1 4711 -", false),
            (0, 6, "XCLIENT 198.51.100.2 4711 -", true),
            (0, 7, "RCPT 198.51.100.2 4711 a1.11.0.1", false),
        ]);
    }

    #[test]
    fn without_client_port_the_policy_connection_and_the_message_count_decide() {
        play(&[
            (0, 0, "RCPT 198.51.100.1 - a1.10.0.0", true),
            (1, 1, "RCPT 198.51.100.1 - a1.10.0.0", false),
            (0, 2, "RCPT 198.51.100.1 - a1.11.0.1", false),
            (1, 3, "RCPT 198.51.100.1 - a1.11.0.1", false),
            (0, 4, "RCPT 198.51.100.1 - a1.20.0.0", true),
            (1, 5, "RCPT 198.51.100.1 - b2.20.0.0", true),
            (0, 6, "CONNECT 198.51.100.1 - -", true),
            (0, 7, "MAIL 198.51.100.1 - -", false),
            (0, 8, "RCPT 198.51.100.1 - a1.30.0.0", false),
            (0, 9, "CONNECT 198.51.100.1 - -", true),
        ]);
    }

    #[test]
    fn a_session_outlives_its_policy_connection_by_five_minutes() {
        for (pause, begins) in [(LINGER - 1, false), (LINGER, true)] {
            let mut site = Site::new(1);
            assert!(site.begins(0, 0, "RCPT 198.51.100.1 4711 a1.10.0.0"));
            site.reconnect(0, 5, true);
            assert_eq!(site.begins(0, 5 + pause, "RCPT 198.51.100.1 4711 a1.10.0.0"), begins);
        }
    }

    #[test]
    fn the_number_of_sessions_is_bounded_by_the_policy_connections() {
        let mut site = Site::new(4);
        for client in 0..1000 {
            let connection = client % 4;
            assert!(site.begins(connection, 0, &format!("CONNECT 198.51.100.1 {} -", 1024 + client)));
            if client % 3 == 0 {
                site.reconnect(connection, 0, true);
            }
            assert!(site.sessions.len() <= 8);
        }
    }

    #[test]
    fn what_a_session_was_counted_for_is_remembered_until_it_ends() {
        use crate::policy::{Count, Hit};
        let mut site = Site::new(2);
        assert!(site.begins(0, 0, "RCPT 198.51.100.1 4711 a1.10.0.0"));
        let count = Count { limit: 0, hit: Some(Hit { count: 3, left: 60 }), passed: true };
        site.seats[0].as_mut().unwrap().remember(Counts::from_iter([count]));
        let text = "request=smtpd_access_policy\nclient_address=198.51.100.1\nclient_port=4711\ninstance=a1.10.0.0\n\
                    server_address=192.0.2.25\nserver_port=25\n\n";
        let request = RequestDecoder::default().decode(&mut BytesMut::from(text)).unwrap().unwrap();
        let joined = site.seats[1].as_mut().unwrap().join([198, 51, 100, 1].into(), &request, Now::simulated(1));
        assert_eq!(joined.counts.as_slice(), [count]);
    }
}
