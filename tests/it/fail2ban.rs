//! The filter and the jail for fail2ban, tested with lines of the daemon and in fail2ban itself.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Daemon, Dir, Lines, Memcached, Policy};

#[test]
fn the_filter_matches_refused_clients_and_no_others() {
    let dir = Dir::new();
    let log = Lines::of_log_socket(&dir.join("log"));
    let syslog = format!("log = \"syslog\"\nsyslog_socket = {:?}\nthreshold = 1\n", dir.join("log"));
    let mut banned = BTreeSet::new();
    let actions = ["DEFER_IF_PERMIT", "defer", "REJECT", "421 4.7.0 {client} hangs up"];
    for (number, action) in (1..).zip(actions) {
        let clients = [format!("198.51.100.{number}"), format!("2001:db8:{number}::1")];
        refuse(&format!("{syslog}action = {action:?}"), &clients, &log);
        banned.extend(clients);
    }
    for dry_run in ["WARN", "INFO over the limit"] {
        refuse(&format!("{syslog}action = {dry_run:?}"), &["203.0.113.1".to_owned()], &log);
    }
    defer(&syslog, "203.0.113.2", &log);
    let lines = log.with("");
    for (keyword, number) in [(" REFUSED ", 10), (" DEFERRED ", 1), (" verdict=WARN ", 1), (" verdict=INFO ", 1)] {
        assert_eq!(log.with(keyword).len(), number, "{keyword} in {lines:#?}");
    }

    let mut file: String = lines.iter().map(|line| in_a_file("connshaper", line)).collect();
    // What a login has sent too much of is no fault of the address that it came from.
    login_over(&format!("{syslog}action = \"REJECT\""), "203.0.113.4", &log);
    file +=
        &log.with(" REFUSED client=203.0.113.4 ").iter().map(|line| in_a_file("connshaper", line)).collect::<String>();
    // A line of another program that contains text of a client.
    let refused = log.wait_for(" REFUSED ").replace(": REFUSED client=198.51.100.1 ", ": REFUSED client=203.0.113.3 ");
    file += &in_a_file("postfix/smtpd", &format!("<22>postfix/smtpd[1]: improper command from unknown: {refused}"));
    assert_eq!(found(&dir, &file), banned);
}

#[test]
fn fail2ban_starts_with_the_jail_and_its_filter() {
    let dir = Dir::new();
    let log = dir.write("mail.log", "");
    let jail = fs::read_to_string(shipped("jail.d/connshaper.conf")).unwrap();
    let with_syslog = jail.replace("/var/log/mail.log", log.to_str().unwrap());
    let with_journal = format!("{jail}backend = systemd\n");
    assert_ne!(with_syslog, jail);
    for (name, jail) in [("syslog", with_syslog), ("journal", with_journal)] {
        // The configuration of the package, with our jail only.
        let config = dir.join(name);
        assert!(Command::new("cp").args(["-r", "/etc/fail2ban"]).arg(&config).status().unwrap().success());
        fs::remove_dir_all(config.join("jail.d")).unwrap();
        fs::create_dir(config.join("jail.d")).unwrap();
        fs::write(config.join("jail.d/connshaper.conf"), jail).unwrap();
        fs::copy(shipped("filter.d/connshaper.conf"), config.join("filter.d/connshaper.conf")).unwrap();
        let client = |option: &str| {
            let output = Command::new("fail2ban-client").arg("-c").arg(&config).arg(option).output();
            let output = output.unwrap_or_else(|error| panic!("cannot run fail2ban-client: {error}"));
            assert!(output.status.success(), "{name} {option}: {}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        };
        client("-t");
        let commands = client("-d");
        for command in ["'maxretry', 1]", "'addfailregex', '^REFUSED client=<ADDR> key=", "['start', 'connshaper']"] {
            assert!(commands.contains(command), "{command} in {commands}");
        }
        let source = if name == "syslog" { log.to_str().unwrap() } else { "_SYSTEMD_UNIT=connshaper.service" };
        assert!(commands.contains(source), "{source} in {commands}");
    }
}

/// Makes a daemon refuse clients.
fn refuse(config: &str, clients: &[String], log: &Lines) {
    let daemon = Daemon::start(config);
    let mut policy = Policy::connect(daemon.endpoint());
    for client in clients {
        let seen = log.with(&format!(" REFUSED client={client} ")).len();
        for port in 1..=2 {
            policy.connected(client, port);
        }
        log.wait_for_more(&format!(" REFUSED client={client} "), seen);
    }
}

/// Makes a daemon refuse a login.
fn login_over(config: &str, client: &str, log: &Lines) {
    let limit = "[limit.users]\nthreshold = 1\ncount = \"messages\"\nper = \"sasl_username\"";
    let daemon = Daemon::start(&format!("{}\n{limit}", config.replace("threshold = 1", "threshold = 9")));
    for message in 1..=2 {
        let (client, port) = (format!("client_address={client}"), format!("client_port={message}"));
        let instance = format!("instance={message}.1.0");
        let port_of_server = "server_port=587";
        let asked = ["protocol_state=RCPT", &client, &port, port_of_server, &instance, "sasl_username=joe"];
        Policy::connect(daemon.endpoint()).ask(&asked);
    }
    log.wait_for(&format!(" REFUSED client={client} key=\"sasl_username=joe\" limit=users "));
}

/// Makes a daemon without its store defer a client.
fn defer(config: &str, client: &str, log: &Lines) {
    let mut memcached = Memcached::start();
    memcached.kill();
    let store = format!("memcached_server = {:?}\non_store_failure = \"defer\"", memcached.server());
    let daemon = Daemon::start(&format!("{config}{store}"));
    log.wait_for(" STORE_DOWN ");
    Policy::connect(daemon.endpoint()).connected(client, 1);
    log.wait_for(&format!(" DEFERRED client={client} "));
}

/// A datagram as a logger writes it to a file: without its priority, after time and host.
fn in_a_file(program: &str, datagram: &str) -> String {
    let (priority, line) = datagram.split_once('>').unwrap();
    assert!(priority.starts_with('<') && line.starts_with(&format!("{program}[")), "{datagram}");
    format!("Nov 21 20:50:44 mx {line}\n")
}

/// The addresses that fail2ban finds in a log with the manual's filter.
fn found(dir: &Dir, log: &str) -> BTreeSet<String> {
    let mut command = Command::new("fail2ban-regex");
    command.args(["--out", "ip"]).arg(dir.write("mail.log", log)).arg(dir.write("connshaper.conf", &filter()));
    let output = command.output().unwrap_or_else(|error| panic!("cannot run fail2ban-regex: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{}\n{said}", output.status);
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/fail2ban").join(name)
}

/// The filter that is shipped, which the manual shows.
fn filter() -> String {
    let shipped = fs::read_to_string(shipped("filter.d/connshaper.conf")).unwrap();
    for line in manual().lines() {
        assert!(shipped.lines().any(|other| other == line), "{line} of the manual is not in the filter");
    }
    shipped
}

fn manual() -> String {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/man/connshaper.8")).unwrap();
    let (_, section) = page.split_once("\n.Ss fail2ban\n").expect("a section about fail2ban");
    let (_, display) = section.split_once("\n.Bd -literal\n").unwrap();
    display.split_once(".Ed\n").unwrap().0.replace(r"\e", r"\")
}
