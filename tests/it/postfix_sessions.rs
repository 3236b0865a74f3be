//! Recognition of sessions: a real Postfix queries, and memcached shows what was counted.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::thread;

use crate::support::{Daemon, Memcached, PATIENCE, Port, Postfix, Relay, Smtp};

/// Values of smtpd_delay_reject: Postfix queries at each recipient, or when the client connects.
const DELAY_REJECT: [&str; 2] = ["yes", "no"];

/// Runs a test with both values of smtpd_delay_reject at once.
fn with_and_without_delay_reject(test: impl Fn(&str) + Sync) {
    thread::scope(|scope| {
        for delay_reject in DELAY_REJECT {
            let test = &test;
            scope.spawn(move || test(delay_reject));
        }
    });
}

/// A Postfix and a connshaper that counts in a memcached.
struct Site {
    store: Memcached,
    _daemon: Daemon,
    postfix: Postfix,
}

impl Site {
    /// `main_cf` is added to main.cf, with POLICY for the daemon's endpoint.
    fn new(delay_reject: &str, main_cf: &str) -> Self {
        let (store, daemon) = counting();
        let main_cf = main_cf.replace("POLICY", daemon.endpoint());
        let postfix = Postfix::setup().one_smtpd().main_cf(&main_cf);
        let postfix = postfix.main_cf(&format!("smtpd_delay_reject = {delay_reject}")).start();
        Self { store, _daemon: daemon, postfix }
    }

    fn count(&self, client: &str) -> u32 {
        count(&self.store, client)
    }
}

fn counting() -> (Memcached, Daemon) {
    let store = Memcached::start();
    let daemon = Daemon::start(&format!(
        "threshold = 100\nwhitelist = [\"127.0.0.9\"]\nmemcached_server = \"{}\"\nstore_timeout = \"5s\"\n",
        store.server()
    ));
    (store, daemon)
}

fn count(store: &Memcached, client: &str) -> u32 {
    store.value(&format!("connshaper:{client}")).map_or(0, |value| value.trim().parse().unwrap())
}

#[test]
fn a_session_counts_once_whatever_it_does_and_however_many_lists_query() {
    let everywhere = "
        smtpd_client_restrictions = check_policy_service POLICY
        smtpd_helo_restrictions = check_policy_service POLICY
        smtpd_sender_restrictions = check_policy_service POLICY
        smtpd_recipient_restrictions = check_policy_service POLICY
        smtpd_data_restrictions = check_policy_service POLICY
        smtpd_end_of_data_restrictions = check_policy_service POLICY";
    for delay_reject in DELAY_REJECT {
        let site = Site::new(delay_reject, everywhere);
        for session in 1..=2 {
            let mut smtp = site.postfix.client("127.0.0.2");
            smtp.ehlo().expect(250);
            smtp.deliver(3);
            smtp.mail().expect(250);
            smtp.rcpt().expect(250);
            smtp.command("RSET").expect(250);
            smtp.mail().expect(250);
            smtp.command("RSET").expect(250);
            smtp.ehlo().expect(250);
            smtp.deliver(2);
            smtp.quit();
            assert_eq!(site.count("127.0.0.2"), session, "smtpd_delay_reject = {delay_reject}");
        }
    }
}

#[test]
fn a_session_counts_once_over_two_policy_connections() {
    let contexts = "
        smtpd_client_restrictions =
            check_policy_service { POLICY, policy_context=a }
            check_policy_service { POLICY, policy_context=b }";
    for delay_reject in DELAY_REJECT {
        let site = Site::new(delay_reject, contexts);
        for session in 1..=3 {
            let mut smtp = site.postfix.client("127.0.0.2");
            smtp.ehlo();
            smtp.deliver(2);
            smtp.deliver(1);
            smtp.quit();
            assert_eq!(site.count("127.0.0.2"), session, "smtpd_delay_reject = {delay_reject}");
        }
    }
}

#[test]
fn sessions_of_one_client_at_the_same_time_count_each() {
    for delay_reject in DELAY_REJECT {
        let (store, daemon) = counting();
        let postfix = Postfix::start(&format!(
            "smtpd_client_restrictions = check_policy_service {}\nsmtpd_delay_reject = {delay_reject}",
            daemon.endpoint()
        ));
        let mut sessions: Vec<Smtp> = (0..3).map(|_| postfix.client("127.0.0.2")).collect();
        for _ in 0..2 {
            for smtp in &mut sessions {
                smtp.ehlo();
                smtp.deliver(1);
            }
        }
        assert_eq!(count(&store, "127.0.0.2"), 3, "smtpd_delay_reject = {delay_reject}");
    }
}

#[test]
fn a_source_port_used_again_is_a_new_session() {
    for delay_reject in DELAY_REJECT {
        let site = Site::new(delay_reject, "smtpd_client_restrictions = check_policy_service POLICY");
        let port = Port::of([127, 0, 0, 2]);
        // The last message number of each session is at most the first of the next.
        for (session, messages) in [(1, 1), (2, 2), (3, 1)] {
            let mut smtp = site.postfix.client(&port.address().to_string());
            smtp.ehlo();
            for _ in 0..messages {
                smtp.deliver(1);
            }
            smtp.quit();
            assert_eq!(site.count("127.0.0.2"), session, "smtpd_delay_reject = {delay_reject}");
        }
        site.postfix.lines().wait_for_more(": connect from", 2);
        let connects = site.postfix.lines().with(": connect from");
        let process = |line: &String| line.split(": ").next().unwrap().rsplit('/').next().unwrap().to_owned();
        assert!(connects.iter().all(|line| process(line) == process(&connects[0])), "{connects:#?}");
    }
}

#[test]
fn a_retried_query_after_a_lost_answer_counts_once() {
    with_and_without_delay_reject(|delay_reject| {
        let (store, daemon) = counting();
        let relay = Relay::losing_first_answers(daemon.endpoint());
        let postfix = Postfix::start(&format!(
            "smtpd_client_restrictions = check_policy_service {{ {}, timeout=1s }}\nsmtpd_delay_reject = {delay_reject}",
            relay.endpoint()
        ));
        let mut smtp = postfix.client("127.0.0.2");
        smtp.ehlo().expect(250);
        smtp.deliver(2);
        assert_eq!(count(&store, "127.0.0.2"), 1, "smtpd_delay_reject = {delay_reject}");
    });
}

#[test]
fn a_retried_query_while_the_store_is_slow_counts_once() {
    with_and_without_delay_reject(|delay_reject| {
        let (store, daemon) = counting();
        let relay = Relay::to(daemon.endpoint());
        let postfix = Postfix::start(&format!(
            "smtpd_client_restrictions = check_policy_service {{ {}, timeout=1s }}\nsmtpd_delay_reject = {delay_reject}",
            relay.endpoint()
        ));
        store.freeze();
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut smtp = postfix.client("127.0.0.2");
                smtp.ehlo().expect(250);
                smtp.deliver(2);
            });
            relay.wait_for_connection();
            relay.wait_for_connection();
            store.thaw();
        });
        assert_eq!(count(&store, "127.0.0.2"), 1, "smtpd_delay_reject = {delay_reject}");
    });
}

#[test]
fn vrfy_and_etrn_belong_to_their_session() {
    let lists = "
        smtpd_client_restrictions = check_policy_service POLICY
        smtpd_helo_restrictions = check_policy_service POLICY
        smtpd_etrn_restrictions = check_policy_service POLICY";
    for delay_reject in DELAY_REJECT {
        let site = Site::new(delay_reject, lists);
        // The command is sent before a message, between two messages, and alone.
        for (session, messages) in [(1, 2), (2, 0)] {
            let mut smtp = site.postfix.client("127.0.0.2");
            smtp.ehlo();
            for _ in 0..=messages {
                smtp.command("VRFY recipient@example.org").expect(252);
                smtp.command("ETRN example.com");
                if messages > 0 {
                    smtp.deliver(1);
                }
            }
            smtp.quit();
            assert_eq!(site.count("127.0.0.2"), session, "smtpd_delay_reject = {delay_reject}");
        }
    }
}

#[test]
fn each_xclient_client_is_a_session_and_the_proxy_is_not_counted() {
    // Postfix checks whether the current client may use XCLIENT: at the second handover that is the first client.
    let lists = "
        smtpd_authorized_xclient_hosts = 127.0.0.9, 198.51.100.7
        smtpd_client_restrictions = check_policy_service POLICY";
    for delay_reject in DELAY_REJECT {
        let site = Site::new(delay_reject, lists);
        // The proxy keeps its connection and hands over one client after the other. It sends their
        // ports in the second round only, in which the first client comes again.
        for (round, port) in [(1, ""), (2, " PORT=4025")] {
            let mut smtp = site.postfix.client("127.0.0.9");
            for client in ["198.51.100.7", "IPV6:2001:DB8::7"] {
                smtp.ehlo();
                smtp.command(format!("XCLIENT NAME=[UNAVAILABLE] ADDR={client}{port}")).expect(220);
                smtp.ehlo();
                smtp.deliver(2);
                smtp.deliver(1);
            }
            let counts = ["198.51.100.7", "2001:db8::/64", "127.0.0.9"].map(|client| site.count(client));
            assert_eq!(counts, [round, round, 0], "smtpd_delay_reject = {delay_reject}");
        }
    }
}

#[test]
fn a_client_handed_over_again_by_xclient_is_a_new_session() {
    // If Postfix queries at RCPT only, both sessions look like one: the same ports and one series of messages.
    let lists = "
        smtpd_authorized_xclient_hosts = 127.0.0.9, 198.51.100.7
        smtpd_client_restrictions = check_policy_service POLICY";
    let site = Site::new("no", lists);
    let mut smtp = site.postfix.client("127.0.0.9");
    for session in 1..=3 {
        smtp.ehlo();
        smtp.command("XCLIENT NAME=[UNAVAILABLE] ADDR=198.51.100.7").expect(220);
        smtp.ehlo();
        smtp.deliver(2);
        assert_eq!(site.count("198.51.100.7"), session);
    }
}

#[test]
fn a_client_behind_a_proxy_protocol_balancer_is_counted_and_the_balancer_is_not() {
    let lists = "
        smtpd_upstream_proxy_protocol = haproxy
        smtpd_client_restrictions = check_policy_service POLICY";
    for delay_reject in DELAY_REJECT {
        let site = Site::new(delay_reject, lists);
        for session in 1..=2 {
            let stream = TcpStream::connect(site.postfix.address()).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut balancer = BufReader::new(stream);
            // In one write: smtpd reads the PROXY header once.
            let header = format!("PROXY TCP4 198.51.100.7 192.0.2.25 {} 25\r\n", 4000 + session);
            balancer.get_mut().write_all(header.as_bytes()).unwrap();
            let mail = ["HELO client.example.net", "MAIL FROM:<>", "RCPT TO:<recipient@example.org>", "QUIT"];
            for (command, code) in [""].iter().chain(&mail).zip(["220", "250", "250", "250", "221"]) {
                if !command.is_empty() {
                    write!(balancer.get_mut(), "{command}\r\n").unwrap();
                }
                let mut reply = String::new();
                balancer.read_line(&mut reply).unwrap();
                assert!(reply.starts_with(code), "{command:?} got {reply:?}");
            }
            assert_eq!(site.count("198.51.100.7"), session, "smtpd_delay_reject = {delay_reject}");
            assert_eq!(site.count("127.0.0.1"), 0);
        }
    }
}

#[test]
fn a_client_that_uses_its_source_port_again_to_say_vrfy_is_counted_again() {
    let site = Site::new("yes", "smtpd_client_restrictions = check_policy_service POLICY");
    let port = Port::of([127, 0, 0, 2]);
    // Postfix asks at VRFY, with nothing that tells these sessions from one.
    for _ in 0..36 {
        let mut smtp = site.postfix.client(&port.address().to_string());
        smtp.ehlo();
        smtp.command("VRFY recipient@example.org").expect(252);
        smtp.quit();
    }
    assert_eq!(site.count("127.0.0.2"), 3);
}

#[test]
fn over_a_unix_socket_a_source_port_used_again_with_another_smtpd_is_a_new_session() {
    let store = Memcached::start();
    let setup = Postfix::setup();
    let endpoint = format!("unix:{}", setup.in_queue_directory("private/connshaper").display());
    let server = store.server();
    let config =
        format!("threshold = 100\nwhitelist = []\nsocket_group = \"postfix\"\nmemcached_server = \"{server}\"\n");
    let _daemon = Daemon::start_at(&endpoint, &config);
    let lists = ["a", "b"].map(|context| format!("check_policy_service {{ {endpoint}, policy_context={context} }}"));
    let postfix = setup.main_cf(&format!("smtpd_client_restrictions = {}", lists.join(", ")));
    let postfix = postfix.main_cf("smtpd_delay_reject = no").start();
    let port = Port::of([127, 0, 0, 2]);
    let mut others = Vec::new();
    for session in 1..=4 {
        let mut smtp = postfix.client(&port.address().to_string());
        smtp.ehlo();
        smtp.quit();
        assert_eq!(count(&store, "127.0.0.2"), session);
        // It keeps the smtpd process that is free now.
        let mut other = postfix.client("127.0.0.3");
        other.ehlo();
        others.push(other);
    }
}
