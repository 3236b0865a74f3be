//! The kind of system, as far as it decides how Postfix reaches the daemon.
//!
//! postconf(1) tells the paths of Postfix on every system. Systems differ in who can make a socket in its queue
//! directory, what 127.0.0.1 is, and whether SELinux restricts smtpd.

use std::fmt;
use std::fs;
use std::path::Path;

use super::super::UNIT_SOCKET;
use crate::net::address::Address;
use crate::observe::finding::{Finding, doubtful, right};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct System {
    family: Family,
    /// Its service manager is systemd.
    systemd: bool,
    container: bool,
    /// SELinux is there and denies.
    selinux: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Debian,
    RedHat,
    Alpine,
    FreeBsd,
    Other,
}

impl System {
    /// Looks below this directory, which is `/` but in tests.
    pub fn detect(root: &Path) -> Self {
        let there = |path: &str| root.join(path).exists();
        let release = fs::read_to_string(root.join("etc/os-release")).unwrap_or_default();
        let is = |word: &str| {
            let ids = release.lines().filter_map(|line| line.strip_prefix("ID=").or(line.strip_prefix("ID_LIKE=")));
            ids.flat_map(|ids| ids.trim_matches('"').split(' ')).any(|id| id == word)
        };
        let family = match () {
            () if is("debian") || there("etc/debian_version") => Family::Debian,
            () if is("rhel") || is("fedora") || there("etc/redhat-release") => Family::RedHat,
            () if is("alpine") || there("etc/alpine-release") => Family::Alpine,
            () if is("freebsd") || there("bin/freebsd-version") => Family::FreeBsd,
            () => Family::Other,
        };
        let enforcing = fs::read_to_string(root.join("sys/fs/selinux/enforce"));
        Self {
            family,
            systemd: there("run/systemd/system"),
            container: there(".dockerenv") || there("run/.containerenv"),
            selinux: enforcing.is_ok_and(|text| text.trim() == "1"),
        }
    }

    /// The findings about the system and SELinux.
    pub fn examine(&self, places: &[Address]) -> Vec<Finding> {
        let mut findings = vec![right(format!("the system: {self}"))];
        if let Some(place) = places.first().filter(|_| self.selinux) {
            let boolean = match place {
                Address::Inet { .. } => ";\nfor TCP, and for all daemons: setsebool -P nis_enabled on",
                Address::Unix(_) => "",
            };
            let remedy = format!(
                "if `ausearch -m avc -c smtpd` shows a denial: \
                 ausearch -m avc -c smtpd | audit2allow -M connshaper && semodule -i connshaper.pp{boolean}"
            );
            findings.push(doubtful(
                format!("SELinux is enforcing: its policy says whether smtpd may connect to {place}"),
                remedy,
            ));
        }
        findings
    }

    /// The remedy if no daemon answers.
    pub fn remedy_of_silence(&self, place: &Address) -> String {
        match place {
            Address::Unix(path) if self.systemd && path == Path::new(UNIT_SOCKET) => {
                "systemctl start connshaper.socket connshaper.service".to_owned()
            }
            Address::Unix(path) if self.systemd => format!(
                "start the daemon; or, to listen there: systemctl edit connshaper.socket, with the lines\n\
                 [Socket]\nListenStream={}",
                path.display()
            ),
            // Only root and Postfix may make a socket in its queue directory, and systemd does it as root.
            Address::Unix(_) => "start the daemon; without systemd it cannot make a socket in Postfix's queue directory:\n\
                 in connshaper.toml: listen = \"inet:127.0.0.1:10040\"\n\
                 in main.cf: check_policy_service { inet:127.0.0.1:10040, timeout=10s, default_action=DUNNO }"
                .to_owned(),
            Address::Inet { host, .. } if self.container && is_loopback(host) => {
                "start the daemon; in a container 127.0.0.1 is this container alone: where the daemon has another one, \
                 name its address in main.cf, and there\nlisten = \"inet:0.0.0.0:10040\"\nallow_peers = [\"the address of \
                 this container\"]"
                    .to_owned()
            }
            Address::Inet { .. } => "start the daemon, or have Postfix and `listen` name the same place".to_owned(),
        }
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

impl fmt::Display for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = match self.family {
            Family::Debian => "Debian's family",
            Family::RedHat => "Red Hat's family",
            Family::Alpine => "Alpine",
            Family::FreeBsd => "FreeBSD",
            Family::Other => "of no family known here",
        };
        let manager = if self.systemd { "with systemd" } else { "without systemd" };
        let place = if self.container { ", in a container" } else { "" };
        write!(f, "{family}, {manager}{place}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The system that has these files.
    fn system(files: &[(&str, &str)]) -> System {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        System::detect(root.path())
    }

    #[test]
    fn systems_are_told_by_their_files() {
        let said = |files: &[(&str, &str)]| system(files).to_string();
        assert_eq!(said(&[("etc/debian_version", ""), ("run/systemd/system/x", "")]), "Debian's family, with systemd");
        assert_eq!(said(&[("etc/os-release", "ID=ubuntu\nID_LIKE=debian\n")]), "Debian's family, without systemd");
        let rocky = ("etc/os-release", "NAME=\"Rocky Linux\"\nID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n");
        assert_eq!(said(&[rocky, ("run/systemd/system/x", "")]), "Red Hat's family, with systemd");
        let alpine = ("etc/os-release", "ID=alpine\n");
        assert_eq!(said(&[alpine, (".dockerenv", "")]), "Alpine, without systemd, in a container");
        assert_eq!(said(&[("bin/freebsd-version", "")]), "FreeBSD, without systemd");
        assert_eq!(said(&[]), "of no family known here, without systemd");
    }

    #[test]
    fn each_system_has_its_way_to_a_socket() {
        let place = |text: &str| text.parse::<Address>().unwrap();
        let debian = system(&[("etc/debian_version", ""), ("run/systemd/system/x", "")]);
        let remedy = debian.remedy_of_silence(&place("unix:/var/spool/postfix/private/connshaper"));
        assert_eq!(remedy, "systemctl start connshaper.socket connshaper.service");
        let remedy = debian.remedy_of_silence(&place("unix:/var/spool/postfix-in/private/connshaper"));
        assert!(remedy.ends_with("[Socket]\nListenStream=/var/spool/postfix-in/private/connshaper"), "{remedy}");
        for other in [system(&[("etc/alpine-release", "")]), system(&[("bin/freebsd-version", "")])] {
            let remedy = other.remedy_of_silence(&place("unix:/var/spool/postfix/private/connshaper"));
            assert!(remedy.contains("listen = \"inet:127.0.0.1:10040\""), "{remedy}");
        }
        let container = system(&[("run/.containerenv", "")]);
        let remedy = container.remedy_of_silence(&place("inet:127.0.0.1:10040"));
        assert!(remedy.contains("allow_peers = "), "{remedy}");
    }

    #[test]
    fn selinux_is_named_where_it_denies() {
        let place: Address = "inet:127.0.0.1:10040".parse().unwrap();
        let found = |enforce| system(&[("sys/fs/selinux/enforce", enforce)]).examine(std::slice::from_ref(&place));
        assert_eq!(found("0").len(), 1);
        let remedy = found("1").pop().unwrap().remedy.unwrap();
        assert!(remedy.contains("semodule -i connshaper.pp") && remedy.contains("nis_enabled"), "{remedy}");
    }
}
