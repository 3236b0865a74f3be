//! A SQLite file as the store, seen from outside: who counts on it, what may be wrong with it, and what it survives.

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::{Daemon, Dir, PATIENCE, Policy, Postfix, Process, Sqlite, command, install, until};

const CLIENT: &str = "198.51.100.1";

/// The key of that client.
const KEY: &str = "connshaper:198.51.100.1";

/// These tests are not about deadlines, and the machine may be busy.
fn patient(sqlite: &Sqlite, rules: &str) -> String {
    format!("whitelist = []\nstore_timeout = \"5s\"\n{}{rules}", sqlite.config())
}

/// A process as inetd and spawn(8) start it, and the other end of its connection.
struct Child {
    process: Process,
    policy: Policy,
}

impl Child {
    fn start(config: &Path) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut command = command();
        command.args(["inetd", "-c"]).arg(config);
        command.stdin(OwnedFd::from(theirs.try_clone().unwrap())).stdout(OwnedFd::from(theirs));
        Self { process: Process::start(&mut command, Signal::SIGKILL), policy: Policy::over(Box::new(ours)) }
    }
}

#[test]
fn a_hundred_children_count_exactly_on_one_file() {
    let sqlite = Sqlite::new();
    let config = sqlite.dir().write("connshaper.toml", &patient(&sqlite, "threshold = 500\n"));
    // The file is not there yet: they make it together.
    let passed: usize = thread::scope(|scope| {
        let ask = |number: u16| {
            let config = &config;
            scope.spawn(move || {
                let mut child = Child::start(config);
                (0..10).filter(|turn| child.policy.connected(CLIENT, 1 + number * 10 + turn) == "DUNNO").count()
            })
        };
        let askers: Vec<_> = (0..100).map(ask).collect();
        askers.into_iter().map(|asker| asker.join().unwrap()).sum()
    });
    assert_eq!(sqlite.say("PRAGMA integrity_check"), "ok\n");
    let value = sqlite.value(KEY).unwrap();
    // Each process remembers for a while that the client is over, and adds those hits with its next question.
    assert_eq!(passed, 500, "the count is {value}");
}

#[test]
fn a_child_counts_with_a_daemon_and_finds_what_administrators_said() {
    let sqlite = Sqlite::new();
    let config = sqlite.dir().write("connshaper.toml", &patient(&sqlite, "threshold = 3\n"));
    let daemon = Daemon::start(&patient(&sqlite, "threshold = 3\n"));
    let mut policy = Policy::connect(daemon.endpoint());
    let mut child = Child::start(&config);
    for turn in 0..2 {
        assert_eq!(policy.connected(CLIENT, 1 + turn), "DUNNO");
    }
    assert_eq!(child.policy.connected(CLIENT, 10), "DUNNO");
    assert!(child.policy.connected(CLIENT, 11).starts_with("DEFER_IF_PERMIT"));
    assert!(policy.connected(CLIENT, 12).starts_with("DEFER_IF_PERMIT"));
    done(&on_file(&config, "ban 203.0.113.0/24 for 1h"));
    // The daemon reads the list once a second.
    let mut port = 20..;
    until("a ban that was said to the file", || {
        policy.connected("203.0.113.9", port.next().unwrap()).contains("Access denied").then_some(())
    });
    let mut another = Child::start(&config);
    assert!(another.policy.connected("203.0.113.9", 1).contains("Access denied"), "from the first request on");
}

/// Runs a command where no daemon listens.
fn on_file(config: &Path, words: &str) -> Output {
    command().args(words.split(' ')).arg("-c").arg(config).output().unwrap()
}

#[track_caller]
fn done(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn commands_work_on_the_file_while_no_daemon_runs() {
    let sqlite = Sqlite::new();
    let control = sqlite.dir().join("control");
    let rules = format!(
        "threshold = 3\nexptime = \"1h\"\ncontrol_socket = {control:?}\n[limit.logins]\nthreshold = 2\nwindow = \"sliding\"\nper = \"sasl_username\"\n"
    );
    let config = sqlite.dir().write("connshaper.toml", &patient(&sqlite, &rules));
    let say = |words: &str| on_file(&config, words);
    {
        let mut child = Child::start(&config);
        for turn in 0..5 {
            child.policy.connected(CLIENT, 1 + turn);
        }
    }
    let shown = done(&say(&format!("show {CLIENT}")));
    assert!(shown.contains("over") && shown.contains("connections"), "{shown}");
    let reset = done(&say(&format!("reset {CLIENT}")));
    assert!(reset.contains("keys reset"), "{reset}");
    assert_eq!(sqlite.value(KEY), None);
    done(&say("ban 203.0.113.0/24 for 1h"));
    done(&say("allow 198.51.100.0/24 for 1h"));
    let shown = done(&say("show 203.0.113.9"));
    assert!(shown.contains("ban 203.0.113.0/24"), "{shown}");
    let mut child = Child::start(&config);
    assert!(child.policy.connected("203.0.113.9", 1).contains("Access denied"));
    for turn in 0..5 {
        assert_eq!(child.policy.connected(CLIENT, 10 + turn), "DUNNO", "it is allowed");
    }
    done(&say("unban 203.0.113.0/24"));
    done(&say("disallow 198.51.100.0/24"));
    assert!(!done(&say("show 203.0.113.9")).contains("override"));
    // An exact window: the last hit can be taken back at any time.
    for (words, code) in [
        ("hit logins joe", 0),
        ("hit logins joe", 0),
        ("check-hit logins joe", 1),
        ("revoke logins joe", 0),
        ("check-hit logins joe", 0),
        ("hit logins joe", 0),
        ("hit logins joe", 1),
    ] {
        assert_eq!(say(words).status.code(), Some(code), "{words}: {:?}", say("show sasl_username=joe"));
    }
    // What is about the daemon needs one.
    for words in ["status", "reload"] {
        let output = say(words);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(69) && error.contains("control"), "{words}: {error}");
    }
    // With a daemon, commands go to it: only it knows its sessions.
    let daemon = Daemon::start(&patient(&sqlite, &rules));
    Policy::connect(daemon.endpoint()).connected("192.0.2.1", 1);
    let shown = done(&say("show 192.0.2.1"));
    assert!(shown.contains("sessions  1"), "{shown}");
}

#[test]
fn a_prefix_has_all_clients_of_the_file_whoever_has_seen_them() {
    let sqlite = Sqlite::new();
    let rules = "threshold = 2\nban_time = \"1h\"\n[limit.slide]\nthreshold = 100\nwindow = \"sliding\"\n\
                 [limit.logins]\nthreshold = 2\nper = \"sasl_username\"\n";
    let config = sqlite.dir().write("connshaper.toml", &patient(&sqlite, rules));
    for client in ["198.51.100.1", "198.51.100.2", "203.0.113.1", "2001:db8:1::1", "2001:db8:2::1"] {
        let mut child = Child::start(&config);
        child.policy.connected(client, 1);
    }
    let mut child = Child::start(&config);
    for turn in 1..6 {
        child.policy.connected("198.51.100.3", turn);
    }
    until("a ban", || sqlite.value("connshaper:198.51.100.3!ban"));
    let say = |words: &str| done(&on_file(&config, words));
    let shown = say("show 198.51.100.0/24");
    let rows: Vec<_> = shown.lines().filter(|line| line.contains("198.51.100.")).collect();
    // The prefix itself, and two limits for each of three clients.
    assert_eq!(rows.len(), 1 + 6, "{shown}");
    assert!(shown.contains("banned for") && !shown.contains("cannot list"), "{shown}");
    assert!(say("show 2001:db8::/32").contains("2001:db8:2::/64"));
    assert!(say("unban 198.51.100.0/24").contains("bans lifted: 1"));
    assert_eq!(sqlite.value("connshaper:198.51.100.3!ban"), None);
    say("reset 198.51.100.0/24");
    let left = sqlite.say("SELECT key FROM counts WHERE key LIKE '%:%' ORDER BY key");
    assert!(!left.contains("198.51.100."), "{left}");
    assert!(left.contains("203.0.113.1") && left.contains("2001:db8:1::/64"), "{left}");
    // A child that counted them forgets them too.
    let mut port = 10..;
    until("a client that is let in", || {
        (child.policy.connected("198.51.100.3", port.next().unwrap()) == "DUNNO").then_some(())
    });
}

#[test]
fn commands_say_what_is_wrong_with_the_file() {
    let sqlite = Sqlite::new();
    let config = sqlite.dir().write("connshaper.toml", &patient(&sqlite, ""));
    fs::write(sqlite.file(), "This is somebody's diary, and no database at all.\n".repeat(100)).unwrap();
    let output = on_file(&config, "ban 192.0.2.1 for 1h");
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(69), "{error}");
    assert!(error.contains("no SQLite database") && error.contains("sqlite_file"), "{error}");
    assert!(fs::read_to_string(sqlite.file()).unwrap().starts_with("This is somebody's"));
}

#[test]
fn a_file_that_is_not_ours_is_left_as_it_is_and_the_log_says_what_to_do() {
    type Make = fn(&Sqlite);
    let cases: [(&str, Make); 6] = [
        ("it is no SQLite database", |sqlite| fs::write(sqlite.file(), "a text\n".repeat(1000)).unwrap()),
        ("it is the database of another program", |sqlite| {
            sqlite.say("CREATE TABLE mail (subject TEXT); INSERT INTO mail VALUES ('hello')");
        }),
        ("this program knows 1 at most", |sqlite| {
            sqlite.say("PRAGMA application_id = 0x43534850; PRAGMA user_version = 7; CREATE TABLE counter (key)");
        }),
        ("it belongs to another user", |sqlite| {
            fs::write(sqlite.file(), "").unwrap();
            chown(sqlite.file(), Some(65534), None).unwrap();
        }),
        ("it is not a regular file", |sqlite| symlink("/etc/hostname", sqlite.file()).unwrap()),
        ("all users may write it", |sqlite| {
            fs::write(sqlite.file(), "").unwrap();
            fs::set_permissions(sqlite.file(), Permissions::from_mode(0o666)).unwrap();
        }),
    ];
    for (told, make) in cases {
        let sqlite = Sqlite::new();
        make(&sqlite);
        let before = fs::read(sqlite.file()).unwrap();
        let daemon = Daemon::start(&format!("whitelist = []\nthreshold = 2\n{}", sqlite.config()));
        let line = daemon.lines().wait_for("STORE_DOWN");
        assert!(line.contains(told), "{line}");
        // Counts are local meanwhile.
        let mut policy = Policy::connect(daemon.endpoint());
        let passed = (0..4).filter(|turn| policy.connected(CLIENT, 1 + turn) == "DUNNO").count();
        assert_eq!(passed, 2, "{told}");
        assert_eq!(fs::read(sqlite.file()).unwrap(), before, "{told}");
        // What the line says helps.
        fs::rename(sqlite.file(), sqlite.dir().join("elsewhere")).unwrap();
        daemon.lines().wait_for("STORE_UP");
        assert!(daemon.lines().with("STORE_DAMAGED").is_empty(), "{}", daemon.lines());
    }
}

#[test]
fn an_empty_file_is_used_as_it_was_made() {
    let sqlite = Sqlite::new();
    fs::write(sqlite.file(), "").unwrap();
    fs::set_permissions(sqlite.file(), Permissions::from_mode(0o640)).unwrap();
    let daemon = Daemon::start(&patient(&sqlite, ""));
    Policy::connect(daemon.endpoint()).connected(CLIENT, 1);
    assert_eq!(sqlite.value(KEY).as_deref(), Some("1"));
    assert_eq!(fs::metadata(sqlite.file()).unwrap().mode() & 0o777, 0o640);
    assert!(daemon.lines().with("STORE_DOWN").is_empty(), "{}", daemon.lines());
}

#[test]
fn a_new_file_is_the_daemons_alone_and_belongs_to_the_owner_of_its_directory() {
    let sqlite = Sqlite::new();
    chown(sqlite.dir().path(), Some(65534), None).unwrap();
    let daemon = Daemon::start(&patient(&sqlite, ""));
    Policy::connect(daemon.endpoint()).connected(CLIENT, 1);
    for suffix in ["", "-wal", "-shm"] {
        let path = format!("{}{suffix}", sqlite.file().display());
        let found = fs::metadata(&path).unwrap();
        assert_eq!((found.mode() & 0o777, found.uid()), (0o600, 65534), "{path}");
    }
}

#[test]
fn a_damaged_file_is_set_aside_and_counts_begin_anew() {
    let sqlite = Sqlite::new();
    let config = patient(&sqlite, "");
    {
        let daemon = Daemon::start(&config);
        let mut policy = Policy::connect(daemon.endpoint());
        for client in 0..200 {
            policy.connected(&format!("203.0.113.{client}"), 1);
        }
    }
    sqlite.say("PRAGMA wal_checkpoint(TRUNCATE)");
    // All but the page that says whose file it is.
    let length = fs::metadata(sqlite.file()).unwrap().len() as usize;
    let mut file = fs::OpenOptions::new().write(true).open(sqlite.file()).unwrap();
    std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(4096)).unwrap();
    file.write_all(&vec![0xa5; length - 4096]).unwrap();
    let daemon = Daemon::start(&config);
    let mut policy = Policy::connect(daemon.endpoint());
    policy.connected(CLIENT, 1);
    let line = daemon.lines().wait_for("STORE_DAMAGED");
    let (_, aside) = line.split_once("set_aside=").unwrap_or_else(|| panic!("{line}"));
    assert_eq!(fs::metadata(aside.trim().trim_matches('"')).unwrap().len() as usize, length, "nothing is deleted");
    let mut port = 2..;
    until("a count in a new file", || {
        policy.connected(CLIENT, port.next().unwrap());
        sqlite.value(KEY)
    });
    assert_eq!(sqlite.say("PRAGMA integrity_check"), "ok\n");
    assert!(daemon.lines().with("STORE_DOWN").is_empty(), "{}", daemon.lines());
}

#[test]
fn a_file_that_is_removed_or_replaced_while_it_is_used_is_made_anew() {
    let sqlite = Sqlite::new();
    let daemon = Daemon::start(&patient(&sqlite, "threshold = 1000000\n"));
    let mut policy = Policy::connect(daemon.endpoint());
    let mut port = 1..;
    for round in 0..3 {
        until("a count", || {
            policy.connected(CLIENT, port.next().unwrap());
            sqlite.value(KEY)
        });
        // Its log stays behind, and is not taken for the next one's.
        match round {
            0 => fs::remove_file(sqlite.file()).unwrap(),
            _ => fs::rename(sqlite.file(), sqlite.dir().join(format!("moved{round}"))).unwrap(),
        }
        until("another file", || {
            policy.connected(CLIENT, port.next().unwrap());
            (daemon.lines().with("STORE_FLUSHED").len() > round).then_some(())
        });
    }
    policy.connected(CLIENT, port.next().unwrap());
    assert_eq!(sqlite.say("PRAGMA integrity_check"), "ok\n");
    assert!(daemon.lines().with("STORE_DOWN").is_empty(), "{}", daemon.lines());
}

#[test]
fn what_has_expired_is_deleted_without_a_pause_and_the_file_has_a_bound() {
    let sqlite = Sqlite::new();
    let rules = "threshold = 1000000\nexptime = 1\nmax_clients = 1000\nipv6_prefix_length = 128\n";
    let daemon = Daemon::start(&patient(&sqlite, rules));
    let mut policy = Policy::connect(daemon.endpoint());
    for client in 0..3000 {
        policy.connected(&format!("2001:db8::{client:x}"), 1);
    }
    let counters = || sqlite.say("SELECT count(*) FROM counter").trim().parse::<u32>().unwrap();
    let mut client = 0..;
    until("an end of what has expired", || {
        thread::sleep(Duration::from_millis(20));
        policy.connected(&format!("2001:db8:1::{:x}", client.next().unwrap()), 1);
        (counters() < 100).then_some(())
    });
    // A flood of clients that do not expire.
    daemon.reload(&patient(&sqlite, &rules.replace("exptime = 1\n", "exptime = \"1d\"\n")));
    for client in 0..12_000 {
        policy.connected(&format!("2001:db8:2::{client:x}"), 1);
    }
    let pages: u64 = sqlite
        .say("SELECT page_count - freelist_count FROM pragma_page_count, pragma_freelist_count")
        .trim()
        .parse()
        .unwrap();
    assert!(pages * 4096 < 2 * 1000 * 256, "{pages} pages, {} counters", counters());
    assert!(counters() >= 1000, "{} counters", counters());
    daemon.lines().wait_for("STORE_EVICTS");
}

#[test]
fn the_queries_of_the_manual_work_in_the_sqlite3_shell() {
    let sqlite = Sqlite::new();
    let rules = "threshold = 1\nban_time = \"1h\"\n[limit.slide]\nthreshold = 3\nwindow = \"sliding\"\n";
    let daemon = Daemon::start(&patient(&sqlite, rules));
    let mut policy = Policy::connect(daemon.endpoint());
    for turn in 0..5 {
        policy.connected(CLIENT, 1 + turn);
    }
    until("a ban", || sqlite.value(&format!("{KEY}!ban")));
    sqlite
        .say("INSERT INTO counter VALUES ('connshaper:198.51.100.1!=3c', 1, 9e15), ('connshaper:a/b=c!m1f', 1, 9e15)");
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/man/connshaper.toml.5")).unwrap();
    let (_, section) = page.split_once("\n.Ss SQLite\n").unwrap();
    let (_, example) = section.split_once(".Bd -literal -offset 4n\n").unwrap();
    let (queries, _) = example.split_once(".Ed\n").unwrap();
    let said: Vec<String> = queries.split("\n\n").map(|query| sqlite.say(query)).collect();
    let [most, bans, kinds] = &said[..] else { panic!("{} queries", said.len()) };
    assert!(most.contains("connshaper:slide/198.51.100.1!hits|4|"), "{most}");
    assert!(most.lines().any(|line| line.starts_with("connshaper:198.51.100.1|")), "{most}");
    assert!(bans.starts_with("connshaper:198.51.100.1!ban|1|2"), "{bans}");
    assert!(kinds.contains("sliding|1|4\n") && kinds.contains("ban|1|1\n") && kinds.contains("mark|2|2\n"), "{kinds}");
}

#[test]
fn counts_go_on_over_a_reload_and_an_upgrade() {
    let sqlite = Sqlite::new();
    let config = patient(&sqlite, "threshold = 1000\n");
    let daemon = Daemon::start(&config);
    let mut policy = Policy::connect(daemon.endpoint());
    let mut port = 1..;
    let mut hits = |number: usize| {
        for _ in 0..number {
            assert_eq!(policy.connected(CLIENT, port.next().unwrap()), "DUNNO");
        }
    };
    hits(10);
    // Another store on the same file, in the same process.
    assert!(daemon.reload(&format!("{config}over_memory = 1\n")).contains("RELOADED"));
    hits(10);
    assert!(daemon.upgrade().contains("UPGRADED"));
    hits(10);
    assert_eq!(sqlite.value(KEY).as_deref(), Some("30"));
    assert_eq!(sqlite.say("PRAGMA integrity_check"), "ok\n");
    assert!(daemon.lines().with("STORE_").is_empty(), "{}", daemon.lines());
}

/// How often a process is killed: the environment may ask for more than a test run has time for.
fn kills() -> u32 {
    std::env::var("CONNSHAPER_KILLS").map_or(60, |kills| kills.parse().expect("a number of kills"))
}

#[test]
fn a_process_that_is_killed_loses_nothing_that_was_answered_and_damages_nothing() {
    let sqlite = Sqlite::new();
    let rules =
        "threshold = 1000000000\nexptime = \"1d\"\n[limit.slide]\nthreshold = 1000000000\nwindow = \"sliding\"\n";
    let config = sqlite.dir().write("connshaper.toml", &patient(&sqlite, rules));
    let (kills, mut answered) = (kills(), 0_u64);
    for kill in 0..kills {
        let Child { process, mut policy } = Child::start(&config);
        // The moment is random: it depends on the machine, and this spreads it over some transactions.
        let patience = Duration::from_micros(u64::from(kill.wrapping_mul(2_654_435_761) % 7000));
        policy.connected(CLIENT, 1);
        answered += 1;
        let killer = thread::spawn(move || {
            thread::sleep(patience);
            process.signal(Signal::SIGKILL);
            process
        });
        for port in 2..60_000 {
            let request = crate::support::request(&[
                "protocol_state=CONNECT",
                &format!("client_address={CLIENT}"),
                &format!("client_port={port}"),
            ]);
            if policy.try_send(request).is_err() || policy.answer().is_none() {
                break;
            }
            answered += 1;
        }
        killer.join().unwrap().wait();
        if kill % 20 == 0 || kill + 1 == kills {
            assert_eq!(sqlite.say("PRAGMA integrity_check"), "ok\n", "after {kill} kills");
        }
    }
    for key in [KEY, "connshaper:slide/198.51.100.1!hits"] {
        let counted: u64 = sqlite.value(key).unwrap().parse().unwrap();
        println!("{kills} kills: {answered} answered, {counted} counted under {key}");
        // Of each process one request may have been counted and not answered.
        assert!((answered..=answered + u64::from(kills)).contains(&counted), "{answered} answered, {counted} counted");
    }
    let leftovers = fs::read_dir(sqlite.dir().path())
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().contains(".damaged"));
    assert_eq!(leftovers.count(), 0);
}

#[test]
fn a_power_cut_loses_at_most_half_a_minute() {
    let sqlite = Sqlite::new();
    let daemon = Daemon::start(&patient(&sqlite, "threshold = 1000000\nover_memory = 0\nexptime = \"1d\"\n"));
    let mut policy = Policy::connect(daemon.endpoint());
    // What a power cut leaves at the worst: the file alone, without its log.
    let alone = sqlite.dir().join("alone.db");
    let left = || {
        fs::copy(sqlite.file(), &alone).ok()?;
        let query = format!("SELECT count FROM counter WHERE key = '{KEY}'");
        // A copy that was made while the file was written is no whole one.
        let output = Command::new("sqlite3").args(["-batch", "-readonly"]).arg(&alone).arg(query).output().unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap().trim().parse().unwrap_or(0))
    };
    let (mut answered, mut worst, mut most) = (Vec::new(), Duration::ZERO, 0);
    let start = Instant::now();
    // Until it has been brought to the disk twice.
    while start.elapsed() < Duration::from_secs(60) {
        assert_eq!(policy.connected(CLIENT, 1 + (answered.len() % 60_000) as u16), "DUNNO");
        answered.push(Instant::now());
        thread::sleep(Duration::from_millis(20));
        if answered.len() % 25 == 0
            && let Some(kept) = left()
        {
            let lost = answered.get(kept..).unwrap_or_default();
            worst = worst.max(lost.first().map_or(Duration::ZERO, Instant::elapsed));
            most = most.max(lost.len());
        }
    }
    println!("a power cut would have lost at most {most} hits, those of {worst:.1?}");
    assert!(!worst.is_zero() && worst < Duration::from_secs(45), "{worst:?}");
}

#[test]
fn a_postfix_that_starts_children_refuses_the_fourth_of_three() {
    let sqlite = Sqlite::new();
    // spawn(8) runs nothing as root.
    let user = nix::unistd::User::from_name("nobody").unwrap().unwrap();
    chown(sqlite.dir().path(), Some(user.uid.as_raw()), None).unwrap();
    let dir = Dir::new();
    let config = dir.write("connshaper.toml", &patient(&sqlite, "threshold = 3\n"));
    let entry = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/contrib/postfix/master.cf")).unwrap();
    let entry =
        entry.lines().filter_map(|line| line.strip_prefix('#')).skip_while(|line| !line.starts_with("connshaper "));
    let entry = entry.collect::<Vec<_>>().join("\n");
    let entry = entry.replace("user=connshaper", "user=nobody").replace(
        "/usr/local/sbin/connshaper inetd",
        &format!("{} inetd -c {}", install(&dir).display(), config.display()),
    );
    let postfix = Postfix::setup()
        .main_cf("smtpd_client_restrictions = check_policy_service { unix:private/connshaper, timeout=10s, default_action=DUNNO }")
        .master_cf(&entry)
        .start();
    let connect = || {
        let mut client = postfix.client("127.0.0.2");
        client.ehlo();
        client.mail();
        client.rcpt().code
    };
    let codes: Vec<_> = (0..4).map(|_| connect()).collect();
    assert_eq!(codes, [250, 250, 250, 450], "{}", postfix.lines());
}
