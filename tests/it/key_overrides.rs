//! Bans and allowances of logins, senders, recipients and domains: on one host, on several, and with a real Postfix
//! and real logins.

use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::signal::Signal;
use serde_json::json;

use crate::accounts::Host;
use crate::support::{Daemon, Dir, Dovecot, HttpHost, Memcached, Policy, Postfix, say, until};

const PASS: &str = "DUNNO";

/// Every session has a port of its own, and every message an instance.
static NUMBERS: AtomicU32 = AtomicU32::new(1);

/// The answer to a message with one recipient in a session of its own.
fn mail_from(daemon: &Daemon, client: &str, attributes: &[&str]) -> String {
    let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
    let [client, port] = [format!("client_address={client}"), format!("client_port={}", 1024 + number)];
    let instance = format!("instance=1.{number:x}.0");
    let usual = ["protocol_state=RCPT", &client, &port, &instance];
    Policy::connect(daemon.endpoint()).ask(&[&usual[..], attributes].concat())
}

fn mail(daemon: &Daemon, attributes: &[&str]) -> String {
    mail_from(daemon, "198.51.100.7", attributes)
}

#[test]
fn a_ban_of_a_key_holds_for_it_alone_however_it_is_written() {
    let host = Host::start("recipient_delimiter = \"+\"\ncanonical_senders = true\n");
    for (words, banned, other) in [
        (&["login", r"DOMAIN\joe"][..], r"sasl_username=domain\Joe", r"sasl_username=other\joe"),
        (&["login", "joe doe"], "sasl_username=joe doe", "sasl_username=joe"),
        (&["login=Jürgen@Example.com"], "sasl_username=JÜRGEN@example.COM", "sasl_username=jurgen@example.com"),
        (&["sasl_username=a=b,c"], "sasl_username=a=b,c", "sasl_username=a=b"),
        (&["sender", "prvs=1234abcdef=ann@example.com"], "sender=ann+lists@example.com", "sender=ann@example.net"),
        (&["sender", "<>"], "sender=", "sender=postmaster@example.com"),
        (&["sender_domain", "@Bücher.example"], "sender=eve@xn--bcher-kva.example", "sender=eve@buecher.example"),
        (&["recipient", "all@lists.example.com"], "recipient=All@lists.example.com", "recipient=a@lists.example.com"),
        (&["recipient_domain=Example.net"], "recipient=anybody@example.NET", "recipient=a@mail.example.net"),
    ] {
        assert_eq!(mail(&host.daemon, &[banned]), PASS, "{banned}");
        let (said, code) = host.say(&[&["ban"], words, &["for", "2h", "because", "stolen"]].concat());
        assert!(code == 0 && said.contains(" is banned for 2 h\n"), "{said}");
        for client in ["198.51.100.7", "127.0.0.1", "2001:db8::1"] {
            let answer = mail_from(&host.daemon, client, &[banned]);
            assert_eq!(answer, "DEFER_IF_PERMIT 4.7.0 stolen", "{words:?} {client}");
        }
        assert_eq!(mail(&host.daemon, &[other]), PASS, "{other}");
        let (shown, _) = host.say(&[&["show"], words].concat());
        assert!(shown.contains("override  ban ") && shown.contains(" left, by root: stolen\n"), "{shown}");
        let (explained, _) = host.say(&[&["explain"], words].concat());
        assert!(explained.contains("\nbecause an administrator banned "), "{explained}");
        assert!(explained.contains(" left: stolen\nto let it in: connshaper unban "), "{explained}");
        let unbanned = host.ask(&[&["unban"], words].concat());
        assert_eq!(unbanned["lifted"], 1, "{unbanned:#}");
        let was = unbanned["was"][0].as_str().unwrap();
        assert!(was.contains(" was banned by root for ") && was.ends_with(" more: stolen"), "{was}");
        assert_eq!(mail(&host.daemon, &[banned]), PASS, "{banned}");
        let (said, code) = host.say(&[&["unban"], words].concat());
        assert!(code == 0 && said.contains(" had no ban of its own\n"), "{said}");
    }
}

#[test]
fn a_ban_without_a_reason_names_the_key_and_a_text_of_the_configuration_stays() {
    let host = Host::start("");
    host.ask(&["ban", "login", "joe@example.com"]);
    let joe = ["sasl_username=joe@example.com"];
    assert_eq!(mail(&host.daemon, &joe), "DEFER_IF_PERMIT 4.7.0 Access denied for login joe@example.com");
    let line = host.daemon.lines().wait_for("REFUSED ");
    assert!(line.contains(" key=\"login=joe@example.com\" limit=blacklist reason=banned "), "{line}");
    let before = fs::read_to_string(host.daemon.config()).unwrap();
    host.daemon.reload(&format!("blacklist_action = \"REJECT\"\nblacklist_text = \"Call us\"\n{before}"));
    assert_eq!(mail(&host.daemon, &joe), "REJECT 5.7.0 Call us");
    host.ask(&["ban", "login", "joe@example.com", "because", "gestört"]);
    assert_eq!(mail(&host.daemon, &joe), r"REJECT 5.7.0 gest\x{F6}rt");
    assert_eq!(host.ask(&["status"])["overrides"][0]["note"], "gestört");
    let (status, _) = host.say(&["status"]);
    assert!(status.contains("ban login=joe@example.com, ") && status.contains(" left, by root: gestört"), "{status}");
}

#[test]
fn what_cannot_be_banned_is_refused_with_what_to_write() {
    let host = Host::start("");
    for words in [&["all"][..], &["group=office"], &[&format!("sender={}@example.com", "a".repeat(600))]] {
        let (said, code) = host.say(&[&["ban"], words].concat());
        assert!(
            code == 64 && said.contains("ban or an allow") | said.contains("not what requests have"),
            "{code}: {said}"
        );
    }
    for reason in ["", "two\nlines", &"x".repeat(101)] {
        let (said, code) = host.say(&["ban", "login", "joe", "because", reason]);
        assert!(code == 64 && said.contains("1 to 100 characters"), "{said}");
    }
    assert_eq!(host.ask(&["status"])["administrator_bans"], 0);
}

/// One policy connection's session, asked message by message.
struct Session(Policy);

impl Session {
    fn at(daemon: &Daemon) -> Self {
        Self(Policy::connect(daemon.endpoint()))
    }

    fn passes(&mut self, message: u32, attributes: &[&str]) -> bool {
        let instance = match message {
            0 => "instance=".to_owned(),
            _ => format!("instance=1.{message}.0.{message}"),
        };
        let usual = ["client_address=203.0.113.5", "client_port=1", &instance];
        self.0.ask(&[&usual[..], attributes].concat()) == PASS
    }
}

#[test]
fn a_session_that_was_let_in_is_refused_with_its_next_message_or_recipient() {
    let host = Host::start("");
    let mut session = Session::at(&host.daemon);
    let joe = "sasl_username=joe";
    assert!(session.passes(0, &["protocol_state=CONNECT"]));
    assert!(session.passes(1, &["protocol_state=RCPT", joe, "recipient=a@example.net"]));
    host.ask(&["ban", "login", "joe"]);
    host.ask(&["ban", "recipient_domain", "example.com"]);
    assert!(session.passes(1, &["protocol_state=DATA", joe]), "a message goes on");
    assert!(!session.passes(1, &["protocol_state=RCPT", joe, "recipient=b@example.com"]), "another recipient");
    assert!(!session.passes(2, &["protocol_state=RCPT", joe, "recipient=a@example.net"]), "the next message");
    host.ask(&["unban", "login", "joe"]);
    assert!(session.passes(2, &["protocol_state=RCPT", joe, "recipient=a@example.net"]), "at once");
    assert!(!session.passes(2, &["protocol_state=RCPT", joe, "recipient=b@example.com"]));
    assert!(session.passes(2, &["protocol_state=RCPT", joe, "recipient=c@example.net"]));
}

#[test]
fn an_allowance_of_a_key_passes_its_limits_and_the_narrower_word_holds() {
    let limits = "blacklist = [\"203.0.113.0/24\"]\n[limit.users]\ncount = \"messages\"\nper = \"sasl_username\"\n\
                  threshold = 1\nban_time = \"1h\"\n";
    let host = Host::start(limits);
    let ann = ["sasl_username=ann@example.com", "sender=ann@example.com"];
    assert_eq!(mail(&host.daemon, &ann), PASS);
    let refused = mail(&host.daemon, &ann);
    assert_ne!(refused, PASS);
    let (explained, _) = host.say(&["explain", "login", "ann@example.com"]);
    assert!(explained.contains("or: connshaper allow sasl_username=ann@example.com for 2h\n"), "{explained}");
    host.daemon.lines().wait_for("BANNED ");
    let allowed = host.ask(&["allow", "login", "ann@example.com", "for", "2h"]);
    assert_eq!(allowed["notes"], json!(["bans of limits lifted: 1"]));
    for client in ["198.51.100.7", "203.0.113.1"] {
        assert!((0..5).all(|_| mail_from(&host.daemon, client, &ann) == PASS), "{client}");
    }
    let (explained, _) = host.say(&["explain", "login", "ann@example.com"]);
    assert!(explained.contains("answer: DUNNO\nbecause allowed\n"), "{explained}");

    // A ban of her domain is wider, one of her sender's is about something else.
    host.ask(&["ban", "login_domain", "example.com"]);
    assert_eq!(mail(&host.daemon, &ann), PASS);
    host.ask(&["ban", "sender_domain", "example.com"]);
    assert_ne!(mail(&host.daemon, &ann), PASS);
    assert_eq!(host.ask(&["unban", "sender_domain", "example.com"])["lifted"], 1);
    host.ask(&["ban", "client=198.51.100.0/24,login=ann@example.com"]);
    assert_ne!(mail(&host.daemon, &ann), PASS);
    assert_eq!(mail_from(&host.daemon, "192.0.2.1", &ann), PASS);
    let note = &host.ask(&["allow", "login", "ann@example.com"])["notes"][0];
    let expected = "client=198.51.100.0/24,login=ann@example.com in it is banned by root and stays refused: unban that";
    assert_eq!(note, expected);
    // What is in it goes with it, what is around it stays, and is named.
    let unbanned = host.ask(&["unban", "login", "ann@example.com"]);
    assert_eq!(unbanned["lifted"], 1, "{unbanned:#}");
    assert!(unbanned["notes"][0].as_str().unwrap().starts_with("login_domain=example.com is banned by root: "));
    assert_eq!(mail(&host.daemon, &ann), PASS);
    let disallowed = host.ask(&["disallow", "login", "ann@example.com"]);
    assert!(disallowed["was"][0].as_str().unwrap().starts_with("login=ann@example.com was allowed by root for "));
    assert_ne!(mail(&host.daemon, &ann), PASS);
}

#[test]
fn an_allowance_of_a_recipient_lets_nothing_else_of_the_session_pass() {
    let limits = "[limit.mails]\nper = \"client\"\ncount = \"connections\"\nthreshold = 1\n";
    let host = Host::start(limits);
    host.ask(&["allow", "recipient", "postmaster@example.net"]);
    mail_from(&host.daemon, "203.0.113.5", &["recipient=a@example.net"]);
    let mut session = Session::at(&host.daemon);
    assert!(session.passes(1, &["protocol_state=RCPT", "recipient=postmaster@example.net"]));
    assert!(!session.passes(1, &["protocol_state=RCPT", "recipient=a@example.net"]));
}

#[test]
fn a_ban_that_is_not_enforced_is_logged_once_for_a_message() {
    let host = Host::start("log_only = true\n");
    host.ask(&["ban", "login", "joe", "because", "stolen"]);
    let mut session = Session::at(&host.daemon);
    assert!(session.passes(0, &["protocol_state=CONNECT"]));
    for recipient in ["recipient=a@example.net", "recipient=b@example.net"] {
        assert!(session.passes(1, &["protocol_state=RCPT", "sasl_username=joe", recipient]));
    }
    let line = host.daemon.lines().wait_for("WOULD_REFUSE ");
    assert!(
        line.contains(" key=\"login=joe\" limit=blacklist reason=banned ") && line.contains(" note=stolen"),
        "{line}"
    );
    assert_eq!(host.ask(&["status"])["since_start"]["would_refuse"], 1);
}

#[test]
fn a_banned_login_is_refused_at_the_login_door() {
    let host = HttpHost::start("[limit.guesses]\ndoor = \"login\"\nthreshold = 3\n");
    let status = |host: &HttpHost| host.dovecot("allow", "192.0.2.7", "");
    assert_eq!(status(&host)["status"], 0);
    host.say("ban login Joe@Example.ORG for 2h because stolen");
    assert_eq!(status(&host), json!({ "status": -1, "msg": "stolen" }));
    let said = host.say("explain 192.0.2.7 --door login login=joe@example.org");
    assert!(said.contains("banned login=joe@example.org, ") && said.contains("left: stolen"), "{said}");
    host.say("unban login joe@example.org");
    assert_eq!(status(&host)["status"], 0);
    // What is said of the login of a mail client is said of no other.
    host.say("ban sasl_username joe@example.org");
    assert_eq!(status(&host)["status"], 0);
}

#[test]
fn hosts_of_a_shared_memcached_follow_within_a_second() {
    let memcached = Memcached::start();
    let (one, other) = (Host::start(&memcached.config()), Host::start(&memcached.config()));
    let [joe, eve] = [["sasl_username=joe doe"], ["sender=eve@example.com"]];
    one.ask(&["ban", "login", "joe doe", "for", "2h", "because", "stolen"]);
    one.ask(&["ban", "203.0.113.0/24"]);
    until("a ban on the other host", || (mail(&other.daemon, &joe) == "DEFER_IF_PERMIT 4.7.0 stolen").then_some(()));
    let line = other.daemon.lines().wait_for("BANNED key=\"login=");
    assert!(line.contains("login=joe%20doe\" limit=blacklist seconds=7") && line.contains(" note=stolen"));
    other.ask(&["ban", "sender", "eve@example.com"]);
    assert_eq!(other.ask(&["unban", "login", "joe doe"])["lifted"], 1);
    until("its end on the first", || (mail(&one.daemon, &joe) == PASS).then_some(()));
    one.daemon.lines().wait_for("UNBANNED key=\"login=joe%20doe\" limit=blacklist");
    assert_ne!(mail(&one.daemon, &eve), PASS);
    assert_ne!(mail_from(&other.daemon, "203.0.113.1", &[]), PASS);
}

#[test]
fn bans_and_allowances_of_keys_survive_a_restart_and_an_upgrade() {
    let dir = Dir::new();
    let (control, state) = (dir.join("control"), dir.join("state"));
    let config = format!(
        "control_socket = {control:?}\nstate_file = {state:?}\nthreshold = 1000\n[limit.users]\ncount = \"messages\"\n\
         per = \"sasl_username\"\nthreshold = 1\n"
    );
    let mut daemon = Daemon::start(&config);
    let say = |words: &[&str]| {
        let (text, code) = say(&control, words);
        assert_eq!(code, 0, "{text}");
        text
    };
    say(&["ban", "login", "jürgen@example.com", "for", "2h", "because", "stolen"]);
    say(&["allow", "login", "ann"]);
    let holds = |daemon: &Daemon| {
        assert_eq!(mail(daemon, &["sasl_username=Jürgen@example.com"]), "DEFER_IF_PERMIT 4.7.0 stolen");
        assert!((0..3).all(|_| mail(daemon, &["sasl_username=ann"]) == PASS));
        let shown = say(&["show", "login", "jürgen@example.com"]);
        assert!(shown.contains("ban login=j%c3%bcrgen@example.com, ") && shown.contains(" left, by root: stolen"));
    };
    holds(&daemon);
    assert!(daemon.stop_by(Signal::SIGTERM).success());
    daemon.start_again();
    daemon.lines().wait_for("STATE_RESTORED ");
    holds(&daemon);
    daemon.upgrade();
    holds(&daemon);
}

#[test]
fn a_stolen_account_is_suspended_at_a_real_postfix_whatever_its_address() {
    let host = Host::start("blacklist_action = \"REJECT\"\n");
    let dovecot = Dovecot::start();
    let list = format!("smtpd_recipient_restrictions = check_policy_service {}\n", host.daemon.endpoint());
    let postfix = Postfix::setup().main_cf(&(dovecot.main_cf() + &list)).start();
    let session = |from: &str, login: &str| {
        let mut smtp = postfix.client(from);
        smtp.login(login);
        smtp
    };
    // One is in the middle of its work, and webmail is on the whitelist.
    let mut open = session("127.0.1.1", "joe@example.com");
    open.deliver(2);
    host.ask(&["ban", "login", "joe@example.com", "for", "2h", "because", "Account suspended, call 4711"]);
    open.mail().expect(250);
    let refused = open.rcpt().expect(554);
    assert!(refused.text.ends_with("Account suspended, call 4711"), "{refused:?}");
    for from in ["127.0.1.2", "127.0.0.1"] {
        let mut smtp = session(from, "Joe@Example.com");
        smtp.mail().expect(250);
        smtp.rcpt().expect(554);
    }
    session("127.0.1.1", "ann@example.com").deliver(1);
    assert_eq!(host.ask(&["unban", "login", "joe@example.com"])["lifted"], 1);
    open.command("RSET").expect(250);
    open.deliver(1);
}
