//! The Debian package from its installation to its end, and `contrib/install`.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::machine::Machine;
use crate::support::{Policy, package, until};

const CONFIG: &str = "/etc/connshaper/connshaper.toml";

const APT: &str = "cd /test\nexport DEBIAN_FRONTEND=noninteractive\napt-get --quiet=2 --no-install-recommends";

#[test]
fn the_debian_package_is_installed_upgraded_under_load_removed_and_purged() {
    let machine = Machine::boot();
    package::copy_to(&machine.shared);
    package::newer_in(&machine.shared);
    let before = machine.sh(FILES);
    let main_cf = machine.sh("cat /etc/postfix/main.cf /etc/postfix/master.cf");

    let said = machine.sh(&format!("{APT} install ./connshaper_0*.deb"));
    let lines: Vec<_> = said.lines().filter_map(|line| line.strip_prefix("  post")).collect();
    assert_eq!(lines.len(), 3, "{said}");
    assert_eq!(machine.sh("cat /etc/postfix/main.cf /etc/postfix/master.cf"), main_cf, "Postfix is left alone");
    assert_eq!(machine.sh("systemctl is-enabled connshaper.socket connshaper.service"), "enabled\nenabled\n");
    assert_eq!(machine.sh("systemctl is-active connshaper.socket connshaper.service"), "active\nactive\n");
    machine.sh(&format!("cd /usr/share\nls {INSTALLED}"));
    // Neither needs to be told where the unit listens.
    assert_eq!(machine.sh("connshaper query 192.0.2.99"), "DUNNO\n");
    let doctor = machine.run("connshaper doctor");
    let doctor = String::from_utf8_lossy(&doctor.stdout);
    assert!(doctor.contains("a request to unix:/var/spool/postfix/private/connshaper is answered DUNNO"), "{doctor}");

    machine.sh(&format!("echo 'threshold = 20' >> {CONFIG}\nsystemctl reload connshaper"));
    until("a reload", || machine.sh("journalctl --unit=connshaper").contains("RELOADED ").then_some(()));
    let options = "--option Dpkg::Options::=--force-confold";
    is_upgraded_under_load(&machine, &format!("{APT} {options} install ./connshaper_1*.deb"));
    assert!(machine.sh("dpkg-query --show --showformat='${Version}' connshaper").starts_with('1'));

    machine.sh(&format!("{APT} remove connshaper"));
    assert!(!machine.run("systemctl is-active connshaper.socket connshaper.service").status.success());
    assert!(machine.sh(&format!("cat {CONFIG}")).contains("threshold = 20\n"));
    machine.sh("touch /var/lib/connshaper/state");
    machine.sh(&format!("{APT} purge connshaper"));
    assert_eq!(machine.sh(FILES), before);
    assert!(!machine.run("getent passwd connshaper").status.success());
    assert_eq!(
        machine.sh("systemctl list-unit-files --no-legend 'connshaper*' || :; systemctl --failed --no-legend"),
        ""
    );

    is_installed_by_the_script(&machine, &before);
}

/// Names of files that are ours by their name, and of those that list our user. Logs of what was done may stay.
const FILES: &str = "find / -xdev -path /var/log -prune -o -path /tmp -prune -o -iname '*connshaper*' -print | sort
    grep -l connshaper /etc/passwd /etc/group /etc/shadow /etc/gshadow || :";

const INSTALLED: &str = "man/man8/connshaper.8.gz man/man5/connshaper.toml.5.gz bash-completion/completions/connshaper \
    zsh/vendor-completions/_connshaper fish/vendor_completions.d/connshaper.fish doc/connshaper/examples/busy-mx.toml \
    connshaper/fail2ban/filter.d/connshaper.conf connshaper/prometheus/connshaper.rules.yml \
    connshaper/grafana/connshaper.json doc/connshaper/copyright doc/connshaper/THIRD-PARTY.gz";

/// While one policy connection asks without a break, and others are opened, the newer package is installed.
fn is_upgraded_under_load(machine: &Machine, upgrade: &str) {
    let endpoint = format!("unix:/proc/{}/root/var/spool/postfix/private/connshaper", machine.init);
    let process = || machine.sh("systemctl show --property=MainPID,NRestarts connshaper.service");
    let before = process();
    let ended = AtomicBool::new(false);
    let (requests, longest) = thread::scope(|scope| {
        let load = scope.spawn(|| {
            let mut policy = Policy::connect(&endpoint);
            let (mut requests, mut longest) = (0_u32, Duration::ZERO);
            while !ended.load(Ordering::Relaxed) || requests < 200 {
                let begun = Instant::now();
                let client = format!("198.18.{}.{}", requests / 250 % 250, requests % 250);
                assert_eq!(policy.connected(&client, 4711), "DUNNO");
                // As an smtpd that has just started.
                assert_eq!(Policy::connect(&endpoint).connected("192.0.2.1", 1000), "DUNNO");
                (requests, longest) = (requests + 1, longest.max(begun.elapsed()));
                thread::sleep(Duration::from_millis(2));
            }
            (requests, longest)
        });
        let mut policy = Policy::connect(&endpoint);
        let mut sessions = 1000..;
        let mut connect = || policy.connected("192.0.2.77", sessions.next().unwrap());
        assert!((0..15).all(|_| connect() == "DUNNO"));
        machine.sh(upgrade);
        until("an upgrade", || machine.sh("journalctl --unit=connshaper").contains("UPGRADED from=").then_some(()));
        // Fifteen are counted; the configuration still allows twenty.
        assert_eq!([(); 6].map(|()| connect() == "DUNNO"), [true, true, true, true, true, false]);
        ended.store(true, Ordering::Relaxed);
        load.join().unwrap()
    });
    println!(
        "{requests} requests over one policy connection, and as many over new ones; the longest wait: {longest:?}"
    );
    assert_eq!(process(), before, "the process stays the same");
    assert!(
        machine
            .sh("ls -l /proc/$(systemctl show --property=MainPID --value connshaper)/exe")
            .ends_with("/usr/sbin/connshaper\n")
    );
}

/// The same service without a package manager, and away again.
fn is_installed_by_the_script(machine: &Machine, before: &str) {
    machine.sh("/source/contrib/install --program /test/connshaper");
    assert_eq!(machine.sh("systemctl is-active connshaper.socket connshaper.service"), "active\nactive\n");
    assert_eq!(
        machine.sh("/usr/local/sbin/connshaper query --to unix:/var/spool/postfix/private/connshaper 192.0.2.9"),
        "DUNNO\n"
    );
    machine.sh("/source/contrib/install --program /test/connshaper uninstall");
    let left = machine.sh(FILES);
    let expected =
        [CONFIG, "/etc/connshaper", "/var/lib/connshaper", "/etc/passwd", "/etc/group", "/etc/shadow", "/etc/gshadow"];
    for line in left.lines().filter(|line| !before.lines().any(|other| other == *line)) {
        assert!(expected.contains(&line), "{line} is left");
    }
}

#[test]
#[ignore = "needs rpm and two releases: contrib/release-check makes them"]
fn the_rpm_is_installed_upgraded_under_load_and_erased() {
    let packages = std::env::var("CONNSHAPER_RPMS").expect("two packages, the older first");
    let machine = Machine::boot();
    for (name, package) in ["older.rpm", "newer.rpm"].iter().zip(packages.split(' ')) {
        fs::copy(package, machine.shared.join(name)).unwrap();
    }
    let host = "LD_LIBRARY_PATH=/host/usr/lib/$(uname -m)-linux-gnu RPM_CONFIGDIR=/host/usr/lib/rpm";
    machine.sh(&format!(
        "for name in rpm rpmdb; do printf '#!/bin/sh\n{host} exec /host/usr/bin/%s \"$@\"\n' $name >/usr/bin/$name; done\n\
         chmod 755 /usr/bin/rpm /usr/bin/rpmdb\nrpm --initdb"
    ));
    let before = machine.sh(FILES);
    // What it requires is here, but no RPM.
    machine.sh("rpm --install --nodeps --force-debian /test/older.rpm");
    machine.sh("getent passwd connshaper\nsystemctl enable --now connshaper.socket connshaper.service");
    machine.sh(&format!("echo 'threshold = 20' >> {CONFIG}\nsystemctl reload connshaper"));
    until("a reload", || machine.sh("journalctl --unit=connshaper").contains("RELOADED ").then_some(()));
    is_upgraded_under_load(&machine, "rpm --upgrade --nodeps --force-debian /test/newer.rpm");
    assert!(machine.sh(&format!("cat {CONFIG}")).contains("threshold = 20\n"));
    assert_eq!(machine.sh("systemctl is-enabled connshaper.socket connshaper.service"), "enabled\nenabled\n");
    assert_eq!(machine.sh("rpm --query connshaper").lines().count(), 1);

    machine.sh("rpm --erase --force-debian connshaper");
    assert!(!machine.run("systemctl is-active connshaper.socket connshaper.service").status.success());
    let left = machine.sh(FILES);
    let left: Vec<_> = left.lines().filter(|line| !before.lines().any(|other| other == *line)).collect();
    // As on systems of that kind: what the administrator wrote, the state, and the user of its files.
    let saved = format!("{CONFIG}.rpmsave");
    let users = ["/etc/passwd", "/etc/group", "/etc/shadow", "/etc/gshadow"];
    assert_eq!(left, [&["/etc/connshaper", &saved, "/var/lib/connshaper"], &users[..]].concat());
    assert!(machine.sh("systemctl --failed --no-legend").is_empty());
}

#[test]
fn lintian_finds_nothing_in_the_debian_package() {
    let output =
        Command::new("lintian").args(["--allow-root", "--fail-on=error,warning"]).arg(package::deb()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.is_empty(), "{said}{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn contrib_install_puts_files_where_other_files_expect_them_and_takes_all_but_the_configuration_away() {
    let target = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let mut install = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/install"));
        install.args(arguments).arg("--destdir").arg(target.path());
        install.arg("--program").arg(env!("CARGO_BIN_EXE_connshaper"));
        let output = install.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let read =
        |path: &str| fs::read_to_string(target.path().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    run(&[]);
    assert!(read("etc/systemd/system/connshaper.service").contains("\nExecStart=/usr/local/sbin/connshaper serve\n"));
    for path in
        ["usr/local/share/man/man8/connshaper.8", "etc/sysusers.d/connshaper.conf", "etc/tmpfiles.d/connshaper.conf"]
    {
        read(path);
    }
    fs::write(target.path().join("etc/connshaper/connshaper.toml"), "threshold = 3\n").unwrap();
    run(&["--prefix", "/usr/local"]);
    run(&["uninstall"]);
    assert_eq!(read("etc/connshaper/connshaper.toml"), "threshold = 3\n");
    run(&["--prefix", "/usr"]);
    assert!(read("usr/lib/systemd/system/connshaper.service").contains("\nExecStart=/usr/sbin/connshaper serve\n"));
    run(&["--prefix", "/usr", "uninstall"]);
    let mut files = Command::new("find");
    let left = files.args([".", "-type", "f"]).current_dir(target.path()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&left.stdout), "./etc/connshaper/connshaper.toml\n");
}
