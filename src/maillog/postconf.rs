//! What the Postfix of this machine says about itself.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use ipnet::IpNet;

use super::lines::event::says_submission;
use super::sessions::Seen;
use crate::net::netblock::{self, NetblockTable};

/// Directories of main.cf, as systems have it.
const CONFIG_DIRECTORIES: [&str; 3] = ["/etc/postfix", "/usr/local/etc/postfix", "/usr/pkg/etc/postfix"];

/// What Postfix says.
#[derive(Debug, Default)]
pub struct Site {
    /// When it asks; `None` when there is no Postfix here.
    pub seen: Option<Seen>,
    pub mynetworks: Option<MyNetworks>,
    /// Parts of `$mynetworks` that only Postfix can look up.
    pub unread: Vec<String>,
    /// The `syslog_name`s of services whose clients log in.
    pub submission: Vec<String>,
}

/// postconf(1) at work.
pub struct Asking {
    main: Option<Child>,
    services: Option<Child>,
}

impl Asking {
    /// Starts postconf(1), unless there is no main.cf: then it would sleep before it says so.
    pub fn start() -> Self {
        let directory = std::env::var_os("MAIL_CONFIG").map(PathBuf::from);
        let mut directories = CONFIG_DIRECTORIES.iter().map(PathBuf::from);
        let is_configured = match directory {
            Some(directory) => directory.join("main.cf").exists(),
            None => directories.any(|directory| directory.join("main.cf").exists()),
        };
        let start = |arguments: &[&str]| {
            let mut command = Command::new("postconf");
            command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
            if is_configured { command.spawn().ok() } else { None }
        };
        Self { main: start(&["-x", "smtpd_delay_reject", "mynetworks"]), services: start(&["-P"]) }
    }

    /// Waits for the answers.
    pub fn finish(self) -> Site {
        let mut site = Site::default();
        let text = |child: Option<Child>| child.and_then(answer).unwrap_or_default();
        let (main, services) = (text(self.main), text(self.services));
        site.read_services(&services);
        for (name, value) in main.lines().filter_map(|line| line.split_once('=')) {
            match name.trim() {
                "smtpd_delay_reject" => site.seen = site.seen.or(Some(stage(value))),
                "mynetworks" => {
                    let (networks, unread) = MyNetworks::parse(value);
                    (site.mynetworks, site.unread) = (Some(networks), unread);
                }
                _ => {}
            }
        }
        site
    }
}

fn answer(mut child: Child) -> Option<String> {
    let mut text = String::new();
    let read = child.stdout.take()?.read_to_string(&mut text);
    let status = child.wait().ok()?;
    (read.is_ok() && status.success()).then_some(text)
}

fn stage(value: &str) -> Seen {
    if value.trim() == "no" { Seen::Connect } else { Seen::Rcpt }
}

impl Site {
    /// Reads `service/type/parameter = value`, as `postconf -P` prints it.
    fn read_services(&mut self, text: &str) {
        let mut services: BTreeMap<&str, BTreeMap<&str, &str>> = BTreeMap::new();
        for line in text.lines() {
            if let Some((name, value)) = line.split_once('=')
                && let Some((service, parameter)) = name.trim().rsplit_once('/')
            {
                services.entry(service).or_default().insert(parameter, value.trim());
            }
        }
        // The service may differ from main.cf; behind postscreen it is another one.
        let of = |service: &str| services.get(service)?.get("smtpd_delay_reject").copied();
        self.seen = of("smtpd/pass").or_else(|| of("smtp/inet")).map(stage);
        for (service, parameters) in &services {
            let name = service.split('/').next().unwrap_or_default();
            // A service of an address has the port last.
            let port = name.rsplit(':').next().unwrap_or_default();
            let is_submission = says_submission(port.as_bytes())
                || parameters.get("smtpd_tls_wrappermode") == Some(&"yes")
                || parameters.iter().any(|(name, value)| name.ends_with("_restrictions") && takes_logins_only(value));
            if let Some(syslog_name) = parameters.get("syslog_name").filter(|_| is_submission) {
                let syslog_name = syslog_name.replace("${service_name}", name).replace("$service_name", name);
                self.submission.push(syslog_name);
            }
        }
    }
}

/// Whether restrictions end in a refusal of clients that have not logged in.
fn takes_logins_only(restrictions: &str) -> bool {
    let mut words = restrictions.split([' ', ',', '\t']).filter(|word| !word.is_empty());
    words.any(|word| word == "permit_sasl_authenticated") && words.next_back() == Some("reject")
}

/// `$mynetworks`: networks, each with `false` when it is an exception (`!192.0.2.1`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MyNetworks(Vec<(IpNet, bool)>);

impl MyNetworks {
    /// The addresses of this host.
    pub fn loopback() -> Self {
        Self::parse("127.0.0.0/8 [::1]/128").0
    }

    /// Reads the form of main.cf, with the files it names. Returns what it cannot read, too.
    pub fn parse(value: &str) -> (Self, Vec<String>) {
        let (mut networks, mut unread) = (Self::default(), Vec::new());
        networks.read(value, true, &mut unread);
        (networks, unread)
    }

    fn read(&mut self, value: &str, may_name_files: bool, unread: &mut Vec<String>) {
        for word in value.split([' ', ',', '\t', '\n', '\r']).filter(|word| !word.is_empty()) {
            let (network, is_member) = match word.strip_prefix('!') {
                Some(rest) => (rest, false),
                None => (word, true),
            };
            if let Some(network) = netblock(network) {
                self.0.push((network, is_member));
            } else if may_name_files
                && word.starts_with('/')
                && let Ok(text) = std::fs::read_to_string(Path::new(word))
            {
                let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default());
                lines.for_each(|line| self.read(line, false, unread));
            } else {
                unread.push(word.to_owned());
            }
        }
    }

    /// Postfix takes the first network that has the address; the table the longest. So a network
    /// within an earlier one is left out.
    pub fn table(&self) -> NetblockTable<bool> {
        let is_first = |at: usize, network: &IpNet| !self.0[..at].iter().any(|(earlier, _)| earlier.contains(network));
        let networks = self.0.iter().enumerate().filter(|(at, (network, _))| is_first(*at, network));
        networks.map(|(_, network)| *network).collect()
    }

    /// As main.cf has it.
    pub fn text(&self) -> String {
        let word = |(network, is_member): &(IpNet, bool)| format!("{}{network}", if *is_member { "" } else { "!" });
        self.0.iter().map(word).collect::<Vec<_>>().join(" ")
    }
}

/// A network as Postfix writes it: `192.0.2.0/24`, `[2001:db8::]/32`, or an address.
fn netblock(word: &str) -> Option<IpNet> {
    netblock::parse(&word.replace(['[', ']'], ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_read_as_postfix_writes_them() {
        let text = "127.0.0.0/8, [::1]/128 !192.0.2.7\n192.0.2.0/24 hash:/etc/nets /nowhere";
        let (networks, unread) = MyNetworks::parse(text);
        assert_eq!(networks.text(), "127.0.0.0/8 ::1/128 !192.0.2.7/32 192.0.2.0/24");
        assert_eq!(unread, ["hash:/etc/nets", "/nowhere"]);
        let table = networks.table();
        let is_member = |address: &str| table.lookup(address.parse().unwrap()).is_some_and(|(_, is_member)| *is_member);
        assert!(is_member("192.0.2.8") && is_member("::1"));
        assert!(!is_member("192.0.2.7") && !is_member("198.51.100.1"));
    }

    #[test]
    fn the_first_network_that_has_an_address_decides() {
        let table = MyNetworks::parse("192.0.2.0/24 !192.0.2.7").0.table();
        assert_eq!(table.lookup("192.0.2.7".parse().unwrap()).map(|(_, is_member)| *is_member), Some(true));
    }

    #[test]
    fn services_whose_clients_log_in_are_known_by_their_port_and_restrictions() {
        let mut site = Site::default();
        site.read_services(
            "smtp/inet/smtpd_delay_reject = no\nsubmission/inet/syslog_name = users\n\
             192.0.2.1:465/inet/syslog_name = postfix/$service_name\ninside/inet/syslog_name = postfix/inside\n\
             tls/inet/smtpd_tls_wrappermode = yes\ntls/inet/syslog_name = tls-$service_name\n\
             1587/inet/syslog_name = staff\n\
             1587/inet/smtpd_relay_restrictions = permit_mynetworks,permit_sasl_authenticated, reject\n\
             2525/inet/syslog_name = any\n2525/inet/smtpd_relay_restrictions = permit_sasl_authenticated,defer",
        );
        assert_eq!(site.submission, ["staff", "postfix/192.0.2.1:465", "users", "tls-tls"]);
        assert_eq!(site.seen, Some(Seen::Connect));
    }
}
