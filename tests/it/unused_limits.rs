//! Limits that Postfix never asks about are found by the requests, and named with what to do about it.

use serde_json::{Value, json};

use crate::support::{Daemon, Dir, Dovecot, Postfix, Simulation, at, command, until};

/// Requests before anything is said.
const ENOUGH: u32 = 5000;

const LIMITS: &str = "
    threshold = 100000
    [limit.users]
    threshold = 10
    count = \"messages\"
    per = \"sasl_username\"
    [limit.volume]
    threshold = \"1MB\"
    count = \"bytes\"
    per = \"sender\"
    [limit.sent]
    threshold = 100
    count = \"recipients\"
    match = { protocol_state = \"DATA\" }
    [limit.unsent]
    threshold = 100000
    count = \"recipients\"
    count_unsent = false
    [limit.never]
    threshold = 10
    count = \"messages\"
    match = { protocol_state = \"CONNECT\" }
    [limit.rare]
    threshold = 10
    match = { helo_name = \"rare.example\" }
    ";

/// Sends that many requests at RCPT, of two sessions with many messages.
fn recipients(site: &mut Simulation, number: u32, lines: &str) {
    for message in 0..number {
        site.ask(0, &(at("192.0.2.1", 0, "RCPT", message) + "helo_name=mx.example\nsender=a@b.example\n" + lines));
    }
    site.housekeep();
}

fn said(site: &Simulation) -> Vec<String> {
    site.lines().into_iter().filter(|line| line.contains("DIAGNOSIS ")).collect()
}

#[test]
fn each_limit_that_no_request_fits_is_named_once_with_the_reason() {
    let mut site = Simulation::new(LIMITS);
    recipients(&mut site, ENOUGH - 1, "");
    assert_eq!(said(&site), [""; 0]);
    recipients(&mut site, 1, "");
    site.housekeep();
    let lines = said(&site);
    for expected in [
        "limit users never counts anything: it is about logins, and none of the last 5000 requests had one",
        "remedy=\"write check_policy_service before permit_sasl_authenticated where users log in\"",
        "limit volume never counts anything: it needs a request at END-OF-MESSAGE, and none of the last 5000 \
         requests was one",
        "remedy=\"write the same check_policy_service in smtpd_end_of_data_restrictions\"",
        "limit sent never counts anything: it needs a request at DATA, and none",
        "limit unsent keeps no counts: with count_unsent = false they are taken back",
        "limit never never counts anything: no request of Postfix has all that it needs",
        "remedy=\"change count, per or match of limit never\"",
        "limit rare has counted none of the last 5000 requests; for example: its condition on helo_name does not hold",
    ] {
        assert!(lines.iter().any(|line| line.contains(expected)), "{expected}: {lines:#?}");
    }
    assert_eq!(lines.len(), 6, "{lines:#?}");
    // A reload says nothing again of what is as before, and begins to count anew.
    site.reload(&LIMITS.replace("rare", "other"));
    recipients(&mut site, ENOUGH - 1, "");
    assert_eq!(said(&site).len(), 6);
    recipients(&mut site, 1, "");
    assert_eq!(said(&site).len(), 7, "{:#?}", said(&site));
}

#[test]
fn a_limit_that_counts_now_and_then_is_none_of_them() {
    let mut site = Simulation::new(LIMITS);
    recipients(&mut site, 1, "sasl_username=joe\n");
    for state in ["DATA", "END-OF-MESSAGE"] {
        let lines = "helo_name=rare.example\nsender=a@b.example\nrecipient_count=1\nsize=1\n";
        site.ask(1, &(at("192.0.2.2", 1, state, 0) + lines));
    }
    recipients(&mut site, 2 * ENOUGH, "");
    let lines = said(&site);
    assert!(lines.len() == 1 && lines[0].contains("limit never "), "{lines:#?}");
}

#[test]
fn status_says_of_a_real_postfix_that_logins_are_permitted_before() {
    let dir = Dir::new();
    let socket = dir.join("control");
    let limits = "[limit.users]\nthreshold = 10\ncount = \"recipients\"\nper = \"sasl_username\"\n[limit.volume]\n\
                  threshold = \"1MB\"\ncount = \"bytes\"\nper = \"sasl_username\"\n[limit.rare]\nthreshold = 10\n\
                  match = { client_name = \"rare.example\" }";
    let daemon = Daemon::start(&format!("control_socket = {socket:?}\nthreshold = 1000\nwhitelist = []\n{limits}"));
    let dovecot = Dovecot::start();
    let service = format!("check_policy_service {}", daemon.endpoint());
    let postfix = Postfix::start(&format!(
        "{}smtpd_recipient_restrictions = permit_sasl_authenticated, {service}\n\
         smtpd_end_of_data_restrictions = permit_sasl_authenticated, {service}\nsmtpd_recipient_limit = 5000\n",
        dovecot.main_cf()
    ));
    let mut user = postfix.client("127.0.0.2");
    user.login("joe@example.org");
    user.deliver(50);
    let mut stranger = postfix.client("127.0.0.3");
    stranger.ehlo();
    stranger.mail().expect(250);
    assert_eq!(stranger.rcpts(ENOUGH as usize).iter().filter(|code| **code == 250).count(), ENOUGH as usize);
    let users = "limit users never counts anything: it is about logins, and none of the last 5000 requests had one";
    daemon.lines().wait_for(users);
    let status = |words: &[&str]| {
        let output = command().arg("status").args(words).arg("--socket").arg(&socket).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    // A message at last, still without a login.
    stranger.data().expect(250);
    let why = until("a diagnosis of the end of messages", || {
        let answer: Value = serde_json::from_str(&status(&["--json"])).unwrap();
        let found = answer["diagnosis"].as_array().unwrap().iter().map(|one| one["problem"].as_str().unwrap());
        let found: Vec<String> = found.filter(|problem| problem.starts_with("limit ")).map(str::to_owned).collect();
        let has = |limit: &str| {
            found.iter().any(|one| one.starts_with(&format!("limit {limit} never counts anything: it is about logins")))
        };
        assert_eq!(answer["unused_limits"][0]["limit"], json!("rare"), "{answer:#}");
        (has("users") && has("volume")).then(|| answer["unused_limits"][0]["why"].clone())
    });
    assert!(why.as_str().unwrap().ends_with("; for example: its condition on client_name does not hold"), "{why}");
    let text = status(&[]);
    assert!(
        text.contains("warning: limit users never counts anything: it is about logins, and none of the last 5001 "),
        "{text}"
    );
    assert!(text.contains("rare has counted none of the last 5001 requests; for example: its"), "{text}");
    assert_eq!(daemon.lines().with("limit users never counts anything").len(), 1);
}
