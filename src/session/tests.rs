use std::task::{Context, Poll, Waker};

use bytes::BytesMut;
use tokio_util::codec::Decoder;

use super::table::LINGER;
use super::*;
use crate::policy::limit::SessionLimitId;
use crate::postfix::decoder::RequestDecoder;

/// The result of a look-up that has nothing to wait for.
fn found<'h>(lookup: impl Future<Output = SessionGuard<'h>>) -> SessionGuard<'h> {
    match pin!(lookup).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(session) => session,
        Poll::Pending => panic!("nothing is being counted"),
    }
}

/// A site's policy connections, and the sessions they were recognised as.
struct Site {
    sessions: Arc<Sessions>,
    handles: Vec<Option<SessionHandle>>,
}

impl Site {
    fn new(connections: usize) -> Self {
        Self::of(&vec![SessionPeer::default(); connections])
    }

    /// With policy connections from these addresses or processes.
    fn of<O: Copy + Into<SessionPeer>>(peers: &[O]) -> Self {
        let sessions = Sessions::new(peers.len());
        let handles = peers.iter().map(|peer| Some(sessions.attach(*peer))).collect();
        Self { sessions, handles }
    }

    /// Whether a request begins a session. `line` is `STATE CLIENT PORT INSTANCE`, `-` for nothing.
    fn begins(&mut self, connection: usize, at: u64, line: &str) -> bool {
        self.begins_at(connection, at, line, "server_address=192.0.2.25\nserver_port=25\n")
    }

    fn begins_at(&mut self, connection: usize, at: u64, line: &str, server: &str) -> bool {
        self.join(connection, at, line, server).new
    }

    fn join(&mut self, connection: usize, at: u64, line: &str, server: &str) -> SessionLookup {
        let field: Vec<&str> = line.split(' ').map(|field| if field == "-" { "" } else { field }).collect();
        let text = format!(
            "request=smtpd_access_policy\nprotocol_state={}\nclient_address={}\nclient_port={}\n\
             instance={}\n{server}\n",
            field[0], field[1], field[2], field[3],
        );
        let request = RequestDecoder::default().decode(&mut BytesMut::from(text.as_str())).unwrap().unwrap();
        let handle = self.handles[connection].as_mut().unwrap();
        found(handle.lookup(request.client.unwrap(), &request, Now::simulated(at))).lookup
    }

    /// The answer to the last request of a policy connection has been written.
    fn answer(&mut self, connection: usize, at: u64) {
        self.handles[connection].as_mut().unwrap().answered(|| Now::simulated(at));
    }

    /// Postfix closes a policy connection and opens another in its place.
    fn reconnect(&mut self, connection: usize, at: u64, answered: bool) {
        let handle = self.handles[connection].replace(self.sessions.attach(None));
        handle.unwrap().close(answered, Now::simulated(at));
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

/// Plays a dialog whose requests are answered within a millisecond: (connection, time, begins a session).
fn connects(peers: [SessionPeer; 2], dialog: &[(usize, u64, bool)]) {
    let mut site = Site::of(&peers);
    for (number, (connection, at, begins)) in dialog.iter().enumerate() {
        let is_new = site.begins(*connection, *at, "CONNECT 198.51.100.1 4711 -");
        assert_eq!(is_new, *begins, "request {number}");
        site.answer(*connection, at + 1);
    }
}

#[test]
fn over_tcp_two_connects_are_one_session_if_the_second_follows_the_answer_at_once() {
    let dialog = [(0, 0, true), (1, 50, false), (0, 100, true), (1, 101, false), (0, 200, true), (1, 251, true)];
    connects([SessionPeer::default(); 2], &dialog);
}

#[test]
fn over_tcp_a_connect_without_an_answer_yet_may_come_again_over_another_connection() {
    let mut site = Site::new(2);
    assert!(site.begins(0, 0, "CONNECT 198.51.100.1 4711 -"));
    assert!(!site.begins(1, 4_000, "CONNECT 198.51.100.1 4711 -"));
}

#[test]
fn over_a_unix_socket_two_connects_are_one_session_if_one_process_asks() {
    let process = |process| SessionPeer { address: None, process: Some(process) };
    // The first answer may have been delayed.
    connects([process(7), process(7)], &[(0, 0, true), (1, 6_000, false), (0, 7_000, true), (1, 7_010, false)]);
    connects([process(7), process(8)], &[(0, 0, true), (1, 2, true), (0, 4, true)]);
}

#[test]
fn a_connect_sent_again_because_our_answer_was_late_or_lost_is_the_same_session() {
    for (answered, pause, begins) in [(false, 10_000, false), (true, 4_999, false), (true, 5_000, true)] {
        let mut site = Site::new(1);
        assert!(site.begins(0, 0, "CONNECT 198.51.100.1 4711 -"));
        site.answer(0, 1);
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
fn a_question_that_is_asked_twice_in_a_row_is_noticed_once_for_a_session() {
    let mut site = Site::new(2);
    let mut repeats = |connection, line: &str, recipient: &str| {
        site.join(connection, 0, line, &format!("recipient={recipient}\n")).repeated
    };
    let (first, second) = ("RCPT 198.51.100.1 4711 a1.10.0.0", "RCPT 198.51.100.1 4711 a1.11.0.1");
    let data = "DATA 198.51.100.1 4711 a1.11.0.1";
    // Lists at different stages, recipients and messages, and a client that begins again.
    for (line, recipient) in [(first, "a"), (first, "b"), (first, "a"), (second, "a"), (data, "a")] {
        assert!(!repeats(0, line, recipient), "{line} {recipient}");
    }
    let ehlo = "EHLO 198.51.100.1 4711 -";
    assert!(!repeats(0, ehlo, "") && !repeats(0, ehlo, ""));
    // Another policy connection asks for another list that is written differently.
    assert!(!repeats(1, data, "a") && repeats(1, data, "a") && !repeats(1, data, "a"));
    let other = "RCPT 198.51.100.1 4712 a1.20.0.0";
    assert!(!repeats(1, other, "a") && repeats(1, other, "a"));
}

#[test]
fn each_host_that_asks_has_sessions_of_its_own() {
    // Two mail hosts ask one daemon, the first over two policy connections. They may have one server address, each in
    // a container, so one client can be connected to both from the same port.
    let hosts = ["192.0.2.1", "192.0.2.1", "192.0.2.2"].map(|host| Some(host.parse::<IpAddr>().unwrap()));
    for server in ["", "server_address=172.17.0.2\nserver_port=25\n"] {
        let mut site = Site::of(&hosts);
        for round in 0..3 {
            for (connection, process) in ["a1", "a1", "b2"].into_iter().enumerate() {
                let line = format!("RCPT 198.51.100.1 4711 {process}.{round}.0.{round}");
                let is_first = round == 0 && connection != 1;
                assert_eq!(site.begins_at(connection, 0, &line, server), is_first, "{server}{line}");
            }
        }
    }
}

#[test]
fn this_host_is_one_whatever_it_asks_over() {
    let peers = [Some("127.0.0.1".parse::<IpAddr>().unwrap()), Some("::1".parse().unwrap()), None];
    let mut site = Site::of(&peers);
    let begins: Vec<_> =
        (0..3).map(|connection| site.begins(connection, 0, "RCPT 198.51.100.1 4711 a1.10.0.0")).collect();
    assert_eq!(begins, [true, false, false]);
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
    use crate::policy::{CountRecord, CounterValue, Scope};
    let mut site = Site::new(2);
    assert!(site.begins(0, 0, "RCPT 198.51.100.1 4711 a1.10.0.0"));
    let hit = Some(CounterValue { count: 3, left: 60, added: 1 });
    let counts =
        [Scope::Session, Scope::Message].map(|scope| CountRecord::new(SessionLimitId(0), scope, hit, 0, false));
    let mut is_counted = false;
    let mut remembered = |instance: &str| {
        let text = format!(
            "request=smtpd_access_policy\nclient_address=198.51.100.1\nclient_port=4711\ninstance={instance}\n\
             server_address=192.0.2.25\nserver_port=25\n\n"
        );
        let request = RequestDecoder::default().decode(&mut BytesMut::from(text.as_str())).unwrap().unwrap();
        let handle = site.handles[1].as_mut().unwrap();
        let mut session = found(handle.lookup([198, 51, 100, 1].into(), &request, Now::simulated(1)));
        if !std::mem::replace(&mut is_counted, true) {
            counts.iter().for_each(|count| session.record().keep(*count));
        }
        counts.map(|count| session.record().find(SessionLimitId(0), count.scope).is_some())
    };
    assert_eq!(remembered("a1.10.0.0"), [true, true]);
    assert_eq!(remembered(""), [true, true]);
    assert_eq!(remembered("a1.11.0.1"), [true, false], "what was said of a message ends with it");
}
