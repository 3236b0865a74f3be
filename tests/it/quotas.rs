//! Quotas: limits on what each login, sender or recipient may send, with a real Postfix and real logins where those
//! play a part. The rest has a simulated clock.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use crate::support::{Daemon, Dovecot, Memcached, Postfix, Redis, Simulation, Smtp, Sqlite, at};

/// Webmail's address.
const HERE: &str = "127.0.0.1";

/// Runs a test on each kind of store.
fn on_both(rules: &str, story: impl Fn(&mut Simulation)) {
    story(&mut Simulation::new(rules));
    let memcached = Memcached::start();
    story(&mut Simulation::on(&memcached, rules));
}

/// The same on all four of them.
fn on_all(rules: &str, story: impl Fn(&mut Simulation)) {
    on_both(rules, &story);
    story(&mut Simulation::on_redis(&Redis::start(), rules));
    story(&mut Simulation::on_sqlite(&Sqlite::new(), rules));
}

/// A submission service that is asked at every recipient and at the end of a message, as the example says.
fn submission(daemon: &Daemon, dovecot: &Dovecot) -> Postfix {
    submission_with(daemon, dovecot, "")
}

/// The same with these lines of main.cf. One smtpd serves all sessions, one after the other.
fn submission_with(daemon: &Daemon, dovecot: &Dovecot, main_cf: &str) -> Postfix {
    let endpoint = daemon.endpoint();
    let lists = format!(
        "smtpd_recipient_restrictions = check_policy_service {endpoint}\n\
         smtpd_end_of_data_restrictions = check_policy_service {endpoint}\n"
    );
    Postfix::setup().main_cf(&(dovecot.main_cf() + main_cf + &lists)).one_smtpd().start()
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
    drop(stolen);
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

/// main.cf lines for a Postfix that lets a client be refused as often as it likes.
const PATIENT: &str = "smtpd_error_sleep_time = 0\nsmtpd_hard_error_limit = 5000\nsmtpd_soft_error_limit = 5000\n\
                       smtpd_recipient_limit = 5000\n";

#[test]
fn one_mail_to_many_recipients_is_no_ban() {
    let daemon = Daemon::start(&example());
    let dovecot = Dovecot::start();
    let postfix = submission_with(&daemon, &dovecot, PATIENT);
    let mut smtp = logged_in(&postfix, "127.0.0.2", "ann@example.org");
    smtp.mail().expect(250);
    let codes = smtp.rcpts(1010);
    assert_eq!(codes.iter().filter(|code| **code == 250).count(), 60);
    smtp.command("RSET").expect(250);
    smtp.deliver(60);
    smtp.mail().expect(250);
    smtp.rcpt().expect(450);
    assert_eq!(daemon.lines().with("BAN "), [""; 0]);
}

#[test]
fn recipients_of_mail_that_was_not_sent_do_not_count() {
    let daemon = Daemon::start(&example());
    let dovecot = Dovecot::start();
    let postfix = submission_with(&daemon, &dovecot, PATIENT);
    let mut smtp = logged_in(&postfix, "127.0.0.2", "ann@example.org");
    smtp.mail().expect(250);
    assert_eq!(smtp.rcpts(61).pop(), Some(450));
    smtp.command("RSET").expect(250);
    smtp.deliver(1);
    // A client that just goes away.
    smtp.mail().expect(250);
    assert_eq!(smtp.rcpts(60).pop(), Some(450));
    drop(smtp);
    let mut smtp = logged_in(&postfix, "127.0.0.2", "ann@example.org");
    smtp.deliver(59);
    smtp.mail().expect(250);
    smtp.rcpt().expect(450);
}

#[test]
fn recipients_that_postfix_refuses_after_us_do_not_count() {
    let daemon = Daemon::start(&recipients(7, ""));
    let dovecot = Dovecot::start();
    let endpoint = daemon.endpoint();
    let unknown = "check_recipient_access regexp:{{/^recipient[2-7]@/ 550 5.1.1 unknown}}";
    let postfix = Postfix::start(&format!(
        "{}smtpd_recipient_restrictions = check_policy_service {endpoint}, {unknown}\n\
         smtpd_data_restrictions = check_policy_service {endpoint}",
        dovecot.main_cf()
    ));
    let mut smtp = logged_in(&postfix, "127.0.0.2", "ann@example.org");
    for _ in 0..7 {
        smtp.mail().expect(250);
        assert_eq!(smtp.rcpts(7), [250, 550, 550, 550, 550, 550, 550]);
        smtp.data().expect(250);
    }
    smtp.mail().expect(250);
    smtp.rcpt().expect(450);
}

/// A mail of a login in a session of its own: how many of these recipients pass, and whether DATA does where Postfix
/// asks there and any recipient is left. `refused`: so many of those that pass are refused by Postfix itself.
fn send(site: &mut Simulation, connection: usize, message: u32, recipients: u32, refused: u32) -> (u32, String) {
    let passed = name(site, connection, message, recipients);
    (passed, data(site, connection, message, passed - refused))
}

/// Names that many recipients of a message, and returns how many pass.
fn name(site: &mut Simulation, connection: usize, message: u32, recipients: u32) -> u32 {
    let request = at("192.0.2.1", connection, "RCPT", message) + "sasl_username=joe\n";
    let ask = |n| site.ask(connection, &format!("{request}recipient=r{n}@example.org\n"));
    (0..recipients).map(ask).filter(|answer| answer == "pass").count() as u32
}

/// The answer at DATA.
fn data(site: &mut Simulation, connection: usize, message: u32, recipients: u32) -> String {
    let request = at("192.0.2.1", connection, "DATA", message) + "sasl_username=joe\n";
    site.ask(connection, &format!("{request}recipient_count={recipients}\n"))
}

fn passes(recipients: u32) -> (u32, String) {
    (recipients, "pass".to_owned())
}

/// A limit of so many recipients of a login in ten minutes.
fn recipients(threshold: u32, keys: &str) -> String {
    format!(
        "threshold = 1000\n[limit.users]\nthreshold = {threshold}\nexptime = \"10m\"\n\
         count = \"recipients\"\nper = \"sasl_username\"\n{keys}\n"
    )
}

#[test]
fn a_message_is_one_violation_however_many_of_its_recipients_are_refused() {
    let rules = recipients(3, "count_unsent = false\nban_time = \"1h\"\nban_threshold = 2");
    on_both(&rules, |site| {
        assert_eq!(send(site, 0, 0, 100, 0), passes(3));
        let request = |message| at("192.0.2.1", 0, "RCPT", message) + "sasl_username=joe\nrecipient=x@example.org\n";
        assert_eq!(site.ask(0, &request(1)), "over users");
        assert_eq!(site.ask(0, &request(2)), "banned users");
    });
}

#[test]
fn a_recipient_that_another_limit_refuses_uses_up_nothing() {
    let rules = recipients(3, "")
        + "[limit.daily]\nthreshold = 10\ncount = \"recipients\"\nper = \"sasl_username\"\nexptime = \"1d\"\n\
           ban_time = 60\n[limit.domains]\nthreshold = 1\ncount = \"messages\"\nper = \"recipient_domain\"";
    on_both(&rules, |site| {
        assert_eq!(name(site, 0, 0, 100), 3);
        let request = at("192.0.2.1", 0, "RCPT", 0) + "sasl_username=joe\nrecipient=x@example.net\n";
        assert_eq!(site.ask(0, &request), "over users");
        // Of the ten recipients of a day seven are left, and example.net had none.
        let request = at("192.0.2.2", 1, "RCPT", 0) + "sasl_username=\nrecipient=x@example.net\n";
        assert_eq!(site.ask(1, &request), "pass");
        let request = |message, n| {
            let lines = format!("sasl_username=joe\nrecipient=y{n}@example.com\npolicy_context=other\n");
            at("192.0.2.1", 0, "RCPT", message) + &lines
        };
        site.reload(&rules.replace("threshold = 3\n", "threshold = 1000\n"));
        let answers: Vec<String> = (0..8).map(|n| site.ask(0, &request(1, n))).collect();
        assert_eq!(answers, [vec!["pass"; 7], vec!["over daily"]].concat());
    });
}

#[test]
fn recipients_that_a_message_does_not_go_to_do_not_count() {
    on_both(&recipients(6, ""), |site| {
        // Postfix refused 3 of these 4 after us.
        assert_eq!(send(site, 0, 0, 4, 3), passes(4));
        assert_eq!(send(site, 0, 1, 7, 4), passes(5));
        // Four of six are left, and a client gives up.
        assert_eq!(name(site, 0, 2, 5), 4);
        assert_eq!(name(site, 0, 3, 5), 4);
        assert_eq!(send(site, 0, 4, 4, 0), passes(4));
        assert_eq!(name(site, 0, 5, 1), 0, "all are used up");
    });
}

#[test]
fn what_passes_when_postfix_says_it_goes_on_is_known_by_the_last_it_asks() {
    let end = |site: &mut Simulation, connection, message, recipients| {
        let request = at("192.0.2.1", connection, "END-OF-MESSAGE", message) + "sasl_username=joe\nsize=1\n";
        site.ask(connection, &format!("{request}recipient_count={recipients}\n"))
    };
    on_both(&recipients(6, ""), |site| {
        assert_eq!(send(site, 0, 0, 1, 0), passes(1));
        assert_eq!(end(site, 0, 0, 1), "pass");
        // Postfix refuses a message after its data, and we are not asked at its end.
        assert_eq!(send(site, 0, 1, 5, 0), passes(5));
        assert_eq!(send(site, 0, 2, 5, 0), passes(5));
        assert_eq!(end(site, 0, 2, 5), "pass");
        assert_eq!(name(site, 0, 3, 1), 0);
    });
}

#[test]
fn a_message_ends_with_its_session_its_policy_connection_or_after_long_silence() {
    let rules = recipients(5, "count_unsent = false");
    on_both(&rules, |site| {
        assert_eq!(name(site, 0, 0, 5), 5);
        // Another client comes to the same smtpd.
        site.ask(0, &at("192.0.2.9", 100, "RCPT", 0));
        assert_eq!(name(site, 1, 0, 5), 5);
        site.close(1);
        assert_eq!(name(site, 2, 0, 5), 5);
        assert_eq!(name(site, 3, 0, 1), 0);
        assert_eq!(data(site, 2, 0, 5), "pass");
        site.close(2);
        assert_eq!(name(site, 3, 1, 1), 0, "it was sent");
    });
    let mut site = Simulation::new(&rules);
    assert_eq!(name(&mut site, 0, 0, 5), 5);
    site.now = 300_000;
    site.housekeep();
    assert_eq!(name(&mut site, 1, 0, 1), 0);
    site.now = 331_000;
    site.housekeep();
    assert_eq!(name(&mut site, 1, 1, 1), 1);
    assert_eq!(data(&mut site, 0, 0, 5), "over users", "it goes on after all");
}

#[test]
fn a_message_that_goes_on_over_another_policy_connection_is_counted_once() {
    on_both(&recipients(5, "count_unsent = false"), |site| {
        assert_eq!(name(site, 0, 0, 3), 3);
        site.close(0);
        assert_eq!(data(site, 0, 0, 3), "pass");
        site.close(0);
        assert_eq!(name(site, 1, 0, 3), 2);
    });
}

#[test]
fn where_postfix_asks_at_rcpt_only_every_recipient_stays_counted() {
    on_both(&recipients(20, ""), |site| {
        for message in 0..10 {
            assert_eq!(name(site, 0, message, 2), 2);
        }
        assert_eq!(name(site, 0, 10, 1), 0);
    });
    // Asked later about some services or clients, but not about these.
    for other in ["policy_context=other\n", "sasl_username=\n", "server_port=587\n"] {
        let mut site = Simulation::new(&recipients(4, ""));
        for state in ["RCPT", "DATA"] {
            let request =
                at("192.0.2.1", 7, state, 0) + "sasl_username=ann\nrecipient=x@example.org\nrecipient_count=1\n";
            let request = format!("{request}{other}");
            assert_eq!(site.ask(7, &request), "pass");
        }
        assert_eq!(name(&mut site, 0, 0, 4), 4, "{other}");
        assert_eq!(name(&mut site, 0, 1, 1), 0, "{other}");
    }
}

#[test]
fn a_network_whose_messages_are_never_seen_to_be_sent_is_not_believed_for_ever() {
    let mut site = Simulation::new(&recipients(5, "count_unsent = false"));
    for message in 0..=10 {
        assert_eq!(name(&mut site, 0, message, 5), 5, "{message}");
    }
    assert_eq!(name(&mut site, 0, 11, 5), 0, "the eleventh in a row stays counted");
    // Another network is believed.
    let request = at("198.51.100.7", 1, "RCPT", 0) + "sasl_username=joe\n";
    assert_eq!(site.ask(1, &request), "over users");
    site.now = 600_000;
    assert_eq!(send(&mut site, 0, 12, 1, 0), passes(1));
    assert_eq!(name(&mut site, 0, 13, 4), 4);
    assert_eq!(name(&mut site, 0, 14, 4), 4);
}

#[test]
fn unsent_recipients_stay_counted_where_the_limit_says_so() {
    on_both(&recipients(5, "count_unsent = true"), |site| {
        assert_eq!(send(site, 0, 0, 1, 0), passes(1));
        assert_eq!(name(site, 0, 1, 4), 4);
        assert_eq!(name(site, 0, 2, 1), 0);
    });
}

#[test]
fn a_flood_of_refused_recipients_is_given_back_though_the_store_was_not_told_of_it() {
    let memcached = Memcached::start();
    let mut site = Simulation::on(&memcached, &recipients(5, "count_unsent = false"));
    assert_eq!(name(&mut site, 0, 0, 200), 5);
    assert_eq!(send(&mut site, 0, 1, 3, 0), passes(3));
    site.now = 3000;
    assert_eq!(name(&mut site, 0, 2, 200), 2);
    assert_eq!(name(&mut site, 1, 0, 1), 0);
}

#[test]
fn a_reset_is_not_undone_by_what_goes_back_later() {
    let mut site = Simulation::new(&recipients(5, "count_unsent = false"));
    assert_eq!(name(&mut site, 0, 0, 5), 5);
    site.reload(&recipients(5, "count_unsent = false\nwindow = \"sliding\""));
    assert_eq!(name(&mut site, 1, 0, 5), 5, "it counts anew");
    site.close(0);
    assert_eq!(name(&mut site, 2, 0, 1), 0);
}

#[test]
fn what_a_client_leaves_out_is_a_value_of_its_own() {
    let rules = |per: &str, more: &str| {
        format!("threshold = 1000\n[limit.x]\nthreshold = 2\ncount = \"messages\"\nper = {per}\n{more}")
    };
    let three = |site: &mut Simulation, client: &str, lines: &str| {
        (0..3).map(|_| site.session_with(client, lines)).map(|answer| answer == "pass").collect::<Vec<_>>()
    };
    let (limited, free) = ([true, true, false], [true; 3]);
    for (per, lines, expected) in [
        (r#"["sasl_username", "sender"]"#, "sasl_username=joe\nsender=\n", limited),
        (r#"["sasl_username", "sender_domain"]"#, "sasl_username=joe\nsender=root\n", limited),
        (r#"["client", "helo_name"]"#, "helo_name=\n", limited),
        (r#"["client", "client_domain"]"#, "client_name=unknown\n", limited),
        (r#"["client", "recipient_domain"]"#, "recipient=postmaster\n", limited),
        // Without a login it is not about the mail of a login.
        (r#"["sasl_username", "sender"]"#, "sender=x@example.org\n", free),
        (r#"["sender", "client_name"]"#, "", free),
        (r#""sender""#, "sender=\n", free),
    ] {
        let mut site = Simulation::new(&rules(per, ""));
        assert_eq!(three(&mut site, "192.0.2.1", lines), expected, "{per} {lines:?}");
    }
    on_both(&rules("\"sender\"", "count_absent = true"), |site| {
        assert_eq!(three(site, "192.0.2.1", "sender=\n"), limited);
        assert_eq!(three(site, "192.0.2.1", "sender=x@example.org\n"), limited);
    });
    // Before MAIL FROM nobody knows whether there will be a sender.
    let mut site = Simulation::new("threshold = 1000\n[limit.x]\nthreshold = 1\nper = [\"client\", \"sender\"]");
    assert_eq!(site.ask(0, &at("192.0.2.1", 0, "CONNECT", 0)), "pass");
    assert_eq!(site.ask(0, &(at("192.0.2.1", 0, "RCPT", 0) + "sender=x@example.org\n")), "pass");
    assert_eq!(site.session_with("192.0.2.1", "sender=\n"), "pass");
    assert_eq!(site.session_with("192.0.2.1", "sender=\n"), "over x");
    assert_eq!(site.session_with("192.0.2.1", "sender=x@example.org\n"), "over x");
}

#[test]
fn the_null_sender_of_a_login_is_limited_by_the_example() {
    let daemon = Daemon::start(&example().replace("threshold = 100\ncount", "threshold = 2\ncount"));
    let dovecot = Dovecot::start();
    let postfix = submission(&daemon, &dovecot);
    let mut smtp = logged_in(&postfix, HERE, "ann@example.org");
    for code in [250, 250, 450] {
        smtp.command("MAIL FROM:<>").expect(250);
        smtp.rcpt().expect(code);
        smtp.command("RSET").expect(250);
    }
}

/// A mail of 3 KiB to these recipients: the answer at its end, where Postfix names a recipient if there is just one.
fn mail_of_3_kib(site: &mut Simulation, connection: usize, message: u32, recipients: &[&str]) -> String {
    let lines = |state| at("192.0.2.1", connection, state, message) + "sasl_username=joe\nsize=3072\n";
    for recipient in recipients {
        assert_eq!(site.ask(connection, &format!("{}recipient={recipient}\n", lines("RCPT"))), "pass");
    }
    let named = if let [only] = recipients { only } else { "" };
    let end = format!("{}recipient={named}\nrecipient_count={}\n", lines("END-OF-MESSAGE"), recipients.len());
    assert_eq!(site.ask(connection, &end), site.ask(connection, &end), "asked twice, counted once");
    site.ask(connection, &end)
}

#[test]
fn every_recipient_of_a_message_is_charged_its_size() {
    let rules = |per: &str, more: &str| {
        format!("threshold = 1000\n[limit.x]\nthreshold = \"5KiB\"\ncount = \"bytes\"\nper = {per}\n{more}\n")
    };
    let (a, b, c, d) = ("a@example.org", "b@example.org", "c@example.net", "D@example.com");
    on_both(&rules("\"recipient\"", ""), |site| {
        assert_eq!(mail_of_3_kib(site, 0, 0, &[a, b]), "pass");
        assert_eq!(mail_of_3_kib(site, 0, 1, &[c, d]), "pass");
        assert_eq!(mail_of_3_kib(site, 0, 2, &[d, "x@example.org"]), "over x", "the size of both is known");
        assert_eq!(mail_of_3_kib(site, 0, 3, &[b]), "over x");
    });
    on_both(&rules("\"recipient_domain\"", "window = \"sliding\"\nban_time = 60\nban_threshold = 9"), |site| {
        assert_eq!(mail_of_3_kib(site, 0, 0, &[a, b, c]), "pass", "a domain is charged once");
        assert_eq!(mail_of_3_kib(site, 0, 1, &[d, "y@example.edu"]), "pass");
        assert_eq!(mail_of_3_kib(site, 0, 2, &["z@example.edu", "z@example.info"]), "over x");
    });
    on_both(&rules("\"sasl_username\"", "match = { recipient = \"/@example[.]net$/\" }"), |site| {
        assert_eq!(mail_of_3_kib(site, 0, 0, &[a, b]), "pass");
        assert_eq!(mail_of_3_kib(site, 0, 1, &[a, c, "e@example.net"]), "pass");
        assert_eq!(mail_of_3_kib(site, 0, 2, &[a, b]), "pass");
        assert_eq!(mail_of_3_kib(site, 0, 3, &[c, d]), "over x");
    });
    on_both(&rules("\"sasl_username\"", "unless = { recipient = \"a@example.org\" }"), |site| {
        for message in 0..3 {
            assert_eq!(mail_of_3_kib(site, 0, message, &[a, "A@example.org"]), "pass");
        }
        assert_eq!(mail_of_3_kib(site, 0, 3, &[a, b]), "pass");
        assert_eq!(mail_of_3_kib(site, 0, 4, &[a, b]), "over x");
    });
}

#[test]
fn a_thousand_recipients_are_charged_and_no_more_are_remembered() {
    let mut site = Simulation::new(
        "threshold = 1000\n[limit.x]\nthreshold = \"5KiB\"\ncount = \"bytes\"\nper = \"recipient\"\nwindow = \"sliding\"",
    );
    let names: Vec<String> = (0..1001).map(|n| format!("r{n:04}@example.org")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    assert_eq!(mail_of_3_kib(&mut site, 0, 0, &names), "pass");
    assert_eq!(mail_of_3_kib(&mut site, 0, 1, &names[999..=999]), "over x");
    assert_eq!(mail_of_3_kib(&mut site, 0, 2, &names[1000..]), "pass");
}

#[test]
fn a_mail_to_two_is_charged_to_both_by_a_real_postfix() {
    let daemon = Daemon::start(
        "threshold = 1000\n[limit.x]\nthreshold = \"5KiB\"\ncount = \"bytes\"\nper = \"recipient\"\naction = \"450\"",
    );
    let dovecot = Dovecot::start();
    let postfix = submission(&daemon, &dovecot);
    let mut smtp = logged_in(&postfix, "127.0.0.2", "ann@example.org");
    for code in [250, 450, 450] {
        smtp.mail().expect(250);
        assert_eq!(smtp.rcpts(2), [250, 250]);
        smtp.command("DATA").expect(354);
        smtp.command(format!("Subject: test\r\n\r\n{}.", format!("{}\r\n", "x".repeat(70)).repeat(48))).expect(code);
        smtp.command("RSET").expect(250);
    }
}

/// A limit of so many messages of a login in so many seconds.
fn messages(threshold: u32, exptime: u32, keys: &str) -> String {
    format!(
        "threshold = 1000\n[limit.users]\nthreshold = {threshold}\nexptime = {exptime}\n\
         count = \"messages\"\nper = \"sasl_username\"\n{keys}\n"
    )
}

fn mail(site: &mut Simulation, user: &str) -> String {
    site.session_with("192.0.2.1", &format!("sasl_username={user}\n"))
}

#[test]
fn another_threshold_applies_to_open_windows_at_once() {
    let memcached = Memcached::start();
    let with = |rules: &str| format!("memcached_server = \"{}\"\nstore_timeout = \"2s\"\n{rules}", memcached.server());
    for shared in [false, true] {
        let rules =
            |threshold| if shared { with(&messages(threshold, 3600, "")) } else { messages(threshold, 3600, "") };
        let mut site = Simulation::new(&rules(2));
        let mut three = |rules: String| {
            site.reload(&rules);
            [(); 3].map(|()| mail(&mut site, "joe"))
        };
        assert_eq!(three(rules(2)), ["pass", "pass", "over users"]);
        assert_eq!(three(rules(5)), ["pass", "pass", "over users"]);
        assert_eq!(three(rules(1)), ["over users", "over users", "over users"]);
        assert_eq!([mail(&mut site, "ann"), mail(&mut site, "ann")], ["pass", "over users"]);
    }
}

#[test]
fn another_exptime_applies_to_open_windows_in_both_directions() {
    for window in ["", "window = \"sliding\""] {
        // Longer: two messages at 0 count for an hour.
        let mut site = Simulation::new(&messages(2, 60, window));
        assert_eq!([mail(&mut site, "joe"), mail(&mut site, "joe")], ["pass", "pass"]);
        site.now = 30_000;
        site.reload(&messages(2, 3600, window));
        assert_eq!(mail(&mut site, "joe"), "over users", "{window}");
        site.now = 3_500_000;
        assert_eq!(mail(&mut site, "joe"), "over users", "{window}");
        if window.is_empty() {
            site.now = 3_599_999;
            assert_eq!(mail(&mut site, "joe"), "over users");
            site.now = 3_600_000;
            assert_eq!([mail(&mut site, "joe"), mail(&mut site, "joe")], ["pass", "pass"], "it began at 0");
            site.now = 7_100_000;
            assert_eq!(mail(&mut site, "joe"), "over users", "it is changed once");
            site.now = 7_200_000;
            assert_eq!(mail(&mut site, "joe"), "pass");
        }
        // Shorter: a window of an hour ends after a minute.
        let mut site = Simulation::new(&messages(2, 3600, window));
        assert_eq!([mail(&mut site, "joe"), mail(&mut site, "joe")], ["pass", "pass"]);
        site.now = 30_000;
        assert_eq!(mail(&mut site, "ann"), "pass");
        site.reload(&messages(2, 60, window));
        if window.is_empty() {
            assert_eq!(mail(&mut site, "joe"), "over users", "the minute is not over");
        }
        site.now = 500_000;
        assert_eq!(
            [mail(&mut site, "joe"), mail(&mut site, "joe"), mail(&mut site, "joe")],
            ["pass", "pass", "over users"]
        );
        assert_eq!(
            [mail(&mut site, "ann"), mail(&mut site, "ann"), mail(&mut site, "ann")],
            ["pass", "pass", "over users"]
        );
    }
}

#[test]
fn one_of_several_hosts_changes_the_length_of_a_shared_window() {
    let memcached = Memcached::start();
    let with = |rules: &str| format!("memcached_server = \"{}\"\nstore_timeout = \"2s\"\n{rules}", memcached.server());
    let mut hosts = [(); 2].map(|()| Simulation::on(&memcached, &messages(3, 30, "")));
    assert_eq!(mail(&mut hosts[0], "joe"), "pass");
    assert_eq!(mail(&mut hosts[1], "joe"), "pass");
    for host in &mut hosts {
        host.reload(&with(&messages(3, 3600, "")));
        assert_eq!(mail(host, "ann"), "pass");
    }
    assert_eq!(mail(&mut hosts[0], "joe"), "pass");
    assert_eq!(mail(&mut hosts[1], "joe"), "over users");
    let told = memcached.say("mg connshaper:users:messages/sasl_username=joe t");
    let left: u32 = told.trim_start_matches("HD t").trim().parse().unwrap_or_else(|_| panic!("{told}"));
    assert!((3500..=3600).contains(&left), "{left}");
    for host in &mut hosts {
        host.reload(&with(&messages(3, 1, "")));
    }
    thread::sleep(Duration::from_millis(2100));
    assert_eq!(mail(&mut hosts[1], "joe"), "pass", "it began more than a second ago");
    assert_eq!(mail(&mut hosts[0], "joe"), "pass");
}

#[test]
fn a_mail_to_more_than_fifty_is_limited_on_its_own() {
    let big = "threshold = 1000\n[limit.big]\nthreshold = 1\nexptime = \"1d\"\ncount = \"messages\"\n\
               per = \"sasl_username\"\nmatch = { recipient_count = \">50\" }";
    on_both(big, |site| {
        assert_eq!(send(site, 0, 0, 50, 0), passes(50));
        assert_eq!(send(site, 0, 1, 51, 0), passes(51));
        assert_eq!(send(site, 0, 2, 50, 0), passes(50));
        assert_eq!(send(site, 0, 3, 51, 0), (51, "over big".to_owned()));
    });
    let most = "threshold = 1000\n[limit.most]\nthreshold = 50\ncount = \"recipients\"\nper = \"instance\"";
    on_both(most, |site| {
        assert_eq!(send(site, 0, 0, 60, 0), passes(50));
        assert_eq!(send(site, 0, 1, 50, 0), passes(50));
        // Where Postfix asks at DATA only, all of the message is refused.
        assert_eq!(data(site, 0, 2, 51), "over most");
        assert_eq!(data(site, 0, 3, 50), "pass");
    });
}

#[test]
fn a_mail_to_more_than_fifty_is_refused_at_data_by_a_real_postfix() {
    let rules = "threshold = 1000\n[limit.most]\nthreshold = 50\ncount = \"recipients\"\nper = \"instance\"\naction = \"450\"\n\
                 match = { sender = \"@example.net\" }";
    let daemon = Daemon::start(rules);
    let postfix = Postfix::start(&format!("smtpd_data_restrictions = check_policy_service {}", daemon.endpoint()));
    let mut smtp = postfix.client("127.0.0.2");
    smtp.ehlo().expect(250);
    smtp.deliver(50);
    smtp.mail().expect(250);
    assert_eq!(smtp.rcpts(51), [250; 51]);
    smtp.command("DATA").expect(450);
}

#[test]
fn messages_may_be_counted_when_they_are_sent() {
    on_both(&messages(2, 60, "match = { protocol_state = \"DATA\" }"), |site| {
        for message in 0..5 {
            assert_eq!(name(site, 0, message, 3), 3, "it is given up");
        }
        assert_eq!(send(site, 0, 5, 3, 0), passes(3));
        assert_eq!(send(site, 0, 6, 3, 0), passes(3));
        assert_eq!(send(site, 0, 7, 3, 0), (3, "over users".to_owned()));
    });
}

#[test]
fn what_is_said_of_recipients_holds_for_mail_to_several_when_it_is_sent() {
    let late = |condition: &str| messages(1, 60, &condition.replace("LATE", "protocol_state = \"DATA\""));
    let (a, b, c) = ("a@example.org", "b@example.net", "c@example.net");
    let sent = |site: &mut Simulation, message: u32, recipients: &[&str]| {
        let lines = |state| at("192.0.2.1", 0, state, message) + "sasl_username=joe\n";
        for recipient in recipients {
            assert_eq!(site.ask(0, &format!("{}recipient={recipient}\n", lines("RCPT"))), "pass");
        }
        let named = if let [only] = recipients { only } else { "" };
        let request = format!("{}recipient={named}\nrecipient_count={}\n", lines("DATA"), recipients.len());
        assert_eq!(site.ask(0, &request), site.ask(0, &request), "asked twice, counted once");
        site.ask(0, &request)
    };
    on_both(&late("match = { LATE, recipient = \"@example.net\" }"), |site| {
        assert_eq!(sent(site, 0, &[a, "d@example.com"]), "pass", "it is about neither");
        assert_eq!(sent(site, 1, &[a, b, c]), "pass", "a message is one");
        assert_eq!(sent(site, 2, &[a]), "pass");
        assert_eq!(sent(site, 3, &[a, c]), "over users");
        assert_eq!(sent(site, 4, &[c]), "over users");
    });
    on_both(&late("match = { LATE }\nunless = { recipient = \"a@example.org\" }"), |site| {
        assert_eq!(sent(site, 0, &[a, "A@example.org"]), "pass", "both are spared");
        assert_eq!(sent(site, 1, &[a, b]), "pass");
        assert_eq!(sent(site, 2, &[a]), "pass");
        assert_eq!(sent(site, 3, &[c, a]), "over users");
    });
}

#[test]
fn mail_to_several_is_limited_by_its_recipients_at_data_by_a_real_postfix() {
    let rules =
        messages(1, 600, "match = { protocol_state = \"DATA\" }\nunless = { recipient = \"recipient1@example.org\" }");
    let daemon = Daemon::start(&rules);
    let dovecot = Dovecot::start();
    let service = format!("check_policy_service {}", daemon.endpoint());
    let lists = format!("smtpd_recipient_restrictions = {service}\nsmtpd_data_restrictions = {service}\n");
    let postfix = Postfix::start(&(dovecot.main_cf() + &lists));
    let mut smtp = logged_in(&postfix, "127.0.0.2", "ann@example.org");
    // The one that is spared alone, then with another.
    for (recipients, code) in [(1, 354), (1, 354), (2, 354), (2, 450), (1, 354)] {
        smtp.mail().expect(250);
        assert_eq!(smtp.rcpts(recipients), vec![250; recipients]);
        smtp.command("DATA").expect(code);
        match code {
            354 => drop(smtp.command("Subject: test\r\n\r\ntext\r\n.").expect(250)),
            _ => drop(smtp.command("RSET").expect(250)),
        }
    }
}

/// A limit of three different clients of a login in a minute.
const CLIENTS: &str =
    "threshold = 1000\n[limit.addresses]\nthreshold = 3\ncount = \"clients\"\nper = \"sasl_username\"";

#[test]
fn a_login_may_be_used_by_so_many_different_clients() {
    let from = |site: &mut Simulation, client: u32, user: &str| {
        site.session_with(&format!("192.0.2.{client}"), &format!("sasl_username={user}\n"))
    };
    on_all(CLIENTS, |site| {
        for _ in 0..3 {
            for client in 1..=3 {
                assert_eq!(from(site, client, "joe"), "pass");
            }
        }
        assert_eq!(from(site, 1, "ann"), "pass");
        assert_eq!(from(site, 4, "joe"), "over addresses");
        assert_eq!(from(site, 1, "joe"), "over addresses", "nobody knows whose the password is");
        assert_eq!(from(site, 4, "ann"), "pass");
        assert_eq!(site.session_with("2001:db8::1", "sasl_username=ann\n"), "pass");
        assert_eq!(site.session_with("2001:db8::2", "sasl_username=ann\n"), "pass", "it is the same /64");
        assert_eq!(from(site, 5, "ann"), "over addresses");
    });
}

#[test]
fn different_clients_are_counted_anew_in_every_window() {
    let mut site = Simulation::new(CLIENTS);
    let from = |site: &mut Simulation, client: u32| {
        site.session_with(&format!("192.0.2.{client}"), "sasl_username=joe\n") == "pass"
    };
    assert!(from(&mut site, 1));
    site.now = 50_000;
    assert!(from(&mut site, 2) && from(&mut site, 3));
    site.now = 61_000;
    // What was seen at 50 seconds is of the window before.
    assert!(from(&mut site, 2) && from(&mut site, 2) && from(&mut site, 4) && from(&mut site, 3));
    site.now = 112_000;
    assert!(from(&mut site, 2) && from(&mut site, 3));
    assert!(!from(&mut site, 5) && !from(&mut site, 2));
    site.now = 122_000;
    assert!(from(&mut site, 5) && from(&mut site, 2));
}

#[test]
fn no_number_of_clients_fills_the_store() {
    let mut site =
        Simulation::new(&CLIENTS.replace("threshold = 1000", "threshold = 1000\nwhitelist = [\"0.0.0.0/0\"]"));
    for client in 0..2000_u32 {
        site.session_with(&std::net::Ipv4Addr::from(0x0a00_0000 + client).to_string(), "sasl_username=joe\n");
    }
    assert_eq!(site.entries(), 1001);
}

#[test]
fn hosts_count_different_clients_together() {
    let (memcached, redis, sqlite) = (Memcached::start(), Redis::start(), Sqlite::new());
    let stores: [&dyn Fn() -> Simulation; 3] =
        [&|| Simulation::on(&memcached, CLIENTS), &|| Simulation::on_redis(&redis, CLIENTS), &|| {
            Simulation::on_sqlite(&sqlite, CLIENTS)
        }];
    for host in stores {
        let mut hosts = [(); 2].map(|()| host());
        for (host, client, expected) in
            [(0, 1, "pass"), (1, 1, "pass"), (1, 2, "pass"), (0, 3, "pass"), (1, 3, "pass"), (1, 4, "over addresses")]
        {
            let answer = hosts[host].session_with(&format!("192.0.2.{client}"), "sasl_username=joe\n");
            assert_eq!(answer, expected, "{host} {client}");
        }
    }
}

#[test]
fn a_stolen_login_is_stopped_by_the_number_of_its_clients() {
    let daemon = Daemon::start(&example());
    let dovecot = Dovecot::start();
    let postfix = submission(&daemon, &dovecot);
    let codes = (1..=12).map(|host| {
        let mut smtp = logged_in(&postfix, &format!("127.0.1.{host}"), "stolen@example.org");
        smtp.mail().expect(250);
        smtp.rcpt().code
    });
    assert_eq!(codes.collect::<Vec<u16>>(), [vec![250; 10], vec![450; 2]].concat());
}
