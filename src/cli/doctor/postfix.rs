//! What postconf(1) says of the way Postfix asks.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::process::Command;

use super::{Assessment, Finding, not_right, right};
use crate::net::address::Address;

/// The restriction lists in which a policy service may be named, in the order in which smtpd asks them.
const LISTS: [&str; 9] = [
    "smtpd_client_restrictions",
    "smtpd_helo_restrictions",
    "smtpd_sender_restrictions",
    "smtpd_relay_restrictions",
    "smtpd_recipient_restrictions",
    "smtpd_data_restrictions",
    "smtpd_end_of_data_restrictions",
    "smtpd_etrn_restrictions",
    "smtpd_delay_reject",
];

/// Whether smtpd looks up the names of clients.
const PEERNAME_LOOKUP: &str = "smtpd_peername_lookup";

/// Those of them that smtpd goes through at RCPT TO; without `smtpd_delay_reject` the last two.
const AT_RCPT: [&str; 5] = [
    "smtpd_client_restrictions",
    "smtpd_helo_restrictions",
    "smtpd_sender_restrictions",
    "smtpd_relay_restrictions",
    "smtpd_recipient_restrictions",
];

/// Postfix's configuration as far as it concerns us.
#[derive(Clone, Debug, Default)]
pub struct Postfix {
    /// Whom smtpd runs as.
    pub mail_owner: String,
    queue_directory: String,
    /// Restriction lists by their name; those of a service in master.cf as `SERVICE: LIST`.
    lists: BTreeMap<String, String>,
    /// Whom `permit_mynetworks` permits.
    mynetworks: String,
    /// Where names of clients are not looked up: main.cf, or services of master.cf.
    nameless: Vec<String>,
}

/// A `check_policy_service` with what belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Call {
    list: String,
    endpoint: String,
    /// All that stands after `check_policy_service`: another text is another policy connection.
    text: String,
    default_action: bool,
    trusted_before: bool,
}

impl Postfix {
    /// Asks postconf(1).
    ///
    /// # Errors
    ///
    /// When it cannot be run.
    pub fn read() -> io::Result<Self> {
        let mut postfix = Self::parse(&postconf(&["-x"])?);
        postfix.parse_services(&postconf(&["-P", "-x"]).or_else(|_| postconf(&["-P"]))?);
        Ok(postfix)
    }

    fn parse(text: &str) -> Self {
        let values: BTreeMap<&str, &str> = text.lines().filter_map(|line| line.split_once(" = ")).collect();
        let value = |name: &str| values.get(name).copied().unwrap_or_default().to_owned();
        let lists = LISTS.iter().map(|list| ((*list).to_owned(), value(list)));
        let lists = lists.collect();
        let (mail_owner, queue_directory) = (value("mail_owner"), value("queue_directory"));
        let nameless = if value(PEERNAME_LOOKUP) == "no" { vec!["main.cf".to_owned()] } else { Vec::new() };
        Self { mail_owner, queue_directory, lists, mynetworks: value("mynetworks"), nameless }
    }

    /// Lines of `SERVICE/TYPE/PARAMETER = VALUE`.
    fn parse_services(&mut self, text: &str) {
        for (name, value) in text.lines().filter_map(|line| line.split_once(" = ")) {
            let mut parts = name.rsplitn(2, '/');
            let (Some(parameter), Some(service)) = (parts.next(), parts.next()) else { continue };
            if LISTS.contains(&parameter) {
                self.lists.insert(format!("{service}: {parameter}"), value.to_owned());
            }
            if parameter == PEERNAME_LOOKUP && value == "no" {
                self.nameless.push(service.to_owned());
            }
        }
    }

    fn calls(&self) -> Vec<Call> {
        self.lists.iter().flat_map(|(list, value)| calls(list, value)).collect()
    }

    /// Every place that Postfix asks at, as we write it.
    pub fn endpoints(&self) -> Vec<Address> {
        let mut endpoints = Vec::new();
        for call in self.calls() {
            let text = match call.endpoint.strip_prefix("unix:") {
                Some(path) if !path.starts_with('/') => format!("unix:{}/{path}", self.queue_directory),
                _ => call.endpoint,
            };
            endpoints.extend(text.parse::<Address>().ok().filter(|address| !endpoints.contains(address)));
        }
        endpoints
    }

    /// Where Postfix does not look up the names that the lists have.
    pub fn examine_names(&self) -> Vec<Finding> {
        let finding = |place: &String| {
            let what = format!("{place} has {PEERNAME_LOOKUP} = no: names on whitelist and blacklist match no client");
            not_right(Assessment::Wrong, what, format!("remove {PEERNAME_LOOKUP} = no, or list addresses"))
        };
        self.nameless.iter().map(finding).collect()
    }

    /// What is right and wrong about it.
    pub fn examine(&self) -> Vec<Finding> {
        let calls = self.calls();
        if calls.is_empty() {
            let remedy = "in main.cf: smtpd_client_restrictions = permit_mynetworks, check_policy_service \
                          { unix:private/connshaper, timeout=10s, default_action=DUNNO }";
            return vec![not_right(Assessment::Wrong, "Postfix asks no policy service", remedy)];
        }
        let mut findings = Vec::new();
        for call in &calls {
            let Call { list, endpoint, .. } = call;
            let late =
                ["smtpd_data_restrictions", "smtpd_end_of_data_restrictions"].iter().any(|late| list.ends_with(late));
            findings.push(match late {
                true => not_right(
                    Assessment::Wrong,
                    format!("{list} asks {endpoint}: only clients that already had a recipient accepted are counted"),
                    "move check_policy_service to smtpd_client_restrictions",
                ),
                false => right(format!("{list} asks {endpoint}")),
            });
            if !call.default_action {
                findings.push(not_right(
                    Assessment::Doubtful,
                    format!("{list} has no default_action: without the daemon all mail is turned away with 451"),
                    format!("write check_policy_service {{ {endpoint}, timeout=10s, default_action=DUNNO }}"),
                ));
            }
            if !call.trusted_before {
                findings.push(not_right(
                    Assessment::Doubtful,
                    format!(
                        "{list} has no permit_mynetworks before it: the site's own hosts, {}, are counted",
                        self.mynetworks
                    ),
                    "write permit_mynetworks before check_policy_service",
                ));
            }
        }
        findings.extend(self.asked_again());
        if calls.windows(2).any(|pair| pair[0].text != pair[1].text) {
            findings.push(not_right(
                Assessment::Doubtful,
                "Postfix asks at several places; where that is one daemon it holds a connection for each",
                "use one identical text in every list",
            ));
        }
        findings
    }
}

impl Postfix {
    /// Lists that ask the same service the same at RCPT TO, in main.cf and with what services of master.cf change.
    fn asked_again(&self) -> Vec<Finding> {
        let services = self.lists.keys().filter_map(|list| Some(list.split_once(": ")?.0)).collect::<BTreeSet<_>>();
        let mut found = Vec::new();
        for service in services.into_iter().map(Some).chain([None]) {
            let named = |list: &str| match service {
                Some(service) => self.lists.get_key_value(&format!("{service}: {list}")),
                None => None,
            };
            let list = |list: &str| named(list).or_else(|| self.lists.get_key_value(list));
            let delayed = list("smtpd_delay_reject").is_none_or(|(_, value)| value != "no");
            let lists = if delayed { &AT_RCPT[..] } else { &AT_RCPT[3..] };
            let calls: Vec<Call> =
                lists.iter().filter_map(|name| list(name)).flat_map(|(name, value)| calls(name, value)).collect();
            for (at, call) in calls.iter().enumerate() {
                let Some(first) = calls[..at].iter().find(|first| first.text == call.text) else { continue };
                let finding = not_right(
                    Assessment::Doubtful,
                    format!("{} and {} ask {} the same, at each RCPT TO", first.list, call.list, call.endpoint),
                    format!("take check_policy_service out of {}", call.list),
                );
                if !found.contains(&finding) {
                    found.push(finding);
                }
            }
        }
        found
    }
}

fn postconf(arguments: &[&str]) -> io::Result<String> {
    let output = Command::new("postconf").args(arguments).output()?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
    }
}

/// The calls of policy services in a list.
fn calls(list: &str, value: &str) -> Vec<Call> {
    let mut calls = Vec::new();
    let mut rest = value;
    while let Some(at) = rest.find("check_policy_service") {
        let before = &value[..value.len() - rest.len() + at];
        let after = rest[at + "check_policy_service".len()..].trim_start();
        let (service, after) = match after.strip_prefix('{') {
            Some(braced) => braced.split_once('}').unwrap_or((braced, "")),
            None => after.split_at(after.find([',', ' ', '\t']).unwrap_or(after.len())),
        };
        let words: Vec<&str> = service.split([',', ' ', '\t']).filter(|word| !word.is_empty()).collect();
        calls.push(Call {
            list: list.to_owned(),
            endpoint: words.first().copied().unwrap_or_default().to_owned(),
            text: service.trim().to_owned(),
            default_action: service.replace(' ', "").contains("default_action="),
            trusted_before: before.contains("permit_mynetworks"),
        });
        rest = after;
    }
    calls
}

#[cfg(test)]
mod tests {
    use super::*;

    fn postfix(list: &str, value: &str) -> Postfix {
        Postfix::parse(&format!("mail_owner = postfix\nqueue_directory = /var/spool/postfix\n{list} = {value}\n"))
    }

    fn states(postfix: &Postfix) -> Vec<Assessment> {
        postfix.examine().iter().map(|finding| finding.state).collect()
    }

    #[test]
    fn the_lines_of_the_readme_are_right() {
        let value = "permit_mynetworks, permit_sasl_authenticated, check_policy_service { unix:private/connshaper, timeout=10s, default_action=DUNNO }, reject";
        let postfix = postfix("smtpd_client_restrictions", value);
        assert_eq!(states(&postfix), [Assessment::Right]);
        assert_eq!(postfix.endpoints(), ["unix:/var/spool/postfix/private/connshaper".parse().unwrap()]);
    }

    #[test]
    fn what_is_missing_or_misplaced_is_found() {
        assert_eq!(states(&Postfix::default()), [Assessment::Wrong]);
        let late = postfix("smtpd_data_restrictions", "check_policy_service inet:127.0.0.1:10040");
        assert_eq!(states(&late), [Assessment::Wrong, Assessment::Doubtful, Assessment::Doubtful]);
        assert_eq!(late.endpoints(), ["inet:127.0.0.1:10040".parse().unwrap()]);
    }

    #[test]
    fn a_service_of_master_cf_has_lists_of_its_own() {
        let mut postfix = Postfix::default();
        postfix.parse_services(
            "smtp/inet/smtpd_client_restrictions = permit_mynetworks, check_policy_service { inet:[::1]:10040, default_action = DUNNO }\n\
             smtp/inet/syslog_name = x\n",
        );
        assert_eq!(postfix.examine()[0].what, "smtp/inet: smtpd_client_restrictions asks inet:[::1]:10040");
        assert_eq!(states(&postfix), [Assessment::Right]);
    }

    #[test]
    fn lists_that_ask_the_same_at_one_stage_are_found_whoever_names_them() {
        let call = "permit_mynetworks, check_policy_service {inet:a:1, default_action=DUNNO}";
        let main_cf = |delay_reject: &str, second: &str| {
            let mut postfix = postfix("smtpd_recipient_restrictions", call);
            postfix.parse_services(&format!("smtp/inet/{second} = {call}\n"));
            postfix.lists.insert("smtpd_delay_reject".to_owned(), delay_reject.to_owned());
            let again = postfix.asked_again().into_iter().map(|finding| finding.what).collect::<Vec<_>>();
            again.concat()
        };
        let again = "smtp/inet: smtpd_client_restrictions and smtpd_recipient_restrictions ask inet:a:1 the same, at each RCPT TO";
        assert_eq!(main_cf("yes", "smtpd_client_restrictions"), again);
        // At CONNECT, at DATA, and in place of the other.
        assert_eq!(main_cf("no", "smtpd_client_restrictions"), "");
        assert_eq!(main_cf("yes", "smtpd_data_restrictions"), "");
        assert_eq!(main_cf("yes", "smtpd_recipient_restrictions"), "");
        assert!(main_cf("no", "smtpd_relay_restrictions").starts_with("smtp/inet: smtpd_relay_restrictions and "));
    }

    #[test]
    fn names_that_are_not_looked_up_are_found_in_main_cf_and_in_services() {
        let mut postfix = Postfix::parse("smtpd_peername_lookup = yes\n");
        assert!(postfix.examine_names().is_empty());
        postfix.parse_services("submission/inet/smtpd_peername_lookup = no\nsmtps/inet/smtpd_peername_lookup = yes\n");
        let found = postfix.examine_names();
        assert_eq!((found.len(), found[0].state), (1, Assessment::Wrong));
        assert!(
            found[0].what.starts_with("submission/inet has smtpd_peername_lookup = no: names on"),
            "{}",
            found[0].what
        );
        assert!(Postfix::parse("smtpd_peername_lookup = no\n").examine_names()[0].what.starts_with("main.cf has"));
    }

    #[test]
    fn trusted_networks_must_be_permitted_before_the_service_is_asked() {
        let after = "check_policy_service { inet:a:1, default_action=DUNNO }, permit_mynetworks";
        let mut postfix = postfix("smtpd_client_restrictions", after);
        postfix.mynetworks = "127.0.0.0/8 192.168.0.0/16".to_owned();
        let what = &postfix.examine()[1].what;
        assert!(what.ends_with("the site's own hosts, 127.0.0.0/8 192.168.0.0/16, are counted"), "{what}");
    }

    #[test]
    fn different_texts_for_one_daemon_are_doubtful() {
        let mut postfix = postfix(
            "smtpd_client_restrictions",
            "permit_mynetworks check_policy_service {inet:a:1,default_action=DUNNO}",
        );
        postfix.parse_services("smtp/inet/smtpd_recipient_restrictions = permit_mynetworks, check_policy_service {inet:b:1, default_action=DUNNO}\n");
        assert_eq!(states(&postfix), [Assessment::Right, Assessment::Right, Assessment::Doubtful]);
    }
}
