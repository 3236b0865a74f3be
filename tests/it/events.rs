//! Events: the choice of log lines, JSON lines, and hooks.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::{Daemon, Dir, Lines, Memcached, Namespace, Policy, command, say, until};

/// Lets a client connect a number of times.
fn connect(daemon: &Daemon, client: &str, times: u16) {
    let mut policy = Policy::connect(daemon.endpoint());
    for port in 1..=times {
        policy.connected(client, port);
    }
}

/// A hook that writes its CONNSHAPER variables to a file, one line per run.
fn script(dir: &Dir, name: &str) -> (PathBuf, PathBuf) {
    let out = dir.join(format!("{name}.out"));
    let text = format!("#!/bin/sh\nenv | grep ^CONNSHAPER_ | sort | tr '\\n' ' ' >> {0}; echo >> {0}\n", out.display());
    let script = dir.write(name, &text);
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    (script, out)
}

fn lines(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap_or_default().lines().map(|line| line.trim_end().to_owned()).collect()
}

#[test]
fn only_chosen_events_are_logged() {
    let all = "threshold = 1\nblacklist = [\"203.0.113.1\"]\n";
    let seen = |events: &str| -> Vec<String> {
        let mut daemon = Daemon::start(&format!("{all}log_events = {events}"));
        connect(&daemon, "198.51.100.7", 2);
        connect(&daemon, "203.0.113.1", 1);
        connect(&daemon, "127.0.0.1", 1);
        daemon.stop();
        let keyword = |line: &String| ["REFUSED", "PASSED"].iter().any(|word| line.starts_with(word));
        let short = |line: String| {
            let field = |name: &str| line.split(' ').find_map(|pair| pair.strip_prefix(name)).unwrap().to_owned();
            format!("{} {}", field("client="), field("reason="))
        };
        daemon.lines().with("").into_iter().filter(keyword).map(short).collect()
    };
    assert_eq!(seen("\"none\""), Vec::<String>::new());
    assert_eq!(seen("[\"over\"]"), ["198.51.100.7 over"]);
    assert_eq!(seen("[\"blacklisted\", \"whitelisted\"]"), ["203.0.113.1 blacklisted", "127.0.0.1 whitelisted"]);
    assert_eq!(seen("[\"session\"]"), ["198.51.100.7 within_limits"]);
    assert_eq!(seen("\"all\"").len(), 4);
}

#[test]
fn every_line_can_be_json() {
    let mut daemon = Daemon::start("log = \"json\"\nthreshold = 1");
    connect(&daemon, "198.51.100.7", 2);
    daemon.stop();
    let lines = daemon.lines().with("");
    let lines: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line).expect(line)).collect();
    let events: Vec<&str> = lines.iter().map(|line| line["event"].as_str().unwrap()).collect();
    assert_eq!(events, ["START", "REFUSED", "STOPPING", "STATISTICS", "STOPPED"]);
    let refused = &lines[1];
    assert_eq!((&refused["client"], &refused["count"]), (&"198.51.100.7".into(), &2.into()));
    assert!(refused["time"].as_str().unwrap().ends_with('Z') && refused["severity"] == "info");
    assert_eq!((&lines[3]["queries"], &lines[3]["store"]), (&2.into(), &"memory".into()));
}

#[test]
fn hooks_run_on_bans_whatever_is_logged() {
    let dir = Dir::new();
    let (script, out) = script(&dir, "ban");
    let control = dir.join("control");
    let daemon = Daemon::start(&format!(
        "threshold = 1\nban_time = \"1h\"\nlog_events = \"none\"\nban_command = {script:?}\ncontrol_socket = {control:?}"
    ));
    connect(&daemon, "198.51.100.7", 2);
    let first = until("a ban that the script was told of", || lines(&out).first().cloned());
    assert_eq!(
        first,
        "CONNSHAPER_CLIENT=198.51.100.7 CONNSHAPER_EVENT=BANNED CONNSHAPER_KEY=198.51.100.7 CONNSHAPER_LIMIT=connections \
         CONNSHAPER_REPETITION=1 CONNSHAPER_SECONDS=3600 CONNSHAPER_SUPPRESSED=0"
    );
    let say = |words: &str| {
        let status = command().args(words.split(' ')).arg("--socket").arg(&control).stdout(Stdio::null()).status();
        assert!(status.unwrap().success(), "{words}");
    };
    say("ban 203.0.113.0/24 for 2m");
    say("unban 198.51.100.7");
    let told = until("two more", || Some(lines(&out)).filter(|lines| lines.len() == 3));
    assert!(told[1].contains("_KEY=203.0.113.0/24 CONNSHAPER_LIMIT=blacklist CONNSHAPER_SECONDS=120"), "{told:?}");
    assert!(told[2].contains("CONNSHAPER_EVENT=UNBANNED CONNSHAPER_KEY=198.51.100.7 "), "{told:?}");
    assert!(daemon.lines().with("BANNED").is_empty());
}

/// A daemon whose script notes bans, and its control socket.
struct Firewall {
    daemon: Daemon,
    dir: Dir,
    out: PathBuf,
}

impl Firewall {
    fn start(config: &str) -> Self {
        let dir = Dir::new();
        let (script, out) = script(&dir, "ban");
        let control = dir.join("control");
        let daemon = Daemon::start(&format!(
            "threshold = 1\nban_time = \"1h\"\nban_command = {script:?}\ncontrol_socket = {control:?}\n{config}"
        ));
        Self { daemon, dir, out }
    }

    fn say(&self, words: &str) -> String {
        let (text, code) = say(&self.dir.join("control"), words.split(' '));
        assert_eq!(code, 0, "{words}: {text}");
        text
    }

    /// Event and key of each run of the script.
    fn told(&self) -> Vec<String> {
        let field = |line: &str, name: &str| {
            let value = line.split(' ').find_map(|pair| pair.strip_prefix(&format!("CONNSHAPER_{name}=")));
            value.unwrap_or_default().to_owned()
        };
        lines(&self.out).iter().map(|line| format!("{} {}", field(line, "EVENT"), field(line, "KEY"))).collect()
    }

    /// Waits for a run of the script and returns all so far.
    #[track_caller]
    fn wait_for(&self, event: &str) -> Vec<String> {
        until(event, || Some(self.told()).filter(|told| told.iter().any(|known| known == event)))
    }
}

#[test]
fn a_firewall_hears_once_of_every_ban_that_ends_before_its_time() {
    let host = Firewall::start("");
    let ban = |client: &str| {
        connect(&host.daemon, client, 2);
        host.wait_for(&format!("BANNED {client}"));
    };
    ["198.51.100.1", "198.51.100.2", "198.51.100.3", "198.51.100.4", "192.0.2.9"].into_iter().for_each(ban);
    host.say("reset 198.51.100.1");
    host.say("reset 198.51.100.1");
    assert!(host.say("allow 198.51.100.2 for 1h").contains("bans of limits lifted: 1"));
    host.say("unban 198.51.100.0/29");
    host.say("ban 203.0.113.7");
    host.say("allow 203.0.113.7 for 1h");
    host.say("ban 203.0.113.8");
    host.say("unban 203.0.113.0/24");
    ban("198.51.100.5");
    host.say("reset 198.51.100.0/24");
    host.say("ban 192.0.2.128/25");
    // The whitelist of a reload has a client that a limit banned, and a netblock that an administrator did.
    let config = fs::read_to_string(host.daemon.config()).unwrap();
    fs::write(host.daemon.config(), format!("whitelist = [\"192.0.2.0/24\"]\n{config}")).unwrap();
    host.say("reload");
    host.wait_for("UNBANNED 192.0.2.128/25");
    host.wait_for("UNBANNED 192.0.2.9");
    // A ban of a whitelisted client has no effect, until a reload takes it off the whitelist.
    host.say("ban 192.0.2.10");
    fs::write(host.daemon.config(), &config).unwrap();
    host.say("reload");
    host.wait_for("BANNED 192.0.2.10");
    host.say("ban 203.0.113.99");
    let told = host.wait_for("BANNED 203.0.113.99");
    let count = |event: &str, key: &str| told.iter().filter(|known| **known == format!("{event} {key}")).count();
    let lifted = ["198.51.100.1", "198.51.100.2", "198.51.100.3", "198.51.100.4", "198.51.100.5", "203.0.113.7"];
    for key in lifted.into_iter().chain(["203.0.113.8"]) {
        assert_eq!([count("BANNED", key), count("UNBANNED", key)], [1, 1], "{key}: {told:?}");
    }
    for key in ["192.0.2.9", "192.0.2.128/25"] {
        assert_eq!([count("BANNED", key), count("UNBANNED", key)], [2, 1], "{key}: {told:?}");
    }
    assert_eq!(told.len(), 22, "{told:?}");
}

#[test]
fn a_firewall_hears_of_bans_and_their_ends_on_every_host_that_shares_the_store() {
    let memcached = Memcached::start();
    let config = format!("memcached_server = \"{}\"", memcached.server());
    let (one, other) = (Firewall::start(&config), Firewall::start(&config));
    connect(&one.daemon, "198.51.100.1", 2);
    connect(&one.daemon, "198.51.100.2", 2);
    one.say("ban 203.0.113.0/24");
    for event in ["BANNED 198.51.100.1", "BANNED 198.51.100.2", "BANNED 203.0.113.0/24"] {
        one.wait_for(event);
        other.wait_for(event);
    }
    // The other host has not seen these clients, but knows of their bans.
    assert!(other.say("show 198.51.100.0/24").contains("banned for"));
    other.say("unban 198.51.100.0/24");
    other.say("unban 203.0.113.0/24");
    let all = ["198.51.100.1", "198.51.100.2", "203.0.113.0/24"];
    for host in [&one, &other] {
        all.iter().for_each(|key| drop(host.wait_for(&format!("UNBANNED {key}"))));
    }
    one.say("ban 203.0.113.99");
    for host in [&one, &other] {
        let mut told = host.wait_for("BANNED 203.0.113.99");
        told.sort();
        let expected = ["BANNED 198.51.100.1", "BANNED 198.51.100.2", "BANNED 203.0.113.0/24", "BANNED 203.0.113.99"];
        assert_eq!(told[..4], expected, "{told:?}");
        assert_eq!(told[4..], all.map(|key| format!("UNBANNED {key}")), "{told:?}");
    }
}

#[test]
fn a_firewall_hears_of_nothing_again_when_it_is_told_no_longer() {
    let memcached = Memcached::start();
    let config = format!("memcached_server = \"{}\"", memcached.server());
    let (one, other) = (Firewall::start(&config), Firewall::start(&config));
    connect(&one.daemon, "198.51.100.1", 2);
    connect(&one.daemon, "198.51.100.2", 2);
    one.say("ban 203.0.113.0/24");
    for host in [&one, &other] {
        host.wait_for("BANNED 198.51.100.1");
        host.wait_for("BANNED 198.51.100.2");
    }
    other.say("reset 198.51.100.1");
    for host in [&one, &other] {
        host.wait_for("UNBANNED 198.51.100.1");
    }
    // The list as it is a minute later: nobody has had a reason to write it anew.
    let key = "connshaper:!overrides";
    let mut list: Value = serde_json::from_str(&memcached.value(key).unwrap()).unwrap();
    for told in ["events", "resets"] {
        let entries = list[told].as_array_mut().unwrap();
        assert!(!entries.is_empty(), "{told}");
        entries.iter_mut().for_each(|entry| entry["ends"] = 1.into());
    }
    // What hosts hear of late, for their clocks are ahead or the store was down, is told all the same.
    let mut late = list["events"][0].clone();
    (late["id"], late["key"]) = (7.into(), "198.51.100.77".into());
    late["kind"] = serde_json::json!({ "begun": { "seconds": 3600, "repetition": 1 } });
    list["events"].as_array_mut().unwrap().push(late);
    let list = list.to_string();
    assert_eq!(memcached.say(&format!("set {key} 0 0 {}\r\n{list}", list.len())), "STORED");
    let before = memcached.commands();
    until("both hosts have read it several times", || (memcached.commands() > before + 30).then_some(()));
    // A host that comes now hears of nothing that is over.
    let newcomer = Firewall::start(&config);
    newcomer.wait_for("BANNED 203.0.113.0/24");
    one.say("ban 203.0.113.99");
    let bans = |keys: &[&str]| keys.iter().map(|key| format!("BANNED {key}")).collect::<Vec<_>>();
    for host in [&one, &other] {
        let mut told = host.wait_for("BANNED 203.0.113.99");
        told.sort();
        let mut expected = bans(&["198.51.100.1", "198.51.100.2", "198.51.100.77", "203.0.113.0/24", "203.0.113.99"]);
        expected.push("UNBANNED 198.51.100.1".to_owned());
        assert_eq!(told, expected);
    }
    assert_eq!(newcomer.wait_for("BANNED 203.0.113.99"), bans(&["203.0.113.0/24", "203.0.113.99"]));
}

#[test]
fn hooks_run_at_the_start_and_end_of_an_outage_at_a_bounded_rate() {
    let dir = Dir::new();
    let (script, out) = script(&dir, "alert");
    let mut memcached = Memcached::start();
    let daemon = Daemon::start(&format!(
        "memcached_server = \"{}\"\nalert_command = [{script:?}]\nalert_interval = \"1h\"",
        memcached.server()
    ));
    for outage in 1..=3 {
        memcached.kill();
        daemon.lines().wait_for_more("STORE_DOWN ", outage - 1);
        memcached.start_again();
        daemon.lines().wait_for_more("STORE_UP ", outage - 1);
    }
    let told = until("an outage and its end", || Some(lines(&out)).filter(|lines| lines.len() >= 2));
    assert!(told[0].contains("CONNSHAPER_EVENT=STORE_DOWN ") && told[0].contains("_SERVER="), "{told:?}");
    assert!(told[1].contains("CONNSHAPER_EVENT=STORE_UP ") && told[1].contains("_DECISIONS="), "{told:?}");
    assert_eq!(told.len(), 2);
}

#[test]
fn a_failing_hook_is_logged_and_harms_nothing() {
    let daemon = Daemon::start("threshold = 1\nban_time = \"1h\"\nban_command = [\"/bin/false\"]");
    connect(&daemon, "198.51.100.7", 2);
    let line = daemon.lines().wait_for("COMMAND_FAILED ");
    let expected = "COMMAND_FAILED command=/bin/false event=BANNED key=198.51.100.7 problem=\"exit status: 1\"";
    assert_eq!(line, expected);
    connect(&daemon, "198.51.100.8", 2);
}

/// A daemon that bans at the second connection, with a command that takes so long and then notes the key.
fn daemon_with_slow_command(dir: &Dir, seconds: f32) -> (Daemon, PathBuf) {
    let out = dir.join("out");
    let script = dir.write("slow", &format!("#!/bin/sh\nsleep {seconds}\necho $CONNSHAPER_KEY >> {}\n", out.display()));
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    (Daemon::start(&format!("threshold = 1\nban_time = \"1h\"\nban_command = {script:?}")), out)
}

fn ban(daemon: &Daemon, clients: u8) -> Vec<String> {
    let clients: Vec<String> = (1..=clients).map(|client| format!("198.51.100.{client}")).collect();
    clients.iter().for_each(|client| connect(daemon, client, 2));
    clients
}

#[test]
fn commands_that_wait_are_run_before_a_stop_and_after_an_upgrade() {
    let dir = Dir::new();
    let (mut daemon, out) = daemon_with_slow_command(&dir, 0.3);
    let banned = ban(&daemon, 8);
    assert!(daemon.upgrade().starts_with("UPGRADED "));
    let at_upgrade = lines(&out).len();
    assert!(at_upgrade < 8, "all were run before");
    until("a run of the new program", || (lines(&out).len() > at_upgrade).then_some(()));
    // A child of the old program that is not reaped stays for as long as the daemon runs.
    until("every child that has ended is reaped", || {
        let children = |task: fs::DirEntry| fs::read_to_string(task.path().join("children")).unwrap_or_default();
        let tasks = fs::read_dir(format!("/proc/{}/task", daemon.id())).unwrap();
        let children: String = tasks.map(|task| children(task.unwrap())).collect();
        let has_ended = |child: &str| {
            let status = fs::read_to_string(format!("/proc/{child}/stat"));
            status.is_ok_and(|status| status.contains(") Z "))
        };
        (!children.split_whitespace().any(has_ended)).then_some(())
    });
    assert!(daemon.stop().success());
    assert_eq!(lines(&out), banned);
    assert!(daemon.lines().with("COMMAND_FAILED").is_empty(), "{}", daemon.lines());
}

#[test]
fn commands_that_a_stop_does_not_wait_for_are_logged_by_key() {
    let dir = Dir::new();
    let (mut daemon, out) = daemon_with_slow_command(&dir, 60.0);
    let banned = ban(&daemon, 3);
    assert!(daemon.stop().success());
    assert!(lines(&out).is_empty());
    let failed = daemon.lines().with("COMMAND_FAILED ");
    let keys = failed.iter().map(|line| line.split(" key=").nth(1).unwrap().split(' ').next().unwrap().to_owned());
    assert_eq!(keys.collect::<Vec<_>>(), banned, "{}", daemon.lines());
    assert!(failed[0].ends_with("problem=\"left out because the daemon stops\""), "{failed:?}");
}

#[test]
fn every_thread_but_the_first_leaves_signals_to_it() {
    let dir = Dir::new();
    let (script, out) = script(&dir, "ban");
    let file = dir.join("counts.db");
    // All that has a thread of its own: the log, the file of counts and its way to the disk, HTTP, and what may block.
    let daemon = Daemon::start(&format!(
        "threshold = 1\nban_time = \"1h\"\nban_command = {script:?}\nsqlite_file = {file:?}\n\
         http_listen = \"inet:127.0.0.1:0\"\nmetrics_listen = \"inet:127.0.0.1:0\""
    ));
    connect(&daemon, "198.51.100.7", 2);
    until("a run", || (!lines(&out).is_empty()).then_some(()));
    let handled = [Signal::SIGHUP, Signal::SIGTERM, Signal::SIGINT, Signal::SIGUSR2];
    let handled: u64 = handled.into_iter().map(|signal| 1 << (signal as u64 - 1)).sum();
    let mut names = Vec::new();
    for thread in fs::read_dir(format!("/proc/{}/task", daemon.id())).unwrap() {
        let thread = thread.unwrap();
        let status = fs::read_to_string(thread.path().join("status")).unwrap();
        let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:\t")).unwrap();
        let blocked = u64::from_str_radix(blocked, 16).unwrap() & handled;
        let is_first = thread.file_name().to_str() == Some(&daemon.id().to_string());
        assert_eq!(blocked, if is_first { 0 } else { handled }, "{status}");
        names.push(fs::read_to_string(thread.path().join("comm")).unwrap().trim().to_owned());
    }
    for name in ["log", "notify", "sqlite", "checkpoint", "http", "tokio-rt-worker"] {
        assert!(names.iter().any(|known| known.starts_with(name)), "{name}: {names:?}");
    }
}

#[test]
fn commands_for_events_may_be_ended_by_signals() {
    let dir = Dir::new();
    let out = dir.join("out");
    let script = dir.write("ban", &format!("#!/bin/sh\ngrep SigBlk /proc/self/status > {}\n", out.display()));
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let daemon = Daemon::start(&format!("threshold = 1\nban_time = \"1h\"\nban_command = {script:?}"));
    connect(&daemon, "198.51.100.7", 2);
    let blocked = until("the signals that a command blocks", || lines(&out).first().cloned());
    assert_eq!(blocked, "SigBlk:\t0000000000000000");
}

#[test]
fn the_nftables_example_drops_banned_clients_and_accepts_overlapping_bans() {
    let [client, host] = Namespace::pair();
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/contrib/nftables/connshaper-nft");
    let run = |event: &str, key: &str, seconds: u32| {
        let facts = format!("CONNSHAPER_EVENT={event} CONNSHAPER_KEY='{key}' CONNSHAPER_SECONDS={seconds}");
        host.run(&format!("{facts} {example}"));
    };
    // Nothing listens on this port: a connection that passes the firewall is refused at once.
    let connects = || client.run("timeout 20 bash -c '</dev/tcp/10.9.8.2/25' 2>/dev/null; test $? = 1");
    let is_dropped = || client.run("timeout 1 bash -c '</dev/tcp/10.9.8.2/25' 2>/dev/null; test $? = 124");
    connects();
    for (key, seconds) in [("10.9.8.1", 60), ("10.9.8.0/24", 60), ("2001:db8::/64", 60), ("2001:db8::/48", 600)] {
        run("BANNED", key, seconds);
    }
    // A second, longer ban; and a key that is not an address, which the hook ignores.
    run("BANNED", "10.9.8.1", 600);
    run("BANNED", "sasl_username=joe", 60);
    is_dropped();
    let holds = |set: &str, text: &str| {
        host.run(&format!("nft list set inet connshaper {set} | grep -q 'elements = {{ {text} '"));
    };
    holds("banned_ip_32", "10.9.8.1 timeout 10m");
    holds("banned_ip_24", "10.9.8.0/24 timeout 1m");
    holds("banned_ip6_64", "2001:db8::/64 timeout 1m");
    holds("banned_ip6_48", "2001:db8::/48 timeout 10m");
    run("UNBANNED", "10.9.8.1", 0);
    is_dropped();
    run("UNBANNED", "10.9.8.0/24", 0);
    connects();
    // A client whose ban has ended in the meantime.
    run("UNBANNED", "10.9.8.0/24", 0);
}

#[test]
fn top_prints_lines_where_there_is_no_terminal_and_a_screen_where_there_is() {
    let dir = Dir::new();
    let control = dir.join("control");
    let daemon = Daemon::start(&format!("threshold = 1\ncontrol_socket = {control:?}"));
    connect(&daemon, "198.51.100.7", 3);
    let mut child = command().arg("top").arg("--socket").arg(&control).stdout(Stdio::piped()).spawn().unwrap();
    let printed = Lines::default();
    let reader = printed.add_all(child.stdout.take().unwrap());
    let line = printed.wait_for("requests/s");
    assert!(line.contains("store memory") && line.ends_with("busiest 198.51.100.7 3/1"), "{line}");
    child.kill().unwrap();
    child.wait().unwrap();
    reader.join().unwrap();

    // script(1) provides a terminal; q ends top.
    let top = format!("stty rows 24 cols 80; {} top --socket {}", env!("CARGO_BIN_EXE_connshaper"), control.display());
    let mut script = Command::new("script");
    script.args(["-qec", &top, "/dev/null"]).env("TERM", "xterm").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = script.spawn().unwrap_or_else(|error| panic!("cannot run script(1): {error}"));
    use std::io::{Read, Write};
    child.stdin.as_mut().unwrap().write_all(b"q").unwrap();
    let mut screen = String::new();
    child.stdout.take().unwrap().read_to_string(&mut screen).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(screen.contains("busiest") && screen.contains("198.51.100.7"), "{screen:?}");
}

#[test]
fn completions_name_every_command_and_load_in_each_shell() {
    let dir = Dir::new();
    for shell in ["bash", "zsh", "fish"] {
        let output = command().args(["completions", shell]).output().unwrap();
        let script = String::from_utf8(output.stdout).unwrap();
        for word in ["explain", "check-hit", "completions", "socket"] {
            assert!(script.contains(word), "{word} in the script for {shell}");
        }
        let script = dir.write(shell, &script);
        let output = Command::new(shell).arg("-n").arg(script).output();
        let output = output.unwrap_or_else(|error| panic!("cannot run {shell} (is it installed?): {error}"));
        assert!(output.status.success() && output.stderr.is_empty(), "{shell}: {output:?}");
    }
    assert_eq!(command().args(["completions", "tcsh"]).output().unwrap().status.code(), Some(64));
}

#[test]
fn a_firewall_hears_of_nothing_twice_over_restarts_and_upgrades() {
    let memcached = Memcached::start();
    let config = format!("memcached_server = \"{}\"", memcached.server());
    let (mut one, mut other) = (Firewall::start(&config), Firewall::start(&config));
    connect(&one.daemon, "198.51.100.1", 2);
    connect(&one.daemon, "198.51.100.2", 2);
    one.say("ban 203.0.113.0/24");
    one.say("ban 192.0.2.0/24");
    for host in [&one, &other] {
        for key in ["198.51.100.1", "198.51.100.2", "203.0.113.0/24", "192.0.2.0/24"] {
            host.wait_for(&format!("BANNED {key}"));
        }
    }
    other.say("unban 198.51.100.1");
    for host in [&one, &other] {
        host.wait_for("UNBANNED 198.51.100.1");
    }
    assert!(one.daemon.upgrade().starts_with("UPGRADED "));
    other.daemon.stop();
    // While the other host is down.
    one.say("unban 192.0.2.0/24");
    one.wait_for("UNBANNED 192.0.2.0/24");
    other.daemon.start_again();
    other.wait_for("UNBANNED 192.0.2.0/24");
    one.say("ban 203.0.113.99");
    for host in [&mut one, &mut other] {
        host.wait_for("BANNED 203.0.113.99");
        host.daemon.stop();
        let mut told = host.told();
        let all = told.len();
        told.sort();
        told.dedup();
        assert_eq!((told.len(), all), (7, 7), "{told:?}");
    }
}

#[test]
fn a_firewall_hears_of_bans_that_the_store_has_lost() {
    let memcached = Memcached::start();
    let config = format!("memcached_server = \"{}\"\nover_memory = 0", memcached.server());
    let (one, other) = (Firewall::start(&config), Firewall::start(&config));
    for client in ["198.51.100.1", "198.51.100.2", "198.51.100.3"] {
        connect(&one.daemon, client, 2);
        other.wait_for(&format!("BANNED {client}"));
    }
    one.say("ban 203.0.113.0/24");
    other.wait_for("BANNED 203.0.113.0/24");
    // Noticed when the client comes again; the other host does not ask about it.
    for key in ["connshaper:198.51.100.3!ban", "connshaper:198.51.100.3"] {
        assert_eq!(memcached.say(&format!("delete {key}")), "DELETED");
    }
    let mut policy = Policy::connect(one.daemon.endpoint());
    assert_eq!(policy.connected("198.51.100.3", 9), "DUNNO");
    one.wait_for("UNBANNED 198.51.100.3");
    memcached.say("flush_all");
    for host in [&one, &other] {
        for client in ["198.51.100.1", "198.51.100.2", "198.51.100.3"] {
            host.wait_for(&format!("UNBANNED {client}"));
        }
        // Those of administrators are written again.
        assert!(host.say("show 203.0.113.1").contains("ban 203.0.113.0/24"));
        let told = host.told();
        assert_eq!(told.iter().filter(|event| event.starts_with("UNBANNED ")).count(), 3, "{told:?}");
    }
}
