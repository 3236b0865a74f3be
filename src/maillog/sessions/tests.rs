use super::*;
use crate::maillog::lines::blocks::parse;
use crate::maillog::lines::event::{LineKind, Reader};

/// Notes what it is told.
#[derive(Default)]
struct Notes {
    asked: Vec<String>,
    again: Vec<u32>,
    delivered: Vec<String>,
    discarded: usize,
    accepted: Vec<String>,
}

impl SessionSink for Notes {
    fn asked(&mut self, session: &LoggedSession<'_>) {
        self.asked.push(format!("{} {} {}", session.time, session.client, String::from_utf8_lossy(session.name)));
    }

    fn asked_again(&mut self, session: &LoggedSession<'_>) {
        self.again.push(session.message);
    }

    fn accepted(&mut self, message: &AcceptedMessage<'_>) {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        let AcceptedMessage { client, login, sender, recipients, is_submission, .. } = *message;
        let client = client.map_or_else(String::new, |client| client.to_string());
        self.accepted.push(format!("{client} {} {} {recipients} {is_submission}", text(login), text(sender)));
    }

    fn discarded(&mut self, _: IpAddr) {
        self.discarded += 1;
    }

    fn delivered(&mut self, client: IpAddr, _: i64) {
        self.delivered.push(client.to_string());
    }
}

/// Plays lines, a millisecond each.
fn play(seen: Seen, lines: &[&str]) -> (Notes, Sums) {
    let mynetworks =
        ["192.0.2.0/24", "127.0.0.0/8"].map(|network| (network.parse().unwrap(), true)).into_iter().collect();
    let (mut sessions, mut notes) = (SessionTracker::new(seen, mynetworks), Notes::default());
    for (time, line) in (0..).zip(lines) {
        let (program, rest) = line.split_once(' ').unwrap();
        let text = format!("Nov 21 09:05:07 mx postfix/{program}: {rest}");
        let (mut events, mut names) = (Vec::new(), Vec::new());
        let kind = parse(text.as_bytes(), |line| Reader::new(&[]).read(line, &mut events, &mut names));
        assert_eq!(kind, Some(LineKind::Event), "{line}");
        sessions.take(time, &events[0], &names, &mut notes);
    }
    sessions.finish(&mut notes);
    (notes, sessions.sums)
}

const MAIL: [&str; 6] = [
    "smtpd[1] connect from a.example.net[198.51.100.1]",
    "smtpd[1] 4Bc: client=a.example.net[198.51.100.1]",
    "smtpd[1] disconnect from a.example.net[198.51.100.1] ehlo=1 mail=1 rcpt=1 data=1 quit=1 commands=5",
    "qmgr[9] 4Bc: from=<x@y>, size=1, nrcpt=1 (queue active)",
    "smtp[8] 4Bc: to=<x@y>, relay=z, status=sent (250 ok)",
    "qmgr[9] 4Bc: removed",
];

#[test]
fn a_session_is_asked_about_once_at_its_first_recipient_or_when_it_connects() {
    let (notes, sums) = play(Seen::Rcpt, &MAIL);
    assert_eq!((notes.asked, notes.delivered.len()), (vec!["1 198.51.100.1 a.example.net".to_owned()], 1));
    assert_eq!(sums, Sums { sessions: 1, asked: 1, ..Sums::default() });
    assert_eq!(play(Seen::Connect, &MAIL).0.asked, ["0 198.51.100.1 a.example.net"]);
}

#[test]
fn two_messages_and_a_refused_recipient_are_one_session() {
    let (notes, sums) = play(
        Seen::Rcpt,
        &[
            "smtpd[1] connect from unknown[198.51.100.1]",
            "smtpd[2] connect from unknown[198.51.100.2]",
            "smtpd[1] NOQUEUE: reject: RCPT from unknown[198.51.100.1]: 450 no",
            "smtpd[2] 5Bc: client=unknown[198.51.100.2]",
            "smtpd[1] 4Bc: client=unknown[198.51.100.1]",
            "smtpd[1] disconnect from unknown[198.51.100.1] mail=1 rcpt=1/2 commands=3",
        ],
    );
    assert_eq!(notes.asked, ["2 198.51.100.1 ", "3 198.51.100.2 "]);
    assert_eq!(sums, Sums { sessions: 2, asked: 2, ..Sums::default() });
}

#[test]
fn each_further_message_is_asked_about_at_its_first_recipient() {
    let lines = [
        "smtpd[1] connect from unknown[198.51.100.1]",
        "smtpd[1] NOQUEUE: reject: RCPT from unknown[198.51.100.1]: 450 no",
        "smtpd[1] 4Bc: client=unknown[198.51.100.1]",
        "smtpd[1] 5Bc: client=unknown[198.51.100.1]",
        "smtpd[1] 6Bc: client=unknown[198.51.100.1]",
    ];
    let (notes, _) = play(Seen::Rcpt, &lines);
    assert_eq!((notes.asked.len(), notes.again), (1, vec![1, 2]));
    assert!(play(Seen::Connect, &lines).0.again.is_empty());
}

#[test]
fn sessions_without_a_recipient_are_not_asked_about_where_checks_are_delayed() {
    let lines = [
        "smtpd[1] connect from unknown[198.51.100.1]",
        "smtpd[1] disconnect from unknown[198.51.100.1] ehlo=1 auth=0/1 commands=1/2",
        "smtpd[1] connect from unknown[198.51.100.2]",
        "smtpd[1] disconnect from unknown[198.51.100.2] ehlo=1 mail=1 rcpt=1 commands=3",
    ];
    let (notes, sums) = play(Seen::Rcpt, &lines);
    assert_eq!(notes.asked, ["3 198.51.100.2 "]);
    assert_eq!(sums, Sums { sessions: 2, asked: 1, without_recipient: 1, ..Sums::default() });
    assert_eq!(play(Seen::Connect, &lines).0.asked.len(), 2);
}

#[test]
fn trusted_and_authenticated_clients_are_left_out() {
    let (notes, sums) = play(
        Seen::Rcpt,
        &[
            "smtpd[1] connect from in.example.org[192.0.2.7]",
            "smtpd[1] 4Bc: client=in.example.org[192.0.2.7]",
            "smtpd[2] connect from unknown[198.51.100.1]",
            "smtpd[2] 5Bc: client=unknown[198.51.100.1], sasl_method=PLAIN, sasl_username=x",
            "smtpd[2] disconnect from unknown[198.51.100.1] auth=1 mail=1 rcpt=1 commands=3",
            "smtpd[3] connect from unknown[unknown]",
            "submission/smtpd[4] connect from unknown[198.51.100.9]",
            "smtp[8] 5Bc: to=<x@y>, relay=z, status=sent (250 ok)",
        ],
    );
    assert!(notes.asked.is_empty() && notes.delivered.is_empty(), "{:?}", notes.asked);
    let expected = Sums { sessions: 3, mynetworks: 1, authenticated: 1, unknown: 1, submission: 1, ..Sums::default() };
    assert_eq!(sums, expected);
}

#[test]
fn a_client_that_a_proxy_speaks_for_is_a_session_of_its_own() {
    let (notes, _) = play(
        Seen::Rcpt,
        &["smtpd[1] connect from proxy[203.0.113.1]", "smtpd[1] 4Bc: client=a.example.net[198.51.100.1]"],
    );
    assert_eq!(notes.asked, ["1 198.51.100.1 a.example.net"]);
}

#[test]
fn mail_is_delivered_when_it_was_sent_or_is_still_in_the_queue() {
    let begin = ["smtpd[1] connect from unknown[198.51.100.1]", "smtpd[1] 4Bc: client=unknown[198.51.100.1]"];
    let then = |rest: &[&str]| play(Seen::Rcpt, &[&begin, rest].concat()).0.delivered.len();
    let queued = "qmgr[9] 4Bc: from=<x@y>, size=1, nrcpt=1 (queue active)";
    assert_eq!(then(&[]), 0);
    assert_eq!(then(&[queued]), 1);
    assert_eq!(then(&[queued, "qmgr[9] 4Bc: removed"]), 0);
    assert_eq!(then(&["smtp[8] 4Bc: to=<x@y>, status=sent (ok)", "smtp[8] 4Bc: to=<z@y>, status=sent (ok)"]), 1);
}

#[test]
fn postscreen_only_clients_are_counted_apart() {
    let (notes, sums) = play(
        Seen::Connect,
        &[
            "postscreen[7] CONNECT from [198.51.100.1]:5 to [192.0.2.2]:25",
            "postscreen[7] CONNECT from [198.51.100.2]:5 to [192.0.2.2]:25",
            "postscreen[7] PASS NEW [198.51.100.2]:5",
            "smtpd[1] connect from unknown[198.51.100.2]",
        ],
    );
    assert_eq!(notes.asked.len(), 1);
    assert_eq!((sums.postscreen, sums.postscreen_passed), (2, 1));
}

#[test]
fn mail_that_a_filter_hands_back_is_delivered_with_its_new_queue_id() {
    let first = [
        "smtpd[1] connect from a.example.net[198.51.100.1]",
        "smtpd[1] 4Bc: client=a.example.net[198.51.100.1]",
        "qmgr[9] 4Bc: from=<x@y>, size=1, nrcpt=1 (queue active)",
    ];
    let back = |client: &str| -> Vec<String> {
        vec![
            "smtpd[2] connect from localhost[127.0.0.1]".into(),
            format!("smtpd[2] 5Bc: client={client}"),
            "qmgr[9] 5Bc: from=<x@y>, size=1, nrcpt=1 (queue active)".into(),
        ]
    };
    let handed = "smtp[8] 4Bc: to=<x@y>, relay=127.0.0.1[127.0.0.1]:10024, status=sent (250 2.0.0 Ok: queued as 5Bc)";
    let sent = "smtp[8] 5Bc: to=<x@y>, relay=z, status=sent (250 ok)";
    let (gone, also) = ("qmgr[9] 4Bc: removed", "qmgr[9] 5Bc: removed");
    for client in [
        "localhost[127.0.0.1]",
        "localhost[127.0.0.1], orig_queue_id=4Bc, orig_client=a.example.net[198.51.100.1]",
        // As Postfix 2.5 and older.
        "a.example.net[198.51.100.1]",
    ] {
        let back = back(client);
        let begin: Vec<&str> = first.into_iter().chain(back.iter().map(String::as_str)).collect();
        let then = |rest: &[&str]| {
            let (notes, sums) = play(Seen::Rcpt, &[&begin[..], rest].concat());
            assert_eq!((notes.asked.len(), sums.asked), (1, 1), "{client}");
            notes.delivered
        };
        assert_eq!(then(&[handed, gone, sent, also]), ["198.51.100.1"], "{client}");
        // The filter answers only after what it handed back is delivered.
        assert_eq!(then(&[sent, also, handed, gone]), ["198.51.100.1"], "{client}");
        assert_eq!(then(&[handed, gone, also]), [""; 0], "{client}");
        assert_eq!(then(&[handed, gone]), ["198.51.100.1"], "{client}");
    }
    // The next host gives it an identifier of its own.
    let remote = "smtp[8] 4Bc: to=<x@y>, relay=mx.example.com[203.0.113.5]:25, status=sent (250 Ok: queued as 9Zz)";
    assert_eq!(play(Seen::Rcpt, &[&first[..], &[remote]].concat()).0.delivered.len(), 1);
}

#[test]
fn what_postsuper_puts_back_keeps_its_client() {
    let (notes, _) = play(
        Seen::Rcpt,
        &[
            "smtpd[1] connect from unknown[198.51.100.1]",
            "smtpd[1] 4Bc: client=unknown[198.51.100.1]",
            "qmgr[9] 4Bc: from=<x@y>, size=1, nrcpt=1 (queue active)",
            "pickup[3] 6Bc: uid=107 from=<x@y> orig_id=4Bc",
            "qmgr[9] 6Bc: from=<x@y>, size=1, nrcpt=1 (queue active)",
            "smtp[8] 6Bc: to=<x@y>, relay=z, status=sent (250 ok)",
            "qmgr[9] 6Bc: removed",
        ],
    );
    assert_eq!(notes.delivered, ["198.51.100.1"]);
}

#[test]
fn what_is_discarded_or_returned_by_a_filter_is_told_apart() {
    let begin = [
        "smtpd[1] connect from unknown[198.51.100.1]",
        "smtpd[1] 4Bc: client=unknown[198.51.100.1]",
        "qmgr[9] 4Bc: from=<x@y>, size=1, nrcpt=1 (queue active)",
    ];
    for line in [
        "discard[8] 4Bc: to=<x@y>, relay=none, status=sent (no)",
        "smtp[8] 4Bc: to=<x@y>, relay=f, status=sent (250 2.7.0 Ok, discarded, id=1-01 - spam)",
        "smtp[8] 4Bc: to=<x@y>, relay=f, status=sent (250 2.5.0 Ok, id=1-01, BOUNCE)",
        "smtp[8] 4Bc: to=<x@y>, relay=f, status=sent (250 2.0.0 Ok: message quarantined)",
        "local[8] 4Bc: to=<x@y>, relay=local, status=sent (delivered to file: /dev/null)",
    ] {
        let (notes, sums) = play(Seen::Rcpt, &[&begin[..], &[line, "qmgr[9] 4Bc: removed"]].concat());
        assert_eq!((notes.delivered.len(), notes.discarded, sums.discarded), (0, 1, 1), "{line}");
    }
}

#[test]
fn accepted_messages_have_their_login_and_sender() {
    let (notes, _) = play(
        Seen::Rcpt,
        &[
            "submission/smtpd[1] 4Bc: client=unknown[198.51.100.1], sasl_method=PLAIN, sasl_username=me@example.org",
            "qmgr[9] 4Bc: from=<m@y>, size=1, nrcpt=3 (queue active)",
            "qmgr[9] 4Bc: from=<m@y>, size=1, nrcpt=2 (queue active)",
            "smtpd[1] 5Bc: client=in.example.org[192.0.2.7]",
            "qmgr[9] 5Bc: from=<>, size=1, nrcpt=1 (queue active)",
        ],
    );
    assert_eq!(notes.accepted, ["198.51.100.1 me@example.org m@y 3 true", "192.0.2.7   1 false"]);
}
