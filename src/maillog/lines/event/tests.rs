use super::*;
use crate::maillog::lines::line::Line;

fn sense(program: &str, message: &str) -> (LineKind, Option<EventKind>, String) {
    let text = format!("Nov 21 09:05:07 mx {program}[411]: {message}");
    let (mut events, mut names) = (Vec::new(), Vec::new());
    let kind = Reader::new(&[]).read(&Line::parse(text.as_bytes()).unwrap(), &mut events, &mut names);
    assert_eq!(events.len(), usize::from(kind == LineKind::Event));
    (kind, events.first().map(|event| event.kind), String::from_utf8(names).unwrap())
}

fn what(program: &str, message: &str) -> Option<EventKind> {
    sense(program, message).1
}

#[test]
fn a_connect_names_its_client() {
    let (_, kind, names) = sense("postfix/smtpd", "connect from mail.example.net[198.51.100.7]");
    let Some(EventKind::Connect { who, .. }) = kind else { panic!("no connect: {kind:?}") };
    assert_eq!((who.address, names.as_str()), (Some("198.51.100.7".parse().unwrap()), "mail.example.net"));
    assert_eq!(sense("postfix/smtpd", "connect from unknown[2001:db8::1]").2, "");
    let Some(EventKind::Connect { who, .. }) = what("postfix/smtpd", "connect from unknown[unknown]") else {
        panic!("no connect");
    };
    assert_eq!(who.address, None);
}

#[test]
fn the_counters_of_a_disconnect_tell_whether_there_was_a_recipient_and_a_login() {
    let seen = |counters: &str| match what("postfix/smtpd", &format!("disconnect from a[192.0.2.1]{counters}")) {
        Some(EventKind::Disconnect { asked, authenticated, .. }) => (asked, authenticated),
        other => panic!("{counters}: {other:?}"),
    };
    assert_eq!(seen(" ehlo=1 mail=1 rcpt=1 data=1 quit=1 commands=5"), (true, false));
    assert_eq!(seen(" ehlo=1 auth=1 mail=1 rcpt=0/2 commands=4"), (true, true));
    assert_eq!(seen(" ehlo=1 auth=0/3 commands=1/4"), (false, false));
    assert_eq!(seen(" vrfy=1 commands=1"), (true, false));
    assert_eq!(seen(""), (false, false));
}

#[test]
fn a_recipient_is_known_by_a_message_or_a_refusal() {
    let message = |text: &str| match what("postfix/smtpd", text) {
        Some(EventKind::Recipient { login, message, .. }) => Some((login.length > 0, message.is_some())),
        _ => None,
    };
    assert_eq!(message("4Bc9x1: client=a[192.0.2.1]"), Some((false, true)));
    let login = "4Bc9x1: client=a[192.0.2.1], sasl_method=PLAIN, sasl_username=me";
    assert_eq!(message(login), Some((true, true)));
    for refusal in ["reject", "reject_warning", "milter-reject", "discard"] {
        let text = format!("NOQUEUE: {refusal}: RCPT from a[192.0.2.1]: 450 4.7.1 <x>: no; from=<y>");
        assert_eq!(message(&text), Some((false, false)), "{text}");
    }
    assert_eq!(message("NOQUEUE: reject: CONNECT from a[192.0.2.1]: 554 5.7.1"), None);
    assert_eq!(message("NOQUEUE: reject: MAIL from a[192.0.2.1]: 450"), None);
    assert_eq!(message("lost connection after RCPT from a[192.0.2.1]"), None);
}

#[test]
fn a_message_is_followed_by_its_queue_id() {
    let Some(EventKind::Recipient { message: Some(begun), .. }) = what("postfix/smtpd", "4Bc9x1: client=a[192.0.2.1]")
    else {
        panic!("no message");
    };
    let queued = "4Bc9x1: from=<a@b>, size=1200, nrcpt=1 (queue active)";
    let Some(EventKind::Queued { message, recipients: 1, sender }) = what("postfix/qmgr", queued) else {
        panic!("not queued");
    };
    assert_eq!((message, sender.length), (begun, 3));
    let sent = "4Bc9x1: to=<c@d>, relay=x[192.0.2.9]:25, delay=1, dsn=2.0.0, status=sent (250 ok)";
    let delivery = |outcome, next| Some(EventKind::Delivery { message: begun, outcome, next });
    assert_eq!(what("postfix/smtp", sent), delivery(DeliveryOutcome::Sent, None));
    assert_eq!(what("postfix/discard", sent), delivery(DeliveryOutcome::Discarded, None));
    assert_eq!(
        what("postfix/smtp", &sent.replace("250 ok", "250 2.7.0 Ok, discarded, id=1")),
        delivery(DeliveryOutcome::Discarded, None)
    );
    let handed_on =
        sent.replace("250 ok", "250 2.0.0 from MTA(smtp:[127.0.0.1]:10025): 250 2.0.0 Ok: queued as 4Bc9x1");
    assert_eq!(what("postfix/smtp", &handed_on), delivery(DeliveryOutcome::Sent, Some(begun)));
    assert_eq!(what("postfix/qmgr", "4Bc9x1: removed"), Some(EventKind::Removed(begun)));
    assert_eq!(what("postfix-out/qmgr", "4Bc9x1: removed"), Some(EventKind::Removed(begun)));
    let bounced = "4Bc9x1: to=<\", status=sent (\"@d>, relay=none, dsn=5.0.0, status=bounced (no)";
    assert_eq!(what("postfix/smtp", bounced), None);
    let deferred = "4Bc9x1: to=<c@d>, relay=x, dsn=4.0.0, status=deferred (host x said: 450 , status=sent (250 ok)";
    assert_eq!(what("postfix/smtp", deferred), None);
}

#[test]
fn instances_and_services_are_told_apart() {
    let connect = "connect from a[192.0.2.1]";
    assert!(matches!(what("postfix-in/smtpd", connect), Some(EventKind::Connect { .. })));
    assert_ne!(what("postfix-in/smtpd", connect), what("postfix/smtpd", connect));
    assert_eq!(what("postfix/submission/smtpd", connect), Some(EventKind::Submission));
    for name in ["postfix/smtps", "postfix-submission", "postfix/587", "postfix/smtps-in", "submission-haproxy"] {
        assert_eq!(what(&format!("{name}/smtpd"), connect), Some(EventKind::Submission), "{name}");
    }
    assert_eq!(
        what("postfix/postscreen", "CONNECT from [192.0.2.1]:5 to [192.0.2.2]:25"),
        Some(EventKind::ScreenConnect)
    );
    assert_eq!(what("postfix/postscreen", "PASS OLD [192.0.2.1]:5"), Some(EventKind::ScreenPass));
    assert_eq!(sense("sshd", connect).0, LineKind::Foreign);
    assert_eq!(sense("postfix/anvil", "statistics: max").0, LineKind::Idle);
}

#[test]
fn what_is_known_of_programs_makes_no_difference() {
    let mut reader = Reader::new(&["inbound".to_owned()]);
    let (mut events, mut names) = (Vec::new(), Vec::new());
    let mut hosts = Vec::new();
    // More programs of more hosts than are known at a time, each twice.
    for host in (0..40).chain(0..40) {
        let text = format!("Nov 21 09:05:07 mx{host} inbound/smtpd[411]: connect from a[192.0.2.1]");
        reader.read(&Line::parse(text.as_bytes()).unwrap(), &mut events, &mut names);
        let text = text.replace("inbound", "postfix");
        reader.read(&Line::parse(text.as_bytes()).unwrap(), &mut events, &mut names);
        let [.., submission, connect] = &events[..] else { panic!("no events") };
        assert_eq!(submission.kind, EventKind::Submission);
        assert!(matches!(connect.kind, EventKind::Connect { .. }));
        hosts.push((submission.clock, connect.clock));
    }
    assert_eq!(hosts[..40], hosts[40..]);
    hosts.truncate(40);
    hosts.sort_unstable();
    hosts.dedup();
    assert_eq!(hosts.len(), 40);
}
