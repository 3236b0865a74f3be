use super::*;
use crate::maillog::lines::blocks::parse;
use crate::maillog::lines::event::{LineKind, Reader};

/// Notes what it is told.
#[derive(Default)]
struct Notes {
    asked: Vec<String>,
    again: Vec<u32>,
    delivered: Vec<String>,
}

impl SessionSink for Notes {
    fn asked(&mut self, session: &Session<'_>) {
        self.asked.push(format!("{} {} {}", session.time, session.client, String::from_utf8_lossy(session.name)));
    }

    fn asked_again(&mut self, session: &Session<'_>) {
        self.again.push(session.message);
    }

    fn delivered(&mut self, client: IpAddr) {
        self.delivered.push(client.to_string());
    }
}

/// Plays lines, a millisecond each.
fn play(seen: Seen, lines: &[&str]) -> (Notes, Sums) {
    let mynetworks = [("192.0.2.0/24".parse().unwrap(), ())].into_iter().collect();
    let (mut sessions, mut notes) = (Sessions::new(seen, mynetworks), Notes::default());
    for (time, line) in (0..).zip(lines) {
        let (program, rest) = line.split_once(' ').unwrap();
        let text = format!("Nov 21 09:05:07 mx postfix/{program}: {rest}");
        let mut names = Vec::new();
        let sense = parse(text.as_bytes(), |line| Reader::new().read(line, &mut names)).unwrap();
        let LineKind::Event(event) = sense else { panic!("{line}: {sense:?}") };
        sessions.take(time, &event, &names, &mut notes);
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
