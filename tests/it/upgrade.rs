//! Upgrades under load: no connection is closed, no hit is counted twice or lost.

use std::fs::{self, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::{Daemon, Dir, Memcached, Policy, request, until};

const PASS: &str = "DUNNO";

/// The value of a field of a log line.
fn field(line: &str, name: &str) -> u64 {
    let value = line.split(' ').find_map(|field| field.strip_prefix(name)?.strip_prefix('='));
    value.unwrap_or_else(|| panic!("no {name} in {line}")).parse().unwrap()
}

#[test]
fn sessions_counts_and_connections_survive_an_upgrade() {
    let mut daemon = Daemon::start("whitelist = []\nthreshold = 2\nexptime = 3600");
    let mut policies = [(); 4].map(|()| Policy::connect(daemon.endpoint()));
    let answers: Vec<String> =
        (1..).zip(&mut policies).map(|(port, policy)| policy.connected("198.51.100.1", port)).collect();
    assert_eq!([&answers[0], &answers[1]], [PASS, PASS]);
    let half = request(&["client_address=198.51.100.2", "client_port=9"]);
    let (begin, end) = half.split_at(40);
    policies[3].send(begin);

    let pid = daemon.id();
    let line = daemon.upgrade();
    assert!(line.starts_with("UPGRADED from=0.1.0 to=0.1.0 form=toml connections=4 sessions=4 counters=1 "), "{line}");
    assert!(daemon.lines().with("UPGRADE_INCOMPLETE").is_empty(), "{}", daemon.lines());
    assert!(fs::read_to_string(format!("/proc/{pid}/status")).unwrap().contains("Name:\tconnshaper"));

    // Sessions keep their verdict for further recipients.
    for (port, (policy, answer)) in (1..).zip(policies.iter_mut().zip(&answers)).take(3) {
        let port = format!("client_port={port}");
        let server = ["server_address=192.0.2.25", "server_port=25", "client_address=198.51.100.1"];
        let rcpt = [&["protocol_state=RCPT", &port, "instance=a1.10.0.0"][..], &server].concat();
        assert_eq!(policy.ask(&rcpt) == PASS, answer == PASS, "{port}");
    }
    policies[3].send(end);
    assert_eq!(policies[3].answer().as_deref(), Some("action=DUNNO"), "the rest of a request that was begun before");
    let mut another = Policy::connect(daemon.endpoint());
    let answer = another.connected("198.51.100.1", 5);
    assert!(answer != PASS, "{answer}");
    assert!(daemon.stop().success());
    let line = daemon.lines().wait_for("STATISTICS ");
    assert_eq!((field(&line, "queries"), field(&line, "sessions")), (9, 6), "{line}");
}

#[test]
fn under_load_every_request_is_answered_and_counted_once_over_twenty_upgrades() {
    crowd("", upgraded);
}

#[test]
fn under_load_with_memcached_every_request_is_answered_and_counted_once_over_upgrades() {
    let memcached = Memcached::start();
    crowd(&format!("memcached_server = {:?}\nstore_timeout = \"5s\"\n", memcached.server()), upgraded);
}

#[test]
fn a_reload_under_load_loses_no_answer_and_no_count() {
    crowd("", |daemon| {
        let rules = fs::read_to_string(daemon.config()).unwrap();
        let line = daemon.reload(&rules);
        assert!(line.starts_with("RELOADED "), "{line}");
        0
    });
}

const CONNECTIONS: u16 = 64;

/// Upgrades the daemon under load. Returns the milliseconds without answers.
fn upgraded(daemon: &Daemon) -> u64 {
    let line = daemon.upgrade();
    assert!(line.starts_with("UPGRADED "), "{line}");
    assert_eq!(field(&line, "connections"), u64::from(CONNECTIONS), "{line}");
    field(&line, "took_ms")
}

/// 64 policy connections send requests without a pause while something is done with the daemon twenty times in a
/// row. Afterwards the count of each client is checked.
fn crowd(store: &str, act: impl Fn(&Daemon) -> u64) {
    let top = "whitelist = []\nthreshold = 1000000\nexptime = 3600\naction = \"DEFER\"\ntext = \"{count}\"\n";
    let daemon = Daemon::start(&format!("{top}{store}"));
    let (over, asked) = (AtomicBool::new(false), AtomicU32::new(0));
    let longest = thread::scope(|scope| {
        let ask = |connection: u16| {
            let mut policy = Policy::connect(daemon.endpoint());
            let mut longest = Duration::ZERO;
            for session in 0.. {
                if over.load(Ordering::Relaxed) {
                    break;
                }
                let (client, port) = (format!("198.51.100.{connection}"), 1024 + session % 60_000);
                let start = Instant::now();
                assert_eq!(policy.connected(&client, port), PASS);
                longest = longest.max(start.elapsed());
                asked.fetch_add(1, Ordering::Relaxed);
            }
            longest
        };
        let crowd: Vec<_> = (0..CONNECTIONS).map(|connection| scope.spawn(move || ask(connection))).collect();
        until("a crowd", || (asked.load(Ordering::Relaxed) > 1000).then_some(()));
        let mut pauses = Vec::new();
        for _ in 0..20 {
            let before = asked.load(Ordering::Relaxed);
            pauses.push(act(&daemon));
            until("questions after it", || (asked.load(Ordering::Relaxed) > before + 64).then_some(()));
        }
        over.store(true, Ordering::Relaxed);
        eprintln!("pauses in ms: {pauses:?}");
        crowd.into_iter().map(|asking| asking.join().unwrap()).max().unwrap()
    });
    let asked = asked.into_inner();
    eprintln!("{asked} questions, the longest answer after {longest:?}");
    // The time-out of Postfix. Usually milliseconds, unless the machine stalls.
    assert!(longest < Duration::from_secs(10), "{longest:?}");

    // The text of a refusal has the count of the client.
    daemon.reload(&format!("{top}{store}").replace("threshold = 1000000", "threshold = 1"));
    let mut policy = Policy::connect(daemon.endpoint());
    let counted = |client: u16| -> u32 {
        let answer = policy.connected(&format!("198.51.100.{client}"), 1);
        answer.rsplit(' ').next().unwrap().parse().unwrap_or_else(|_| panic!("{answer}"))
    };
    let counted: u32 = (0..CONNECTIONS).map(counted).map(|count| count - 1).sum();
    assert_eq!(counted, asked);
    assert!(daemon.lines().with("UPGRADE_INCOMPLETE").is_empty());
}

#[test]
fn log_interval_holds_over_an_upgrade() {
    let mut daemon = Daemon::start("whitelist = []\nthreshold = 1\nexptime = 3600\nlog_interval = \"1h\"");
    let mut policy = Policy::connect(daemon.endpoint());
    for port in 1..=6 {
        policy.connected("198.51.100.1", port);
        assert!(port % 2 == 1 || daemon.upgrade().starts_with("UPGRADED "));
    }
    daemon.stop();
    assert_eq!(daemon.lines().with("REFUSED ").len(), 1, "{}", daemon.lines());
    assert!(daemon.lines().wait_for("STATISTICS ").contains(" suppressed_lines=4 "), "{}", daemon.lines());
}

#[test]
fn unread_answers_are_sent_by_the_new_program() {
    let dir = Dir::new();
    let daemon = Daemon::start_at(format!("unix:{}", dir.join("policy").display()), "");
    let mut stream = UnixStream::connect(dir.join("policy")).unwrap();
    // As many requests as fit into the socket; their answers do not fit.
    let mut sent = 0;
    stream.set_nonblocking(true).unwrap();
    let one = request(&["client_address=127.0.0.1"]);
    until("a socket full of requests", || match stream.write(one.as_bytes()) {
        Ok(length) => {
            assert_eq!(length, one.len(), "half a request");
            sent += 1;
            None
        }
        Err(error) => (error.kind() == ErrorKind::WouldBlock).then_some(()),
    });
    stream.set_nonblocking(false).unwrap();
    for _ in 0..3 {
        assert!(daemon.upgrade().starts_with("UPGRADED "));
    }
    let mut answers = Policy::over(Box::new(stream));
    for number in 0..sent {
        assert_eq!(answers.answer().as_deref(), Some("action=DUNNO"), "{number} of {sent}");
    }
}

#[test]
fn requests_that_wait_for_memcached_are_answered_before_the_upgrade() {
    let memcached = Memcached::start();
    let rules = format!("whitelist = []\nstore_timeout = \"500ms\"\nmemcached_server = {:?}", memcached.server());
    let daemon = Daemon::start(&rules);
    let mut policies = [(); 8].map(|()| Policy::connect(daemon.endpoint()));
    let ask = |policy: &mut Policy, port: u16| {
        policy.send(request(&["client_address=198.51.100.1", &format!("client_port={port}")]));
    };
    ask(&mut policies[0], 1);
    assert_eq!(policies[0].answer().as_deref(), Some("action=DUNNO"));
    memcached.freeze();
    for (port, policy) in (2..).zip(&mut policies) {
        ask(policy, port);
    }
    let line = daemon.upgrade();
    assert!(line.starts_with("UPGRADED ") && field(&line, "connections") == 8, "{line}");
    memcached.thaw();
    for policy in &mut policies {
        assert_eq!(policy.answer().as_deref(), Some("action=DUNNO"));
    }
}

#[test]
fn a_delayed_answer_keeps_its_time_and_delay_slot_over_an_upgrade() {
    let rules =
        "whitelist = []\nthreshold = 1\nexptime = 3600\ninitial_delay = \"7s\"\nmax_delay = \"7s\"\nmax_concurrent = 1";
    let daemon = Daemon::start(rules);
    let mut policies = [(); 3].map(|()| Policy::connect(daemon.endpoint()));
    let ask = |policy: &mut Policy, port: &str| {
        let port = format!("client_port={port}");
        policy.send(request(&["protocol_state=CONNECT", "client_address=198.51.100.1", &port]));
    };
    let [first, delayed, crowded] = &mut policies;
    ask(first, "1");
    assert_eq!(first.answer().as_deref(), Some("action=DUNNO"));
    let start = Instant::now();
    ask(delayed, "2");
    daemon.lines().wait_for("DELAYED ");
    let line = daemon.upgrade();
    assert!(line.starts_with("UPGRADED "), "{line}");
    ask(crowded, "3");
    let answer = crowded.answer().unwrap();
    assert!(answer.starts_with("action=DEFER_IF_PERMIT"), "its place is taken: {answer}");
    assert!(start.elapsed() < Duration::from_secs(7), "the machine is too slow for this test");
    assert_eq!(delayed.answer().as_deref(), Some("action=DUNNO"));
    assert!(start.elapsed() >= Duration::from_secs(7), "{:?}", start.elapsed());
    ask(crowded, "4");
    assert_eq!(crowded.answer().as_deref(), Some("action=DUNNO"), "the place is free again");
}

#[test]
fn an_upgrade_to_a_broken_program_or_configuration_changes_nothing() {
    let rules = "whitelist = []\nthreshold = 2\nexptime = 3600";
    let daemon = Daemon::start(rules);
    let mut policy = Policy::connect(daemon.endpoint());
    assert_eq!(policy.connected("198.51.100.1", 1), PASS);
    let program = daemon.program();
    let works = fs::read_link(&program).unwrap();
    let put = |text: &str| {
        let _ = fs::remove_file(&program);
        fs::write(&program, text).unwrap();
        fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    };
    let fails = |problem: &str| {
        let line = daemon.upgrade();
        assert!(line.starts_with("UPGRADE_FAILED ") && line.contains(problem), "{line}");
    };
    put("#!/bin/sh\necho some program 1.0\n");
    fails("it is not connshaper");
    put("no program at all");
    fails("error=");
    fs::remove_file(&program).unwrap();
    fails("No such file or directory");
    // A program that passes the trial and is gone when it is executed.
    let gone = "#!/bin/sh\n[ \"$1\" = check ] && rm \"$0\"\necho connshaper 9.9\n";
    put(gone);
    fails("No such file or directory");
    std::os::unix::fs::symlink(works, &program).unwrap();
    fs::write(daemon.config(), "threshold = 0").unwrap();
    fails("it does not take the configuration: ");

    assert_eq!(policy.connected("198.51.100.1", 2), PASS, "on the same connection");
    assert!(Policy::connect(daemon.endpoint()).connected("198.51.100.1", 3) != PASS, "the third");
    fs::write(daemon.config(), rules).unwrap();
    assert!(daemon.upgrade().starts_with("UPGRADED "));
    assert!(policy.connected("198.51.100.1", 4) != PASS, "on the same connection");
}

/// Has the program file be a script that does something between the trial and the start of the program.
fn before_start(daemon: &Daemon, script: &str) {
    let program = daemon.program();
    let works = fs::read_link(&program).unwrap();
    let script = format!("#!/bin/sh\nif [ \"$1\" = serve ]; then {script}; fi\nexec {} \"$@\"\n", works.display());
    fs::remove_file(&program).unwrap();
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_configuration_that_is_wrong_for_a_moment_after_the_trial_does_not_end_an_upgrade() {
    let daemon = Daemon::start("whitelist = []\nthreshold = 1\nexptime = 3600");
    let mut policy = Policy::connect(daemon.endpoint());
    assert_eq!(policy.connected("198.51.100.1", 1), PASS);
    let config = daemon.config().display().to_string();
    before_start(
        &daemon,
        &format!(
            "cp {config} {config}.right; echo 'threshold = many' > {config}; (sleep 0.5; mv {config}.right {config}) & true"
        ),
    );
    assert!(daemon.upgrade().starts_with("UPGRADED "));
    let line = daemon.lines().wait_for("UPGRADE_INCOMPLETE ");
    assert!(line.contains("the configuration was wrong at first: "), "{line}");
    assert!(policy.connected("198.51.100.1", 2) != PASS, "on the same connection");
}

#[test]
fn a_configuration_that_stays_wrong_after_the_trial_ends_with_a_status_that_systemd_restarts() {
    let mut daemon = Daemon::start("");
    before_start(&daemon, &format!("echo 'threshold = many' > {}", daemon.config().display()));
    let status = daemon.stop_by(Signal::SIGUSR2);
    assert_eq!(status.code(), Some(75), "{status}");
    let unit = include_str!("../../contrib/systemd/connshaper.service");
    assert!(unit.contains("\nRestart=on-failure\n") && unit.contains("\nRestartPreventExitStatus=78\n"));
}

#[test]
fn a_signal_during_an_upgrade_is_handled_after_it() {
    let daemon = Daemon::start("");
    for _ in 0..5 {
        let (upgraded, reloaded) = (daemon.lines().with("UPGRADED ").len(), daemon.lines().with("RELOADED ").len());
        daemon.signal(Signal::SIGUSR2);
        // The signal arrives at various moments of the upgrade.
        daemon.signal(Signal::SIGHUP);
        daemon.lines().wait_for_more("UPGRADED ", upgraded);
        daemon.lines().wait_for_more("RELOADED ", reloaded);
    }
}

#[test]
fn the_last_program_of_several_upgrades_removes_the_socket_file() {
    let dir = Dir::new();
    let path = dir.join("policy");
    let mut daemon = Daemon::start_at(format!("unix:{}", path.display()), "");
    let mut policy = Policy::connect(daemon.endpoint());
    for port in 1..4 {
        assert_eq!(policy.connected("198.51.100.1", port), PASS);
        assert!(daemon.upgrade().starts_with("UPGRADED "));
        assert_eq!(Policy::connect(daemon.endpoint()).connected("127.0.0.1", port), PASS);
    }
    assert!(path.exists());
    assert!(daemon.stop().success());
    assert_eq!(policy.answer(), None);
    assert!(!path.exists());
}

#[test]
fn coalescing_continues_over_an_upgrade() {
    let daemon = Daemon::start("whitelist = []\nthreshold = 1\nexptime = 3600\ncoalesce = \"10s\"");
    let mut policy = Policy::connect(daemon.endpoint());
    let start = Instant::now();
    for port in 1..=3 {
        assert_eq!(policy.connected("198.51.100.1", port), PASS, "one with the first");
        assert!(daemon.upgrade().starts_with("UPGRADED "));
    }
    assert!(start.elapsed() < Duration::from_secs(10), "the machine is too slow for this test");
    assert_eq!(policy.connected("198.51.100.2", 1), PASS);
    assert!(daemon.lines().with("UPGRADE_INCOMPLETE").is_empty());
}

#[test]
fn the_new_program_knows_which_servers_are_down() {
    let mut memcached = Memcached::start();
    let daemon = Daemon::start(&format!("whitelist = []\nmemcached_server = {:?}", memcached.server()));
    let mut policy = Policy::connect(daemon.endpoint());
    let mut ask = |port| assert_eq!(policy.connected("198.51.100.1", port), PASS);
    ask(1);
    memcached.kill();
    daemon.lines().wait_for("STORE_DOWN ");
    (2..=4).for_each(&mut ask);
    for _ in 0..3 {
        assert!(daemon.upgrade().starts_with("UPGRADED "));
    }
    (5..=7).for_each(&mut ask);
    memcached.start_again();
    let line = daemon.lines().wait_for("STORE_UP ");
    // The hits before the upgrade and those after it.
    assert_eq!(field(&line, "decisions"), 6, "{line}");
    assert_eq!(daemon.lines().with("STORE_DOWN ").len(), 1, "{}", daemon.lines());
}

#[test]
fn an_upgrade_logs_that_a_changed_listen_needs_a_restart() {
    let dir = Dir::new();
    let at = |name: &str| format!("unix:{}", dir.join(name).display());
    let config = |name: &str| format!("listen = {:?}\n", at(name));
    let mut daemon = Daemon::start_unled(at("one"), &config("one"));
    for number in 0..2 {
        fs::write(daemon.config(), config("two")).unwrap();
        assert!(daemon.upgrade().starts_with("UPGRADED "));
        let line = daemon.lines().wait_for_more("LISTEN_UNCHANGED ", number);
        let expected = format!("listen={} configured={} remedy=\"restart the daemon\"", at("one"), at("two"));
        assert_eq!(line, format!("LISTEN_UNCHANGED {expected}"));
    }
    // The `listen` of the first program is compared, not that of its successor.
    let line = daemon.reload(&config("two"));
    assert!(line.ends_with(" after_restart=listen"), "{line}");
    daemon.lines().wait_for_more("LISTEN_UNCHANGED ", 2);
    let line = daemon.reload(&config("one"));
    assert!(line.ends_with(" after_restart=\"\""), "{line}");
    assert_eq!(Policy::connect(daemon.endpoint()).connected("198.51.100.1", 1), PASS);
    daemon.stop();
    assert_eq!(daemon.lines().with("LISTEN_UNCHANGED ").len(), 3);
}
