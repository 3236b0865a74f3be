//! While memcached is down every request is answered in time as `on_store_failure`
//! says, and the log reports the start and the end of the outage.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Daemon, Memcached, Policy, until};

const PASS: &str = "DUNNO";

/// The default of `store_timeout`.
const STORE_TIMEOUT: Duration = Duration::from_millis(100);

/// Allowance for a machine that is busy with other tests.
const NOISE: Duration = Duration::from_secs(5);

fn daemon(memcached: &Memcached, rules: &str) -> Daemon {
    Daemon::start(&format!("whitelist = []\nmemcached_server = {:?}\n{rules}", memcached.server()))
}

/// Whether a new connection of a client passes.
fn passes(policy: &mut Policy, client: &str) -> bool {
    static PORT: AtomicU16 = AtomicU16::new(1024);
    policy.connected(client, PORT.fetch_add(1, Ordering::Relaxed)) == PASS
}

/// Probes whether a server counts hits again.
fn is_counted_by(memcached: &Memcached, policy: &mut Policy) -> bool {
    static CLIENT: AtomicU16 = AtomicU16::new(1);
    let client = format!("203.0.113.{}", CLIENT.fetch_add(1, Ordering::Relaxed) % 250);
    passes(policy, &client);
    memcached.value(&format!("connshaper:{client}")).is_some()
}

#[test]
fn every_request_is_answered_in_time_when_memcached_freezes_under_load() {
    let memcached = Memcached::start();
    let daemon = daemon(&memcached, "threshold = 1000000\n");
    let stop = AtomicBool::new(false);
    let connections = 64;
    thread::scope(|scope| {
        let clients: Vec<_> = (0..connections)
            .map(|client| {
                let (endpoint, stop) = (daemon.endpoint(), &stop);
                scope.spawn(move || {
                    let mut policy = Policy::connect(endpoint);
                    let (mut asked, mut longest) = (0_u32, Duration::ZERO);
                    while !stop.load(Ordering::Relaxed) {
                        let start = Instant::now();
                        let answer = policy.connected(&format!("198.51.100.{client}"), 1 + (asked % 60_000) as u16);
                        assert_eq!(answer, PASS);
                        longest = longest.max(start.elapsed());
                        asked += 1;
                    }
                    longest
                })
            })
            .collect();
        daemon_counts(&memcached);
        memcached.freeze();
        daemon.lines().wait_for("STORE_DOWN");
        memcached.thaw();
        let end = daemon.lines().wait_for("STORE_UP");
        assert!(!end.contains("decisions=0"), "{end}");
        stop.store(true, Ordering::Relaxed);
        for client in clients {
            let longest = client.join().unwrap();
            assert!(longest < STORE_TIMEOUT + NOISE, "a request took {longest:?}");
        }
    });
}

fn daemon_counts(memcached: &Memcached) {
    until("hits in memcached", || memcached.value("connshaper:198.51.100.0"));
}

#[test]
fn a_refused_client_stays_refused_through_a_store_timeout() {
    for on_store_failure in ["local", "dunno", "defer"] {
        let memcached = Memcached::start();
        let rules = format!("threshold = 2\non_store_failure = {on_store_failure:?}\n");
        let daemon = daemon(&memcached, &rules);
        let mut policy = Policy::connect(daemon.endpoint());
        let verdicts = [(); 3].map(|()| passes(&mut policy, "198.51.100.1"));
        assert_eq!(verdicts, [true, true, false]);
        memcached.freeze();
        // One time-out is not an outage: the request is judged on the last known value plus one.
        assert!(!passes(&mut policy, "198.51.100.1"), "{on_store_failure}");
        assert!(passes(&mut policy, "198.51.100.2"), "{on_store_failure}");
        memcached.thaw();
    }
}

#[test]
fn on_store_failure_applies_and_an_outage_is_logged_at_start_and_end() {
    // Connections of a client that was over its limit and of a new client, while memcached is down.
    let cases = [
        ("local", [false, false], [true, false]),
        ("dunno", [true, true], [true, true]),
        ("defer", [false; 2], [false; 2]),
    ];
    for (on_store_failure, over, unseen) in cases {
        let mut memcached = Memcached::start();
        let daemon = daemon(&memcached, &format!("threshold = 1\non_store_failure = {on_store_failure:?}\n"));
        let mut policy = Policy::connect(daemon.endpoint());
        assert_eq!([(); 2].map(|()| passes(&mut policy, "198.51.100.1")), [true, false]);

        memcached.kill();
        let begin = daemon.lines().wait_for("STORE_DOWN");
        assert!(begin.contains(&format!("on_store_failure={on_store_failure}")), "{begin}");
        assert_eq!([(); 2].map(|()| passes(&mut policy, "198.51.100.1")), over, "{on_store_failure}");
        assert_eq!([(); 2].map(|()| passes(&mut policy, "198.51.100.2")), unseen, "{on_store_failure}");

        memcached.start_again();
        let end = daemon.lines().wait_for("STORE_UP");
        assert!(end.contains("decisions=4"), "{end}");
        // The count of the server, which is empty now, is used: local hits are not added to it.
        assert_eq!([(); 2].map(|()| passes(&mut policy, "198.51.100.2")), [true, false], "{on_store_failure}");
        assert_eq!(memcached.value("connshaper:198.51.100.2").as_deref(), Some("2"));
        assert_eq!(daemon.lines().with("STORE_DOWN").len(), 1, "{}", daemon.lines());
    }
}

#[test]
fn on_store_failure_defer_ignores_the_configured_action() {
    let mut memcached = Memcached::start();
    memcached.kill();
    let rules = "threshold = 1\non_store_failure = \"defer\"\naction = \"REJECT\"\n";
    let mut daemon = daemon(&memcached, rules);
    daemon.lines().wait_for("STORE_DOWN");
    let mut policy = Policy::connect(daemon.endpoint());
    let deferred = "DEFER_IF_PERMIT 4.3.0 Connections cannot be counted at the moment, try again later";
    for port in 1..=3 {
        assert_eq!(policy.connected("198.51.100.1", port), deferred);
    }
    daemon.stop();
    let lines = daemon.lines();
    assert_eq!(lines.with("DEFERRED "), ["DEFERRED client=198.51.100.1 reason=store_down"; 3], "{lines}");
    assert!(lines.with("REFUSED ").is_empty(), "{lines}");
    let line = lines.wait_for("STATISTICS ");
    assert!(
        line.contains(" refused=0 deferred=3 delayed=0 would_refuse=0 ") && line.contains(" store=down "),
        "{line}"
    );
}

#[test]
fn systemd_status_and_statistics_report_the_state_of_the_store() {
    let mut memcached = Memcached::start();
    let mut daemon = daemon(&memcached, "statistics_interval = \"1s\"\n");
    daemon.lines().wait_for(" store=up ");
    memcached.kill();
    daemon.told().wait_for("STATUS=store: down");
    daemon.lines().wait_for(" store=down ");
    memcached.start_again();
    daemon.told().wait_for("STATUS=store: up");
    daemon.stop();
    let mut daemon = Daemon::start("");
    daemon.stop();
    daemon.lines().wait_for(" store=memory ");
}

#[test]
fn memcached_may_start_after_the_daemon() {
    let mut memcached = Memcached::start();
    memcached.kill();
    let daemon = daemon(&memcached, "threshold = 1\n");
    let mut policy = Policy::connect(daemon.endpoint());
    assert_eq!([(); 2].map(|()| passes(&mut policy, "198.51.100.1")), [true, false]);
    memcached.start_again();
    daemon.lines().wait_for("STORE_UP");
    assert!(is_counted_by(&memcached, &mut policy));
}

#[test]
fn one_server_that_is_down_does_not_affect_keys_of_the_others() {
    let mut servers = [Memcached::start(), Memcached::start()];
    let addresses = servers.each_ref().map(Memcached::server);
    let daemon =
        Daemon::start(&format!("whitelist = []\non_store_failure = \"defer\"\nmemcached_server = {addresses:?}\n"));
    let mut policy = Policy::connect(daemon.endpoint());
    let clients: Vec<String> = (1..60).map(|host| format!("198.51.100.{host}")).collect();
    assert!(clients.iter().all(|client| passes(&mut policy, client)));
    let held = |server: &Memcached, client: &String| server.value(&format!("connshaper:{client}")).is_some();
    let of_first: Vec<bool> = clients.iter().map(|client| held(&servers[0], client)).collect();
    let share = of_first.iter().filter(|is| **is).count();
    assert!((15..45).contains(&share), "{share} of 59 keys on one of two servers");

    servers[0].kill();
    daemon.lines().wait_for("STORE_DOWN");
    let passing: Vec<bool> = clients.iter().map(|client| passes(&mut policy, client)).collect();
    assert_eq!(passing, of_first.iter().map(|is| !is).collect::<Vec<_>>());
}

/// A server that answers every line it is sent with `answer`.
fn impostor(answer: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || {
                let mut stream = BufReader::new(stream.unwrap());
                let mut line = String::new();
                while stream.read_line(&mut line).is_ok_and(|length| length > 0) {
                    // The daemon may have closed the connection after an invalid answer.
                    let _ =
                        stream.get_mut().write_all(if line.contains("probe") { b"NF\r\n" } else { answer.as_bytes() });
                    line.clear();
                }
            });
        }
    });
    address
}

#[test]
fn an_invalid_answer_is_never_taken_for_a_count() {
    let answers = [
        "HTTP/1.1 400 Bad Request\r\n\r\n",
        "VA 1 t60\r\n999\r\n",
        "VA 2 t60\r\n99\r\nVA 2 t60\r\n99\r\n",
        "OK\r\n",
        "VA 999999 t1\r\n",
        "\r\n",
    ];
    for answer in answers {
        let config = format!("whitelist = []\nthreshold = 200\nmemcached_server = {:?}\n", impostor(answer));
        let daemon = Daemon::start(&config);
        let mut policy = Policy::connect(daemon.endpoint());
        for _ in 0..20 {
            assert!(passes(&mut policy, "198.51.100.1"), "{answer:?}");
        }
        daemon.lines().wait_for("STORE_DOWN");
    }
}

#[test]
fn a_server_out_of_memory_is_logged_and_counts_are_local() {
    let server = impostor("SERVER_ERROR out of memory storing object\r\n");
    let daemon = Daemon::start(&format!("whitelist = []\nthreshold = 2\nmemcached_server = {server:?}\n"));
    let mut policy = Policy::connect(daemon.endpoint());
    assert_eq!([(); 3].map(|()| passes(&mut policy, "198.51.100.1")), [true, true, false]);
    daemon.lines().wait_for("STORE_ERROR");
}
