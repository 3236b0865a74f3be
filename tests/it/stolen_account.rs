//! A login is stolen, and thirty addresses send with it: what the administrator is told and sees, what the commands do,
//! and how much gets out. With a real Postfix and real logins, by the example for submission services.
//!
//! `cargo test --test it -- stolen_account --nocapture` prints the walk.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::support::{Daemon, Dir, Dovecot, Postfix, Smtp, Top, say, until};

const STOLEN: &str = "stolen@example.org";

/// Addresses that send with the stolen password.
const ADDRESSES: u8 = 30;

/// Recipients of each of their mails.
const RECIPIENTS: usize = 5;

struct Site {
    daemon: Daemon,
    postfix: Postfix,
    _dovecot: Dovecot,
    socket: PathBuf,
    alerts: PathBuf,
    _dir: Dir,
}

impl Site {
    fn start() -> Self {
        let dir = Dir::new();
        let (socket, alerts) = (dir.join("control"), dir.join("alerts"));
        let out = alerts.display();
        let script =
            format!("#!/bin/sh\nenv | grep ^CONNSHAPER_ | LC_ALL=C sort | tr '\\n' ' ' >> {out}\necho >> {out}\n");
        let script = dir.write("alert", &script);
        fs::set_permissions(&script, Permissions::from_mode(0o755)).unwrap();
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/examples/submission.toml");
        let example = fs::read_to_string(example).unwrap();
        let daemon = Daemon::start(&format!("control_socket = {socket:?}\nalert_command = {script:?}\n{example}"));
        let dovecot = Dovecot::start();
        let service = format!("check_policy_service {}", daemon.endpoint());
        let lists = format!(
            "smtpd_recipient_restrictions = {service}\nsmtpd_end_of_data_restrictions = {service}\nsmtpd_error_sleep_time = 0\n"
        );
        let postfix = Postfix::start(&(dovecot.main_cf() + &lists));
        Self { daemon, postfix, _dovecot: dovecot, socket, alerts, _dir: dir }
    }

    /// A session of a login from an address.
    fn session(&self, from: &str, login: &str) -> Smtp {
        let mut smtp = self.postfix.client(from);
        smtp.login(login);
        smtp
    }

    /// What a command prints, which must succeed; it is part of the walk.
    fn say(&self, words: &[&str]) -> String {
        let (text, code) = say(&self.socket, words);
        assert_eq!(code, 0, "{words:?}: {text}");
        println!("$ connshaper {}\n{}", words.join(" "), text.trim_end());
        text
    }
}

/// Tries to send a mail; returns how many recipients it went to, and the last refusal.
fn spam(smtp: &mut Smtp) -> (usize, Option<String>) {
    smtp.command("MAIL FROM:<ceo@bank.example>").expect(250);
    let replies = (1..=RECIPIENTS).map(|n| smtp.command(format!("RCPT TO:<victim{n}@example.org>")));
    let (accepted, refused): (Vec<_>, Vec<_>) = replies.partition(|reply| reply.code == 250);
    let refusal = refused.into_iter().next_back().map(|reply| reply.text);
    match accepted.len() {
        0 => drop(smtp.command("RSET")),
        _ => drop(smtp.data().expect(250)),
    }
    (accepted.len(), refusal)
}

#[test]
fn a_stolen_login_is_told_of_found_suspended_and_given_back() {
    let site = Site::start();
    let mut bots: Vec<Smtp> = (1..=ADDRESSES).map(|host| site.session(&format!("127.0.1.{host}"), STOLEN)).collect();
    let (mut mails, mut recipients, mut refusal) = (0, 0, None);
    for _ in 0..3 {
        for bot in &mut bots {
            let (went_to, refused) = spam(bot);
            mails += usize::from(went_to > 0);
            recipients += went_to;
            refusal = refused.or(refusal);
        }
    }
    println!("{ADDRESSES} addresses tried {} mails to {RECIPIENTS} recipients each", 3 * bots.len());
    println!("got out: {mails} mails to {recipients} recipients");
    let refusal = refusal.unwrap();
    println!("the client is told: {refusal}");
    assert_eq!((mails, recipients), (10, 50), "ten addresses, one mail each");
    assert!(refusal.contains("This login is used from too many addresses, change the password"), "{refusal}");
    // Nobody else notices, not even in the same office.
    site.session("127.0.1.1", "ann@example.org").deliver(20);

    let alert = until("an alert", || {
        let text = fs::read_to_string(&site.alerts).unwrap_or_default();
        text.lines().find(|line| line.contains("CONNSHAPER_LIMIT=addresses ")).map(str::to_owned)
    });
    println!("the alert: {alert}");
    for field in
        ["EVENT=OVER_LIMIT", "KEY=sasl_username=stolen@example.org", "CLIENT=127.0.1.11", "COUNT=11", "THRESHOLD=10"]
    {
        assert!(alert.contains(&format!("CONNSHAPER_{field} ")), "{field}: {alert}");
    }

    let top = Top::start(&site.socket, "addresses");
    top.shows(" nearest to limit addresses, ", |rows| {
        rows[0].starts_with("sasl_username=stolen@example.org ") && rows[0].contains(" 300% ")
    });
    let screen = top.to_string();
    println!(
        "$ connshaper top addresses\n{}",
        screen.lines().skip_while(|line| !line.contains("nearest")).take(4).collect::<Vec<_>>().join("\n")
    );
    top.quit();
    let over = site.say(&["show", "--over"]);
    assert!(over.contains("  addresses  sasl_username=stolen@example.org     30  10  20"), "{over}");
    let why = site.say(&["explain", "login", STOLEN]);
    assert!(why.contains("This login is used from too many addresses") && why.contains("over"), "{why}");
    assert!(why.contains("connshaper reset sasl_username=stolen@example.org"), "{why}");
    let day = site.say(&["report", "--limit", "burst"]);
    assert!(day.contains("limit burst: recipients let pass: 70, over: 0\n"), "{day}");
    assert!(day.contains("  sasl_username=stolen@example.org     50     0"), "{day}");

    // The account is suspended, whatever its limits say, and its user is told why.
    let told = |from: &str| {
        let mut smtp = site.session(from, STOLEN);
        smtp.mail().expect(250);
        smtp.rcpt()
    };
    let ban = site.say(&["ban", "login", STOLEN, "for", "1d", "because", "Account suspended, call 4711"]);
    assert!(ban.contains("login=stolen@example.org"), "{ban}");
    let user = told("127.0.2.2").expect(450).text;
    println!("the user is told: {user}");
    assert!(user.ends_with("Account suspended, call 4711"), "{user}");
    let why = site.say(&["explain", "login", STOLEN]);
    assert!(why.contains("banned login=stolen@example.org, ") && why.contains("Account suspended"), "{why}");
    site.say(&["unban", "login", STOLEN]);
    let user = told("127.0.2.2").expect(450).text;
    assert!(user.contains("This login is used from too many addresses"), "{user}");

    // The password is changed, and the account given back.
    let reset = site.say(&["reset", "login", STOLEN]);
    assert!(reset.contains("  limit addresses: sasl_username=stolen@example.org was at 31 of 10\n"), "{reset}");
    site.session("127.0.2.2", STOLEN).deliver(20);
    println!("20 recipients of the user's next mail are accepted");
    assert_eq!(site.daemon.lines().with("REFUSED ").iter().filter(|line| line.contains("ann@example.org")).count(), 0);
}
