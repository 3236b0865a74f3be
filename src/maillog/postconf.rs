//! What the Postfix of this machine says about itself.

use std::net::IpAddr;
use std::path::Path;
use std::process::Command;

use ipnet::IpNet;

use super::sessions::Seen;

/// What it says, and what to tell about that.
#[derive(Debug, Default)]
pub struct Site {
    /// When it asks; `None` when there is no Postfix here.
    pub seen: Option<Seen>,
    /// `$mynetworks`.
    pub mynetworks: Option<Vec<IpNet>>,
    /// Parts of `$mynetworks` that only Postfix can look up.
    pub unread: Vec<String>,
}

impl Site {
    /// Asks postconf(1).
    pub fn ask() -> Self {
        let mut site = Self::default();
        // The service may differ from main.cf; behind postscreen it is another one.
        let of_service = ["smtpd/pass", "smtp/inet"]
            .iter()
            .find_map(|service| ask(&["-P", &format!("{service}/smtpd_delay_reject")]));
        if let Some(value) = of_service.or_else(|| ask(&["-x", "smtpd_delay_reject"])) {
            site.seen = Some(if value == "no" { Seen::Connect } else { Seen::Rcpt });
        }
        if let Some(value) = ask(&["-x", "mynetworks"]) {
            let mut networks = Vec::new();
            site.read(&value, &mut networks, true);
            site.mynetworks = Some(networks);
        }
        site
    }

    fn read(&mut self, value: &str, networks: &mut Vec<IpNet>, may_name_files: bool) {
        for word in value.split([' ', ',', '\t', '\n']).filter(|word| !word.is_empty()) {
            match netblock(word) {
                Some(network) => networks.push(network),
                None if may_name_files && word.starts_with('/') => match std::fs::read_to_string(Path::new(word)) {
                    Ok(text) => {
                        let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default());
                        lines.for_each(|line| self.read(line, networks, false));
                    }
                    Err(_) => self.unread.push(word.to_owned()),
                },
                None => self.unread.push(word.to_owned()),
            }
        }
    }
}

/// What postconf says of one parameter; `None` when it has nothing to say, or is not there.
fn ask(arguments: &[&str]) -> Option<String> {
    let output = Command::new("postconf").args(arguments).output().ok().filter(|output| output.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.split_once('=').map(|(_, value)| value.trim().to_owned())
}

/// A network as Postfix writes it: `192.0.2.0/24`, `[2001:db8::]/32`, or an address.
pub fn netblock(word: &str) -> Option<IpNet> {
    let plain = word.replace(['[', ']'], "");
    plain.parse().ok().or_else(|| plain.parse::<IpAddr>().ok().map(IpNet::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_read_as_postfix_writes_them() {
        let mut site = Site::default();
        let mut networks = Vec::new();
        site.read("127.0.0.0/8, [::1]/128 192.0.2.7\n!203.0.113.1 hash:/etc/nets /nowhere", &mut networks, true);
        let networks: Vec<_> = networks.iter().map(IpNet::to_string).collect();
        assert_eq!(networks, ["127.0.0.0/8", "::1/128", "192.0.2.7/32"]);
        assert_eq!(site.unread, ["!203.0.113.1", "hash:/etc/nets", "/nowhere"]);
    }
}
