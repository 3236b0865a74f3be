//! One process per policy connection: under inetd and xinetd with the entries
//! of contrib/, and on a bare socket. What is wrong never costs a mail.

mod support;

use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use nix::unistd::{User, geteuid};
use support::{Dir, Lines, Memcached, PROGRAM, Policy, Port, Process, command, connect, request, until};

/// A configuration whose log lines come to `lines`.
fn configured(dir: &Dir, rules: &str) -> (String, Lines) {
    let socket = dir.join("log");
    let lines = Lines::of_datagrams(UnixDatagram::bind(&socket).unwrap());
    let config = dir.write("connshaper.toml", &format!("syslog_socket = {socket:?}\n{rules}"));
    (config.display().to_string(), lines)
}

/// An entry of contrib/, with this test's program, port and user in it.
fn entry(file: &str, port: &Port, arguments: (&str, String)) -> String {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib").join(file)).unwrap();
    let user = User::from_uid(geteuid()).unwrap().unwrap().name;
    let number = port.address().port().to_string();
    let changes = [
        ("/usr/local/sbin/connshaper", PROGRAM),
        ("10040", &number),
        ("\tconnshaper\t", &format!("\t{user}\t")),
        ("= connshaper\n", &format!("= {user}\n")),
    ];
    let changed = changes.iter().fold(text, |text, (from, to)| text.replace(from, to));
    let (from, to) = arguments;
    assert!(changed.contains(from), "{file} has {from:?}");
    changed.replace(from, &to)
}

fn inetd(dir: &Dir, port: &Port, config: &str) -> Command {
    let entry = entry("inetd/inetd.conf", port, ("connshaper inetd", format!("connshaper inetd -c {config}")));
    let mut command = Command::new("inetd");
    command.arg("-i").arg(dir.write("inetd.conf", &entry));
    command
}

fn xinetd(dir: &Dir, port: &Port, config: &str) -> Command {
    let entry = entry("xinetd/connshaper", port, ("= inetd", format!("= inetd -c {config}")));
    // Debian has one super-server at a time; tests/run unpacks the other one here.
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/usr/sbin/xinetd");
    let mut command = Command::new(program);
    command.args(["-dontfork", "-f"]).arg(dir.write("xinetd.conf", &entry));
    command
}

#[test]
fn super_servers_start_a_process_per_connection_and_all_count_together() {
    let super_servers: [fn(&Dir, &Port, &str) -> Command; 2] = [inetd, xinetd];
    for super_server in super_servers {
        let (dir, port, memcached) = (Dir::new(), Port::new(), Memcached::start());
        let rules = format!("threshold = 3\nwhitelist = []\nmemcached_server = {:?}\n", memcached.server());
        let (config, _lines) = configured(&dir, &rules);
        let mut command = super_server(&dir, &port, &config);
        let _process = Process::start(command.stdout(Stdio::null()).stderr(Stdio::null()), Signal::SIGTERM);
        until(format_args!("{command:?} that listens"), || connect(&port.endpoint()).ok());
        let verdicts: String = (1..=5)
            .map(|number| match Policy::connect(&port.endpoint()).connected("198.51.100.1", number).as_str() {
                "DUNNO" => '.',
                _ => 'x',
            })
            .collect();
        assert_eq!(verdicts, "...xx", "{command:?}");
        assert_eq!(memcached.value("connshaper:198.51.100.1").as_deref(), Some("5"));
    }
}

/// The program on one end of a socket, as spawn(8) starts it.
fn spawned(arguments: &[&str]) -> (Process, BufReader<UnixStream>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let theirs = OwnedFd::from(theirs);
    let mut command = command();
    command.arg("inetd").args(arguments);
    command.stdout(theirs.try_clone().unwrap()).stderr(theirs.try_clone().unwrap());
    (Process::start_on(&mut command, theirs.into(), Signal::SIGKILL), BufReader::new(ours))
}

fn ask(stream: &mut BufReader<UnixStream>, port: u16) -> String {
    let attributes = ["client_address=198.51.100.1", &format!("client_port={port}"), "protocol_state=CONNECT"];
    stream.get_mut().write_all(request(&attributes).as_bytes()).unwrap();
    let mut answer = String::new();
    while !answer.ends_with("\n\n") {
        assert_ne!(stream.read_line(&mut answer).unwrap(), 0, "an answer after {answer:?}");
    }
    answer
}

#[test]
fn what_is_wrong_is_logged_and_everyone_passes() {
    let wrong = [
        ("", "set memcached_server"),
        ("memcached_server = \"127.0.0.1\"\non_store_failure = \"local\"\n", "on_store_failure"),
    ];
    for (rules, told) in wrong {
        let dir = Dir::new();
        let (config, lines) = configured(&dir, rules);
        let (mut process, mut stream) = spawned(&["-c", &config]);
        for port in 1..=20 {
            assert_eq!(ask(&mut stream, port), "action=DUNNO\n\n");
        }
        let line = lines.wait_for("CONFIGURATION");
        // Facility mail, severity err.
        assert!(line.starts_with("<19>connshaper[") && line.contains(told), "{line}");
        drop(stream);
        assert!(process.wait().success());
    }
}

#[test]
fn a_configuration_with_a_mistake_is_answered_dunno_too() {
    let dir = Dir::new();
    let config = dir.write("connshaper.toml", "threshold = \"many\"\n").display().to_string();
    let (mut process, mut stream) = spawned(&["-c", &config]);
    for port in 1..=20 {
        assert_eq!(ask(&mut stream, port), "action=DUNNO\n\n");
    }
    drop(stream);
    assert!(process.wait().success());
}

#[test]
fn nothing_but_answers_goes_to_the_policy_connection() {
    let (dir, mut memcached) = (Dir::new(), Memcached::start());
    let rules =
        format!("threshold = 1\nwhitelist = []\nlog_level = \"debug\"\nmemcached_server = {:?}\n", memcached.server());
    let (config, lines) = configured(&dir, &rules);
    let (mut process, mut stream) = spawned(&["-c", &config]);
    assert_eq!(ask(&mut stream, 1), "action=DUNNO\n\n");
    assert!(ask(&mut stream, 2).starts_with("action=DEFER_IF_PERMIT 4.7.0 "));
    lines.wait_for("REFUSED client=198.51.100.1 ");
    memcached.kill();
    lines.wait_for("STORE_DOWN");
    // Without a store, a process of its own cannot count: everyone passes.
    assert_eq!(ask(&mut stream, 3), "action=DUNNO\n\n");
    process.signal(Signal::SIGTERM);
    assert!(process.wait().success());
    assert_eq!(stream.read_line(&mut String::new()).unwrap(), 0);
}
