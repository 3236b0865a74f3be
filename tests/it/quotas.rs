//! Quotas: limits on what each login, sender or recipient may send, with a real Postfix and real logins where those
//! play a part. The rest has a simulated clock.

use std::fs;
use std::path::Path;

use crate::support::{Daemon, Dovecot, Memcached, Postfix, Simulation, Smtp, at};

/// Webmail's address.
const HERE: &str = "127.0.0.1";

/// Runs a test on each kind of store.
fn on_both(rules: &str, story: impl Fn(&mut Simulation)) {
    story(&mut Simulation::new(rules));
    let memcached = Memcached::start();
    story(&mut Simulation::on(&memcached, rules));
}

/// A submission service that is asked at every recipient and at the end of a message, as the example says.
fn submission(daemon: &Daemon, dovecot: &Dovecot) -> Postfix {
    let endpoint = daemon.endpoint();
    Postfix::start(&format!(
        "{}smtpd_recipient_restrictions = check_policy_service {endpoint}\n\
         smtpd_end_of_data_restrictions = check_policy_service {endpoint}",
        dovecot.main_cf()
    ))
}

/// The example for submission services.
fn example() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/examples/submission.toml")).unwrap()
}

/// A session of this login.
fn logged_in(postfix: &Postfix, from: &str, user: &str) -> Smtp {
    let mut smtp = postfix.client(from);
    smtp.login(user);
    smtp
}

#[test]
fn webmail_on_a_whitelisted_host_is_limited_by_login() {
    let daemon = Daemon::start(&example());
    let dovecot = Dovecot::start();
    let postfix = submission(&daemon, &dovecot);
    let mut stolen = logged_in(&postfix, HERE, "stolen@example.org");
    stolen.mail().expect(250);
    let codes = stolen.rcpts(62);
    assert_eq!(codes.iter().filter(|code| **code == 250).count(), 60, "{codes:?}");
    let mut newsletter = logged_in(&postfix, HERE, "ann@example.org");
    newsletter.deliver(3);
}

#[test]
fn a_whitelist_exempts_from_limits_by_client_only_unless_they_say_otherwise() {
    let rules = "
        threshold = 1
        whitelist = [\"192.0.2.0/24\"]
        [limit.users]
        threshold = 2
        count = \"messages\"
        per = \"sasl_username\"
        [limit.trusted]
        threshold = 1
        count = \"messages\"
        per = [\"client\", \"sender\"]
        whitelist_exempts = true
        [limit.everyone]
        threshold = 3
        count = \"messages\"
        whitelist_exempts = false
        ";
    on_both(rules, |site| {
        let mut mail = |client: &str, user: &str| {
            site.session_with(client, &format!("sasl_username={user}\nsender=x@example.org\n"))
        };
        assert_eq!(mail("192.0.2.1", "joe"), "pass");
        assert_eq!(mail("192.0.2.1", "joe"), "pass");
        assert_eq!(mail("192.0.2.1", "joe"), "over users");
        assert_eq!(mail("192.0.2.1", "ann"), "over everyone");
        assert_eq!(mail("192.0.2.2", ""), "pass");
        assert_eq!(mail("198.51.100.7", ""), "pass");
        assert_eq!(mail("198.51.100.7", ""), "over connections");
    });
}

#[test]
fn a_whitelisted_session_stays_passed_when_a_reload_ends_its_exemption() {
    let mut site = Simulation::new(&rules_with_whitelist("\"192.0.2.1\""));
    let request = |message| at("192.0.2.1", 0, "RCPT", message) + "sasl_username=joe\n";
    assert_eq!(site.ask(0, &request(0)), "pass");
    site.reload(&rules_with_whitelist(""));
    assert_eq!(site.session("192.0.2.1"), "pass", "it was not counted");
    assert_eq!(site.session("192.0.2.1"), "over connections");
    assert_eq!(site.ask(0, &request(1)), "pass");
    assert_eq!(site.ask(0, &request(2)), "over users");
}

fn rules_with_whitelist(entries: &str) -> String {
    format!(
        "threshold = 1\nwhitelist = [{entries}]\n\
         [limit.users]\nthreshold = 2\ncount = \"messages\"\nper = \"sasl_username\""
    )
}
