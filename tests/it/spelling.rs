//! One mailbox in many spellings: they share its counters, and conditions and commands know all of them.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;

use serde_json::{Value, json};

use crate::support::{Daemon, Dir, PATIENCE, Policy, Postfix, ask};

const CUT: &str = "recipient_delimiter = \"+-\"\ncanonical_senders = true\n";

/// A daemon with a control socket.
struct Host {
    daemon: Daemon,
    socket: PathBuf,
    _dir: Dir,
}

impl Host {
    fn start(config: &str) -> Self {
        let dir = Dir::new();
        let socket = dir.join("control");
        let own = format!("control_socket = {:?}\nthreshold = 1000\nwhitelist = []\n", socket.to_str().unwrap());
        Self { daemon: Daemon::start(&(own + config)), socket, _dir: dir }
    }

    /// What Postfix is told about a message's first recipient.
    fn asks(&self, message: u32, attributes: &[&str]) -> String {
        let (port, instance) = (format!("client_port={}", 2000 + message), format!("instance=1.{message}.0"));
        let message = ["protocol_state=RCPT", "client_address=198.51.100.7", &port, &instance];
        Policy::connect(self.daemon.endpoint()).ask(&[&message, attributes].concat())
    }

    /// Runs a command with `--json`, which must succeed, and returns its answer.
    fn says(&self, words: &[&str]) -> Value {
        ask(&self.socket, words)
    }
}

/// What a limit of two allows of three messages that differ in the spelling of one attribute.
fn passed(config: &str, per: &str, values: &[&str]) -> usize {
    let host = Host::start(&format!("{config}[limit.one]\nthreshold = 2\ncount = \"messages\"\nper = \"{per}\"\n"));
    let attribute = per.trim_end_matches("_domain");
    let asks = |(message, value): (usize, &&str)| {
        let others = ["sender=joe@example.net", "recipient=joe@example.net"];
        let others = others.into_iter().filter(|other| !other.starts_with(attribute));
        let own = format!("{attribute}={value}");
        host.asks(message as u32, &others.chain([own.as_str()]).collect::<Vec<_>>())
    };
    values.iter().enumerate().map(asks).filter(|answer| answer == "DUNNO").count()
}

#[test]
fn spellings_of_one_mailbox_share_its_counter() {
    let extensions = ["alice@example.org", "Alice+one@example.org", "alice-two+three@EXAMPLE.org."];
    let batv = ["alice@example.org", "prvs=1234abcdef=alice@example.org", "btv1==053a9bd3de3==alice@example.org"];
    let srs = [
        "SRS0=AAAA=BB=example.org=alice@one.example",
        "SRS0=CCCC=DD=example.org=alice@one.example",
        "SRS1=EEEE=one.example==AAAA=BB=example.org=alice@two.example",
    ];
    let verp = ["list+a=example.com@example.org", "list+b=example.com@example.org", "list-c=example.net@example.org"];
    for (per, spellings) in [
        ("sender", &extensions),
        ("recipient", &extensions),
        ("sasl_username", &extensions),
        ("sender", &batv),
        ("sender", &srs),
        ("sender_domain", &srs),
        ("sender", &verp),
    ] {
        assert_eq!(passed(CUT, per, spellings), 2, "{per} {spellings:?}");
    }
    for (per, spellings) in
        [("sender", &extensions), ("sasl_username", &extensions), ("sender", &batv), ("sender", &srs)]
    {
        assert_eq!(passed("", per, spellings), 3, "{per} {spellings:?}: nothing is cut by default");
    }
    let letters =
        ["j\u{fc}rgen@b\u{fc}cher.example", "J\u{dc}RGEN@xn--bcher-kva.example", "ju\u{308}rgen@B\u{dc}CHER.example."];
    for per in ["sender", "recipient", "sasl_username", "sender_domain", "recipient_domain"] {
        assert_eq!(passed("", per, &letters), 2, "{per}");
    }
    let special = ["owner-list@example.org", "owner-other@example.org", "owner-third@example.org"];
    assert_eq!(passed(CUT, "sender", &special), 3);
}

#[test]
fn commands_find_a_key_by_any_spelling() {
    let config = format!("{CUT}[limit.users]\nthreshold = 1\ncount = \"messages\"\nper = \"sasl_username\"\n");
    let host = Host::start(&config);
    let sends =
        |message| host.asks(message, &["sasl_username=J\u{dc}RGEN+x@b\u{fc}cher.example", "recipient=a@example.org"]);
    assert_eq!(sends(1), "DUNNO");
    assert_ne!(sends(2), "DUNNO");
    let key = "sasl_username=j%c3%bcrgen@xn--bcher-kva.example";
    host.daemon.lines().wait_for(&format!("REFUSED client=198.51.100.7 key=\"{key}\" "));
    for spelling in [
        "login j\u{fc}rgen@b\u{fc}cher.example",
        "login J\u{dc}rgen-lists@xn--bcher-kva.example.",
        "sasl_username=ju\u{308}rgen@B\u{dc}CHER.example",
        key,
    ] {
        let shown = host.says(&["show", spelling]);
        assert_eq!(shown["counters"][0]["key"], json!(key), "{spelling}: {shown:#}");
        assert_eq!(shown["counters"][0]["count"], json!(2), "{spelling}: {shown:#}");
        let explained = host.says(&["explain", spelling]);
        let of_users = |limit: &&Value| limit["limit"] == json!("users");
        let limit = explained["limits"].as_array().unwrap().iter().find(of_users).unwrap();
        assert_eq!(limit["key"], json!(key), "{spelling}: {explained:#}");
        assert_eq!(explained["verdict"]["verdict"], json!("refuse"), "{spelling}: {explained:#}");
    }
    assert_eq!(host.says(&["reset", "login J\u{dc}RGEN+y@xn--bcher-kva.example"])["keys"], json!(1));
    assert_eq!(sends(3), "DUNNO");
    // A program that checks by name, before it hits, means the same key.
    assert_eq!(host.says(&["check-hit", "users", "j\u{fc}rgen@b\u{fc}cher.example"])["count"], json!(2));
}

#[test]
fn conditions_know_the_mailbox_and_the_address_as_it_was_sent() {
    let limit = |name: &str, condition: &str| {
        format!("[limit.{name}]\nthreshold = 1\ncount = \"messages\"\nper = []\nmatch = {{ sender = {condition} }}\n")
    };
    let applies = |condition: &str, sender: &str| {
        let host = Host::start(&format!("{CUT}{}", limit("one", condition)));
        let sender = format!("sender={sender}");
        let [first, second] = [1, 2].map(|message| host.asks(message, &[&sender, "recipient=a@example.org"]));
        assert_eq!(first, "DUNNO");
        second != "DUNNO"
    };
    for (condition, sender, is_met) in [
        ("\"alice@example.org\"", "alice+x@example.org", true),
        ("\"alice@example.org\"", "SRS0=AAAA=BB=example.org=alice@one.example", true),
        ("\"alice@example.org\"", "bob+alice@example.org", false),
        ("\"alice+x@example.org\"", "alice+x@example.org", true),
        ("\"alice+x@example.org\"", "alice+y@example.org", false),
        ("\"alice+x@example.org\"", "alice@example.org", false),
        ("\"@example.org\"", "SRS0=AAAA=BB=example.org=alice@one.example", true),
        ("\"@one.example\"", "SRS0=AAAA=BB=example.org=alice@one.example", true),
        ("\"@b\u{fc}cher.example\"", "joe@xn--bcher-kva.example", true),
        ("\"@xn--bcher-kva.example\"", "joe@B\u{dc}CHER.example", true),
        ("\".b\u{fc}cher.example\"", "joe@mail.B\u{dc}CHER.example.", true),
        ("\"j\u{fc}rgen@example.org\"", "J\u{dc}RGEN@example.org", true),
        ("\"/^alice@/\"", "alice+x@example.org", false),
        ("\"/[+]x@/\"", "alice+x@example.org", true),
    ] {
        assert_eq!(applies(condition, sender), is_met, "{condition} {sender}");
    }
}

#[test]
fn postfix_with_smtputf8_and_extensions_is_counted_by_mailbox() {
    let config = "threshold = 1000\nwhitelist = []\nrecipient_delimiter = \"+\"\n\
        [limit.senders]\nthreshold = 2\ncount = \"messages\"\nper = \"sender\"\n\
        [limit.recipients]\nthreshold = 2\ncount = \"messages\"\nper = \"recipient\"\n";
    let daemon = Daemon::start(config);
    let restrictions = format!("smtpd_recipient_restrictions = check_policy_service {}", daemon.endpoint());
    let postfix = Postfix::setup().main_cf(&restrictions).main_cf("smtputf8_enable = yes");
    let postfix = postfix.main_cf("smtpd_error_sleep_time = 0").start();
    let sends = |sender: &str, recipient: &str| {
        let mut smtp = postfix.client("127.0.0.2");
        smtp.ehlo().expect(250);
        smtp.command(format!("MAIL FROM:<{sender}> SMTPUTF8")).expect(250);
        smtp.command(format!("RCPT TO:<{recipient}>")).code
    };
    for (sender, code) in [
        ("j\u{fc}rgen@b\u{fc}cher.example", 250),
        ("J\u{dc}RGEN+lists@xn--bcher-kva.example", 250),
        ("ju\u{308}rgen@B\u{dc}CHER.example", 450),
    ] {
        assert_eq!(sends(sender, &format!("a{code}-{}@example.org", sender.len())), code, "{sender}");
    }
    daemon.lines().wait_for("key=\"sender=j%c3%bcrgen@xn--bcher-kva.example\" ");
    for (recipient, code) in
        [("Alice+one@example.org", 250), ("alice+two@example.org", 250), ("alice@example.org", 450)]
    {
        assert_eq!(sends(&format!("s{}@example.net", recipient.len()), recipient), code, "{recipient}");
    }
    daemon.lines().wait_for("key=\"recipient=alice@example.org\" ");
}

#[test]
fn a_refusal_names_a_sender_beyond_ascii_in_ascii_for_postfix_tells_a_text_as_it_is() {
    let restrictions = |endpoint: &str| {
        let (restrictions, utf8) = ("smtpd_recipient_restrictions = check_policy_service", "smtputf8_enable = yes");
        format!("{restrictions} {endpoint}\n{utf8}\nsmtpd_error_sleep_time = 0")
    };
    let recipient = |postfix: &Postfix, mail: &str| {
        let mut smtp = postfix.client("127.0.0.2");
        smtp.ehlo().expect(250);
        smtp.command(format!("MAIL FROM:{mail}")).expect(250);
        smtp.command("RCPT TO:<a@example.org>")
    };
    let in_utf8 = "<j\u{fc}rgen@b\u{fc}cher.example> SMTPUTF8";
    let text = "text = \"{key} has sent as {sender}\"";
    let daemon = Daemon::start(&format!(
        "threshold = 1000\nwhitelist = []\n[limit.senders]\nthreshold = 1\ncount = \"messages\"\nper = \"sender\"\n{text}"
    ));
    let postfix = Postfix::setup().main_cf(&restrictions(daemon.endpoint())).start();
    recipient(&postfix, in_utf8).expect(250);
    let reply = recipient(&postfix, in_utf8).expect(450);
    let told = r"sender j\x{FC}rgen@xn--bcher-kva.example has sent as j\x{FC}rgen@b\x{FC}cher.example";
    assert!(reply.text.contains(told), "{reply:?}");
    // What another policy server says in UTF-8 goes to clients that have not asked for it too, which RFC 6531 forbids.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("inet:{}", listener.local_addr().unwrap());
    let (ask, asked) = mpsc::channel();
    // Ends with Postfix, whose processes keep their connections.
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, ask) = (stream.unwrap(), ask.clone());
            thread::spawn(move || {
                let mut request = Vec::new();
                let mut bytes = [0; 4096];
                while let Ok(length @ 1..) = stream.read(&mut bytes) {
                    request.extend_from_slice(&bytes[..length]);
                    if request.ends_with(b"\n\n") {
                        ask.send(String::from_utf8(std::mem::take(&mut request)).unwrap()).unwrap();
                        stream.write_all("action=450 4.7.0 j\u{fc}rgen\n\n".as_bytes()).unwrap();
                    }
                }
            });
        }
    });
    let postfix = Postfix::setup().main_cf(&restrictions(&endpoint)).start();
    let names = |request: &str| -> Vec<String> {
        request.lines().filter_map(|line| Some(line.split_once('=')?.0.to_owned())).collect()
    };
    let [with, without] = [in_utf8, "<joe@example.net>"].map(|mail| {
        let reply = recipient(&postfix, mail).expect(450);
        assert!(reply.text.ends_with(": j\u{fc}rgen"), "{reply:?}");
        names(&asked.recv_timeout(PATIENCE).unwrap())
    });
    // The request does not say what the client has asked for.
    assert_eq!(with, without);
}

#[test]
fn thresholds_of_single_keys_know_all_spellings() {
    let dir = Dir::new();
    let file = dir.join("thresholds");
    std::fs::write(&file, "bob+any@example.org 3\n.b\u{fc}cher.example 4\n").unwrap();
    let config = format!(
        "{CUT}[limit.users]\nthreshold = 1\ncount = \"messages\"\nper = \"sasl_username\"\nthresholds_file = {:?}\n\
         [limit.users.thresholds]\n\"J\u{dc}RGEN@example.org\" = 2\n",
        file.to_str().unwrap()
    );
    let host = Host::start(&config);
    let mut messages = 0;
    for (spellings, threshold) in [
        (["j\u{fc}rgen@example.org", "J\u{dc}rgen+x@example.org"], 2),
        (["bob@example.org", "Bob+y@example.org"], 3),
        (["eve@mail.xn--bcher-kva.example", "eve-z@mail.B\u{dc}CHER.example."], 4),
        (["joe@example.org", "joe+x@example.org"], 1),
    ] {
        let passes = |login: &&&str| -> bool {
            messages += 1;
            host.asks(messages, &[&format!("sasl_username={login}"), "recipient=a@example.org"]) == "DUNNO"
        };
        assert_eq!(spellings.iter().cycle().take(6).filter(passes).count(), threshold, "{spellings:?}");
    }
}
