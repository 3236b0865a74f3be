//! The login door, asked as Dovecot asks.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{Dovecot, HttpHost, Policy, Postfix, fetch};

const RULES: &str = "[limit.guesses]\ndoor = \"login\"\nthreshold = 3\nexptime = \"10m\"\n";

const WRONG: &str = r#","success":false,"policy_reject":false"#;

/// A login with a wrong password, if it may be tried.
fn wrong(host: &HttpHost, client: &str, pwhash: &str) -> i64 {
    let status = status(&host.dovecot("allow", client, &format!(r#","pwhash":"{pwhash}""#)));
    if status >= 0 {
        host.dovecot("report", client, &format!(r#","pwhash":"{pwhash}"{WRONG}"#));
    } else {
        host.dovecot("report", client, r#","pwhash":"","success":false,"policy_reject":true"#);
    }
    status
}

fn status(answer: &Value) -> i64 {
    answer["status"].as_i64().unwrap()
}

#[test]
fn too_many_wrong_passwords_are_refused_with_a_text() {
    let host = HttpHost::start(RULES);
    let said: Vec<_> = (0..5).map(|number| wrong(&host, "192.0.2.7", &format!("{number:03x}"))).collect();
    assert_eq!(said, [0, 0, 0, -1, -1]);
    let refused = host.dovecot("allow", "192.0.2.7", "");
    let text = refused["msg"].as_str().unwrap();
    assert!(text.starts_with("Too many wrong passwords from 192.0.2.7, try again in "), "{text}");
    assert_eq!(host.dovecot("allow", "192.0.2.8", ""), serde_json::json!({ "status": 0, "msg": "" }));
    let line = host.daemon.lines().wait_for("REFUSED");
    assert!(line.contains("limit=guesses") && line.contains("verdict=refuse") && line.contains("door=login"), "{line}");
}

#[test]
fn a_telephone_with_an_old_password_is_let_in_again_and_again() {
    let host = HttpHost::start(RULES);
    assert!((0..20).all(|_| wrong(&host, "192.0.2.7", "0a1") == 0));
    assert_eq!(status(&host.dovecot("allow", "192.0.2.7", r#","pwhash":"0a2""#)), 0);
}

#[test]
fn a_login_may_be_delayed_in_whole_seconds() {
    let host = HttpHost::start(&format!("{RULES}initial_delay = \"1500ms\"\nmax_delay = \"4s\"\nmax_concurrent = 2\n"));
    let said: Vec<_> = (0..5).map(|number| wrong(&host, "192.0.2.7", &format!("{number:03x}"))).collect();
    assert_eq!(said, [0, 0, 0, 2, 3]);
    assert_eq!(status(&host.dovecot("allow", "192.0.2.7", "")), -1, "two wait already");
}

#[test]
fn what_fails_within_dovecot_is_nobodys_wrong_password() {
    let host = HttpHost::start(RULES);
    for number in 0..9 {
        host.dovecot("report", "192.0.2.7", &format!(r#","pwhash":"{number}","success":false,"fail_type":"internal""#));
        host.dovecot("report", "192.0.2.7", &format!(r#","pwhash":"{number}","success":true"#));
    }
    assert_eq!(status(&host.dovecot("allow", "192.0.2.7", "")), 0);
    // Logins within the host have no address.
    host.dovecot("report", "", WRONG);
    assert_eq!(status(&host.dovecot("allow", "", "")), 0);
}

#[test]
fn a_ban_for_guessing_is_explained_at_every_door_and_lifted_at_once() {
    let host = HttpHost::start(&format!("{RULES}ban_time = \"1h\"\nban_doors = [\"smtp\", \"web\"]\n"));
    let postfix = |port| Policy::connect(host.daemon.endpoint()).connected("192.0.2.7", port);
    let web = || host.ask("GET /auth HTTP/1.1\r\nX-Forwarded-For: 192.0.2.7", "").status;
    assert!(postfix(1).contains("DUNNO") && web() == 200);
    for number in 0..4 {
        wrong(&host, "192.0.2.7", &format!("{number:03x}"));
    }
    assert_eq!(status(&host.dovecot("allow", "192.0.2.7", "")), -1);
    assert!(postfix(2).contains("DEFER_IF_PERMIT"));
    assert_eq!(web(), 429);
    assert!(host.daemon.lines().wait_for("BANNED").contains("doors=smtp,login,web"));
    for door in ["smtp", "login", "web"] {
        let said = host.say(&format!("explain 192.0.2.7 --door {door}"));
        assert!(said.contains("it is banned by limit guesses"), "{said}");
    }
    let said = host.say("show 192.0.2.7");
    assert!(said.contains("guesses (login)") && said.contains("banned for"), "{said}");
    host.say("unban 192.0.2.7");
    assert_eq!(status(&host.dovecot("allow", "192.0.2.7", "")), 0);
    assert!(postfix(3).contains("DUNNO") && web() == 200);
    let page = host.ask("GET /metrics HTTP/1.1", "").body;
    for series in [
        "connshaper_decisions_total{limit=\"guesses\",verdict=\"refused\",reason=\"banned\",door=\"smtp\"} 1",
        "connshaper_decisions_total{limit=\"guesses\",verdict=\"refused\",reason=\"banned\",door=\"web\"} 1",
        "connshaper_web_requests_total 3",
    ] {
        assert!(page.contains(series), "{series}\n{page}");
    }
}

/// A Dovecot that asks this host about logins.
fn dovecot(host: &HttpHost, more: &str) -> Dovecot {
    Dovecot::with_imap(&format!(
        "auth_policy_server_url = http://{}/dovecot\nauth_policy_hash_nonce = of this test\n{more}",
        host.address()
    ))
}

#[test]
fn dovecot_refuses_who_guesses_passwords_and_lets_others_in() {
    let host = HttpHost::start(&format!("whitelist = []\n{RULES}"));
    let dovecot = dovecot(&host, "");
    assert!(dovecot.log_in("127.0.0.2", "joe", "secret"));
    for password in ["one", "two", "three"] {
        assert!(!dovecot.log_in("127.0.0.2", "joe", password));
    }
    assert!(!dovecot.log_in("127.0.0.2", "joe", "secret"), "the right password no longer helps");
    assert!(dovecot.log_in("127.0.0.3", "joe", "secret"));
    let page = host.ask("GET /metrics HTTP/1.1", "").body;
    assert!(page.contains(
        "connshaper_decisions_total{limit=\"guesses\",verdict=\"refused\",reason=\"over\",door=\"login\"} 1"
    ));
}

#[test]
fn dovecot_tells_a_wrong_password_that_is_tried_again() {
    let host = HttpHost::start(&format!("whitelist = []\n{RULES}"));
    let dovecot = dovecot(&host, "");
    for _ in 0..8 {
        assert!(!dovecot.log_in("127.0.0.2", "joe", "of last year"));
    }
    assert!(dovecot.log_in("127.0.0.2", "joe", "secret"));
}

#[test]
fn dovecot_waits_as_long_as_it_is_told() {
    let host = HttpHost::start(&format!("whitelist = []\n{RULES}initial_delay = \"2s\"\n"));
    let dovecot = dovecot(&host, "");
    for password in ["one", "two", "three"] {
        assert!(!dovecot.log_in("127.0.0.2", "joe", password));
    }
    let begun = Instant::now();
    assert!(dovecot.log_in("127.0.0.2", "joe", "secret"));
    assert!(begun.elapsed() >= Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[test]
fn attributes_of_the_site_and_a_token_come_from_dovecot() {
    const TOKEN: &str = "0123456789abcdef0123456789abcdef";
    let rules = "whitelist = []\n[limit.imap]\ndoor = \"login\"\ncount = \"logins\"\nthreshold = 1\n\
        per = [\"login_domain\", \"server_port\"]\nmatch = { protocol = \"imap\", mechanism = \"PLAIN\" }\n";
    let host = HttpHost::with_token(TOKEN, rules);
    let attributes = "auth_policy_request_attributes = login=%{requested_username} remote=%{rip} protocol=%s \
        server_port=%{lport} mechanism=%m";
    let more = format!("auth_policy_server_api_header = Authorization:Bearer {TOKEN}\n{attributes}");
    let dovecot = dovecot(&host, &more);
    assert!(dovecot.log_in("127.0.0.2", "joe@example.org", "secret"));
    assert!(!dovecot.log_in("127.0.0.3", "jane@example.org", "secret"), "the domain has had its login");
    assert!(dovecot.log_in("127.0.0.2", "joe@example.net", "secret"));
    let line = host.daemon.lines().wait_for("REFUSED");
    assert!(line.contains("login_domain=example.org,server_port="), "{line}");
}

#[test]
fn eight_wrong_passwords_close_every_door_until_they_are_forgiven() {
    let host = HttpHost::start(
        "whitelist = []\nthreshold = 100\n[limit.guesses]\ndoor = \"login\"\nthreshold = 8\nexptime = \"10m\"\n\
         ban_time = \"1h\"\nban_doors = [\"smtp\", \"login\", \"web\"]\n",
    );
    let dovecot = dovecot(&host, "");
    let postfix = Postfix::start(&format!(
        "smtpd_recipient_restrictions = check_policy_service {}, reject_unauth_destination\n",
        host.daemon.endpoint()
    ));
    let recipient = || {
        let mut client = postfix.client("127.0.0.2");
        client.command("EHLO client.example.net");
        client.command("MAIL FROM:<joe@example.net>");
        client.command("RCPT TO:<jane@example.org>")
    };
    let smtp = || recipient().code;
    let web = || fetch(host.address(), None, "GET /auth HTTP/1.1\r\nX-Forwarded-For: 127.0.0.2", "").status;
    assert_eq!((smtp(), web()), (250, 200));
    for number in 0..8 {
        assert!(!dovecot.log_in("127.0.0.2", "joe", &format!("guess {number}")));
    }
    assert!(!dovecot.log_in("127.0.0.2", "joe", "secret"));
    let refused = recipient();
    assert!(refused.code == 450 && refused.text.contains("Too many wrong passwords from 127.0.0.2"), "{refused:?}");
    assert_eq!(web(), 429);
    assert!(dovecot.log_in("127.0.0.3", "joe", "secret"));
    for door in ["smtp", "login", "web"] {
        let said = host.say(&format!("explain 127.0.0.2 --door {door}"));
        assert!(said.contains("because it is banned by limit guesses") && said.contains("to let it in:"), "{said}");
    }
    assert!(host.say("unban 127.0.0.2").contains("127.0.0.2"));
    assert_eq!((smtp(), web()), (250, 200));
    assert!(dovecot.log_in("127.0.0.2", "joe", "secret"), "{}", dovecot.lines());
}

#[test]
fn dovecot_lets_users_in_while_the_daemon_is_down_or_hangs_unless_it_is_told_otherwise() {
    let mut host = HttpHost::start(&format!("whitelist = []\n{RULES}"));
    let dovecot = dovecot(&host, "auth_policy_server_timeout_msecs = 500\n");
    let strict = self::dovecot(&host, "auth_policy_server_timeout_msecs = 500\nauth_policy_reject_on_fail = yes\n");
    let log_in = |dovecot: &Dovecot| dovecot.log_in("127.0.0.2", "joe", "secret");
    assert!(log_in(&dovecot) && log_in(&strict));
    assert!(host.daemon.stop().success());
    assert!(log_in(&dovecot) && !log_in(&strict), "down");
    // One that accepts and says nothing.
    let silent = std::net::TcpListener::bind(host.address()).unwrap();
    assert!(log_in(&dovecot) && !log_in(&strict), "hanging");
    drop(silent);
    host.daemon.start_again();
    assert!(log_in(&dovecot) && log_in(&strict));
}
