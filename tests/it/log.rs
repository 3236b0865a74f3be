//! The log with loggers that start, stop and stall.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use connshaper::config::{LogConfig, LogTarget};
use connshaper::engine::report;
use connshaper::net::clock::Now;
use connshaper::net::origin::AddressOrigin;
use connshaper::observe::log::{Events, Facility, Log, LogEvent, Severity, SyslogFormat};
use connshaper::policy::OnStoreFailure;
use connshaper::policy::key::KeyPart;
use connshaper::policy::{Door, Pass, Reason, Refusal};
use connshaper::store::shared::backend::{BackendContext, SavedOutage};
use connshaper::store::shared::breaker::DownLog;
use connshaper::store::shared::server::StoreServer;

use crate::support::{default_limit, must_pass, own_process, role};

fn config(target: LogTarget) -> LogConfig {
    LogConfig {
        target,
        level: Severity::Info,
        interval: Duration::from_secs(10),
        rate: 100,
        events: Events::ALL,
        hooks: Vec::new(),
        statistics_interval: Duration::ZERO,
    }
}

fn syslog(socket: &Path) -> Log {
    Log::open(&config(LogTarget::Syslog {
        socket: socket.to_owned(),
        facility: Facility::MAIL,
        format: SyslogFormat::Rfc3164,
    }))
    .unwrap()
}

/// A logger whose reads fail after a time far beyond what they should need.
fn logger(path: &Path) -> UnixDatagram {
    let socket = UnixDatagram::bind(path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    socket
}

fn receive(socket: &UnixDatagram) -> String {
    let mut buffer = [0; 2048];
    let length = socket.recv(&mut buffer).expect("a datagram");
    String::from_utf8(buffer[..length].to_vec()).unwrap()
}

fn say(log: &Log, number: u32) {
    log.line(Severity::Info, "TEST", |line| {
        line.field("number", number);
    });
}

/// A log line caused by a peer.
fn bad_request(log: &Log, peer: &str, attribute: Option<&[u8]>, problem: &str, now: Now) {
    log.limited(Severity::Notice, "BAD_REQUEST", now, |line| {
        line.field("peer", peer);
        if let Some(attribute) = attribute {
            line.bytes("attribute", attribute);
        }
        line.field("problem", problem);
    });
}

const LONG: Duration = Duration::from_secs(20);

#[test]
fn syslog_lines_can_have_the_format_of_rfc_5424() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let socket = logger(&path);
    let format = SyslogFormat::Rfc5424;
    let log = Log::open(&config(LogTarget::Syslog { socket: path, facility: Facility::MAIL, format })).unwrap();
    say(&log, 7);
    let line = receive(&socket);
    let words: Vec<&str> = line.split(' ').collect();
    let [priority, time, host, program, process, message, data, ..] = words[..] else { panic!("{line}") };
    assert_eq!((priority, program, message, data), ("<22>1", "connshaper", "0", "-"), "{line}");
    assert_eq!((process, host.is_empty()), (std::process::id().to_string().as_str(), false), "{line}");
    assert!(humantime::parse_rfc3339(time).is_ok(), "{line}");
    assert!(line.ends_with(" - TEST number=7"), "{line}");
}

#[test]
fn a_refusal_is_one_datagram_in_the_mail_facility() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let socket = logger(&path);
    let log = syslog(&path);
    let client = "2001:db8::25".parse().unwrap();
    let refusal = Refusal {
        client,
        door: Door::Smtp,
        reason: Reason::Over,
        limit: "connections",
        key: KeyPart::client(client, 32, 64),
        count: 11,
        threshold: 10,
        left: 42,
        action: &default_limit("").action,
        entry: None,
    };
    report::refused(&log, "REFUSED", &refusal, |_| AddressOrigin::default(), Now::read());
    let expected = format!(
        "<22>connshaper[{}]: REFUSED client=2001:db8::25 key=2001:db8::/64 limit=connections \
         reason=over count=11 threshold=10 left=42 verdict=DEFER_IF_PERMIT suppressed=0",
        std::process::id()
    );
    assert_eq!(receive(&socket), expected);
}

#[test]
fn a_logger_that_does_not_read_blocks_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let socket = logger(&path);
    let log = syslog(&path);
    let mut calls = Vec::new();
    for number in 0..2000 {
        let start = Instant::now();
        say(&log, number);
        calls.push(start.elapsed());
    }
    calls.sort();
    // A call takes microseconds; more than that is due to the scheduler of a busy machine.
    assert!(calls[1990] < Duration::from_millis(2), "{:?}", calls[1990]);
    assert!(calls[1999] < Duration::from_millis(100), "{:?}", calls[1999]);
    for number in 0..2000 {
        assert!(receive(&socket).ends_with(&format!("TEST number={number}")));
    }
    assert_eq!(log.dropped(), 0);
}

#[test]
fn the_log_reconnects_to_a_restarted_logger() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let log = syslog(&path);
    say(&log, 1);
    let first = logger(&path);
    assert!(receive(&first).ends_with("number=1"), "said before there was a logger");
    drop(first);
    say(&log, 2);
    std::fs::remove_file(&path).unwrap();
    let second = logger(&path);
    assert!(receive(&second).ends_with("number=2"), "said between two loggers");
    say(&log, 3);
    assert!(receive(&second).ends_with("number=3"));
}

#[test]
fn lost_lines_are_counted_and_reported_when_the_logger_is_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let log = syslog(&path);
    for number in 0..5000 {
        say(&log, number);
    }
    assert!(log.dropped() >= 900, "the queue is bounded");
    assert!(log.flush(LONG), "lines are given up in the end");
    assert_eq!(log.dropped(), 5000);
    let socket = logger(&path);
    say(&log, 5000);
    assert!(receive(&socket).ends_with("TEST number=5000"));
    assert!(receive(&socket).ends_with("DROPPED lines=5000"));
}

#[test]
fn a_flush_ends_at_its_deadline() {
    let dir = tempfile::tempdir().unwrap();
    let log = syslog(&dir.path().join("nobody"));
    say(&log, 1);
    assert!(!log.flush(Duration::from_millis(10)));
}

#[test]
fn a_value_cannot_forge_a_line() {
    let log = Log::in_memory(Severity::Info);
    bad_request(&log, "inet:192.0.2.1:25", Some(b"x\nSTART"), "line without =", Now::simulated(0));
    let line = r#"BAD_REQUEST peer=inet:192.0.2.1:25 attribute="x\x0aSTART" problem="line without =""#;
    assert_eq!(log.lines(), [line]);
}

#[test]
fn suppressed_lines_are_reported_with_the_next() {
    let log = Log::in_memory(Severity::Info);
    for _ in 0..150 {
        bad_request(&log, "unix", None, "too long", Now::simulated(1));
    }
    assert_eq!(log.lines().len(), 100);
    assert_eq!(log.suppressed(), 50);
    bad_request(&log, "unix", None, "too long", Now::simulated(1000));
    assert_eq!(log.lines()[100..], ["SUPPRESSED lines=50", "BAD_REQUEST peer=unix problem=\"too long\""]);
}

#[test]
fn the_log_level_hides_less_severe_lines_until_it_is_changed() {
    let log = Log::in_memory(Severity::Info);
    report::passed(&log, Door::Smtp, &"192.0.2.1", Pass::WithinLimits, Now::simulated(0));
    assert!(log.lines().is_empty());
    let chosen = LogConfig {
        level: Severity::Debug,
        rate: 1,
        events: Events::ALL.without(LogEvent::Session),
        ..config(LogTarget::Stderr)
    };
    log.reconfigure(&chosen);
    report::passed(&log, Door::Smtp, &"192.0.2.1", Pass::WithinLimits, Now::simulated(0));
    report::passed(&log, Door::Smtp, &"192.0.2.1", Pass::WithinLimits, Now::simulated(0));
    assert_eq!(log.lines(), ["PASSED client=192.0.2.1 reason=within_limits"]);
    let outages = vec![SavedOutage { server: "mc1:11211".to_owned(), milliseconds: 12_000, decisions: 345 }];
    let (timeout, on_failure, statistics) = (LONG, OnStoreFailure::Local, Arc::default());
    let context = BackendContext { timeout, on_failure, outages, statistics, log: log.clone() };
    let server = StoreServer::new("mc1:11211".to_owned(), &context);
    server.went_down(DownLog::Begins, "connection refused");
    server.came_up(server.breaker(&context).close());
    let lines = [
        "STORE_DOWN server=mc1:11211 cause=\"connection refused\" on_store_failure=local",
        "STORE_UP server=mc1:11211 seconds=12 decisions=345",
    ];
    assert_eq!(log.lines()[1..], lines);
}

/// A process that writes one line to its standard error.
fn speaker(preparation: &str) -> Command {
    own_process(a_line_on_standard_error_is_bare_outside_the_journal, preparation, "speak")
}

#[test]
fn a_line_on_standard_error_is_bare_outside_the_journal() {
    if role().is_some() {
        let log = Log::open(&config(LogTarget::Stderr)).unwrap();
        say(&log, 1);
        log.flush(LONG);
        return;
    }
    // A variable that names another stream changes nothing.
    let output = speaker("export JOURNAL_STREAM=8:1").output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "TEST number=1\n");
}

#[test]
fn a_line_for_the_journal_carries_its_priority() {
    // The shell sets the variable for its standard error as systemd does.
    let output = speaker("export JOURNAL_STREAM=$(stat -L -c %d:%i /dev/fd/2)").output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "<6>TEST number=1\n");
}

#[test]
fn a_closed_standard_error_does_no_harm() {
    let mut speaker = speaker("unset JOURNAL_STREAM").stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    drop(speaker.stderr.take());
    assert!(speaker.wait().unwrap().success());
}

#[test]
fn a_full_disk_behind_standard_error_does_no_harm() {
    must_pass(speaker("unset JOURNAL_STREAM && exec 2>/dev/full"));
}

#[test]
fn a_standard_error_that_is_not_read_blocks_nothing() {
    if role().is_some() {
        let log = Log::open(&config(LogTarget::Stderr)).unwrap();
        let start = Instant::now();
        (0..10_000).for_each(|number| say(&log, number));
        assert!(start.elapsed() < Duration::from_secs(20));
        assert!(log.dropped() > 0);
        assert!(!log.flush(Duration::from_millis(10)));
        return;
    }
    // The pipe holds 64 KiB, and stays open unread until the child has ended.
    let mut child = own_process(a_standard_error_that_is_not_read_blocks_nothing, "unset JOURNAL_STREAM", "speak");
    let mut child = child.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn the_journal_gets_one_datagram_with_a_field_for_each_field_of_a_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    let journal = UnixDatagram::bind(&path).unwrap();
    let log = Log::open(&config(LogTarget::Journal { socket: path, facility: Facility::MAIL })).unwrap();
    log.line(Severity::Notice, "STORE_UP", |line| {
        line.field("server", "inet:127.0.0.1:11211").field("seconds", 3);
    });
    let mut datagram = [0; 4096];
    let length = journal.recv(&mut datagram).unwrap();
    let text = String::from_utf8(datagram[..length].to_vec()).unwrap();
    assert!(text.starts_with("MESSAGE=STORE_UP server=inet:127.0.0.1:11211 seconds=3\nPRIORITY=5\n"), "{text}");
    assert!(text.contains("\nCONNSHAPER_EVENT=STORE_UP\nCONNSHAPER_SERVER=inet:127.0.0.1:11211\n"), "{text}");
}
