//! Reload, stop and start of the daemon, seen by clients of a real Postfix.

use crate::support::{Daemon, Postfix, Smtp};

#[test]
fn whitelisting_lifts_a_refusal_in_mid_session_and_keeps_the_counts() {
    let daemon = Daemon::start("threshold = 1\nwhitelist = []");
    let postfix = asking(&daemon, "yes");
    for client in ["127.0.0.2", "127.0.0.3"] {
        begun(&postfix, client).rcpt().expect(250);
    }
    let mut refused = begun(&postfix, "127.0.0.2");
    refused.rcpt().expect(450);

    let line = daemon.reload("threshold = 1\nwhitelist = [\"127.0.0.2\"]");
    assert!(line.contains("RELOADED"), "{line}");
    refused.rcpt().expect(250);
    begun(&postfix, "127.0.0.2").rcpt().expect(250);
    begun(&postfix, "127.0.0.3").rcpt().expect(450);
}

#[test]
fn a_reload_judges_only_refused_sessions_again_and_counts_none_twice() {
    let daemon = Daemon::start("threshold = 2\nwhitelist = []");
    let postfix = asking(&daemon, "yes");
    let mut passed = [begun(&postfix, "127.0.0.2"), begun(&postfix, "127.0.0.2")];
    for smtp in &mut passed {
        smtp.rcpt().expect(250);
    }
    daemon.reload("threshold = 1\nwhitelist = []");
    for smtp in &mut passed {
        smtp.rcpt().expect(250);
    }
    let mut third = begun(&postfix, "127.0.0.2");
    third.rcpt().expect(450);

    daemon.reload("threshold = 4\nwhitelist = []");
    third.rcpt().expect(250);
    begun(&postfix, "127.0.0.2").rcpt().expect(250);
    begun(&postfix, "127.0.0.2").rcpt().expect(450);
}

#[test]
fn a_reload_of_a_wrong_file_changes_nothing() {
    let daemon = Daemon::start("threshold = 1\nwhitelist = []");
    let postfix = asking(&daemon, "yes");
    let mut smtp = begun(&postfix, "127.0.0.2");
    smtp.rcpt().expect(250);
    let line = daemon.reload("threshold = 0\nwhitelist = [\"127.0.0.0/8\"]");
    assert!(line.contains("RELOAD_FAILED"), "{line}");
    smtp.rcpt().expect(250);
    begun(&postfix, "127.0.0.2").rcpt().expect(450);
}

#[test]
fn a_restart_in_mid_session_costs_no_recipient() {
    for delay_reject in ["yes", "no"] {
        let mut daemon = Daemon::start("threshold = 10\nwhitelist = []");
        let postfix = asking(&daemon, delay_reject);
        let mut smtp = begun(&postfix, "127.0.0.2");
        smtp.rcpt().expect(250);
        let status = daemon.stop();
        assert!(status.success(), "{status}");
        daemon.start_again();
        smtp.rcpt().expect(250);
        smtp.data().expect(250);
        smtp.quit();
        postfix.lines().wait_for("disconnect from");
        assert!(postfix.lines().with("problem talking to server").is_empty(), "{}", postfix.lines());
    }
}

#[test]
fn mail_passes_a_dead_daemon_where_main_cf_says_so() {
    let mut daemon = Daemon::start("threshold = 10\nwhitelist = []");
    let postfix = Postfix::start(&format!(
        "smtpd_client_restrictions = check_policy_service {{ {}, timeout=10s, default_action=DUNNO }}",
        daemon.endpoint()
    ));
    begun(&postfix, "127.0.0.2").rcpt().expect(250);
    daemon.stop();
    let mut smtp = begun(&postfix, "127.0.0.2");
    smtp.rcpt().expect(250);
    smtp.data().expect(250);
    postfix.lines().wait_for("problem talking to server");
}

fn asking(daemon: &Daemon, delay_reject: &str) -> Postfix {
    Postfix::start(&format!(
        "smtpd_client_restrictions = check_policy_service {}\nsmtpd_delay_reject = {delay_reject}",
        daemon.endpoint()
    ))
}

/// A session whose next command is RCPT.
fn begun(postfix: &Postfix, from: &str) -> Smtp {
    let mut smtp = postfix.client(from);
    smtp.ehlo().expect(250);
    smtp.mail().expect(250);
    smtp
}
