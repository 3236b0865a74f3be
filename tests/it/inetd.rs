//! One process per policy connection: what inetd, xinetd and Postfix' spawn(8) start.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::{
    self, Daemon, Dir, Lines, Memcached, PATIENCE, Policy, Port, Process, command, install, say, until,
};

/// More than inetd starts for one service in a minute by default.
const CONNECTIONS: u16 = 300;

/// The command that starts inetd or xinetd with the entry of contrib/.
type SuperServer = fn(&Dir, &Port, &str) -> Command;

fn inetd(dir: &Dir, port: &Port, arguments: &str) -> Command {
    let entry = entry("inetd/inetd.conf", dir, port, ("connshaper inetd", format!("connshaper {arguments}")));
    let mut command = Command::new("inetd");
    command.arg("-i").arg(dir.write("inetd.conf", &entry));
    command
}

fn xinetd(dir: &Dir, port: &Port, arguments: &str) -> Command {
    let entry = entry("xinetd/connshaper", dir, port, ("= inetd", format!("= {arguments}")));
    // Debian packages of super-servers conflict; tests/run unpacks xinetd here.
    let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/target/tools/usr/sbin/xinetd"));
    command.args(["-dontfork", "-f"]).arg(dir.write("xinetd.conf", &entry));
    command
}

/// An entry of contrib/, with this test's program, port and user in it.
fn entry(file: &str, dir: &Dir, port: &Port, (from, to): (&str, String)) -> String {
    let text = fs::read_to_string(format!("{}/contrib/{file}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let (program, number) = (install(dir).display().to_string(), port.address().port().to_string());
    let changes = [
        ("/usr/local/sbin/connshaper", program.as_str()),
        ("10040", &number),
        ("\tconnshaper\t", "\tnobody\t"),
        ("= connshaper\n", "= nobody\n"),
        (from, &to),
    ];
    changes.iter().fold(text, |text, (from, to)| text.replace(from, to))
}

#[test]
fn all_processes_of_a_super_server_count_together_without_its_throttling() {
    for super_server in [inetd as SuperServer, xinetd] {
        let (store, dir, port) = (Memcached::start(), Dir::new(), Port::new());
        let config = dir.write("connshaper.toml", &counting_in(&store, &dir));
        let mut command = super_server(&dir, &port, &format!("inetd -c {}", config.display()));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let _process = Process::start(&mut command, Signal::SIGTERM);
        until(format_args!("{command:?} that listens"), || support::connect(&port.endpoint()).ok());

        for session in 1..=CONNECTIONS {
            let expected = if session <= 2 { "DUNNO" } else { "DEFER_IF_PERMIT" };
            let action = Policy::connect(&port.endpoint()).connected("198.51.100.1", session);
            assert!(action.starts_with(expected), "session {session}: {action}");
        }
        assert_eq!(store.value("connshaper:198.51.100.1"), Some(CONNECTIONS.to_string()));
    }
}

#[test]
fn without_its_store_every_client_passes_and_that_is_logged() {
    let (mut store, dir) = (Memcached::start(), Dir::new());
    let log = Lines::of_log_socket(&dir.join("log"));
    let config = counting_in(&store, &dir);
    store.kill();
    let mut process = Inetd::start(&dir, &config);
    process.passes_everyone();
    let line = log.wait_for("STORE_DOWN ");
    assert!(line.contains(" on_store_failure=dunno"), "{line}");
}

#[test]
fn with_a_wrong_configuration_every_client_passes() {
    let dir = Dir::new();
    let wrong = ["threshold = 0", "not even a file of ours"];
    for config in wrong {
        Inetd::start(&dir, config).passes_everyone();
    }
}

#[test]
fn with_settings_impossible_under_inetd_every_client_passes_and_that_is_logged() {
    let dir = Dir::new();
    let log = Lines::of_log_socket(&dir.join("log"));
    let cases = [
        ("", "sqlite_file needs no server"),
        ("memcached_server = \"127.0.0.1:1\"\non_store_failure = \"local\"", "set on_store_failure"),
    ];
    for (number, (rules, told)) in cases.iter().enumerate() {
        let config = format!("threshold = 1\nwhitelist = []\nsyslog_socket = {:?}\n{rules}", dir.join("log"));
        let mut process = Inetd::start(&dir, &config);
        process.passes_everyone();
        let line = log.wait_for_more("CONFIGURATION", number);
        // Facility mail, severity err.
        assert!(line.starts_with("<19>connshaper[") && line.contains(told), "{line}");
    }
}

#[test]
fn without_a_log_socket_clients_are_still_counted() {
    let (store, dir) = (Memcached::start(), Dir::new());
    let mut process = Inetd::start(&dir, &counting_in(&store, &dir));
    let sessions: Vec<String> = (1..=3).map(|port| process.policy.connected("198.51.100.1", port)).collect();
    assert_eq!(sessions[..2], ["DUNNO", "DUNNO"]);
    assert!(sessions[2].starts_with("DEFER_IF_PERMIT"), "{sessions:?}");
}

#[test]
fn overrides_in_the_store_hold_from_the_first_request() {
    let (store, dir) = (Memcached::start(), Dir::new());
    let control = dir.join("control");
    let _daemon = Daemon::start(&format!("control_socket = {control:?}\n{}", counting_in(&store, &dir)));
    let say = |words: &str| {
        let (text, code) = say(&control, words.split(' '));
        assert_eq!(code, 0, "{words}: {text}");
    };
    say("ban 203.0.113.0/24 for 1h");
    say("allow 198.51.100.7 for 1h");
    let mut process = Inetd::start(&dir, &counting_in(&store, &dir));
    let first = process.policy.connected("203.0.113.9", 1);
    assert!(first.ends_with("Access denied for 203.0.113.9"), "{first}");
    for port in 1..=5 {
        assert_eq!(process.policy.connected("198.51.100.7", port), "DUNNO");
    }
    assert_eq!(store.value("connshaper:198.51.100.7"), None);
    // It reads overrides while it runs, as a daemon does.
    say("unban 203.0.113.0/24");
    let mut port = 10..;
    until("the end of a ban", || {
        (process.policy.connected("203.0.113.9", port.next().unwrap()) == "DUNNO").then_some(())
    });
}

#[test]
fn a_store_that_hangs_at_startup_delays_only_the_first_request() {
    let (store, dir) = (Memcached::start(), Dir::new());
    store.freeze();
    let config = counting_in(&store, &dir).replace("\"5s\"", "\"300ms\"");
    let mut process = Inetd::start(&dir, &config);
    let start = Instant::now();
    process.passes_everyone();
    let waited = start.elapsed();
    // Reading the list of overrides and connecting for counts time out together, not after the second that reading
    // the list may take in the background.
    assert!(waited < Duration::from_secs(1), "{waited:?}");
    store.thaw();
    let mut port = 10..;
    until("a count", || {
        process.policy.connected("198.51.100.2", port.next().unwrap()).starts_with("DEFER_IF_PERMIT").then_some(())
    });
}

#[test]
fn it_exits_at_the_end_of_its_connection_and_on_a_signal() {
    let (store, dir) = (Memcached::start(), Dir::new());
    for told in [false, true] {
        let mut inetd = Inetd::start(&dir, &counting_in(&store, &dir));
        inetd.policy.connected("198.51.100.1", 1);
        let Inetd { mut process, mut policy } = inetd;
        if told {
            process.signal(Signal::SIGTERM);
            assert_eq!(policy.answer(), None);
        } else {
            drop(policy);
        }
        let status = process.wait();
        assert!(status.success(), "{status}");
    }
}

/// A process as inetd starts it, and the other end of its connection.
struct Inetd {
    process: Process,
    policy: Policy,
}

impl Inetd {
    fn start(dir: &Dir, config: &str) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(PATIENCE)).unwrap();
        let (input, error) = (theirs.try_clone().unwrap(), theirs.try_clone().unwrap());
        let mut command = command();
        command.args(["inetd", "-c"]).arg(dir.write("connshaper.toml", config));
        command.stdin(OwnedFd::from(input)).stdout(OwnedFd::from(theirs)).stderr(OwnedFd::from(error));
        Self { process: Process::start(&mut command, Signal::SIGKILL), policy: Policy::over(Box::new(ours)) }
    }

    #[track_caller]
    fn passes_everyone(&mut self) {
        for port in 1..=5 {
            assert_eq!(self.policy.connected("198.51.100.1", port), "DUNNO");
        }
    }
}

/// A configuration that lets two sessions pass. `store_timeout` is long: on a busy machine
/// a fresh process may need longer than the default to connect.
fn counting_in(store: &Memcached, dir: &Dir) -> String {
    format!(
        "threshold = 2\nwhitelist = []\nmemcached_server = {:?}\nstore_timeout = \"5s\"\nsyslog_socket = {:?}",
        store.server(),
        dir.join("log")
    )
}

#[test]
fn a_ban_of_a_process_that_ends_at_once_is_told_to_other_hosts() {
    let (store, dir) = (Memcached::start(), Dir::new());
    let config = format!("ban_time = \"1h\"\n{}", counting_in(&store, &dir));
    let daemon = Daemon::start(&config);
    let mut process = Inetd::start(&dir, &config);
    for port in 1..=3 {
        process.policy.connected("198.51.100.1", port);
    }
    drop(process.policy);
    let line = daemon.lines().wait_for("BANNED ");
    assert!(line.starts_with("BANNED key=198.51.100.1 "), "{line}");
}
