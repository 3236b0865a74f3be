//! A memcached that fails, in every way it can: Postfix notices nothing.
//!
//! Each test causes a fault under load and prints one line of a table:
//!
//! ```text
//! cargo test --test it -- faults_store:: --nocapture
//! ```
//!
//! `load` is the number of policy connections. `wrong -/+` is the number of clients that were refused
//! though within their limit, which must be 0, and the number that passed though over it.

use std::time::{Duration, Instant};

use crate::support::load::{RULES, ReadProgress, Row, Seen, under_load};
use crate::support::{
    Daemon, Dir, Fault, Gate, Memcached, Mood, NameServer, Names, Namespace, Policy, Postfix, statistic, until,
};

/// The default of `store_timeout`.
pub const STORE_TIMEOUT: Duration = Duration::from_millis(100);

/// Allowance for a machine that is busy with other tests.
pub const NOISE: Duration = Duration::from_secs(5);

/// The longest time from the return of a server until its counts are used again, on such a machine.
pub const RECOVERY: Duration = Duration::from_secs(5);

fn daemon(server: &str) -> Daemon {
    Daemon::start(&config(server))
}

fn config(server: &str) -> String {
    format!("{RULES}memcached_server = {server:?}\n")
}

/// Moments of an outage.
pub struct Outage {
    /// The breaker was open.
    away: Instant,
    /// The server was back.
    end: Instant,
    /// It counted again.
    up: Instant,
}

/// Makes the server fail under load and come back.
pub fn outage(daemon: &Daemon, begin: impl FnOnce(), end: impl FnOnce()) -> (Seen, Outage) {
    under_load(daemon, |progress| {
        begin();
        bridge(daemon, progress, end)
    })
}

/// Waits until the breaker is open, lets the outage last for some requests, and ends it.
fn bridge(daemon: &Daemon, progress: &ReadProgress, end: impl FnOnce()) -> Outage {
    let seen = daemon.lines().with("STORE_UP").len();
    daemon.lines().wait_for_more("STORE_DOWN", seen);
    let away = Instant::now();
    progress.wait_for(4000);
    let back = Instant::now();
    end();
    daemon.lines().wait_for_more("STORE_UP", seen);
    let up = Instant::now();
    progress.wait_for(800);
    Outage { away, end: back, up }
}

/// Checks what must hold in every outage, and prints the line of the table.
#[track_caller]
pub fn conclude(fault: &str, daemon: &Daemon, (seen, outage): &(Seen, Outage)) {
    let (own, reference) = seen.p99(outage.away, outage.end);
    let recovery = outage.up - outage.end;
    Row { fault, seen, p99: Some((own, reference)), recovery: Some(recovery), log: daemon.lines() }.print();
    in_time_and_right(fault, seen);
    // No request waits for a server that is known to be down. What the machine does to some it does to the reference too.
    let [asked, slow, slow_of_reference] = seen.slow(STORE_TIMEOUT, outage.away, outage.end);
    assert!(
        slow <= 2 * slow_of_reference + asked / 50,
        "{fault}: {slow} of {asked} answers took as long as a time-out, from memory {slow_of_reference}"
    );
    assert!(recovery < RECOVERY, "{fault}: {recovery:?}");
    // Not once per request; a stall of the machine may look like another outage.
    let told = daemon.lines().with("STORE_DOWN").len();
    assert!((1..=3).contains(&told), "{fault}:\n{}", daemon.lines());
}

#[track_caller]
pub fn in_time_and_right(fault: &str, seen: &Seen) {
    assert!(seen.longest() < STORE_TIMEOUT + NOISE, "{fault}: an answer took {:?}", seen.longest());
    assert_eq!(seen.refused_wrongly(), 0, "{fault}: refused, though not over");
}

#[test]
fn a_server_that_refuses_connections_at_startup_delays_no_answer() {
    let mut memcached = Memcached::start();
    memcached.kill();
    let daemon = daemon(&memcached.server());
    let seen = outage(&daemon, || {}, || memcached.start_again());
    conclude("refused", &daemon, &seen);
}

#[test]
fn a_killed_server_delays_no_answer() {
    let memcached = std::cell::RefCell::new(Memcached::start());
    let daemon = daemon(&memcached.borrow().server());
    let seen = outage(&daemon, || memcached.borrow_mut().kill(), || memcached.borrow_mut().start_again());
    conclude("killed", &daemon, &seen);
}

#[test]
fn a_restarted_server_delays_no_answer_and_its_loss_is_logged() {
    let mut memcached = Memcached::start();
    let daemon = daemon(&memcached.server());
    // Longer than the possible difference of the coarse clocks of both sides.
    until("a server that has run for some seconds", || (memcached.statistic("uptime") > 6).then_some(()));
    let (seen, recovery) = under_load(&daemon, |progress| {
        memcached.kill();
        memcached.start_again();
        let back = Instant::now();
        let client = until("a count after the restart", || memcached.value("connshaper:10.0.200.0"));
        assert!(client.trim().parse::<u32>().unwrap() > 0);
        let recovery = back.elapsed();
        progress.wait_for(800);
        recovery
    });
    Row { fault: "restarted", seen: &seen, p99: None, recovery: Some(recovery), log: daemon.lines() }.print();
    in_time_and_right("restarted", &seen);
    assert!(recovery < RECOVERY, "{recovery:?}");
    let line = daemon.lines().wait_for("STORE_FLUSHED ");
    assert!(line.contains(" cause=\"it was started again\" "), "{line}");
}

#[test]
fn a_frozen_server_delays_no_answer() {
    let memcached = Memcached::start();
    let daemon = daemon(&memcached.server());
    let seen = outage(&daemon, || memcached.freeze(), || memcached.thaw());
    conclude("frozen", &daemon, &seen);
}

#[test]
fn a_server_whose_packets_are_lost_delays_no_answer() {
    let [near, far] = Namespace::pair();
    let memcached = Memcached::start_within(&far);
    let dir = Dir::new();
    let endpoint = format!("unix:{}", dir.join("policy").display());
    let daemon = Daemon::start_at_after(&endpoint, &near.enter(), &config(&memcached.server()));
    let lose = || far.run("ip route add blackhole 10.9.8.1/32");
    let seen = outage(&daemon, lose, || far.run("ip route del blackhole 10.9.8.1/32"));
    conclude("black-holed", &daemon, &seen);
}

#[test]
fn a_server_slower_than_store_timeout_delays_no_answer_and_mixes_up_none() {
    let memcached = Memcached::start();
    let gate = Gate::to(&memcached.server());
    let daemon = daemon(&gate.server());
    let seen = outage(&daemon, || gate.set(Fault::Slow(Duration::from_millis(300))), || gate.set(Fault::None));
    conclude("slow, 300 ms", &daemon, &seen);
}

/// What the gates of [`stays_down_while_slow`] are asked with.
pub const SLOWER_THAN: &str = "store_timeout = \"300ms\"\n";

/// A server that answers later than [`SLOWER_THAN`] is asked by requests one after another: it goes down once, whatever
/// its late answers are, and comes up when it is fast enough.
pub fn stays_down_while_slow(daemon: &Daemon, gate: &Gate) {
    let lines = |keyword| daemon.lines().with(keyword).len();
    let mut policy = Policy::connect(daemon.endpoint());
    assert_eq!(policy.connected("203.0.113.1", 1), "DUNNO");
    let (downs, ups) = (lines("STORE_DOWN"), lines("STORE_UP"));
    gate.set(Fault::Slow(Duration::from_millis(700)));
    let mut port = 1;
    until("a breaker that opens", || {
        port += 1;
        policy.connected("203.0.113.2", port);
        (lines("STORE_DOWN") > downs).then_some(())
    });
    let connections = gate.connections();
    until("probes that are too slow", || (gate.connections() >= connections + 4).then_some(()));
    assert_eq!((lines("STORE_DOWN"), lines("STORE_UP")), (downs + 1, ups), "{}", daemon.lines());
    gate.set(Fault::None);
    daemon.lines().wait_for_more("STORE_UP", ups);
    assert_eq!(lines("STORE_DOWN"), downs + 1, "{}", daemon.lines());
}

#[test]
fn a_server_that_stays_slow_goes_down_once() {
    let memcached = Memcached::start();
    let gate = Gate::to(&memcached.server());
    let daemon = Daemon::start(&format!("{}{SLOWER_THAN}", config(&gate.server())));
    stays_down_while_slow(&daemon, &gate);
}

#[test]
fn a_slow_server_within_store_timeout_counts_everything() {
    let memcached = Memcached::start();
    let gate = Gate::to(&memcached.server());
    let daemon = Daemon::start(&format!("{}store_timeout = \"1s\"\n", config(&gate.server())));
    let (seen, ()) = under_load(&daemon, |progress| {
        gate.set(Fault::Slow(Duration::from_millis(40)));
        progress.wait_for(400);
    });
    Row { fault: "slow, 40 ms of 1 s", seen: &seen, p99: None, recovery: None, log: daemon.lines() }.print();
    assert_eq!((seen.refused_wrongly(), seen.passed_wrongly()), (0, 0));
    assert!(daemon.lines().with("STORE_DOWN").is_empty());
}

#[test]
fn a_half_closed_connection_delays_no_answer() {
    let memcached = Memcached::start();
    let gate = Gate::to(&memcached.server());
    let daemon = daemon(&gate.server());
    let seen = outage(&daemon, || gate.set(Fault::HalfClosed), || gate.set(Fault::None));
    conclude("half-closed", &daemon, &seen);
}

#[test]
fn a_server_with_invalid_answers_delays_no_answer() {
    for nonsense in ["HTTP/1.1 400 Bad Request\r\n\r\n", "VA 3 t60\r\n9999\r\n", "VA 4000000000 t1\r\n"] {
        let memcached = Memcached::start();
        let gate = Gate::to(&memcached.server());
        let daemon = daemon(&gate.server());
        let seen = outage(&daemon, || gate.set(Fault::Nonsense(nonsense)), || gate.set(Fault::None));
        conclude("nonsense", &daemon, &seen);
    }
}

#[test]
fn counts_are_local_while_a_server_is_out_of_memory() {
    let memcached = Memcached::start_with(&["-m", "2", "-M"]);
    let daemon = daemon(&memcached.server());
    let (seen, recovery) = under_load(&daemon, |progress| {
        memcached.fill();
        daemon.lines().wait_for("STORE_ERROR");
        progress.wait_for(4000);
        let end = Instant::now();
        memcached.say("flush_all");
        until("a count after there is memory again", || memcached.value("connshaper:10.0.200.0"));
        let recovery = end.elapsed();
        progress.wait_for(800);
        recovery
    });
    Row { fault: "out of memory (-M)", seen: &seen, p99: None, recovery: Some(recovery), log: daemon.lines() }.print();
    in_time_and_right("out of memory", &seen);
    // memcached itself needs time to reuse the memory that a flush has freed.
    assert!(recovery < 4 * RECOVERY, "{recovery:?}");
    // The server answers, so it is not down. Its errors are logged at most once in ten seconds.
    assert!(daemon.lines().with("STORE_DOWN").is_empty());
    assert!(daemon.lines().with("STORE_ERROR").len() <= 3, "{}", daemon.lines());
}

#[test]
fn evictions_of_a_server_short_of_memory_are_logged() {
    let memcached = Memcached::start_with(&["-m", "2"]);
    let mut daemon = daemon(&memcached.server());
    let (seen, ()) = under_load(&daemon, |progress| {
        memcached.store(30_000);
        assert!(memcached.statistic("evictions") > 0);
        daemon.lines().wait_for("STORE_EVICTS ");
        progress.wait_for(800);
    });
    Row { fault: "short of memory", seen: &seen, p99: None, recovery: None, log: daemon.lines() }.print();
    in_time_and_right("short of memory", &seen);
    daemon.stop();
    assert!(statistic(&daemon, "store_evictions").unwrap() > 0);
}

#[test]
fn a_flush_restarts_counts_and_refuses_no_client() {
    let memcached = Memcached::start();
    let daemon = daemon(&memcached.server());
    let (seen, ()) = under_load(&daemon, |progress| {
        memcached.say("flush_all");
        progress.wait_for(2000);
        let line = daemon.lines().wait_for("STORE_FLUSHED ");
        assert!(line.contains(" cause=flush_all "), "{line}");
    });
    Row { fault: "flushed", seen: &seen, p99: None, recovery: None, log: daemon.lines() }.print();
    in_time_and_right("flushed", &seen);
    assert!(daemon.lines().with("STORE_DOWN").is_empty());
}

/// A daemon in a mount namespace with other host names.
fn daemon_among(names: &Names, server: &str) -> Daemon {
    Daemon::start_after(&names.enter(), &config(server))
}

fn port(memcached: &Memcached) -> String {
    memcached.server().rsplit_once(':').unwrap().1.to_owned()
}

fn server_by_name(memcached: &Memcached) -> String {
    format!("memcached.test:{}", port(memcached))
}

#[test]
fn a_name_that_does_not_resolve_at_startup_delays_no_answer() {
    let memcached = Memcached::start();
    let names = Names::of_hosts("127.0.0.1 localhost\n");
    let daemon = daemon_among(&names, &server_by_name(&memcached));
    // On a busy machine this may be the second cause that is told.
    let is_told = || drop(daemon.lines().wait_for("its name does not resolve"));
    let seen = outage(&daemon, is_told, || names.set_hosts("127.0.0.1 memcached.test\n"));
    conclude("name without address", &daemon, &seen);
}

#[test]
fn a_new_address_of_a_server_name_is_followed() {
    let memcached = Memcached::start();
    let names = Names::of_hosts("127.0.0.2 memcached.test\n");
    let before = Memcached::start_at(format!("127.0.0.2:{}", port(&memcached)).parse().unwrap());
    let daemon = daemon_among(&names, &server_by_name(&memcached));
    let before = std::cell::RefCell::new(before);
    let seen = outage(&daemon, || before.borrow_mut().kill(), || names.set_hosts("127.0.0.1 memcached.test\n"));
    conclude("name with another address", &daemon, &seen);
    assert!(memcached.value("connshaper:10.0.200.0").is_some());
}

#[test]
fn a_resolver_that_hangs_at_startup_delays_no_answer() {
    let (memcached, name_server) = (Memcached::start(), NameServer::new(Mood::Hangs));
    let start = Instant::now();
    let daemon = daemon_among(&Names::of_server(&name_server), &server_by_name(&memcached));
    assert!(start.elapsed() < 2 * NOISE, "ready after {:?}", start.elapsed());
    let seen = outage(&daemon, || {}, || name_server.set(Mood::Answers));
    assert!(daemon.lines().wait_for("STORE_DOWN").contains("its name is not resolved in time"), "{}", daemon.lines());
    conclude("resolver hangs at the start", &daemon, &seen);
}

#[test]
fn a_resolver_that_hangs_after_a_server_restart_delays_no_answer() {
    let memcached = std::cell::RefCell::new(Memcached::start());
    let name_server = NameServer::new(Mood::Answers);
    let daemon = daemon_among(&Names::of_server(&name_server), &server_by_name(&memcached.borrow()));
    let restart = || {
        name_server.set(Mood::Hangs);
        memcached.borrow_mut().kill();
        memcached.borrow_mut().start_again();
    };
    let seen = outage(&daemon, restart, || name_server.set(Mood::Answers));
    conclude("resolver hangs later", &daemon, &seen);
    assert!(memcached.borrow().value("connshaper:10.0.200.0").is_some());
}

#[test]
fn a_resolver_that_hangs_holds_one_thread_and_blocks_nothing() {
    let (memcached, name_server) = (Memcached::start(), NameServer::new(Mood::Hangs));
    let mut daemon = daemon_among(&Names::of_server(&name_server), &server_by_name(&memcached));
    let start = Instant::now();
    for number in 0..10 {
        // Each reload makes a new store, which has to resolve the name of its server.
        let other = format!("{}key_prefix = \"p{number}:\"\n", config(&server_by_name(&memcached)));
        let line = daemon.reload(&other);
        assert!(line.contains("RELOADED"), "{line}");
    }
    // Long enough for the list of overrides, which is read once a second, to be requested several times.
    until("five seconds", || (start.elapsed() > Duration::from_secs(5)).then_some(()));
    let mut policy = Policy::connect(daemon.endpoint());
    let asked = Instant::now();
    assert_eq!(policy.connected("198.51.100.1", 1), "DUNNO");
    assert!(asked.elapsed() < STORE_TIMEOUT + NOISE, "{:?}", asked.elapsed());
    // One query for each address family.
    assert_eq!(name_server.queries(), 2);
    let threads = std::fs::read_dir(format!("/proc/{}/task", daemon.id())).unwrap().count();
    assert!(threads <= 6, "{threads} threads");
    let line = daemon.upgrade();
    assert!(line.contains("UPGRADED"), "{line}");
    let stop = Instant::now();
    assert!(daemon.stop().success());
    println!("a resolver that hangs: {threads} threads, stopped after {:.1?}", stop.elapsed());
    assert!(stop.elapsed() < NOISE, "{:?}", stop.elapsed());
}

#[test]
fn a_server_that_returns_is_not_stampeded() {
    let memcached = Memcached::start();
    let gate = Gate::to(&memcached.server());
    let daemon = daemon(&gate.server());
    let (seen, (outage, connections, commands)) = under_load(&daemon, |progress| {
        gate.set(Fault::HalfClosed);
        let mut before = (0, 0);
        let outage = bridge(&daemon, progress, || {
            before = (gate.connections(), gate.commands());
            gate.set(Fault::None);
        });
        (outage, gate.connections() - before.0, gate.commands() - before.1)
    });
    // One probe just before the return, and the probe that found the server; each asks for the protocol.
    assert!(connections <= 2, "{connections} connections at its return");
    let asked = seen.between(outage.end - STORE_TIMEOUT, Instant::now());
    assert!(commands <= asked + 2, "{commands} commands for {asked} requests");
    conclude("returns", &daemon, &(seen, outage));
}

#[test]
fn mail_goes_on_while_memcached_freezes_and_comes_back() {
    let memcached = Memcached::start();
    let daemon =
        Daemon::start(&format!("whitelist = []\nthreshold = 4\nmemcached_server = {:?}\n", memcached.server()));
    let endpoint = daemon.endpoint();
    let postfix = Postfix::start(&format!(
        "smtpd_client_restrictions = check_policy_service {endpoint}\nsmtpd_policy_service_timeout = 5s\n"
    ));
    let codes = |client: &str, sessions: usize| {
        let session = |_| {
            let mut smtp = postfix.client(client);
            smtp.ehlo().expect(250);
            smtp.mail().expect(250);
            smtp.rcpt().code
        };
        (0..sessions).map(session).collect::<Vec<_>>()
    };
    assert_eq!(codes("127.0.0.2", 3), [250; 3]);
    memcached.freeze();
    // Local counts start from the last value of memcached: the fifth session is over.
    assert_eq!(codes("127.0.0.2", 3), [250, 450, 450]);
    assert_eq!(codes("127.0.0.3", 5), [250, 250, 250, 250, 450]);
    daemon.lines().wait_for("STORE_DOWN");
    memcached.thaw();
    daemon.lines().wait_for("STORE_UP");
    assert_eq!(codes("127.0.0.4", 5), [250, 250, 250, 250, 450]);
    assert_eq!(memcached.value("connshaper:127.0.0.4").as_deref(), Some("5"));
    // Postfix warns of an answer that does not come in time.
    assert_eq!(postfix.lines().with(" warning: "), Vec::<String>::new());
}
