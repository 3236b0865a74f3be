//! The commands of contrib/alert: a mail through a real Postfix, and a webhook over HTTP.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::sync::mpsc;
use std::thread;

use serde_json::Value;

use crate::support::{Daemon, Dir, PATIENCE, Policy, Postfix, until};

const MAIL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/contrib/alert/mail-postmaster");

const WEBHOOK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/contrib/alert/call-webhook");

const LIMIT: &str = "
    [limit.users]
    threshold = 1
    count = \"messages\"
    per = \"sasl_username\"
    alert = true
    ";

/// Two messages of a login, where one is allowed.
fn go_over(daemon: &Daemon, login: &str) {
    let login = format!("sasl_username={login}");
    let mut session = Policy::connect(daemon.endpoint());
    for instance in ["instance=1.1.0", "instance=1.2.0"] {
        let (client, sender) = ("client_address=198.51.100.7", "sender=joe@example.org");
        let recipient = "recipient=a@example.net";
        session.ask(&["protocol_state=RCPT", client, "client_port=2000", &login, sender, instance, recipient]);
    }
}

#[test]
fn an_alert_reaches_the_postmaster_by_mail() {
    let (setup, dir) = (Postfix::setup(), Dir::new());
    let (boxes, config) = (setup.in_queue_directory("boxes"), setup.in_queue_directory("../etc"));
    fs::create_dir(&boxes).unwrap();
    fs::set_permissions(&boxes, Permissions::from_mode(0o777)).unwrap();
    let postfix = setup
        .main_cf(&format!(
            "
            myorigin = example.org
            mydestination =
            virtual_mailbox_domains = example.org
            virtual_mailbox_base = {}
            virtual_mailbox_maps = static:postmaster/
            virtual_uid_maps = static:65534
            virtual_gid_maps = static:65534
            ",
            boxes.display()
        ))
        .master_cf(
            "
            pickup unix n - n 60 1 pickup
            virtual unix - n n - - virtual
            ",
        )
        .start();
    // sendmail(1) would take the configuration of the system.
    let preparation = format!("export MAIL_CONFIG='{}'", config.display());
    // As under the shipped unit, where postdrop's group is given by the unit, not by the mode of the program.
    let confined = "\"/usr/bin/setpriv\", \"--reuid=nobody\", \"--regid=nogroup\", \"--groups=postdrop\", \
                    \"--bounding-set=-all\", \"--no-new-privs\"";
    let script = dir.join("mail-postmaster");
    fs::copy(MAIL, &script).unwrap();
    let config = format!("threshold = 1000\nalert_command = [{confined}, {script:?}]\n{LIMIT}");
    let daemon = Daemon::start_after(&preparation, &config);
    go_over(&daemon, "j\u{fc}rgen@example.com");
    postfix.lines().wait_for("status=sent (delivered to maildir)");

    let new = boxes.join("postmaster/new");
    let mail = until("a mail", || fs::read_dir(&new).ok()?.next()?.ok().map(|entry| entry.path()));
    let mail = fs::read_to_string(mail).unwrap();
    let (head, body) = mail.split_once("\n\n").unwrap();
    let has = |part: &str, line: &str| assert!(part.lines().any(|other| other == line), "{line}: {mail}");
    has(head, "To: postmaster@example.org");
    has(head, "Subject: connshaper: OVER_LIMIT sasl_username=j??rgen@example.com");
    has(head, "Auto-Submitted: auto-generated");
    has(head, "Content-Type: text/plain; charset=utf-8");
    has(body, "CONNSHAPER_EVENT=OVER_LIMIT");
    has(body, "CONNSHAPER_LIMIT=users");
    has(body, "CONNSHAPER_KEY=sasl_username=j\u{fc}rgen@example.com");
    has(body, "CONNSHAPER_LOGIN=j\u{fc}rgen@example.com");
    has(body, "CONNSHAPER_CLIENT=198.51.100.7");
    has(body, "CONNSHAPER_SENDER=joe@example.org");
    has(body, "CONNSHAPER_COUNT=2");
    has(body, "CONNSHAPER_THRESHOLD=1");
}

#[test]
fn an_alert_reaches_a_webhook_and_its_refusal_is_logged() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let (sender, received) = mpsc::channel();
    thread::spawn(move || {
        for status in ["204 No Content", "503 Service Unavailable"] {
            let (mut stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let (mut head, mut line) = (String::new(), String::new());
            while reader.read_line(&mut line).unwrap() > 2 {
                head.push_str(&line);
                line.clear();
            }
            let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap();
            let mut body = vec![0; length.parse().unwrap()];
            reader.read_exact(&mut body).unwrap();
            write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").unwrap();
            sender.send((head, body)).unwrap();
        }
    });
    let config = format!("threshold = 1000\nalert_command = [{WEBHOOK:?}, {url:?}]\n{LIMIT}");
    let daemon = Daemon::start_after("export no_proxy='*'", &config);

    go_over(&daemon, "j\u{fc}rgen@example.com");
    let (head, body) = received.recv_timeout(PATIENCE).unwrap();
    assert!(head.starts_with("POST /hook HTTP/1.1\r\n"), "{head}");
    assert!(head.contains("\r\nContent-Type: application/json\r\n"), "{head}");
    let body: Value = serde_json::from_slice(&body).unwrap();
    let text = body["text"].as_str().unwrap();
    let expected = "connshaper: OVER_LIMIT limit=users key=sasl_username=j\u{fc}rgen@example.com client=198.51.100.7 \
                    count=2 of 1";
    assert_eq!(text.trim_end(), expected);

    go_over(&daemon, "ann@example.com");
    let (_, body) = received.recv_timeout(PATIENCE).unwrap();
    assert!(String::from_utf8(body).unwrap().contains("key=sasl_username=ann@example.com"));
    let line = daemon.lines().wait_for("COMMAND_FAILED");
    assert!(line.contains("ann@example.com"), "{line}");
}
