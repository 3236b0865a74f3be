//! The policy services that Postfix calls, as postconf(1) tells.

mod findings;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::process::Command;

use crate::net::address::Address;
use crate::policy::restriction_stage::RestrictionStage;

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

/// When smtpd goes through a list. `smtpd_delay_reject` puts the first three off.
fn stage_of(list: &str, delayed: bool) -> Option<RestrictionStage> {
    let stage = match list {
        "smtpd_relay_restrictions" => RestrictionStage::Rcpt,
        list => RestrictionStage::ALL.into_iter().find(|stage| stage.list() == list)?,
    };
    Some(if delayed && AT_RCPT[..3].contains(&list) { RestrictionStage::Rcpt } else { stage })
}

/// A place at which a service of Postfix asks, and about whom.
#[derive(Clone, Debug)]
pub struct ServiceCall {
    pub stage: RestrictionStage,
    pub list: String,
    pub text: String,
    /// `permit_sasl_authenticated` stands before it.
    pub after_logins: bool,
    /// An earlier restriction ends the list.
    pub shut: bool,
}

/// Whether smtpd looks up the names of clients.
const PEERNAME_LOOKUP: &str = "smtpd_peername_lookup";

/// The lists that smtpd goes through at RCPT TO; without `smtpd_delay_reject` the last two.
const AT_RCPT: [&str; 5] = [
    "smtpd_client_restrictions",
    "smtpd_helo_restrictions",
    "smtpd_sender_restrictions",
    "smtpd_relay_restrictions",
    "smtpd_recipient_restrictions",
];

/// Services on which users log in, by their name or port in master.cf.
const SUBMISSION: [&str; 5] = ["submission", "submissions", "smtps", "587", "465"];

/// Postfix's configuration as far as it concerns us: that of one instance.
#[derive(Clone, Debug, Default)]
pub struct Postfix {
    /// Its name or directory where there are several instances, else nothing.
    instance: String,
    /// The directories of further instances.
    others: Vec<String>,
    /// The user that smtpd runs as.
    pub mail_owner: String,
    queue_directory: String,
    /// Restriction lists by their name; those of a service in master.cf as `SERVICE: LIST`.
    lists: BTreeMap<String, String>,
    /// The networks that `permit_mynetworks` permits.
    mynetworks: String,
    /// The places that turn off the lookup of client names: main.cf, or services of master.cf.
    nameless: Vec<String>,
    /// The characters that begin the extension of an address.
    delimiters: String,
    /// The smtpd services of master.cf that are locked up in the queue directory.
    chrooted: BTreeSet<String>,
}

/// A `check_policy_service` with what belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Call {
    list: String,
    endpoint: String,
    /// All that stands after `check_policy_service`: another text is another policy connection.
    text: String,
    default_action: bool,
    /// The part of the list before it.
    before: String,
}

impl Call {
    /// Whether its list is that of a service on which users log in.
    fn is_of_submission(&self) -> bool {
        let service = self.list.split_once(": ").map_or("", |(service, _)| service);
        let name = service.split('/').next().unwrap_or_default();
        SUBMISSION.contains(&name.rsplit(':').next().unwrap_or_default())
    }
}

impl Postfix {
    /// Asks postconf(1).
    ///
    /// # Errors
    ///
    /// When it cannot be run.
    pub fn read_all() -> io::Result<Vec<Self>> {
        let mut first = Self::read(None)?;
        if first.others.is_empty() {
            first.instance = String::new();
        }
        let others: Vec<_> =
            first.others.iter().map(|directory| Self::read(Some(directory))).collect::<Result<_, _>>()?;
        Ok(std::iter::once(first).chain(others).collect())
    }

    /// One instance, by its configuration directory.
    fn read(directory: Option<&str>) -> io::Result<Self> {
        let ask = |arguments: &[&str]| {
            let directory = directory.map(|directory| ["-c", directory]);
            postconf(&[directory.as_ref().map_or(&[][..], |pair| &pair[..]), arguments].concat())
        };
        let text = ask(&["-x"])?;
        let mut postfix = Self::parse(&text);
        postfix.parse_services(&ask(&["-P", "-x"]).or_else(|_| ask(&["-P"]))?);
        postfix.parse_master(&ask(&["-M"])?, is_old(&text));
        if postfix.instance.is_empty() {
            let last = |directory: &str| directory.rsplit('/').next().unwrap_or_default().to_owned();
            postfix.instance = directory.map_or("postfix".to_owned(), last);
        }
        Ok(postfix)
    }

    pub(super) fn parse(text: &str) -> Self {
        let values: BTreeMap<&str, &str> = text.lines().filter_map(|line| line.split_once(" = ")).collect();
        let value = |name: &str| values.get(name).copied().unwrap_or_default().to_owned();
        let lists = LISTS.iter().map(|list| ((*list).to_owned(), value(list)));
        let lists = lists.collect();
        let (mail_owner, queue_directory) = (value("mail_owner"), value("queue_directory"));
        let nameless = if value(PEERNAME_LOOKUP) == "no" { vec!["main.cf".to_owned()] } else { Vec::new() };
        let others = value("multi_instance_directories");
        let others =
            others.split([',', ' ', '\t']).filter(|directory| !directory.is_empty()).map(str::to_owned).collect();
        let (instance, mynetworks, chrooted) = (value("multi_instance_name"), value("mynetworks"), BTreeSet::new());
        let delimiters = value("recipient_delimiter").trim().to_owned();
        Self { instance, others, mail_owner, queue_directory, lists, mynetworks, nameless, delimiters, chrooted }
    }

    /// Lines of master.cf: which services are locked up. `old`: they are unless it says otherwise.
    fn parse_master(&mut self, text: &str, old: bool) {
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [service, kind, _private, _unprivileged, chroot, _wakeup, _maxproc, "smtpd", ..] = words[..] else {
                continue;
            };
            if chroot == "y" || (chroot == "-" && old) {
                self.chrooted.insert(format!("{service}/{kind}"));
            }
        }
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
}

/// Whether the defaults are those before Postfix 3.0, where master.cf's services are locked up unless it says no.
fn is_old(text: &str) -> bool {
    let level = text.lines().find_map(|line| line.strip_prefix("compatibility_level = "));
    level.and_then(|level| level.trim().split('.').next()?.parse::<u32>().ok()).is_none_or(|level| level < 1)
}

impl Postfix {
    /// Every place at which main.cf, or a service of master.cf that changes it, asks.
    pub fn questions(&self) -> Vec<ServiceCall> {
        let mut questions = Vec::new();
        for service in self.services() {
            let delayed = self.list(service, "smtpd_delay_reject").is_none_or(|(_, value)| value != "no");
            for list in LISTS {
                let (Some(stage), Some((name, value))) = (stage_of(list, delayed), self.list(service, list)) else {
                    continue;
                };
                questions.extend(calls(name, value).into_iter().map(|call| ServiceCall {
                    stage,
                    after_logins: has_word(&call.before, &["permit_sasl_authenticated"]),
                    shut: has_word(&call.before, &["permit", "reject", "defer"]),
                    list: call.list,
                    text: call.text,
                }));
            }
        }
        questions
    }

    /// main.cf alone, as nothing, and the services of master.cf that change a list.
    fn services(&self) -> impl Iterator<Item = Option<&str>> {
        let named = self.lists.keys().filter_map(|list| Some(list.split_once(": ")?.0)).collect::<BTreeSet<_>>();
        named.into_iter().map(Some).chain([None])
    }

    /// A list as a service has it, with its name.
    fn list(&self, service: Option<&str>, list: &str) -> Option<(&String, &String)> {
        let own = service.and_then(|service| self.lists.get_key_value(&format!("{service}: {list}")));
        own.or_else(|| self.lists.get_key_value(list))
    }
}

fn postconf(arguments: &[&str]) -> io::Result<String> {
    // cron and su give a PATH without the folders of such programs.
    let places = ["postconf", "/usr/sbin/postconf", "/usr/local/sbin/postconf"].into_iter();
    let mut tries = places.map(|program| Command::new(program).args(arguments).output());
    let absent = |output: &io::Result<_>| matches!(output, Err(error) if error.kind() == io::ErrorKind::NotFound);
    let output = tries.find(|output| !absent(output)).unwrap_or_else(|| Err(io::ErrorKind::NotFound.into()))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
    }
}

/// Whether one of these words stands in a list.
fn has_word(list: &str, words: &[&str]) -> bool {
    list.split([',', ' ', '\t']).any(|word| words.contains(&word))
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
            before: before.to_owned(),
        });
        rest = after;
    }
    calls
}
