//! Whether Postfix's restriction lists can ever ask what each limit counts.

use super::postfix::{Postfix, ServiceCall};
use crate::observe::finding::{Assessment, Finding, not_right, right, wrong};
use crate::policy::door::Door;
use crate::policy::limit::{self, CountKind, Limit};
use crate::policy::restriction_stage::{
    RestrictionStage, all_goes_back, change_limit, gives_all_back, needs_login, needs_stages, never_counts, stages,
};

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
    let (stages, login) = (stages(limit), needs_login(limit));
    let fits = |question: &&ServiceCall| !question.shut && stages.contains(&question.stage);
    let at_stage: Vec<&ServiceCall> = questions.iter().filter(fits).collect();
    if let Some(question) = at_stage.iter().find(|question| !login || !question.after_logins) {
        if gives_all_back(limit) && !at_stage.iter().any(|question| question.stage.is_late()) {
            let (what, remedy) = all_goes_back(limit);
            return not_right(dead, what, remedy);
        }
        let at_rcpt = |question: &ServiceCall| !question.shut && question.stage == RestrictionStage::Rcpt;
        if limit.needs_recipients() && !questions.iter().any(at_rcpt) {
            let what = format!(
                "limit {} does not count a message with several recipients: Postfix names them at RCPT only, where it \
                 does not ask",
                limit.name
            );
            let ServiceCall { text, .. } = question;
            let list = RestrictionStage::Rcpt.list();
            return wrong(what, format!("write check_policy_service {{ {text} }} in {list} too"));
        }
        return right(format!("limit {} is asked about at {} by {}", limit.name, question.stage.word(), question.list));
    }
    if let Some(ServiceCall { list, .. }) = at_stage.first() {
        let why = format!("it is about logins, and {list} has permit_sasl_authenticated before check_policy_service");
        let remedy = format!("write check_policy_service before permit_sasl_authenticated in {list}");
        return not_right(dead, never_counts(limit, why), remedy);
    }
    let Some(first) = stages.last() else {
        return not_right(dead, needs_stages(limit, &stages), change_limit(limit));
    };
    // A list that would do, behind whose end nothing is asked.
    let shut = questions.iter().find(|question| question.shut && stages.contains(&question.stage));
    if let Some(ServiceCall { list, .. }) = shut {
        let what = never_counts(limit, format_args!("{list} ends before check_policy_service"));
        return not_right(dead, what, format!("write check_policy_service before permit, reject and defer in {list}"));
    }
    let is_late = limit.counts == CountKind::Connections && questions.iter().any(|question| question.stage.is_late());
    let what = match is_late {
        true => format!("limit {} counts only clients that already had a recipient accepted", limit.name),
        false => needs_stages(limit, &stages),
    };
    let list = if is_late { RestrictionStage::Connect.list() } else { first.list() };
    let text = &questions[0].text;
    not_right(dead, what, format!("write check_policy_service {{ {text} }} in {list}"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;

    /// The finding about the limit of these lines, with these lists in main.cf.
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
        const SIZES: &str = "count = \"bytes\"\nper = \"recipient\"";
        const UNSENT: &str = "count = \"recipients\"\ncount_unsent = false";
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
            (UNSENT, format!("smtpd_recipient_restrictions = {service}"), "they are taken back"),
            (SIZES, format!("smtpd_end_of_data_restrictions = {service}"), "message with several recipients"),
            (
                SIZES,
                format!("smtpd_recipient_restrictions = {service}\nsmtpd_end_of_data_restrictions = {service}"),
                "right",
            ),
            (
                UNSENT,
                format!("smtpd_recipient_restrictions = {service}\nsmtpd_end_of_data_restrictions = {service}"),
                "right",
            ),
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
