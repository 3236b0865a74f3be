//! memcached with a login, and over TLS: the log and `doctor` say what is missing, and never the password.

use std::fs;

use crate::support::memcached::LOGIN;
use crate::support::{Daemon, Memcached, Policy, command, until};

/// A configuration that is patient, for machines that are busy.
fn patient(lines: &str) -> String {
    format!("store_timeout = \"5s\"\n{lines}")
}

/// What the log says of a server that cannot be used. Clients pass meanwhile.
fn cause(config: &str) -> String {
    let daemon = Daemon::start(&patient(config));
    let line = daemon.lines().wait_for("STORE_DOWN ");
    assert_eq!(Policy::connect(daemon.endpoint()).connected("203.0.113.1", 1), "DUNNO");
    assert!(!daemon.lines().to_string().contains(LOGIN.1), "the password is in the log: {}", daemon.lines());
    line
}

/// The lines of a configuration without those that begin so.
fn without(config: &str, beginnings: &[&str]) -> String {
    let is_left = |line: &&str| !beginnings.iter().any(|beginning| line.starts_with(beginning));
    config.lines().filter(is_left).map(|line| format!("{line}\n")).collect()
}

#[test]
fn a_memcached_that_wants_a_login_is_named_as_such() {
    let memcached = Memcached::start_with_login();
    let line = cause(&without(&memcached.config(), &["memcached_username", "memcached_password_file"]));
    assert!(line.contains("it requires a login: set memcached_username and memcached_password_file"), "{line}");
}

#[test]
fn a_wrong_password_is_named_and_a_right_one_is_taken_without_a_restart() {
    let memcached = Memcached::start_with_login();
    let file = memcached.file("password");
    fs::write(&file, LOGIN.2).unwrap();
    let daemon = Daemon::start(&patient(&memcached.config()));
    let line = daemon.lines().wait_for("STORE_DOWN ");
    assert!(line.contains("it refuses the login: see memcached_username and memcached_password_file"), "{line}");
    fs::write(&file, "").unwrap();
    fs::write(&file, LOGIN.1).unwrap();
    daemon.lines().wait_for("STORE_UP ");
    let mut policy = Policy::connect(daemon.endpoint());
    let mut port = 1..;
    until("a count in memcached", || {
        policy.connected("203.0.113.1", port.next().unwrap());
        memcached.value("connshaper:203.0.113.1")
    });
    let lines = daemon.lines().to_string();
    assert!(!lines.contains(LOGIN.1) && !lines.contains(LOGIN.2), "a password is in the log: {lines}");
}

#[test]
fn a_password_that_cannot_be_read_or_sent_is_named_with_its_file() {
    let memcached = Memcached::start_with_login();
    let file = memcached.file("password");
    fs::write(&file, "two words\n").unwrap();
    let line = cause(&memcached.config());
    assert!(line.contains("without blanks") && line.contains(file.to_str().unwrap()), "{line}");
    assert!(!line.contains("two words"), "{line}");
    fs::remove_file(&file).unwrap();
    let line = cause(&memcached.config());
    assert!(line.contains("No such file") && line.contains(file.to_str().unwrap()), "{line}");
}

/// Else it would keep the password as a value.
#[test]
fn a_memcached_that_wants_no_login_is_not_told_the_password() {
    let (secured, open) = (Memcached::start_with_login(), Memcached::start());
    let config = secured.config().replace(&secured.server(), &open.server());
    let daemon = Daemon::start(&patient(&config));
    let mut policy = Policy::connect(daemon.endpoint());
    policy.connected("203.0.113.1", 1);
    until("a count in memcached", || open.value("connshaper:203.0.113.1"));
    // The counter alone was set.
    assert_eq!(open.statistic("total_items"), 1);
}

#[test]
fn a_memcached_that_speaks_tls_alone_is_named_as_such() {
    let memcached = Memcached::start_with_tls();
    let line = cause(&without(&memcached.config(), &["memcached_tls", "memcached_c", "memcached_key"]));
    assert!(line.contains("TLS") && line.contains("see memcached_tls"), "{line}");
}

#[test]
fn a_memcached_without_tls_and_one_that_is_not_believed_are_named() {
    let (secured, plain, other) = (Memcached::start_with_tls(), Memcached::start(), Memcached::start_with_tls());
    let at = |config: &str| config.lines().next().unwrap().rsplit_once(':').unwrap().1.trim_matches('"').to_owned();
    let port = |server: &str| server.rsplit_once(':').unwrap().1.to_owned();
    let line = cause(&secured.config().replacen(&at(&secured.config()), &port(&plain.server()), 1));
    assert!(line.contains("it does not answer in TLS: see memcached_tls"), "{line}");
    // The other one's authority is not ours.
    let line = cause(&secured.config().replacen(&at(&secured.config()), &at(&other.config()), 1));
    assert!(line.contains("TLS: ") && line.contains("certificate"), "{line}");
    // It wants to see a certificate of ours.
    let line = cause(&without(&secured.config(), &["memcached_certificate_file", "memcached_key_file"]));
    assert!(line.contains("certificate") || line.contains("Certificate"), "{line}");
}

#[test]
fn a_memcached_with_a_login_may_be_restarted() {
    let mut memcached = Memcached::start_with_login();
    let daemon = Daemon::start(&patient(&memcached.config()));
    let mut policy = Policy::connect(daemon.endpoint());
    policy.connected("203.0.113.1", 1);
    until("a count in memcached", || memcached.value("connshaper:203.0.113.1"));
    memcached.kill();
    daemon.lines().wait_for("STORE_DOWN ");
    memcached.start_again();
    daemon.lines().wait_for("STORE_UP ");
    let mut port = 2..;
    until("a count in memcached", || {
        policy.connected("203.0.113.2", port.next().unwrap());
        memcached.value("connshaper:203.0.113.2")
    });
}

#[test]
fn check_shows_the_file_of_the_password_and_not_the_password() {
    let memcached = Memcached::start_with_login();
    let config = memcached.file("connshaper.toml");
    fs::write(&config, memcached.config()).unwrap();
    let output = command().args(["check", "-c"]).arg(&config).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && said.contains(memcached.file("password").to_str().unwrap()), "{said}");
    assert!(!said.contains(LOGIN.1), "{said}");
}
