//! The instructions of README.md work as written.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::{Daemon, Dir, Memcached, Postfix};

// Clients of the tests have loopback addresses, and smtpd connects as the user postfix.
const CONFIG: &str = "whitelist = []\nsocket_group = \"postfix\"\n";

#[test]
fn its_postfix_lines_defer_the_eleventh_connection() {
    let (_daemon, postfix) = site(CONFIG, main_cf());
    for _ in 0..10 {
        assert_eq!(recipient(&postfix, "127.0.0.2"), 250);
    }
    assert_eq!(recipient(&postfix, "127.0.0.2"), 450);
    assert_eq!(recipient(&postfix, "127.0.0.3"), 250);
    postfix
        .lines()
        .wait_for("450 4.7.0 <unknown[127.0.0.2]>: Client host rejected: Too many connections from 127.0.0.2");
}

#[test]
fn its_postfix_lines_work_over_tcp_too() {
    let daemon = Daemon::start(&format!("threshold = 1\n{CONFIG}"));
    let lines = main_cf().replace("unix:private/connshaper", daemon.endpoint());
    let postfix = Postfix::setup().main_cf(&lines).master_cf(&options()).chroot().start();
    assert_eq!(recipient(&postfix, "127.0.0.2"), 250);
    assert_eq!(recipient(&postfix, "127.0.0.2"), 450);
}

#[test]
fn its_postfix_lines_let_mail_pass_when_nobody_answers() {
    let postfix = Postfix::setup().main_cf(&main_cf()).master_cf(&options()).chroot().start();
    assert_eq!(recipient(&postfix, "127.0.0.2"), 250);
    postfix.lines().wait_for("problem talking to server private/connshaper");
}

#[test]
fn its_postfix_lines_leave_the_sites_own_clients_alone() {
    let (_daemon, postfix) = site(&format!("threshold = 1\n{CONFIG}"), main_cf() + "\nmynetworks = 127.0.0.2\n");
    for _ in 0..3 {
        assert_eq!(recipient(&postfix, "127.0.0.2"), 250);
    }
}

#[test]
fn its_warn_if_reject_lines_refuse_nobody() {
    let lines = main_cf().replace("check_policy_service", "warn_if_reject check_policy_service");
    let (daemon, postfix) = site(&format!("threshold = 1\n{CONFIG}"), lines);
    for _ in 0..2 {
        assert_eq!(recipient(&postfix, "127.0.0.2"), 250);
    }
    postfix.lines().wait_for("reject_warning: RCPT from unknown[127.0.0.2]: 450 4.7.0");
    daemon.lines().wait_for("REFUSED client=127.0.0.2");
}

#[test]
fn a_warn_action_refuses_nobody() {
    let action = r#"action = "WARN over the limit: {count} of {threshold}""#;
    assert!(readme().contains(action));
    let (daemon, postfix) = site(&format!("threshold = 1\n{action}\n{CONFIG}"), main_cf());
    for _ in 0..2 {
        assert_eq!(recipient(&postfix, "127.0.0.2"), 250);
    }
    postfix.lines().wait_for("warn: RCPT from unknown[127.0.0.2]: over the limit: 2 of 1");
    daemon.lines().wait_for("REFUSED client=127.0.0.2");
}

#[test]
fn its_twelve_queries_get_ten_passes_and_two_refusals() {
    let command = "for i in $(seq 12); do target/release/connshaper query 198.51.100.7; done";
    assert!(readme().contains(command));
    let daemon = Daemon::start("");
    let query = format!("{} query --to {}", env!("CARGO_BIN_EXE_connshaper"), daemon.endpoint());
    let command = command.replace("target/release/connshaper query", &query);
    let output = Command::new("sh").args(["-c", &command]).output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let words: Vec<_> = printed.lines().filter_map(|line| line.split(' ').next()).collect();
    let expected = [["DUNNO"; 10].as_slice(), &["DEFER_IF_PERMIT"; 2]].concat();
    assert_eq!(words, expected, "{printed}{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_spawn_example_counts_in_memcached() {
    let memcached = Memcached::start();
    let setup = Postfix::setup().chroot();
    let dir = Dir::new();
    let config = format!("whitelist = []\nthreshold = 1\nmemcached_server = \"{}\"\n", memcached.server());
    let config = dir.write("connshaper.toml", &config);
    let installed = "user=connshaper argv=/usr/local/sbin/connshaper inetd";
    let built = format!("user=nobody argv={} inetd -c {}", env!("CARGO_BIN_EXE_connshaper"), config.display());
    let service = uncommented("contrib/postfix/master.cf", "connshaper unix").replace(installed, &built);
    assert!(service.contains(&built), "{service}");
    let limit = uncommented("contrib/postfix/main.cf", "connshaper_time_limit");
    let main_cf = main_cf() + &limit;
    let postfix = setup.main_cf(&main_cf).master_cf(&format!("{}\n{service}", options())).start();
    assert_eq!(recipient(&postfix, "127.0.0.2"), 250);
    assert_eq!(recipient(&postfix, "127.0.0.2"), 450);
    assert_eq!(memcached.value("connshaper:127.0.0.2").as_deref(), Some("2"));
}

#[test]
fn the_examples_and_the_manual_give_the_same_postfix_lines() {
    let main_cf = main_cf();
    for name in ["contrib/postfix/main.cf", "man/connshaper.8"] {
        assert!(read(name).contains(main_cf.trim_end()), "{name} has other lines than README.md:\n{main_cf}");
    }
    let master_cf = block("master.cf");
    assert!(read("contrib/postfix/master.cf").contains(&master_cf), "contrib/postfix/master.cf lacks:\n{master_cf}");
}

#[test]
fn it_can_be_read_in_five_minutes() {
    let lines = readme().lines().count();
    assert!(lines <= 180, "README.md has {lines} lines: what is beyond 180 belongs into a manual");
}

#[test]
fn the_files_it_names_exist() {
    let readme = readme();
    let places = ["src/", "conf/", "contrib/", "man/", "tests/"];
    let words =
        readme.split(|c: char| c.is_whitespace() || "`|,:;()".contains(c)).map(|word| word.trim_end_matches('.'));
    let named: Vec<_> = words.filter(|word| places.iter().any(|place| word.starts_with(place))).collect();
    assert!(named.len() > 5, "{named:?}");
    let missing: Vec<_> = named.into_iter().filter(|name| !root().join(name).exists()).collect();
    assert!(missing.is_empty(), "README.md names {missing:?}");
}

/// A Postfix with the README's lines, locked into its queue directory as on Debian, and its daemon.
fn site(config: &str, main_cf: String) -> (Daemon, Postfix) {
    let setup = Postfix::setup().main_cf(&main_cf).master_cf(&options()).chroot();
    let socket = setup.in_queue_directory("private/connshaper");
    let daemon = Daemon::start_at(format!("unix:{}", socket.display()), config);
    (daemon, setup.start())
}

/// The reply to the first recipient of a client with this address.
fn recipient(postfix: &Postfix, from: &str) -> u16 {
    let mut client = postfix.client(from);
    client.ehlo().expect(250);
    client.mail().expect(250);
    let code = client.rcpt().code;
    client.quit();
    code
}

fn main_cf() -> String {
    block("main.cf")
}

/// The options README.md gives to the port-25 service; the test's Postfix has a service line of its own.
fn options() -> String {
    let block = block("master.cf");
    let (service, options) = block.split_once('\n').unwrap();
    assert!(service.starts_with("smtp ") && service.ends_with(" smtpd"), "{service}");
    // The first line sets the indentation that is removed; the options must keep theirs.
    format!("# README.md\n{options}")
}

/// The code block of that kind.
fn block(kind: &str) -> String {
    let readme = readme();
    let blocks: Vec<_> = readme.split(&format!("```{kind}\n")).skip(1).collect();
    let [block] = blocks[..] else { panic!("{} blocks of {kind} in README.md", blocks.len()) };
    block.split_once("```").unwrap().0.to_owned()
}

/// The commented-out lines of an example: one that begins with this text, and its continuation lines.
fn uncommented(name: &str, beginning: &str) -> String {
    let text = read(name);
    let mut lines =
        text.lines().filter_map(|line| line.strip_prefix('#')).skip_while(|line| !line.starts_with(beginning));
    let first = lines.next().unwrap_or_else(|| panic!("no {beginning} in {name}"));
    let more = lines.take_while(|line| line.starts_with("    "));
    [first].into_iter().chain(more).map(|line| format!("{line}\n")).collect()
}

fn readme() -> String {
    read("README.md")
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
