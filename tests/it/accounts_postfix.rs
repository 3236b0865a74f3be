//! Logins and senders as a real Postfix with real logins names them: what clients are told, what is logged, and what
//! the commands say and do.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::support::{Daemon, Dir, Dovecot, Postfix, Smtp, ask, command};

const LIMITS: &str = "
    whitelist = []
    threshold = 1000
    [limit.users]
    threshold = 2
    count = \"messages\"
    per = \"sasl_username\"
    match = { sasl_username = true }
    [limit.senders]
    threshold = 2
    count = \"messages\"
    per = \"sender\"
    unless = { sasl_username = true }
    [limit.volume]
    threshold = \"10KiB\"
    count = \"bytes\"
    per = \"sasl_username\"
    match = { sasl_username = true }
    ";

struct Site {
    daemon: Daemon,
    postfix: Postfix,
    _dovecot: Dovecot,
    socket: PathBuf,
    _dir: Dir,
}

impl Site {
    fn start(limits: &str) -> Self {
        let dir = Dir::new();
        let socket = dir.join("control");
        let daemon = Daemon::start(&format!("control_socket = {socket:?}\n{limits}"));
        // Dovecot itself takes no odd names, and makes small letters of large ones.
        let dovecot = Dovecot::with("auth_username_chars =\nauth_username_format = %u");
        let service = format!("check_policy_service {}", daemon.endpoint());
        let lists = format!(
            "smtpd_recipient_restrictions = {service}\nsmtpd_data_restrictions = {service}\n\
             smtpd_end_of_data_restrictions = {service}\nsmtpd_error_sleep_time = 0\n"
        );
        let postfix = Postfix::setup().main_cf(&(dovecot.main_cf() + &lists)).one_smtpd().start();
        Self { daemon, postfix, _dovecot: dovecot, socket, _dir: dir }
    }

    fn ask(&self, words: &[&str]) -> Value {
        ask(&self.socket, words)
    }

    fn session(&self, login: &str) -> Smtp {
        let mut smtp = self.postfix.client("127.0.0.2");
        match login {
            "" => drop(smtp.ehlo().expect(250)),
            login => smtp.login(login),
        }
        smtp
    }
}

/// Sends a mail, or returns what its recipient is refused with.
fn mail(smtp: &mut Smtp, sender: &str) -> String {
    smtp.command(format!("MAIL FROM:<{sender}>")).expect(250);
    let reply = smtp.rcpt();
    match reply.code {
        250 => drop(smtp.data().expect(250)),
        _ => drop(smtp.command("RSET").expect(250)),
    }
    reply.text
}

#[test]
fn explain_and_query_say_what_the_next_message_of_a_login_really_gets() {
    let site = Site::start(LIMITS);
    let query = |login: &str| {
        let login = format!("sasl_username={login}");
        let to = ["query", "--to", site.daemon.endpoint(), "198.51.100.7", &login, "sender=x@example.org"];
        String::from_utf8(command().args(to).output().unwrap().stdout).unwrap()
    };
    let explained = |words: &[&str]| {
        let verdict = site.ask(&[&["explain", "login"], words].concat())["verdict"].clone();
        (verdict["verdict"].as_str().unwrap().to_owned(), verdict["action"].as_str().unwrap().to_owned())
    };
    let mut smtp = site.session("Ann@Example.com");
    for _ in 0..2 {
        assert_eq!(explained(&["ann@example.com", "sender=x@example.org"]).0, "pass");
        assert!(mail(&mut smtp, "x@example.org").starts_with("250 "));
    }
    let (verdict, action) = explained(&["ann@example.com", "sender=x@example.org"]);
    assert_eq!((verdict.as_str(), action.split(' ').next()), ("refuse", Some("DEFER_IF_PERMIT")), "{action}");
    let told = mail(&mut smtp, "x@example.org");
    let text = action.strip_prefix("DEFER_IF_PERMIT 4.7.0 ").unwrap().split(", try").next().unwrap();
    assert!(told.starts_with("450 4.7.0 ") && told.contains(text), "{told}: {action}");
    let asked = query("ANN@example.com");
    assert!(asked.contains(text), "{asked}: {action}");
    drop(smtp);
    // What the size of a message comes to is known at its end, for explain before that.
    let mut big = site.session("big@example.com");
    big.mail().expect(250);
    big.rcpt().expect(250);
    big.command("DATA").expect(354);
    big.command(format!("Subject: test\r\n\r\n{}.", format!("{}\r\n", "x".repeat(70)).repeat(140))).expect(250);
    let (verdict, action) = explained(&["big@example.com", "sender=x@example.org"]);
    assert_eq!(verdict, "refuse", "{action}");
    big.mail().expect(250);
    big.rcpt().expect(250);
    big.command("DATA").expect(354);
    let told = big.command("Subject: test\r\n\r\ntext\r\n.").expect(450).text;
    assert!(told.contains("login big@example.com") && action.contains("login big@example.com"), "{told}: {action}");
}

#[test]
fn odd_logins_and_senders_are_told_listed_and_reset_by_their_names() {
    let site = Site::start(LIMITS);
    let long = format!("Joe.{}@{}.example.com", "x".repeat(50), "d".repeat(60));
    let key = |word: &str, value: &str| format!("{word}={value}");
    for (login, sender, target, in_log) in [
        (r"DOMAIN\joe", "x@example.org", ["login", r"domain\JOE"], key("sasl_username", "domain%5cjoe")),
        ("joe doe", "x@example.org", ["login", "Joe Doe"], key("sasl_username", "joe%20doe")),
        (
            "jürgen@example.com",
            "x@example.org",
            ["login", "jürgen@example.com"],
            key("sasl_username", "j%c3%bcrgen@example.com"),
        ),
        ("x;$(reboot)'y", "x@example.org", ["login", "x;$(reboot)'y"], key("sasl_username", "x%3b%24%28reboot%29%27y")),
        (
            "",
            "bounce=joe=example.com@list.example",
            ["sender", "bounce=joe=example.com@list.example"],
            key("sender", "bounce%3djoe%3dexample.com@list.example"),
        ),
        (
            "",
            "SRS0=HHH=TT=example.org=al@example.net",
            ["sender", "srs0=hhh=tt=example.org=al@example.net"],
            key("sender", "srs0%3dhhh%3dtt%3dexample.org%3dal@example.net"),
        ),
        ("", &long, ["sender", &long], key("sender", &long.to_lowercase())),
    ] {
        let mut smtp = site.session(login);
        for _ in 0..2 {
            let answer = mail(&mut smtp, sender);
            assert!(answer.starts_with("250 "), "{login} {sender}: {answer}");
        }
        let told = mail(&mut smtp, sender);
        assert!(
            told.starts_with("450 4.7.0 ") && told.contains(&format!("Too many messages from {} ", target[0])),
            "{told}"
        );
        let line = site.daemon.lines().wait_for(&format!(" key=\"{in_log}\" "));
        assert!(line.contains("REFUSED client=127.0.0.2 "), "{line}");
        let over = site.ask(&["show", "--over"]);
        let listed = over["listing"]["keys"].as_array().unwrap();
        let listed: Vec<_> = listed.iter().filter(|one| one["key"] == json!(in_log)).collect();
        assert_eq!((listed.len(), &listed[0]["count"], &listed[0]["refused"]), (1, &json!(3), &json!(1)), "{over:#}");
        let shown = site.ask(&[&["show"], &target[..]].concat());
        assert_eq!(
            (&shown["counters"][0]["key"], &shown["counters"][0]["count"]),
            (&json!(in_log), &json!(3)),
            "{shown:#}"
        );
        let reset = site.ask(&[&["reset"], &target[..]].concat());
        assert_eq!(reset["counters"][0]["count"], json!(3), "{reset:#}");
        let answer = mail(&mut smtp, sender);
        assert!(answer.starts_with("250 "), "{login} {sender}: {answer}");
    }
}

#[test]
fn a_client_is_told_by_what_it_is_limited() {
    let by_client = "whitelist = []\nthreshold = 1\n";
    let site = Site::start(by_client);
    assert!(mail(&mut site.session("joe@example.com"), "x@example.org").starts_with("250 "));
    let told = mail(&mut site.session("joe@example.com"), "x@example.org");
    assert!(told.contains("Too many connections from 127.0.0.2"), "{told}");
    let own = LIMITS.replacen(
        "per = \"sasl_username\"",
        "per = \"sasl_username\"\ntext = \"{sasl_username} ({sender}) until {until}\"",
        1,
    );
    let site = Site::start(&own);
    let mut smtp = site.session("joe@example.com");
    let told = (0..3).map(|_| mail(&mut smtp, "Y@example.org")).last().unwrap();
    assert!(told.contains("joe@example.com (Y@example.org) until 20") && told.ends_with(" UTC"), "{told}");
}
