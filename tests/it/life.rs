//! The life of the daemon: bounds, reloads and shutdown, seen by its peers, systemd and administrators.

use std::fs;
use std::io::{ErrorKind, Write};
use std::mem::MaybeUninit;
use std::net::Ipv4Addr;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use socket2::SockRef;

use crate::support::{
    Daemon, Dir, Lines, Memcached, PATIENCE, Policy, Port, Process, command, connect, request, until,
};

const PASS: &str = "DUNNO";

/// Whether a recipient of a session passes. The port identifies the session.
fn recipient(policy: &mut Policy, client: &str, port: u16) -> bool {
    let session =
        [format!("client_address={client}"), format!("client_port={port}"), format!("instance={port:x}.10.0.0")];
    let [address, port, instance] = session.each_ref().map(String::as_str);
    policy.ask(&["protocol_state=RCPT", address, port, instance, "server_address=192.0.2.25", "server_port=25"]) == PASS
}

#[test]
fn a_connection_beyond_max_connections_is_closed_and_logged() {
    let mut daemon = Daemon::start("max_connections = 2");
    let mut served = [(); 2].map(|()| Policy::connect(daemon.endpoint()));
    for (port, policy) in (1..).zip(&mut served) {
        assert_eq!(policy.connected("198.51.100.1", port), PASS);
    }
    let mut rejected = Policy::connect(daemon.endpoint());
    assert_eq!(rejected.answer(), None);
    let line = daemon.lines().wait_for("TOO_MANY_CONNECTIONS ");
    assert!(line.contains(" peer=inet:127.0.0.1:") && line.ends_with(" max_connections=2"), "{line}");

    let [mut stays, leaves] = served;
    assert_eq!(stays.connected("198.51.100.1", 3), PASS);
    drop(leaves);
    until("a place that was left", || {
        let mut policy = Policy::connect(daemon.endpoint());
        let sent = policy.try_send(request(&["client_address=198.51.100.1"]));
        sent.ok().and_then(|()| policy.answer())
    });
    let rejected = daemon.lines().with("TOO_MANY_CONNECTIONS ").len();
    daemon.stop();
    let line = daemon.lines().wait_for("STATISTICS ");
    assert!(line.contains(&format!(" connections_rejected={rejected} ")), "{line}");
}

#[test]
fn the_limit_of_open_files_is_raised_to_the_hard_limit() {
    // Descriptors for other purposes are kept free.
    let mut daemon = Daemon::start_after("ulimit -Sn 40 && ulimit -Hn 66", "");
    assert_eq!(daemon.lines().wait_for("FEW_DESCRIPTORS "), "FEW_DESCRIPTORS max_connections=4096 possible=2");
    let mut served = [(); 2].map(|()| Policy::connect(daemon.endpoint()));
    for (port, policy) in (1..).zip(&mut served) {
        assert_eq!(policy.connected("198.51.100.1", port), PASS);
    }
    assert_eq!(Policy::connect(daemon.endpoint()).answer(), None);
    daemon.stop();

    let daemon = Daemon::start_after("ulimit -Sn 40 && ulimit -Hn 300", "max_connections = 200");
    let mut served: Vec<_> = (0..200).map(|_| Policy::connect(daemon.endpoint())).collect();
    for (port, policy) in (1..).zip(&mut served) {
        policy.connected("127.0.0.1", port);
    }
    assert!(daemon.lines().with("FEW_DESCRIPTORS").is_empty());
}

#[test]
fn the_statistics_report_the_open_connections() {
    let daemon = Daemon::start("statistics_interval = \"1s\"");
    let mut policies: Vec<_> = (0..3).map(|_| Policy::connect(daemon.endpoint())).collect();
    for (port, policy) in (1..).zip(&mut policies) {
        assert_eq!(policy.connected("198.51.100.1", port), PASS);
    }
    daemon.lines().wait_for(" policy_connections=3 ");
    policies.truncate(1);
    daemon.lines().wait_for(" policy_connections=1 ");
}

/// A peer that sends requests until the socket is full, and reads no answer. The daemon has begun to answer.
fn silent(path: &Path) -> UnixStream {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.set_nonblocking(true).unwrap();
    let requests = request(&["client_address=127.0.0.1"]).repeat(10_000);
    until("a socket full of requests", || {
        let sent = stream.write(requests.as_bytes());
        sent.is_err_and(|error| error.kind() == ErrorKind::WouldBlock).then_some(())
    });
    until("an answer", || SockRef::from(&stream).peek(&mut [MaybeUninit::uninit()]).ok());
    stream
}

#[test]
fn expired_counts_are_dropped_without_traffic() {
    let daemon = Daemon::start("whitelist = []\nexptime = 1\nstatistics_interval = \"1s\"");
    let mut policy = Policy::connect(daemon.endpoint());
    for client in 0..100 {
        policy.connected(&format!("198.51.100.{client}"), 1);
    }
    until("counts that are swept", || {
        let lines = daemon.lines().with("STATISTICS ");
        lines.iter().any(|line| line.contains(" queries=100 ") && line.contains(" clients=0 ")).then_some(())
    });
}

#[test]
fn suppressed_lines_are_reported_without_further_traffic() {
    let daemon = Daemon::start("log_rate = 1");
    let requests = 20;
    for _ in 0..requests {
        let mut policy = Policy::connect(daemon.endpoint());
        policy.send("nonsense\n\n");
        assert_eq!(policy.answer(), None);
    }
    until("a word about every request", || {
        let mentioned = daemon.lines().with("SUPPRESSED ");
        let mentioned = mentioned.iter().map(|line| line.rsplit_once('=').unwrap().1.parse::<usize>().unwrap());
        (daemon.lines().with("BAD_REQUEST ").len() + mentioned.sum::<usize>() == requests).then_some(())
    });
}

#[test]
fn systemd_is_notified_of_reloads_and_stop_and_the_watchdog_is_fed() {
    let mut daemon = Daemon::start_after("export WATCHDOG_USEC=100000", "");
    daemon.told().wait_for_more("WATCHDOG=1", 2);
    daemon.reload("threshold = 3");
    daemon.told().wait_for_more("READY=1", 1);
    // systemd is also notified of the end of a failed reload.
    daemon.reload("threshold = 0");
    daemon.told().wait_for_more("READY=1", 2);
    daemon.stop();
    daemon.told().wait_for("STOPPING=1");
    let told = daemon.told().with("");
    let told: Vec<_> = told.iter().map(|line| line.split('\n').next().unwrap()).collect();
    let told: Vec<_> = told.into_iter().filter(|told| *told != "WATCHDOG=1").collect();
    assert_eq!(told, ["READY=1", "RELOADING=1", "READY=1", "RELOADING=1", "READY=1", "STOPPING=1"]);
}

#[test]
fn a_service_manager_that_does_not_read_delays_nothing() {
    let (dir, port) = (Dir::new(), Port::new());
    let _systemd = UnixDatagram::bind(dir.join("notify")).unwrap();
    let mut command = command();
    command.args(["serve", "--listen", &port.endpoint(), "-c"]).arg(dir.write("connshaper.toml", ""));
    command.env("NOTIFY_SOCKET", dir.join("notify"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut process = Process::start(&mut command, Signal::SIGKILL);
    let lines = Lines::of(process.pipes().stderr.take().unwrap());

    let another = UnixDatagram::unbound().unwrap();
    another.set_nonblocking(true).unwrap();
    until("a socket that is full", || {
        let sent = another.send_to(b"", dir.join("notify"));
        sent.is_err_and(|error| error.kind() == ErrorKind::WouldBlock).then_some(())
    });
    let mut policy = Policy::over(until("a daemon that listens", || connect(&port.endpoint()).ok()));
    // More notifications than the daemon queues.
    for reload in 0..20 {
        assert_eq!(policy.connected("127.0.0.1", 1 + reload), PASS);
        process.signal(Signal::SIGHUP);
        lines.wait_for_more("RELOADED ", reload.into());
    }
    lines.wait_for("NOTIFY_FAILED ");
    process.signal(Signal::SIGTERM);
    assert!(process.wait().success());
    lines.wait_for("STOPPED");
}

#[test]
fn sigterm_and_sigint_stop_it_cleanly() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut daemon = Daemon::start("");
        let mut policy = Policy::connect(daemon.endpoint());
        policy.connected("198.51.100.1", 1);
        let status = daemon.stop_by(signal);
        assert!(status.success(), "{signal}: {status}");
        assert_eq!(policy.answer(), None);
        let lines = daemon.lines().with("");
        let words: Vec<_> = lines.iter().map(|line| line.split(' ').next().unwrap()).collect();
        assert_eq!(words, ["START", "STOPPING", "STATISTICS", "STOPPED"], "{signal}");
    }
}

#[test]
fn a_peer_that_does_not_read_is_closed_at_shutdown_and_logged() {
    let dir = Dir::new();
    let path = dir.join("policy");
    let mut daemon = Daemon::start_at(format!("unix:{}", path.display()), "");
    // An idle connection is closed at once.
    let mut policy = Policy::connect(daemon.endpoint());
    policy.connected("198.51.100.1", 1);
    let _takes_no_answer = silent(&path);
    let status = daemon.stop();
    assert!(status.success(), "{status}");
    assert_eq!(daemon.lines().with("UNFINISHED"), ["UNFINISHED connections=1"], "{}", daemon.lines());
    daemon.lines().wait_for("STOPPED");
}

#[test]
fn a_reload_that_hangs_blocks_neither_answers_nor_shutdown() {
    let mut daemon = Daemon::start("");
    fs::remove_file(daemon.config()).unwrap();
    // Reading the pipe blocks: nothing ever writes to it.
    mkfifo(&daemon.config(), Mode::S_IRWXU).unwrap();
    daemon.signal(Signal::SIGHUP);
    daemon.told().wait_for("RELOADING=1");
    assert_eq!(Policy::connect(daemon.endpoint()).connected("198.51.100.1", 1), PASS);
    let status = daemon.stop();
    assert!(status.success(), "{status}");
    daemon.lines().wait_for("STOPPED");
}

#[test]
fn the_socket_exists_before_long_lists_are_read() {
    // An unoptimised build is more than ten times slower.
    const NETBLOCKS: u32 = if cfg!(debug_assertions) { 100_000 } else { 1_000_000 };
    let dir = Dir::new();
    let begun = Instant::now();
    let (_daemon, _, stream) = reading_a_list(&dir, NETBLOCKS);
    let bound = begun.elapsed();
    // The request is sent before the daemon accepts connections.
    assert_eq!(Policy::over(Box::new(stream)).connected("198.51.100.1", 1), PASS);
    let answered = begun.elapsed();
    println!("from exec: bound after {bound:.1?}, the first answer after {answered:.1?}, with a list of {NETBLOCKS}");
    assert!(2 * bound < answered, "bound after {bound:?}, answered after {answered:?}");
}

/// A daemon that has its socket, and reads a list of so many netblocks; with what it logs, and a connection.
fn reading_a_list(dir: &Dir, netblocks: u32) -> (Process, Lines, UnixStream) {
    let list: String = (0..netblocks).map(|net| format!("{}\n", Ipv4Addr::from_bits(net << 8))).collect();
    dir.write("black", &list);
    let path = dir.join("policy");
    let config = format!("listen = \"unix:{}\"\nblacklist_file = \"black\"\n", path.display());
    let config = dir.write("connshaper.toml", &config);
    let mut start = command();
    start.args(["serve", "-c"]).arg(config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut daemon = Process::start(&mut start, Signal::SIGKILL);
    let lines = Lines::of(daemon.pipes().stderr.take().unwrap());
    let stream = until("a socket", || UnixStream::connect(&path).ok());
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    (daemon, lines, stream)
}

#[test]
fn signals_during_the_start_are_handled_after_it() {
    let dir = Dir::new();
    let (daemon, lines, stream) = reading_a_list(&dir, 20_000);
    daemon.signal(Signal::SIGHUP);
    daemon.signal(Signal::SIGUSR2);
    assert_eq!(Policy::over(Box::new(stream)).connected("198.51.100.1", 1), PASS);
    lines.wait_for("START ");
    lines.wait_for("RELOADED ");
    lines.wait_for("UPGRADED ");
}

#[test]
fn a_stop_during_the_start_ends_it_at_once() {
    let dir = Dir::new();
    let (mut daemon, lines, _stream) = reading_a_list(&dir, 100_000);
    daemon.signal(Signal::SIGTERM);
    assert!(daemon.wait().success());
    // It would have been logged if the list had been read to its end.
    assert!(lines.with("START ").is_empty());
}

#[test]
fn an_error_in_a_list_is_reported_before_a_busy_socket() {
    let dir = Dir::new();
    dir.write("black", "192.0.2.300\n");
    let endpoint = format!("unix:{}", dir.join("policy").display());
    let daemon = Daemon::start_at(&endpoint, "");
    let config = dir.write("connshaper.toml", "blacklist_file = \"black\"\n");
    let second = command().args(["serve", "--listen", &endpoint, "-c"]).arg(&config).output().unwrap();
    let said = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(78), "{said}");
    assert!(said.contains("black:1:1: "), "{said}");
    // The socket of the running daemon is untouched.
    assert_eq!(Policy::connect(daemon.endpoint()).connected("198.51.100.1", 1), PASS);
}

#[test]
fn a_reload_names_the_settings_that_need_a_restart() {
    let dir = Dir::new();
    let at = |name: &str| format!("listen = \"unix:{}\"\n", dir.join(name).display());
    let endpoint = format!("unix:{}", dir.join("one").display());
    let daemon = Daemon::start_unled(&endpoint, &at("one"));
    let syslog = format!("log = \"syslog\"\nsyslog_socket = {:?}", dir.join("log"));
    let cases = [
        ("threshold = 3\nlog_rate = 5\nmax_clients = 5000", None),
        ("socket_mode = \"0600\"", Some("socket_mode, socket_owner or socket_group")),
        ("max_connections = 7", Some("max_connections")),
        (&syslog, Some("log or a key of syslog")),
        ("statistics_interval = 0", Some("statistics_interval")),
    ];
    let expect = |config: &str, waiting: Option<&str>| {
        let line = daemon.reload(config);
        let waiting = waiting.map_or("after_restart=\"\"".to_owned(), |key| {
            let quote = if key.contains(' ') { "\"" } else { "" };
            format!("after_restart={quote}{key}{quote}")
        });
        assert!(line.starts_with("RELOADED ") && line.ends_with(&waiting), "{config}: {line}");
        daemon.reload(&at("one"));
    };
    for (more, waiting) in cases {
        expect(&format!("{}{more}", at("one")), waiting);
    }
    expect(&at("two"), Some("listen"));
    let line = daemon.lines().wait_for("LISTEN_UNCHANGED ");
    let [one, two] = ["one", "two"].map(|name| format!("unix:{}", dir.join(name).display()));
    assert_eq!(line, format!("LISTEN_UNCHANGED listen={one} configured={two} remedy=\"restart the daemon\""));
    assert_eq!(Policy::connect(daemon.endpoint()).connected("198.51.100.1", 1), PASS);
}

#[test]
fn a_reload_switches_to_other_servers_and_key_prefixes() {
    let servers = [Memcached::start(), Memcached::start()];
    let config = |server: usize, more: &str| {
        let server = servers[server].server();
        format!("whitelist = []\nstore_timeout = \"5s\"\nmemcached_server = {server:?}\n{more}")
    };
    let daemon = Daemon::start(&config(0, ""));
    let mut policy = Policy::connect(daemon.endpoint());
    let reloads = [config(1, ""), config(1, "key_prefix = \"other:\"")];
    policy.connected("198.51.100.1", 1);
    for (port, reload) in (2..).zip(reloads) {
        daemon.reload(&reload);
        policy.connected("198.51.100.1", port);
    }
    let held = |server: usize, prefix: &str| servers[server].value(&format!("{prefix}198.51.100.1"));
    let one = Some("1".to_owned());
    assert_eq!([held(0, "connshaper:"), held(0, "other:")], [one.clone(), None]);
    assert_eq!([held(1, "connshaper:"), held(1, "other:")], [one.clone(), one]);
}

#[test]
fn a_reload_changes_the_log_level() {
    let mut daemon = Daemon::start("log_level = \"warning\"");
    let mut policy = Policy::connect(daemon.endpoint());
    policy.connected("198.51.100.1", 1);
    daemon.reload("log_level = \"debug\"");
    policy.connected("198.51.100.2", 1);
    daemon.lines().wait_for("PASSED client=198.51.100.2 ");
    daemon.reload("log_level = \"info\"");
    policy.connected("198.51.100.3", 1);
    daemon.stop();
    assert_eq!(daemon.lines().with("PASSED").len(), 1, "{}", daemon.lines());
}

#[test]
fn a_reload_changes_log_interval() {
    let config = |interval: &str| format!("threshold = 1\nexptime = 3600\nlog_interval = \"{interval}\"");
    let daemon = Daemon::start(&config("1d"));
    daemon.reload(&config("1s"));
    let mut policy = Policy::connect(daemon.endpoint());
    let mut ports = 1..;
    until("a second line about one client", || {
        policy.connected("198.51.100.1", ports.next().unwrap());
        (daemon.lines().with("REFUSED ").len() == 2).then_some(())
    });
}

#[test]
fn a_reload_changes_log_rate() {
    let mut daemon = Daemon::start("threshold = 1\nlog_rate = 1");
    daemon.reload("threshold = 1\nlog_rate = 100000");
    let mut policy = Policy::connect(daemon.endpoint());
    for client in 1..=200 {
        for port in 1..=2 {
            policy.connected(&format!("198.51.100.{client}"), port);
        }
    }
    daemon.stop();
    assert_eq!(daemon.lines().with("REFUSED ").len(), 200);
}

#[test]
fn a_session_that_passed_as_whitelisted_passes_uncounted_after_a_reload() {
    let daemon = Daemon::start("threshold = 1\nwhitelist = [\"198.51.100.1\"]");
    let mut policies = [(); 3].map(|()| Policy::connect(daemon.endpoint()));
    let mut passes = |session: u16| recipient(&mut policies[usize::from(session)], "198.51.100.1", 4000 + session);
    assert!(passes(0));
    daemon.reload("threshold = 1\nwhitelist = []");
    assert!(passes(0), "it was let in");
    assert!(passes(1), "it is the first that counts");
    assert!(!passes(2));
    assert!(passes(0) && passes(1), "they were let in");
}

#[test]
fn a_refused_session_that_a_reload_lets_pass_keeps_passing() {
    let rules = ["threshold = 1\nwhitelist = []", "threshold = 100\nwhitelist = []"];
    let daemon = Daemon::start(rules[0]);
    let mut policies = [(); 3].map(|()| Policy::connect(daemon.endpoint()));
    let mut passes = |session: u16| recipient(&mut policies[usize::from(session)], "198.51.100.1", 4000 + session);
    assert!(passes(0));
    assert!(!passes(1));
    daemon.reload(rules[1]);
    assert!(passes(1), "the new rules let it in");
    daemon.reload(rules[0]);
    assert!(passes(1), "it was let in");
    assert!(!passes(2));
}
