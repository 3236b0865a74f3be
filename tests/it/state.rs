//! `state_file`: counts in memory survive a restart, and an unusable file does no harm.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};

use nix::sys::signal::Signal;
use nix::unistd::geteuid;

use crate::support::{Daemon, Dir, Policy, command, say, until};

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
    assert_eq!(mode & 0o777, 0o600, "other users must not see the addresses of clients");

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
        (&newer, "it was written by another version of connshaper"),
        (b"exptime = 60\n", "it is not a state file of connshaper"),
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
fn a_ban_of_an_administrator_outlasts_damage_behind_it() {
    let dir = Dir::new();
    let socket = dir.join("control");
    let mut daemon = Daemon::start(&rules(&dir, &format!("control_socket = {socket:?}\n")));
    assert_eq!(say(&socket, ["ban", "203.0.113.9"]).1, 0);
    assert!(passes(&daemon, "198.51.100.1", 1));
    daemon.stop();
    let mut damaged = fs::read(dir.join("state")).unwrap();
    *damaged.last_mut().unwrap() ^= 1;
    fs::write(dir.join("state"), damaged).unwrap();
    daemon.start_again();
    daemon.lines().wait_for("STATE_DAMAGED ");
    assert!(!passes(&daemon, "203.0.113.9", 2));
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
    assert!(line.ends_with("error=\"it is not a regular file\""), "{line}");
    assert!(passes(&daemon, "198.51.100.1", 1));
    assert!(daemon.stop().success());
    daemon.lines().wait_for("STATE_NOT_SAVED ");
    assert!(dir.join("state").is_dir());
}

#[test]
fn a_second_daemon_with_the_same_state_file_writes_nothing_and_says_so() {
    let dir = Dir::new();
    let mut first = Daemon::start(&rules(&dir, ""));
    assert!(passes(&first, "198.51.100.1", 1) && passes(&first, "198.51.100.1", 2));
    // The lock is held over an upgrade too.
    for upgrades in 0..2 {
        let control = dir.join("control");
        let mut second = Daemon::start(&rules(&dir, &format!("control_socket = {control:?}\nstate_interval = \"1s\"")));
        let line = second.lines().wait_for("STATE_LOCKED ");
        assert!(line.ends_with("problem=\"another daemon uses the file\""), "{line}");
        let status = command().args(["status", "--socket"]).arg(&control).output().unwrap();
        let status = String::from_utf8(status.stdout).unwrap();
        assert!(
            status.contains("counts are not saved to ") && status.contains("another daemon uses the file"),
            "{status}"
        );
        assert!(passes(&second, "203.0.113.1", 1));
        assert!(second.stop().success());
        assert!(!dir.join("state").exists());
        if upgrades == 0 {
            assert!(first.upgrade().starts_with("UPGRADED "));
        }
    }
    assert!(first.stop().success());
    first.start_again();
    assert!(first.lines().wait_for("STATE_RESTORED ").contains(" counters=1 "), "{}", first.lines());
    assert!(!passes(&first, "198.51.100.1", 3));
    assert!(first.lines().with("STATE_LOCKED ").is_empty());
}

#[test]
fn a_state_file_that_is_a_link_or_belongs_to_another_user_is_not_read() {
    assert!(geteuid().is_root(), "this test gives files to other users");
    let dir = Dir::new();
    let mut daemon = Daemon::start(&rules(&dir, ""));
    assert!(passes(&daemon, "198.51.100.1", 1) && passes(&daemon, "198.51.100.1", 2));
    assert!(daemon.stop().success());
    let (state, elsewhere) = (dir.join("state"), dir.join("elsewhere"));
    fs::rename(&state, &elsewhere).unwrap();
    symlink(&elsewhere, &state).unwrap();
    daemon.start_again();
    daemon.lines().wait_for_more("STATE_DAMAGED ", 0);
    assert!(passes(&daemon, "198.51.100.1", 3));
    assert!(daemon.stop().success());
    assert!(state.is_symlink(), "what is no file is not replaced");

    fs::remove_file(&state).unwrap();
    fs::rename(&elsewhere, &state).unwrap();
    chown(&state, Some(12345), None).unwrap();
    daemon.start_again();
    let line = daemon.lines().wait_for_more("STATE_DAMAGED ", 1);
    assert!(line.contains("it belongs to another user, number 12345"), "{line}");
    assert!(passes(&daemon, "198.51.100.1", 3));
    assert!(daemon.lines().with("STATE_RESTORED ").is_empty());
}

#[test]
fn what_root_saves_in_the_directory_of_another_user_is_left_to_that_user() {
    assert!(geteuid().is_root(), "this test gives files to other users");
    let dir = Dir::new();
    let mut daemon = Daemon::start(&rules(&dir, ""));
    daemon.stop();
    fs::remove_file(dir.join("state.lock")).unwrap();
    chown(dir.path(), Some(12345), None).unwrap();
    for _ in 0..2 {
        daemon.start_again();
        assert!(daemon.stop().success());
        for name in ["state", "state.lock"] {
            assert_eq!(fs::metadata(dir.join(name)).unwrap().uid(), 12345, "{name}");
        }
    }
    assert_eq!(daemon.lines().with("STATE_RESTORED ").len(), 2, "{}", daemon.lines());
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
    assert!(line.contains(" seconds=3 repetition=1 "), "{line}");
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
    assert!(line.contains(" seconds=6 repetition=2 "), "{line}");
}
