//! Whether Postfix's restriction lists can ever ask what each limit counts.

use super::postfix::{Postfix, RestrictionStage, ServiceCall};
use super::{Assessment, Finding, not_right, right};
use crate::policy::attribute::Attribute;
use crate::policy::conditions::{Condition, Test};
use crate::policy::door::Door;
use crate::policy::key::KeyField;
use crate::policy::limit::{self, CountKind, Limit};

/// A finding for each limit of Postfix's requests; nothing where Postfix asks nobody.
pub fn examine(limits: &[Limit], instances: &[&Postfix]) -> Vec<Finding> {
    let questions: Vec<ServiceCall> = instances.iter().flat_map(|instance| instance.questions()).collect();
    match questions.is_empty() {
        true => Vec::new(),
        false => limits
            .iter()
            .filter(|limit| limit.door == Door::Smtp)
            .map(|limit| judge(limit, &questions, dead(limit, limits)))
            .collect(),
    }
}

/// How bad it is that Postfix never asks about a limit. Every configuration has the limit at its top level, also that
/// of a site that only wants others.
fn dead(limit: &Limit, limits: &[Limit]) -> Assessment {
    match limit.name == limit::TOP && limits.len() > 1 {
        true => Assessment::Doubtful,
        false => Assessment::Wrong,
    }
}

fn judge(limit: &Limit, questions: &[ServiceCall], dead: Assessment) -> Finding {
    let Limit { name, .. } = limit;
    let (moments, login) = (moments(limit), needs_login(limit));
    let fits = |question: &&ServiceCall| !question.shut && moments.contains(&question.moment);
    let at_moment: Vec<&ServiceCall> = questions.iter().filter(fits).collect();
    if let Some(question) = at_moment.iter().find(|question| !login || !question.after_logins) {
        return right(format!("limit {name} is asked about at {} by {}", question.moment.word(), question.list));
    }
    if let Some(question) = at_moment.first() {
        return not_right(
            dead,
            format!(
                "limit {name} is never asked about: it is about logins, and {} has permit_sasl_authenticated before \
                 check_policy_service",
                question.list
            ),
            format!("write check_policy_service before permit_sasl_authenticated in {}", question.list),
        );
    }
    let words: Vec<_> = moments.iter().map(|moment| moment.word()).collect();
    let Some(first) = moments.last() else {
        let what = format!("limit {name} is never asked about: no request of Postfix has all that it needs");
        return not_right(dead, what, format!("change count, per or match of limit {name}"));
    };
    // A list that would do, behind whose end nothing is asked.
    let shut = questions.iter().find(|question| question.shut && moments.contains(&question.moment));
    if let Some(ServiceCall { list, .. }) = shut {
        return not_right(
            dead,
            format!("limit {name} is never asked about: {list} ends before check_policy_service"),
            format!("write check_policy_service before permit, reject and defer in {list}"),
        );
    }
    let is_late = limit.counts == CountKind::Connections && questions.iter().any(|question| question.moment.is_late());
    let what = match is_late {
        true => format!("limit {name} counts only clients that already had a recipient accepted"),
        false => format!("limit {name} is never asked about: it needs a request at {}", words.join(" or ")),
    };
    let list = if is_late { RestrictionStage::Connect.list() } else { first.list() };
    let text = &questions[0].text;
    not_right(dead, what, format!("write check_policy_service {{ {text} }} in {list}"))
}

/// When a request can say all that the limit needs.
fn moments(limit: &Limit) -> Vec<RestrictionStage> {
    let counted = |moment: &RestrictionStage| match limit.counts {
        CountKind::Connections => *moment != RestrictionStage::Etrn,
        CountKind::Bytes => *moment == RestrictionStage::EndOfData,
        CountKind::Messages | CountKind::Clients => moment.is_of_message(),
        CountKind::Recipients if limit.per.is_of_recipient() => *moment == RestrictionStage::Rcpt,
        CountKind::Recipients => moment.is_of_message(),
        _ => true,
    };
    let needed = attributes(limit);
    let known = |moment: &RestrictionStage| needed.iter().all(|attribute| is_known(*attribute, *moment));
    let all =
        RestrictionStage::ALL.into_iter().filter(counted).filter(known).filter(|moment| may_be_at(limit, *moment));
    let mut moments: Vec<_> = all.collect();
    // Most connections never come to DATA.
    if limit.counts == CountKind::Connections && moments.iter().any(|moment| !moment.is_late()) {
        moments.retain(|moment| !moment.is_late());
    }
    moments
}

fn needs_login(limit: &Limit) -> bool {
    attributes(limit).iter().any(|attribute| is_of_login(*attribute))
}

/// The attributes without which it never counts.
fn attributes(limit: &Limit) -> Vec<Attribute> {
    let has_value = |condition: &&Condition| condition.test != Test::Absent;
    let keys = limit.per.0.iter().filter_map(|field| match field {
        KeyField::Client => None,
        KeyField::Whole(attribute) | KeyField::MailDomain(attribute) | KeyField::HostDomain(attribute) => {
            Some(*attribute)
        }
    });
    keys.chain(limit.conditions.all.iter().filter(has_value).map(|condition| condition.attribute)).collect()
}

/// Whether Postfix can tell an attribute at that moment.
fn is_known(attribute: Attribute, moment: RestrictionStage) -> bool {
    match attribute {
        Attribute::HeloName => moment != RestrictionStage::Connect,
        Attribute::Sender | Attribute::Size => moment.is_of_message() || moment == RestrictionStage::Mail,
        Attribute::Recipient | Attribute::QueueId | Attribute::Instance => moment.is_of_message(),
        Attribute::RecipientCount => moment.is_late(),
        Attribute::EtrnDomain => moment == RestrictionStage::Etrn,
        attribute if is_of_login(attribute) => !matches!(moment, RestrictionStage::Connect | RestrictionStage::Helo),
        _ => true,
    }
}

fn is_of_login(attribute: Attribute) -> bool {
    matches!(attribute, Attribute::SaslUsername | Attribute::SaslMethod | Attribute::SaslSender)
}

/// Whether what it says of `protocol_state` allows that moment.
fn may_be_at(limit: &Limit, moment: RestrictionStage) -> bool {
    let of_state = |condition: &&Condition| condition.attribute == Attribute::ProtocolState;
    let holds = |condition: &Condition| moment.states().iter().any(|state| condition.test.holds(state.as_bytes()));
    let fails = |condition: &Condition| moment.states().iter().all(|state| condition.test.holds(state.as_bytes()));
    limit.conditions.all.iter().filter(of_state).all(holds) && !limit.conditions.none.iter().filter(of_state).any(fails)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;

    /// What is found about the limit of these lines, where these lists are in main.cf.
    fn found(limit: &str, lists: &str) -> Finding {
        let config = format!("threshold = 10\n[limit.own]\nthreshold = 5\n{limit}\n");
        let config = Config::parse(Path::new("connshaper.toml"), &config).unwrap();
        let findings = examine(&config.policy.limits, &[&Postfix::parse(lists)]);
        findings.into_iter().find(|finding| finding.what.starts_with("limit own")).unwrap()
    }

    #[test]
    fn a_limit_is_asked_about_where_a_request_has_all_that_it_needs() {
        let service = "check_policy_service inet:127.0.0.1:1";
        let login = "count = \"messages\"\nper = \"sasl_username\"";
        for (limit, lists, expected) in [
            ("", format!("smtpd_client_restrictions = {service}"), "right"),
            ("", format!("smtpd_data_restrictions = {service}"), "had a recipient accepted"),
            (login, format!("smtpd_client_restrictions = {service}"), "right"),
            (login, format!("smtpd_data_restrictions = permit_mynetworks, {service}"), "right"),
            (login, format!("smtpd_recipient_restrictions = permit_sasl_authenticated, {service}"), "about logins"),
            (login, format!("smtpd_recipient_restrictions = reject {service}"), "ends before check_policy_service"),
            // At MAIL FROM no message has its number yet.
            (
                login,
                format!("smtpd_delay_reject = no\nsmtpd_sender_restrictions = {service}"),
                "at RCPT or DATA or END",
            ),
            ("count = \"bytes\"", format!("smtpd_recipient_restrictions = {service}"), "a request at END-OF-MESSAGE"),
            ("count = \"bytes\"", format!("smtpd_end_of_data_restrictions = {service}"), "right"),
            ("match = { recipient_count = \">50\" }", format!("smtpd_data_restrictions = {service}"), "right"),
            (
                "count = \"recipients\"\nmatch = { protocol_state = \"DATA\" }",
                format!("smtpd_recipient_restrictions = {service}"),
                "needs a request at DATA",
            ),
            (
                "per = \"helo_name\"",
                format!("smtpd_delay_reject = no\nsmtpd_client_restrictions = {service}"),
                "at HELO",
            ),
        ] {
            let found = found(limit, &lists);
            let said = if found.state == Assessment::Right { "right" } else { &found.what };
            assert!(said.contains(expected), "{limit}, {lists}: {found:?}");
        }
        let remedy = found("count = \"bytes\"", &format!("smtpd_recipient_restrictions = {service}")).remedy.unwrap();
        assert_eq!(remedy, "write check_policy_service { inet:127.0.0.1:1 } in smtpd_end_of_data_restrictions");
    }
}
