//! `state_file`: counts in memory survive a restart, and an unusable file does no harm.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use nix::sys::signal::Signal;

use crate::support::{Daemon, Dir, Policy, until};

const PASS: &str = "DUNNO";

/// A daemon that lets a client connect twice, with a file for its counts.
fn rules(dir: &Dir, more: &str) -> String {
    let file = dir.join("state");
    format!("whitelist = []\nthreshold = 2\nexptime = 3600\nstate_file = {file:?}\n{more}")
}

/// Whether a new session of a client passes. Each session needs another port.
fn passes(daemon: &Daemon, client: &str, port: u16) -> bool {
    Policy::connect(daemon.endpoint()).connected(client, port) == PASS
}

#[test]
fn counts_survive_a_restart_if_their_limit_is_the_same() {
    let dir = Dir::new();
    let senders = "[limit.hosts]\nper = \"helo_name\"\nthreshold = 3\nexptime = \"1h\"\n";
    let mut daemon = Daemon::start(&rules(&dir, senders));
    for (port, client) in (1..).zip(["198.51.100.1", "198.51.100.1", "2001:db8::1", "198.51.100.2"]) {
        assert!(passes(&daemon, client, port));
    }
    let greeted = |daemon: &Daemon, port: &str| {
        let port = format!("client_port={port}");
        let request = ["protocol_state=HELO", "client_address=203.0.113.1", &port, "helo_name=mx.example.net"];
        Policy::connect(daemon.endpoint()).ask(&request)
    };
    assert_eq!([greeted(&daemon, "1"), greeted(&daemon, "2")], [PASS, PASS]);
    assert!(daemon.stop().success());
    let mode = fs::metadata(dir.join("state")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "nobody else is to see who connects");

    // A new limit is inserted before the others; each limit keeps its own count.
    fs::write(
        daemon.config(),
        rules(
            &dir,
            &format!("[limit.new]\nthreshold = 1\nper = []\nmatch = {{ client_address = \"203.0.113.9\" }}\n{senders}"),
        ),
    )
    .unwrap();
    daemon.start_again();
    let line = daemon.lines().wait_for("STATE_RESTORED ");
    assert!(line.contains(" counters=5 "), "{line}");
    assert!(!passes(&daemon, "198.51.100.1", 11), "the third");
    assert!(passes(&daemon, "198.51.100.2", 12) && passes(&daemon, "2001:db8::1", 13), "the second");
    assert!(!passes(&daemon, "198.51.100.2", 14) && !passes(&daemon, "2001:db8::1", 15), "the third");
    assert!(greeted(&daemon, "16") != PASS, "the third of its client");
}

#[test]
fn saved_counts_survive_a_kill() {
    let dir = Dir::new();
    let mut daemon = Daemon::start(&rules(&dir, "state_interval = \"1s\"\nlog_level = \"debug\""));
    assert!(passes(&daemon, "198.51.100.1", 1) && passes(&daemon, "198.51.100.1", 2));
    let saved = daemon.lines().with("STATE_SAVED ").len();
    // A save that began before the second session may not contain it.
    daemon.lines().wait_for_more("STATE_SAVED ", saved + 1);
    daemon.stop_by(Signal::SIGKILL);
    daemon.start_again();
    assert!(!passes(&daemon, "198.51.100.1", 3));
}

#[test]
fn an_unusable_state_file_is_set_aside_and_counting_restarts() {
    let dir = Dir::new();
    let mut daemon = Daemon::start(&rules(&dir, ""));
    assert!(passes(&daemon, "198.51.100.1", 1) && passes(&daemon, "198.51.100.1", 2));
    daemon.stop();
    let whole = fs::read(dir.join("state")).unwrap();
    let (mut corrupt, mut newer) = (whole.clone(), whole.clone());
    *corrupt.last_mut().unwrap() ^= 1;
    newer[16] += 1;
    let cases = [
        (&whole[..whole.len() - 1], "it is cut short"),
        (&corrupt, "it is corrupt"),
        (&newer, "it was written by a newer connshaper"),
        (b"exptime = 60\n", "it is no state of connshaper"),
    ];
    for (seen, (content, problem)) in cases.into_iter().enumerate() {
        fs::write(dir.join("state"), content).unwrap();
        daemon.start_again();
        let line = daemon.lines().wait_for_more("STATE_DAMAGED ", seen);
        assert!(line.contains(problem) && line.contains("/state.damaged"), "{line}");
        assert_eq!(fs::read(dir.join("state.damaged")).unwrap(), content);
        assert!(passes(&daemon, "198.51.100.1", 3) && passes(&daemon, "198.51.100.1", 4));
        assert!(!passes(&daemon, "198.51.100.1", 5));
        daemon.stop();
    }
}

#[test]
fn a_full_disk_causes_a_warning_and_keeps_the_old_state_file() {
    let dir = Dir::new();
    let mut daemon = Daemon::start(&rules(&dir, ""));
    assert!(passes(&daemon, "198.51.100.1", 1) && passes(&daemon, "198.51.100.1", 2));
    daemon.stop();
    let before = fs::read(dir.join("state")).unwrap();

    // Files may have at most a kilobyte; longer writes fail.
    let mut daemon = Daemon::start_after("trap '' XFSZ && ulimit -f 1", &rules(&dir, "state_interval = \"1s\""));
    for client in 0..200_u16 {
        passes(&daemon, &format!("203.0.113.{client}"), 1);
    }
    let line = daemon.lines().wait_for("STATE_NOT_SAVED ");
    assert!(line.contains(" error=\"File too large"), "{line}");
    assert!(!passes(&daemon, "198.51.100.1", 3));
    assert!(daemon.stop().success());
    assert_eq!(daemon.lines().with("STATE_NOT_SAVED ").len(), 1, "{}", daemon.lines());
    assert!(fs::read(dir.join("state")).unwrap() == before);
    assert!(!dir.join("state.new").exists());
}

#[test]
fn a_state_file_that_is_not_a_regular_file_is_neither_read_nor_replaced() {
    let dir = Dir::new();
    fs::create_dir(dir.join("state")).unwrap();
    let mut daemon = Daemon::start(&rules(&dir, ""));
    let line = daemon.lines().wait_for("STATE_DAMAGED ");
    assert!(line.ends_with("error=\"it is no regular file\""), "{line}");
    assert!(passes(&daemon, "198.51.100.1", 1));
    assert!(daemon.stop().success());
    daemon.lines().wait_for("STATE_NOT_SAVED ");
    assert!(dir.join("state").is_dir());
}

#[test]
fn bans_survive_a_restart_and_the_next_is_longer() {
    let dir = Dir::new();
    let state = dir.join("state");
    let rules = format!(
        "whitelist = []\nthreshold = 1\nexptime = 1\nban_time = \"3s\"\nban_max = \"1h\"\nlog_interval = \"1s\"\nstate_file = {state:?}"
    );
    let mut daemon = Daemon::start(&rules);
    assert!(passes(&daemon, "198.51.100.1", 1));
    assert!(!passes(&daemon, "198.51.100.1", 2));
    let line = daemon.lines().wait_for("BANNED ");
    assert!(line.contains(" seconds=3 ") && line.ends_with(" repetition=1"), "{line}");
    daemon.stop();
    daemon.start_again();
    assert!(!passes(&daemon, "198.51.100.1", 3));
    let line = daemon.lines().wait_for(" reason=banned ");
    assert!(line.starts_with("REFUSED client=198.51.100.1 "), "{line}");

    // It ends, and the number of bans so far is remembered.
    let (mut ports, mut passed) = (4.., 0);
    let line = until("another ban", || {
        passed += u32::from(passes(&daemon, "198.51.100.1", ports.next().unwrap()));
        daemon.lines().with("BANNED ").into_iter().nth(1)
    });
    assert!(passed <= 1, "only the first hit of a window may pass, not {passed}");
    assert!(line.ends_with(" seconds=6 repetition=2"), "{line}");
}
