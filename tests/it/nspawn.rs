//! A container, installed as README.md says: its systemd starts the shipped units, and its Postfix queries.

use std::fs;
use std::path::Path;

use crate::support::machine::{Machine, text};
use crate::support::{package, until};

/// In tenths of the exposure: 0 is fully locked down, 100 is unrestricted.
const MOST_EXPOSURE: &str = "--threshold=15";

#[test]
fn the_installed_service_runs_in_a_container() {
    let machine = Machine::boot();
    install(&machine);
    assert_eq!(machine.sh("systemctl is-active connshaper.socket connshaper.service"), "active\nactive\n");
    assert!(journal(&machine).contains("START version="), "{}", journal(&machine));

    is_locked_up(&machine);
    is_open_to_root_and_postfix_alone(&machine);
    gives_the_control_socket_to_a_group(&machine);
    counts_in_a_file(&machine);
    is_asked_by_postfix(&machine);
    reloads(&machine);
    is_upgraded(&machine);
    stops_and_starts(&machine);
}

/// Runs the commands of README.md under Install: the package, and the three lines for Postfix.
fn install(machine: &Machine) {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let (_, section) = readme.split_once("\n## Install\n").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    let commands: Vec<_> = section.split("```sh\n").skip(1).map(|block| block.split_once("```").unwrap().0).collect();
    let [package, postfix] = commands[..] else { panic!("{} blocks of commands under Install", commands.len()) };
    package::copy_to(&machine.shared);
    let said = machine.sh(&format!("cd /test\nexport DEBIAN_FRONTEND=noninteractive\n{package}"));
    // The package says the same three lines.
    for line in postfix.lines() {
        assert!(said.lines().any(|said| said.trim() == line), "{line}\n{said}");
    }
    machine.sh(&format!("postconf -e smtpd_authorized_xclient_hosts=127.0.0.1\n{postfix}"));
}

/// Checks the restrictions of the running process, not of the unit file.
fn is_locked_up(machine: &Machine) {
    machine.sh(&format!("systemd-analyze security --no-pager {MOST_EXPOSURE} connshaper.service"));
    let status = machine.sh("cat /proc/$(systemctl show --property=MainPID --value connshaper)/status");
    let field = |name: &str| {
        let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.unwrap_or_else(|| panic!("no {name} in {status}")).split_whitespace().collect::<Vec<_>>()
    };
    let user = machine.sh("id --user connshaper");
    assert_ne!(user.trim(), "0");
    assert_eq!(field("Uid"), [user.trim(); 4]);
    for capabilities in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(field(capabilities), ["0000000000000000"], "{capabilities}");
    }
    assert_eq!((field("NoNewPrivs"), field("Seccomp")), (vec!["1"], vec!["2"]));
}

fn is_open_to_root_and_postfix_alone(machine: &Machine) {
    for user in ["root", "postfix"] {
        assert_eq!(machine.sh(&as_user(user, &query("192.0.2.1"))), "DUNNO\n", "{user}");
    }
    let refused = machine.run(&as_user("nobody", &query("192.0.2.1")));
    assert!(!refused.status.success() && text(&refused).contains("Permission denied"), "{}", text(&refused));
}

fn is_asked_by_postfix(machine: &Machine) {
    for _ in 0..10 {
        let dialog = machine.sh(&recipient("198.51.100.7"));
        assert!(dialog.contains("\nRCPT: 250 "), "{dialog}");
    }
    let dialog = machine.sh(&recipient("198.51.100.7"));
    assert!(dialog.contains("\nRCPT: 450 4.7.0 ") && dialog.contains("Too many connections from"), "{dialog}");
    let dialog = machine.sh(&recipient("198.51.100.8"));
    assert!(dialog.contains("\nRCPT: 250 "), "{dialog}");
}

/// As connshaper.toml(5) says; and the log names who gave a command.
fn gives_the_control_socket_to_a_group(machine: &Machine) {
    machine.sh("useradd --groups adm alice");
    let config = "/etc/connshaper/connshaper.toml";
    machine.sh(&format!(
        "cp {config} /root/before
        printf 'control_socket = \"/run/connshaper/control\"\ncontrol_group = \"adm\"\n' >> {config}
        systemctl restart connshaper || :"
    ));
    until("a remedy", || journal(machine).contains("SupplementaryGroups=adm").then_some(()));
    machine.sh("mkdir --parents /etc/systemd/system/connshaper.service.d
        printf '[Service]\nSupplementaryGroups=adm\n' > /etc/systemd/system/connshaper.service.d/group.conf
        systemctl daemon-reload
        systemctl reset-failed connshaper
        systemctl restart connshaper.socket connshaper");
    assert_eq!(machine.sh("stat --format='%a %U %G' /run/connshaper/control"), "660 connshaper adm\n");
    let reset = "/usr/sbin/connshaper reset 192.0.2.77 --socket /run/connshaper/control";
    machine.sh(&format!("setpriv --reuid=alice --regid=alice --init-groups {reset}"));
    machine.sh(reset);
    let lines = journal(machine);
    assert!(
        lines.contains("CONTROL user=alice command=reset") && lines.contains("CONTROL user=root command=reset"),
        "{lines}"
    );
    assert!(!lines.contains("user=nobody"), "{lines}");
    machine.sh(&format!(
        "mv /root/before {config}
        rm -r /etc/systemd/system/connshaper.service.d
        systemctl daemon-reload
        systemctl restart connshaper"
    ));
}

/// The place that the unit opens for it is enough, and its counts outlive the process.
fn counts_in_a_file(machine: &Machine) {
    let config = "/etc/connshaper/connshaper.toml";
    machine.sh(&format!(
        "cp {config} /root/before
        printf 'threshold = 3\nsqlite_file = \"/var/lib/connshaper/counts.db\"\n' >> {config}
        systemctl restart connshaper"
    ));
    for _ in 0..3 {
        let dialog = machine.sh(&recipient("198.51.100.11"));
        assert!(dialog.contains("\nRCPT: 250 "), "{dialog}");
    }
    let refuses_the_next = || {
        let dialog = machine.sh(&recipient("198.51.100.11"));
        assert!(dialog.contains("\nRCPT: 450 4.7.0 "), "{dialog}\n{}", journal(machine));
    };
    refuses_the_next();
    assert_eq!(machine.sh("stat --format='%a %U' /var/lib/connshaper/counts.db"), "600 connshaper\n");
    machine.sh("systemctl restart connshaper");
    refuses_the_next();
    assert!(!journal(machine).contains("STORE_"), "{}", journal(machine));
    machine.sh(&format!(
        "mv /root/before {config}
        systemctl restart connshaper"
    ));
}

fn reloads(machine: &Machine) {
    machine.sh("echo 'threshold = 3' >> /etc/connshaper/connshaper.toml; systemctl reload connshaper");
    until("a reload", || journal(machine).contains("RELOADED form=toml").then_some(()));
    let answers = machine.sh(&format!("for i in 1 2 3 4; do {}; done", query("198.51.100.9")));
    let words: Vec<_> = answers.lines().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(words, ["DUNNO", "DUNNO", "DUNNO", "DEFER_IF_PERMIT"], "{answers}");
    // Counts were kept.
    assert!(machine.sh(&query("198.51.100.7")).starts_with("DEFER_IF_PERMIT"));

    machine.sh("echo 'threshold = many' >> /etc/connshaper/connshaper.toml; systemctl reload connshaper");
    until("a reload that fails", || journal(machine).contains("RELOAD_FAILED error=").then_some(()));
    assert!(machine.sh(&query("198.51.100.7")).starts_with("DEFER_IF_PERMIT"));
    machine.sh("sed -i '/many/d' /etc/connshaper/connshaper.toml");
}

/// Upgrades as README.md says. The state of the service in systemd stays the same.
fn is_upgraded(machine: &Machine) {
    machine.sh("echo 'state_file = \"/var/lib/connshaper/state\"' >> /etc/connshaper/connshaper.toml");
    let state = || machine.sh("systemctl show --property=MainPID,NRestarts,ActiveState,SubState connshaper.service");
    let before = state();
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let (_, command) = readme.split_once("`systemctl kill ").unwrap();
    let (command, _) = command.split_once('`').unwrap();
    for upgrades in 1..=2 {
        machine.sh(&format!("systemctl kill {command}"));
        until(format_args!("upgrade {upgrades}"), || {
            (journal(machine).matches("\nUPGRADED from=").count() == upgrades).then_some(())
        });
        until("a service that is ready again", || (state() == before).then_some(()));
        // Counts are kept.
        let answers = [machine.sh(&query("192.0.2.9")), machine.sh(&query("192.0.2.9"))];
        let answers = answers.map(|answer| answer.trim() == "DUNNO");
        assert_eq!(answers, if upgrades == 1 { [true, true] } else { [true, false] });
    }
    assert!(machine.sh("systemctl status --no-pager connshaper.service").contains("Active: active (running)"));
}

fn stops_and_starts(machine: &Machine) {
    machine.sh("systemctl stop connshaper.service");
    let result = machine.sh("systemctl show --property=Result,ExecMainStatus,ActiveState connshaper.service");
    for property in ["Result=success", "ExecMainStatus=0", "ActiveState=inactive"] {
        assert!(result.lines().any(|line| line == property), "{result}");
    }
    let lines = journal(machine);
    assert!(lines.contains("STOPPING") && lines.contains("STOPPED"), "{lines}");
    assert_eq!(machine.sh("stat --format='%a %U' /var/lib/connshaper/state"), "600 connshaper\n");
    // systemd still listens; a request starts the service again.
    assert_eq!(machine.sh(&query("198.51.100.10")), "DUNNO\n");
    assert!(journal(machine).contains("STATE_RESTORED file="), "{}", journal(machine));
    assert_eq!(machine.sh("systemctl is-active connshaper.service"), "active\n");

    machine.sh("systemctl stop connshaper.socket connshaper.service");
    assert!(!machine.run(&query("198.51.100.9")).status.success());
    // With the lines of README.md mail passes when the daemon does not answer.
    let dialog = machine.sh(&recipient("198.51.100.7"));
    assert!(dialog.contains("\nRCPT: 250 "), "{dialog}");
}

fn query(client: &str) -> String {
    format!("/usr/sbin/connshaper query --to unix:/var/spool/postfix/private/connshaper {client}")
}

fn as_user(user: &str, command: &str) -> String {
    format!("setpriv --reuid={user} --regid={user} --init-groups {command}")
        .replace("--regid=nobody", "--regid=nogroup")
}

/// A session of a client set by XCLIENT, up to its first recipient: prints each command with the last line of its reply.
fn recipient(client: &str) -> String {
    format!(
        r#"exec 3<>/dev/tcp/127.0.0.1/25
        for command in "" "XCLIENT ADDR={client}" "EHLO client" "MAIL FROM:<a@example.org>" "RCPT TO:<root@localhost>" QUIT; do
            [[ -z $command ]] || printf '%s\r\n' "$command" >&3
            while IFS= read -r -t 30 reply <&3 && [[ $reply == ???-* ]]; do :; done
            printf '%s: %s\n' "${{command%%[ :]*}}" "$reply"
        done"#
    )
}

fn journal(machine: &Machine) -> String {
    machine.sh("journalctl --sync\njournalctl --unit=connshaper --no-pager --output=cat")
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
