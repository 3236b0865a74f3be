//! Finds a wrong set-up of Postfix from its requests, and says how to repair it.
//!
//! Looks at the first request of each session, and at those that repeat another. What is found is logged once, with the
//! lines of main.cf that repair it, and stands in the status as long as it is so.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard};

use strum::VariantArray;

use crate::net::lock;
use crate::observe::log::{Log, Severity};
use crate::policy::attribute::Attribute;
use crate::policy::request::{Request, Stage};
use crate::session::SessionLookup;

/// Sessions that are looked at before anything is logged. A few odd ones prove nothing.
pub const ENOUGH: u64 = 200;

/// HELO names of one address that make it the gateway of many hosts. Further ones are not kept.
const MANY_NAMES: usize = 20;

/// What can be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, VariantArray)]
pub enum SetupProblem {
    /// Sessions begin with DATA or END-OF-MESSAGE: Postfix asks nothing about most connections.
    WrongList,
    /// Postfix does not send the client's port.
    NoClientPort,
    /// Nearly all clients are one private address.
    OneClient,
    /// Half of the clients, with many HELO names, are one private address.
    Gateway,
    /// Loopback clients are asked about.
    TrustedClients,
    /// Sessions are asked about over two policy connections.
    AskedTwice,
    /// Each recipient is asked about twice over one policy connection.
    AskedAgain,
}

impl SetupProblem {
    /// What is wrong.
    pub fn problem(self) -> &'static str {
        match self {
            Self::WrongList => "Postfix asks only when a message comes, so most connections are not counted",
            Self::NoClientPort => "Postfix does not send client_port, so sessions can be mixed up",
            Self::OneClient => "nearly all clients have one private address, which is probably a proxy's",
            Self::Gateway => {
                "half of the clients or more have one private address and many HELO names: it is probably the gateway of a \
                 container network, or a proxy, behind which clients cannot be told apart"
            }
            Self::TrustedClients => "Postfix asks about connections from its own host",
            Self::AskedTwice => "Postfix asks about one session over two policy connections",
            Self::AskedAgain => "Postfix asks the same twice, from two restriction lists",
        }
    }

    /// What to do about it.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::WrongList => {
                "move check_policy_service from smtpd_data_restrictions or smtpd_end_of_data_restrictions to \
                 smtpd_client_restrictions"
            }
            Self::NoClientPort => "use Postfix 3.0 or later",
            Self::OneClient => {
                "have the proxy pass the client on: smtpd_authorized_xclient_hosts = PROXY, or \
                 smtpd_upstream_proxy_protocol = haproxy"
            }
            Self::Gateway => {
                "let Postfix see the clients: run its container in the network of the host, or put a proxy before it and \
                 set smtpd_upstream_proxy_protocol = haproxy"
            }
            Self::TrustedClients => "write permit_mynetworks before check_policy_service",
            Self::AskedTwice => "write the same text after check_policy_service in every list, braces included",
            Self::AskedAgain => {
                "keep check_policy_service in smtpd_client_restrictions and take it out of the other lists that Postfix \
                 asks at RCPT TO: smtpd_helo_restrictions, smtpd_sender_restrictions, smtpd_relay_restrictions, \
                 smtpd_recipient_restrictions"
            }
        }
    }
}

/// What was seen so far, and what it came to.
#[derive(Debug, Default)]
pub struct Diagnosis {
    state: Mutex<ObservedSetup>,
}

#[derive(Debug, Default)]
struct ObservedSetup {
    sessions: u64,
    late: u64,
    without_port: u64,
    loopback: u64,
    /// A private address that may be that of most clients, and its votes.
    candidate: Option<(IpAddr, u64)>,
    candidates: u64,
    /// Hashes of its HELO names.
    names: HashSet<u64>,
    hashes: RandomState,
    twice: u64,
    again: u64,
    /// What holds now, and what was logged already.
    found: Vec<SetupProblem>,
    said: Vec<SetupProblem>,
}

impl Diagnosis {
    /// A request that begins a session, is the first about it over another policy connection, or repeats another.
    pub fn observe(&self, client: IpAddr, request: &Request, lookup: SessionLookup) {
        if !lookup.new && !lookup.elsewhere && !lookup.repeated {
            return;
        }
        let mut seen = self.lock();
        if !lookup.new {
            seen.twice += u64::from(lookup.elsewhere);
            seen.again += u64::from(lookup.repeated);
            return;
        }
        seen.sessions += 1;
        seen.late += u64::from(matches!(request.state, Stage::Data | Stage::EndOfMessage));
        seen.without_port += u64::from(request.client_port == 0);
        seen.loopback += u64::from(client.is_loopback());
        seen.vote(client, request);
    }

    /// Draws conclusions, when enough sessions were seen, and logs what is new.
    pub fn conclude(&self, log: &Log) {
        let mut seen = self.lock();
        if seen.sessions < ENOUGH {
            return;
        }
        let found: Vec<SetupProblem> =
            SetupProblem::VARIANTS.iter().copied().filter(|finding| seen.shows(*finding)).collect();
        for finding in &found {
            if !seen.said.contains(finding) {
                seen.said.push(*finding);
                log.line(Severity::Warning, "DIAGNOSIS", |line| {
                    line.field("problem", finding.problem()).field("remedy", finding.remedy());
                });
            }
        }
        // The next conclusion is drawn from new sessions only.
        let said = std::mem::take(&mut seen.said);
        *seen = ObservedSetup { found, said, ..ObservedSetup::default() };
    }

    /// What holds, as far as is known.
    pub fn findings(&self) -> Vec<SetupProblem> {
        self.lock().found.clone()
    }

    fn lock(&self) -> MutexGuard<'_, ObservedSetup> {
        lock(&self.state)
    }
}

impl ObservedSetup {
    /// Majority vote: a client with more than half of all sessions is the candidate in the end.
    fn vote(&mut self, client: IpAddr, request: &Request) {
        let private = match client {
            IpAddr::V4(client) => client.is_private(),
            IpAddr::V6(client) => client.is_unique_local(),
        };
        match &mut self.candidate {
            Some((candidate, votes)) if *candidate == client => {
                *votes += 1;
                self.candidates += 1;
                self.note_name(request);
            }
            Some((_, votes)) if *votes > 0 => *votes -= 1,
            _ if private => {
                self.candidate = Some((client, 1));
                self.candidates = 1;
                self.names.clear();
                self.note_name(request);
            }
            _ => {}
        }
    }

    fn note_name(&mut self, request: &Request) {
        let name = request.value(Attribute::HeloName);
        if self.names.len() < MANY_NAMES && !name.is_empty() {
            self.names.insert(self.hashes.hash_one(name));
        }
    }

    fn shows(&self, finding: SetupProblem) -> bool {
        // Nineteen of twenty: there are always some that differ.
        let nearly_all = |number: u64| number * 20 >= self.sessions * 19;
        match finding {
            SetupProblem::WrongList => nearly_all(self.late),
            SetupProblem::NoClientPort => nearly_all(self.without_port),
            SetupProblem::OneClient => nearly_all(self.candidates),
            SetupProblem::Gateway => {
                self.candidates * 2 >= self.sessions
                    && self.names.len() >= MANY_NAMES
                    && !self.shows(SetupProblem::OneClient)
            }
            SetupProblem::TrustedClients => self.loopback * 10 >= self.sessions,
            SetupProblem::AskedTwice => self.twice * 2 >= self.sessions,
            // Hardly any client names a recipient twice in a row. Many are refused before they come to a second list.
            SetupProblem::AskedAgain => self.again * 2 >= self.sessions,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Display;

    use bytes::BytesMut;
    use tokio_util::codec::Decoder;

    use super::*;
    use crate::postfix::decoder::RequestDecoder;

    /// What the second request of a session is.
    #[derive(Clone, Copy, PartialEq, Eq)]
    enum Later {
        Usual,
        Elsewhere,
        Repeated,
    }

    /// What two hundred sessions with these attributes show.
    fn shown<T: Display>(session: impl Fn(u64) -> (String, T), later: Later) -> (Vec<SetupProblem>, usize) {
        let (diagnosis, log) = (Diagnosis::default(), Log::in_memory(Severity::Info));
        for _ in 0..2 {
            for number in 0..ENOUGH {
                let (client, attributes) = session(number);
                let text = format!("request=smtpd_access_policy\nclient_address={client}\n{attributes}\n");
                let request = RequestDecoder::default().decode(&mut BytesMut::from(text.as_str())).unwrap().unwrap();
                for new in [true, false] {
                    let (elsewhere, repeated) = (later == Later::Elsewhere, !new && later == Later::Repeated);
                    let lookup = SessionLookup { new, elsewhere, repeated };
                    diagnosis.observe(request.client.unwrap(), &request, lookup);
                }
            }
            diagnosis.conclude(&log);
        }
        (diagnosis.findings(), log.lines().len())
    }

    #[test]
    fn what_is_wrong_is_found_and_said_once() {
        let stranger = |number: u64| format!("198.51.{}.{}", number / 200, number % 200);
        const RCPT: &str = "protocol_state=RCPT\nclient_port=4711\n";
        assert_eq!(shown(|number| (stranger(number), RCPT), Later::Usual), (vec![], 0));
        let late = |number| (stranger(number), "protocol_state=END-OF-MESSAGE\nclient_port=4711\n");
        assert_eq!(shown(late, Later::Usual), (vec![SetupProblem::WrongList], 1));
        let old = |number| (stranger(number), "protocol_state=RCPT\n");
        assert_eq!(shown(old, Later::Usual), (vec![SetupProblem::NoClientPort], 1));
        assert_eq!(shown(|_| ("10.0.0.7".to_owned(), RCPT), Later::Usual), (vec![SetupProblem::OneClient], 1));
        let mixed = |number| (if number % 5 == 0 { "127.0.0.1".to_owned() } else { stranger(number) }, RCPT);
        assert_eq!(shown(mixed, Later::Usual), (vec![SetupProblem::TrustedClients], 1));
        assert_eq!(shown(|number| (stranger(number), RCPT), Later::Elsewhere), (vec![SetupProblem::AskedTwice], 1));
        assert_eq!(shown(|number| (stranger(number), RCPT), Later::Repeated), (vec![SetupProblem::AskedAgain], 1));
    }

    #[test]
    fn a_gateway_is_found_where_half_of_the_clients_come_from_it_with_many_names() {
        let mixed = |names: u64, of_ten: u64| {
            move |number: u64| {
                let is_masked = number % 10 < of_ten;
                let client = if is_masked { "172.17.0.1".to_owned() } else { format!("198.51.100.{number}") };
                let name = if is_masked { number % names } else { number };
                (client, format!("protocol_state=RCPT\nclient_port=4711\nhelo_name=host{name}.example.net\n"))
            }
        };
        assert_eq!(shown(mixed(100, 5), Later::Usual), (vec![SetupProblem::Gateway], 1));
        assert_eq!(shown(mixed(100, 8), Later::Usual), (vec![SetupProblem::Gateway], 1));
        assert_eq!(shown(mixed(100, 10), Later::Usual), (vec![SetupProblem::OneClient], 1));
        // A relay of the site says one name, or a few.
        assert_eq!(shown(mixed(3, 8), Later::Usual), (vec![], 0));
        assert_eq!(shown(mixed(100, 4), Later::Usual), (vec![], 0));
    }

    #[test]
    fn private_clients_that_differ_are_no_proxy() {
        let many = |number: u64| (format!("10.0.0.{}", number % 100), "protocol_state=RCPT\nclient_port=4711\n");
        assert_eq!(shown(many, Later::Usual), (vec![], 0));
    }
}
