//! `connshaper replay` against a running daemon, compared with `advise` on the same log.

use std::fs;
use std::path::Path;
use std::process::Output;
use std::thread;

use serde_json::Value;

use crate::support::{Daemon, Dir, command, traffic};

#[test]
fn advise_and_a_daemon_agree_on_every_verdict_within_one_window() {
    let dir = Dir::new();
    let log = dir.join("mail.log");
    traffic::write(&mut fs::File::create(&log).unwrap(), 30_000, 21).unwrap();
    // No window of this length ends within the log or the test, so the pace makes no difference.
    let config = "threshold = 3\nexptime = \"1d\"\nwhitelist = [\"198.101.0.0/24\"]\n";
    let daemon = Daemon::start(config);
    let (advised, replayed) = both(&dir, &daemon, config, &log, &["--speed", "max"]);
    assert_eq!(advised, replayed);
    let count = |action: &str| advised.lines().filter(|line| line.ends_with(action)).count();
    assert!(count(" DEFER_IF_PERMIT") > 500 && count(" DUNNO") > 500, "{advised}");
}

#[test]
fn advise_and_a_daemon_agree_while_windows_begin_and_end() {
    let dir = Dir::new();
    // Windows of four seconds. No session is nearer than a second to the end of a window of its client,
    // so that a machine that is busy makes no difference either.
    let visits = [
        ("198.51.100.1", &[0, 1000, 2000, 5500, 6000, 7000][..]),
        ("198.51.100.2", &[500, 1500, 2500, 6000, 7500]),
        ("198.51.100.3", &[2200, 2300, 2400, 4900, 7900, 8000, 8100]),
        ("2001:db8::1", &[100, 5300]),
        ("2001:db8::2", &[1100, 5400]),
        ("2001:db8::3", &[2600, 5500]),
    ];
    let mut sessions: Vec<(u64, &str)> =
        visits.iter().flat_map(|(client, times)| times.iter().map(move |time| (*time, *client))).collect();
    sessions.sort_unstable();
    let line = |(number, (time, client)): (usize, &(u64, &str))| {
        let time = format!("2026-11-21T09:00:{:02}.{:03}Z", time / 1000, time % 1000);
        format!("{time} mx postfix/smtpd[{number}]: NOQUEUE: reject: RCPT from unknown[{client}]: 450 4.7.1 no\n")
    };
    let log = dir.write("mail.log", &sessions.iter().enumerate().map(line).collect::<String>());
    let config = "threshold = 2\nexptime = 4\n";
    let daemon = Daemon::start(config);
    let (advised, replayed) = both(&dir, &daemon, config, &log, &["--speed", "1"]);
    assert_eq!(advised, replayed);
    let refused = advised.lines().filter_map(|line| line.strip_suffix(" DEFER_IF_PERMIT"));
    let refused: Vec<&str> = refused.map(|line| line.split_once("2026-11-21T09:00:").unwrap().1).collect();
    let expected = [
        "02+00:00 198.51.100.1",
        "02.400+00:00 198.51.100.3",
        "02.500+00:00 198.51.100.2",
        "02.600+00:00 2001:db8::3",
        "04.900+00:00 198.51.100.3",
        "05.500+00:00 2001:db8::3",
        "07+00:00 198.51.100.1",
        "08.100+00:00 198.51.100.3",
    ];
    assert_eq!(refused, expected);
}

#[test]
fn thresholds_of_single_keys_hold_in_both() {
    let dir = Dir::new();
    let log = dir.join("mail.log");
    traffic::write(&mut fs::File::create(&log).unwrap(), 2000, 22).unwrap();
    // No log has recipients of all requests, so all of them are for one.
    let file = dir.write("thresholds", "unknown@localhost 7 # more\n");
    let config = format!(
        "threshold = 100000\n[limit.mailboxes]\ncount = \"messages\"\nper = \"recipient\"\nthreshold = 3\n\
         exptime = \"1d\"\nthresholds_file = {file:?}\n[limit.mailboxes.thresholds]\n\"@localhost\" = 5\n"
    );
    let daemon = Daemon::start(&config);
    let (advised, replayed) = both(&dir, &daemon, &config, &log, &["--speed", "max"]);
    assert_eq!(advised, replayed);
    let count = |action: &str| advised.lines().filter(|line| line.ends_with(action)).count();
    assert_eq!(count(" DUNNO"), 7, "{advised}");
    assert!(count(" DEFER_IF_PERMIT") > 100, "{advised}");
}

/// The verdicts of `advise` with a configuration, and those of a daemon with the same configuration.
fn both(dir: &Dir, daemon: &Daemon, config: &str, log: &Path, options: &[&str]) -> (String, String) {
    let config = dir.write("connshaper.toml", config);
    let (advised, replayed) = (dir.join("advised"), dir.join("replayed"));
    let played = thread::scope(|scope| {
        let replay = scope.spawn(|| {
            let to = ["--to", daemon.endpoint(), "--json", "--verdicts", replayed.to_str().unwrap()];
            run("replay", &[options, &to].concat(), log)
        });
        let with = ["-c", config.to_str().unwrap(), "--verdicts", advised.to_str().unwrap()];
        run("advise", &with, log);
        replay.join().unwrap()
    });
    let report: Value = serde_json::from_slice(&played.stdout).unwrap();
    let [advised, replayed] = [advised, replayed].map(|path| fs::read_to_string(path).unwrap());
    assert_eq!(report["questions"].as_u64().unwrap(), replayed.lines().count() as u64);
    let deferred = replayed.lines().filter(|line| line.ends_with(" DEFER_IF_PERMIT")).count() as u64;
    assert_eq!(report["actions"]["DEFER_IF_PERMIT"].as_u64().unwrap(), deferred);
    (advised, replayed)
}

#[test]
fn replay_keeps_the_pace_of_the_log_or_a_multiple() {
    let dir = Dir::new();
    let daemon = Daemon::start("");
    let line = |second| {
        format!(
            "Nov 21 09:00:0{second} mx postfix/smtpd[{second}]: NOQUEUE: reject: RCPT from a.example.net[198.51.100.1]: 450 no\n"
        )
    };
    let log = dir.write("mail.log", &[0, 4, 8].map(line).concat());
    let report = |speed: &str| -> Value {
        let options = ["--to", daemon.endpoint(), "--json", "--speed", speed];
        serde_json::from_slice(&run("replay", &options, &log).stdout).unwrap()
    };
    let slow = report("8")["seconds"].as_f64().unwrap();
    assert!(slow >= 1.0, "{slow}");
    let fast = report("max");
    assert!(fast["seconds"].as_f64().unwrap() < slow, "{fast}");
    assert_eq!((&fast["asked"], &fast["actions"]["DUNNO"]), (&3.into(), &3.into()));
    assert_eq!((&fast["lines"]["all"], &fast["sums"]["asked"], &fast["seen"]), (&3.into(), &3.into(), &"rcpt".into()));
}

#[test]
fn the_report_names_refused_clients_and_those_that_delivered_mail() {
    let dir = Dir::new();
    let log = dir.join("mail.log");
    traffic::write(&mut fs::File::create(&log).unwrap(), 5_000, 4).unwrap();
    let daemon = Daemon::start("threshold = 1\nexptime = \"1d\"\n");
    let output = run("replay", &["--to", daemon.endpoint(), "--speed", "max"], &log);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.starts_with("Read 5,0") && said.contains("\nPostfix asks at RCPT TO: about "), "{said}");
    assert!(said.contains("\nAsked ") && said.contains("  DEFER_IF_PERMIT\n"), "{said}");
    assert!(said.contains("heavy0.example.net[198.100.0.0], delivered mail"), "{said}");
}

#[test]
fn without_a_daemon_replay_fails() {
    let dir = Dir::new();
    let log = dir.write("mail.log", "Nov 21 09:00:00 mx postfix/smtpd[1]: connect from a[198.51.100.1]\n");
    let nobody = format!("unix:{}", dir.join("nobody").display());
    let output = output("replay", &["--to", &nobody], &log);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(69), "{said}");
    assert!(said.contains(&format!("{nobody}: No such file")), "{said}");
}

#[test]
fn replay_ends_when_the_daemon_stops() {
    let dir = Dir::new();
    let mut daemon = Daemon::start("");
    let line = |second| {
        format!("Nov 21 09:00:0{second} mx postfix/smtpd[1]: NOQUEUE: reject: RCPT from a[198.51.100.1]: 450\n")
    };
    let log = dir.write("mail.log", &[0, 3, 6, 9].map(line).concat());
    let endpoint = daemon.endpoint().to_owned();
    let output = thread::scope(|scope| {
        let replay = scope.spawn(|| output("replay", &["--to", &endpoint], &log));
        daemon.stop();
        replay.join().unwrap()
    });
    assert_eq!(output.status.code(), Some(69), "{output:?}");
}

/// Runs a command that must succeed.
fn run(name: &str, options: &[&str], log: &Path) -> Output {
    let output = output(name, options, log);
    assert!(output.status.success(), "{name}: {output:?}");
    output
}

/// Runs a command that need not ask postconf about anything.
fn output(name: &str, options: &[&str], log: &Path) -> Output {
    let mut command = command();
    command.args([name, "--seen", "rcpt", "--timezone", "UTC", "--mynetworks", traffic::MYNETWORKS]);
    command.args(options).arg(log).output().unwrap()
}
