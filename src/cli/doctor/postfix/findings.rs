//! Whether the calls of policy services in main.cf and master.cf are as they should be.

use std::net::{IpAddr, ToSocketAddrs};

use super::{AT_RCPT, Call, PEERNAME_LOOKUP, Postfix, calls};
use crate::net::address::Address;
use crate::observe::finding::{Finding, doubtful, right, wrong};

impl Postfix {
    /// Checks that Postfix looks up client names, which the lists have.
    pub fn examine_names(&self) -> Vec<Finding> {
        let finding = |place: &String| {
            let what = format!("{place} has {PEERNAME_LOOKUP} = no: names on whitelist and blacklist match no client");
            wrong(what, format!("remove {PEERNAME_LOOKUP} = no, or list addresses"))
        };
        self.nameless.iter().map(finding).collect()
    }

    /// Whether it takes the same addresses for one mailbox as we do, where that matters.
    pub fn examine_delimiters(&self, ours: &str) -> Option<Finding> {
        let theirs = self.delimiters.as_str();
        let lacks = |one: &str, other: &str| other.chars().any(|delimiter| !one.contains(delimiter));
        let has = |text: &str| if text.is_empty() { "none".to_owned() } else { format!("{text:?}") };
        let what = format!("recipient_delimiter is {} in main.cf and {} in connshaper.toml", has(theirs), has(ours));
        let differ = |because: &str| {
            let what = format!("{what}: {because}");
            let remedy = format!("set recipient_delimiter = {theirs:?} in connshaper.toml");
            Some(doubtful(what, remedy))
        };
        match (lacks(ours, theirs), lacks(theirs, ours)) {
            (false, false) => (!ours.is_empty()).then(|| right(what)),
            (true, _) => differ("each extension of an address has a count of its own"),
            (false, true) => differ("addresses that are several mailboxes to Postfix are counted as one"),
        }
    }

    /// Checks the calls of policy services.
    pub fn examine(&self) -> Vec<Finding> {
        let calls = self.calls();
        if calls.is_empty() {
            let remedy = "in main.cf: smtpd_client_restrictions = permit_mynetworks, check_policy_service \
                          { unix:private/connshaper, timeout=10s, default_action=DUNNO }";
            return vec![wrong("Postfix asks no policy service", remedy)];
        }
        let mut findings = Vec::new();
        for call in &calls {
            let Call { list, endpoint, .. } = call;
            findings.push(right(format!("{list} asks {endpoint}")));
            if !call.default_action {
                findings.push(doubtful(
                    format!("{list} has no default_action: without the daemon all mail is turned away with 451"),
                    format!("write check_policy_service {{ {endpoint}, timeout=10s, default_action=DUNNO }}"),
                ));
            }
            findings.extend(self.order(call));
        }
        findings.extend(self.asked_again());
        if calls.windows(2).any(|pair| pair[0].text != pair[1].text) {
            findings.push(doubtful(
                "Postfix asks at several places; where that is one daemon it holds a connection for each",
                "use one identical text in every list",
            ));
        }
        findings
    }

    /// Checks what stands before the service in its list.
    fn order(&self, call: &Call) -> Option<Finding> {
        let Call { list, text, before, .. } = call;
        let trusted = before.contains("permit_mynetworks");
        let write = |rest: &str| {
            format!("write {list_name} = check_policy_service {{ {text} }}, {rest}", list_name = name(list))
        };
        if !call.is_of_submission() {
            return (!trusted).then(|| {
                doubtful(
                    format!(
                        "{list} has no permit_mynetworks before it: the site's own hosts, {}, are counted",
                        self.mynetworks
                    ),
                    "write permit_mynetworks before check_policy_service",
                )
            });
        }
        if before.contains("permit_sasl_authenticated") {
            let what =
                format!("{list} has permit_sasl_authenticated before it: Postfix never asks about clients that log in");
            return Some(wrong(what, write("permit_sasl_authenticated, reject")));
        }
        trusted.then(|| {
            let what = format!(
                "{list} has permit_mynetworks before it: what users send from {}, by webmail for one, is never asked about",
                self.mynetworks
            );
            doubtful(what, write("permit_mynetworks, permit_sasl_authenticated, reject"))
        })
    }

    /// Whether smtpd can reach what it asks: from its chroot, and by the name of a host.
    pub fn examine_reach(&self) -> Vec<Finding> {
        let mut findings: Vec<Finding> = Vec::new();
        for call in self.calls() {
            let found = self.out_of_reach(&call).or_else(|| by_name(&call));
            findings.extend(found.filter(|found| !findings.contains(found)));
        }
        findings
    }

    /// A path that a service cannot open because it is locked up in the queue directory.
    fn out_of_reach(&self, call: &Call) -> Option<Finding> {
        let path = call.endpoint.strip_prefix("unix:").filter(|path| path.starts_with('/'))?;
        let locked_up = match call.list.split_once(": ") {
            Some((service, _)) => self.chrooted.contains(service),
            None => !self.chrooted.is_empty(),
        };
        if !locked_up {
            return None;
        }
        let Self { queue_directory: queue, .. } = self;
        let line = |path: &str| format!("check_policy_service {{ unix:{path}, timeout=10s, default_action=DUNNO }}");
        let inside = path.strip_prefix(queue.as_str()).and_then(|path| path.strip_prefix('/'));
        let remedy = match inside {
            Some(path) => format!("write {}", line(path)),
            None => format!(
                "have the daemon listen at unix:{queue}/private/connshaper, and write {}",
                line("private/connshaper")
            ),
        };
        let what = format!("{} asks unix:{path}, and smtpd is locked up in {queue}: it cannot open that", call.list);
        Some(wrong(what, remedy))
    }

    /// The same findings, of this instance where there are several.
    pub fn named(&self, findings: Vec<Finding>) -> Vec<Finding> {
        let name = |finding: Finding| match self.instance.as_str() {
            "" => finding,
            instance => Finding { what: format!("{instance}: {}", finding.what), ..finding },
        };
        findings.into_iter().map(name).collect()
    }

    /// Lists that ask the same service the same at RCPT TO, in main.cf and with what services of master.cf change.
    fn asked_again(&self) -> Vec<Finding> {
        let mut found = Vec::new();
        for service in self.services() {
            let list = |list: &str| self.list(service, list);
            let delayed = list("smtpd_delay_reject").is_none_or(|(_, value)| value != "no");
            let lists = if delayed { &AT_RCPT[..] } else { &AT_RCPT[3..] };
            let calls: Vec<Call> =
                lists.iter().filter_map(|name| list(name)).flat_map(|(name, value)| calls(name, value)).collect();
            for (at, call) in calls.iter().enumerate() {
                let Some(first) = calls[..at].iter().find(|first| first.text == call.text) else { continue };
                let finding = doubtful(
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

/// The parameter alone of `SERVICE: PARAMETER`.
fn name(list: &str) -> &str {
    list.split_once(": ").map_or(list, |(_, name)| name)
}

/// smtpd ends with a fatal error where it cannot resolve the name of a policy server.
fn by_name(call: &Call) -> Option<Finding> {
    let Address::Inet { host, port } = call.endpoint.parse().ok()? else { return None };
    if host.parse::<IpAddr>().is_ok() {
        return None;
    }
    let found = (host.as_str(), port).to_socket_addrs().ok().and_then(|mut found| found.next());
    let list = &call.list;
    match found {
        None => Some(wrong(
            format!("{list} asks {}, and {host} does not resolve: smtpd ends at every client", call.endpoint),
            format!("write an address, as in inet:192.0.2.1:{port}"),
        )),
        Some(_) if host == "localhost" => None,
        Some(found) => Some(doubtful(
            format!("{list} asks {}: smtpd ends at every client while {host} does not resolve", call.endpoint),
            format!("write inet:{found}"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::super::is_old;
    use super::*;
    use crate::observe::finding::Assessment;

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
        assert_eq!(states(&late), [Assessment::Right, Assessment::Doubtful, Assessment::Doubtful]);
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
    fn on_submission_the_service_comes_before_what_permits_users() {
        let of = |list: &str| {
            let mut postfix = Postfix { mynetworks: "127.0.0.0/8".to_owned(), ..Postfix::default() };
            postfix.parse_services(&format!("127.0.0.1:587/inet/smtpd_recipient_restrictions = {list}\n"));
            let found = postfix.examine();
            (found.len(), found.last().unwrap().state, found.last().unwrap().remedy.clone().unwrap_or_default())
        };
        let service = "check_policy_service { inet:127.0.0.1:1, default_action=DUNNO }";
        let (number, state, _) = of(&format!("{service}, permit_sasl_authenticated, reject"));
        assert_eq!((number, state), (1, Assessment::Right));
        let (_, state, remedy) = of(&format!("permit_sasl_authenticated, {service}, reject"));
        assert_eq!(state, Assessment::Wrong);
        assert_eq!(
            remedy,
            format!("write smtpd_recipient_restrictions = {service}, permit_sasl_authenticated, reject")
        );
        let (_, state, remedy) = of(&format!("permit_mynetworks, {service}, reject"));
        assert!(state == Assessment::Doubtful && remedy.contains(service), "{remedy}");
    }

    #[test]
    fn a_chroot_hides_paths_outside_of_it() {
        let of = |endpoint: &str, master: &str| {
            let mut postfix = postfix("smtpd_client_restrictions", &format!("check_policy_service {endpoint}"));
            postfix.parse_master(master, false);
            postfix.examine_reach().into_iter().map(|finding| finding.remedy.unwrap()).collect::<Vec<_>>().concat()
        };
        let (locked, free) =
            ("smtp inet n - y - - smtpd\n", "smtp inet n - n - - smtpd\npickup unix n - y 60 1 pickup\n");
        let write = "write check_policy_service { unix:private/connshaper, timeout=10s, default_action=DUNNO }";
        assert_eq!(of("unix:/var/spool/postfix/private/connshaper", locked), write);
        let elsewhere = of("unix:/run/connshaper/policy", locked);
        assert!(
            elsewhere.starts_with("have the daemon listen at unix:/var/spool/postfix/private/connshaper"),
            "{elsewhere}"
        );
        assert_eq!(of("unix:/run/connshaper/policy", free), "");
        assert_eq!(of("unix:private/connshaper", locked), "");
        assert!(is_old("compatibility_level = 0\n") && !is_old("compatibility_level = 3.6\n"));
    }

    #[test]
    fn a_policy_server_by_name_is_doubtful_and_wrong_where_it_does_not_resolve() {
        let of = |endpoint: &str| {
            let found =
                postfix("smtpd_client_restrictions", &format!("check_policy_service {endpoint}")).examine_reach();
            found.into_iter().map(|finding| (finding.state, finding.remedy.unwrap())).collect::<Vec<_>>()
        };
        assert_eq!(of("inet:127.0.0.1:10040"), []);
        assert_eq!(of("inet:localhost:10040"), []);
        let (state, remedy) = of("inet:connshaper.invalid:10040").pop().unwrap();
        assert_eq!((state, remedy.as_str()), (Assessment::Wrong, "write an address, as in inet:192.0.2.1:10040"));
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
