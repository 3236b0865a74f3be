//! The policy protocol, without a Postfix.

use crate::support::{Daemon, Dir, Policy, request};

/// Refuses the second session of every client, with a text that shows the client and the count.
const CONFIG: &str = "
    threshold = 1
    text = \"{count} from {client}\"
    log_level = \"debug\"";

/// The refusal of a session with this count.
fn refusal(count: usize, client: &str) -> String {
    format!("DEFER_IF_PERMIT 4.7.0 {count} from {client}")
}

#[test]
fn attributes_come_in_any_order_among_unknown_ones() {
    let daemon = Daemon::start(CONFIG);
    let mut policy = Policy::connect(daemon.endpoint());
    let mut attributes = [
        "request=smtpd_access_policy",
        "protocol_state=CONNECT",
        "client_address=198.51.100.1",
        "client_name=mx.example.net",
        "an_attribute_of_the_future=",
        "client_port=4025",
        "client_address_of_the_future=203.0.113.1",
        "xclient_address=203.0.113.1",
    ];
    for count in 1..=attributes.len() {
        policy.send(format!("{}\n\n", attributes.join("\n")));
        let action = if count == 1 { "DUNNO".to_owned() } else { refusal(count, "198.51.100.1") };
        assert_eq!(policy.answer(), Some(format!("action={action}")), "{attributes:?}");
        attributes.rotate_left(1);
    }
}

#[test]
fn a_value_may_contain_equals_signs_or_be_empty() {
    let daemon = Daemon::start(CONFIG);
    let mut policy = Policy::connect(daemon.endpoint());
    policy.connected("198.51.100.1", 1);
    for (port, odd) in
        ["sender=a=b=c@example.net", "helo_name==", "helo_name=", "=", "=value without a name"].iter().enumerate()
    {
        let port = format!("client_port={}", port + 2);
        let action = policy.ask(&["protocol_state=CONNECT", odd, "client_address=198.51.100.1", &port]);
        assert!(action.starts_with("DEFER_IF_PERMIT"), "{odd}: {action}");
    }
}

#[test]
fn the_last_of_a_repeated_attribute_counts() {
    let daemon = Daemon::start(CONFIG);
    let mut policy = Policy::connect(daemon.endpoint());
    policy.connected("198.51.100.1", 1);
    let twice =
        ["protocol_state=CONNECT", "client_address=203.0.113.1", "client_address=198.51.100.1", "client_port=2"];
    assert_eq!(policy.ask(&twice), refusal(2, "198.51.100.1"));
}

#[test]
fn long_values_are_clipped_and_the_request_answered() {
    let daemon = Daemon::start(CONFIG);
    let mut policy = Policy::connect(daemon.endpoint());
    policy.connected("198.51.100.1", 1);
    for (count, length) in [16 * 1024, 16 * 1024 + 1, 120 * 1024].into_iter().enumerate() {
        for name in ["helo_name", "an_attribute_of_the_future", "instance"] {
            let long = format!("{name}={}", "f".repeat(length));
            let port = format!("client_port={}", 2 + count);
            let action = policy.ask(&[&long, "protocol_state=CONNECT", "client_address=198.51.100.1", &port]);
            assert!(action.starts_with("DEFER_IF_PERMIT"), "{name} of {length} bytes: {action}");
        }
    }
}

#[test]
fn a_malformed_request_is_logged_once_and_closes_the_connection() {
    let good = request(&["client_address=198.51.100.1"]);
    let table: [(&str, Vec<u8>, &str); 9] = [
        ("no equals sign", b"request=smtpd_access_policy\nclient_address\n\n".into(), "attribute=client_address "),
        ("no request", b"client_address=198.51.100.1\n\n".into(), "attribute="),
        ("nothing at all", b"\n".into(), "BAD_REQUEST"),
        ("another request", b"request=junk\n\n".into(), "junk"),
        ("a long name", [&[b'n'; 70_000], &b"=value\n\n"[..]].concat(), "attribute=nnnnnnnn"),
        ("a long name without an end", vec![b'n'; 70_000], "attribute=nnnnnnnn"),
        (
            "a long request",
            [b"request=smtpd_access_policy\n".to_vec(), b"name=value\n".repeat(13_000)].concat(),
            "longer",
        ),
        ("a long line", [b"sender=".to_vec(), vec![b's'; 140_000]].concat(), "longer"),
        ("carriage returns", good.replace('\n', "\r\n").into_bytes(), "BAD_REQUEST"),
    ];
    for (trouble, bytes, logged) in table {
        let mut daemon = Daemon::start(CONFIG);
        let mut policy = Policy::connect(daemon.endpoint());
        // The daemon may hang up before it has read everything.
        let _ = policy.try_send(&bytes);
        assert_eq!(policy.answer(), None, "{trouble}");
        let line = daemon.lines().wait_for("BAD_REQUEST peer=inet:127.0.0.1:");
        assert!(line.contains(logged) && line.contains(" problem="), "{trouble}: {line}");
        assert!(line.len() < 500, "{trouble}: {line}");

        // Other connections are unaffected.
        assert_eq!(Policy::connect(daemon.endpoint()).connected("198.51.100.1", 1), "DUNNO");
        daemon.stop();
        assert_eq!(daemon.lines().with("BAD_REQUEST").len(), 1, "{trouble}: {}", daemon.lines());
    }
}

#[test]
fn a_good_request_is_answered_before_a_bad_one_ends_the_connection() {
    let daemon = Daemon::start(CONFIG);
    let mut policy = Policy::connect(daemon.endpoint());
    policy
        .send(request(&["client_address=198.51.100.1"]) + "nonsense\n\n" + &request(&["client_address=198.51.100.1"]));
    assert_eq!(policy.answer().as_deref(), Some("action=DUNNO"));
    assert_eq!(policy.answer(), None);
    daemon.lines().wait_for("BAD_REQUEST");
}

#[test]
fn requests_sent_together_are_answered_in_order() {
    let daemon = Daemon::start(CONFIG);
    let mut policy = Policy::connect(daemon.endpoint());
    let session = |client: usize, port: usize| {
        let (client, port) = (format!("client_address=198.51.100.{client}"), format!("client_port={port}"));
        request(&["protocol_state=CONNECT", &client, &port])
    };
    let clients = 1..=100;
    policy.send(clients.clone().map(|client| session(client, 1) + &session(client, 2)).collect::<String>());
    for client in clients {
        assert_eq!(policy.answer().as_deref(), Some("action=DUNNO"));
        let refusal = refusal(2, &format!("198.51.100.{client}"));
        assert_eq!(policy.answer(), Some(format!("action={refusal}")));
    }
}

#[test]
fn a_request_sent_byte_by_byte_is_answered() {
    let daemon = Daemon::start(CONFIG);
    let mut policy = Policy::connect(daemon.endpoint());
    for port in [1, 2] {
        let port = format!("client_port={port}");
        for byte in request(&["protocol_state=CONNECT", "client_address=198.51.100.1", &port]).bytes() {
            policy.send([byte]);
        }
        let expected = if port.ends_with('1') { "DUNNO".to_owned() } else { refusal(2, "198.51.100.1") };
        assert_eq!(policy.answer(), Some(format!("action={expected}")));
    }
}

#[test]
fn unprintable_bytes_are_answered_and_escaped_in_log_and_answer() {
    let mut daemon = Daemon::start(CONFIG);
    let mut policy = Policy::connect(daemon.endpoint());
    let odd: [&[u8]; 4] = [b"\xff\xfe\xc3", b"a\0b", b"\x1b[2J\x07", b"evil\rREFUSED client"];
    for (number, odd) in odd.iter().enumerate() {
        for name in
            ["helo_name", "sender", "client_name", "client_address", "client_port", "protocol_state", "\u{fffd}"]
        {
            let before = format!("request=smtpd_access_policy\nclient_address=198.51.100.{number}\n{name}=");
            policy.send([before.as_bytes(), odd, b"\n\n"].concat());
            let answer = policy.answer().expect("an answer");
            assert!(is_printable(&answer), "{answer:?}");
        }
        for before in ["request=", "request=smtpd_access_policy\n", "a name "] {
            let mut policy = Policy::connect(daemon.endpoint());
            policy.send([before.as_bytes(), odd, b"\n\n"].concat());
            assert_eq!(policy.answer(), None);
        }
    }
    daemon.stop();
    let lines = daemon.lines().with("");
    assert!(lines.iter().any(|line| line.contains("BAD_REQUEST")), "{lines:#?}");
    assert!(lines.iter().all(|line| is_printable(line)), "{lines:#?}");
}

fn is_printable(line: &str) -> bool {
    line.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}

#[test]
fn a_client_without_an_address_passes_and_is_not_counted() {
    let mut daemon = Daemon::start(CONFIG);
    let mut policy = Policy::connect(daemon.endpoint());
    for address in [
        "",
        "client_address=",
        "client_address=unknown",
        "client_address=0",
        "client_address=mx.example.net",
        "client_address=198.51.100",
    ] {
        for port in 1..=3 {
            let port = format!("client_port={port}");
            assert_eq!(
                policy.ask(&["protocol_state=CONNECT", &port, if address.is_empty() { "foo=bar" } else { address }]),
                "DUNNO",
                "{address}"
            );
        }
    }
    daemon.stop();
    let line = daemon.lines().wait_for("STATISTICS");
    assert!(line.contains(" unknown_client=18 ") && line.contains(" refused=0 "), "{line}");
}

#[test]
fn an_ipv4_mapped_address_is_its_ipv4_address() {
    let daemon = Daemon::start(CONFIG);
    let mut policy = Policy::connect(daemon.endpoint());
    assert_eq!(policy.connected("198.51.100.1", 1), "DUNNO");
    assert_eq!(policy.connected("::ffff:198.51.100.1", 2), refusal(2, "198.51.100.1"));
    assert_eq!(policy.connected("::ffff:127.0.0.1", 3), "DUNNO");
    assert_eq!(policy.connected("::ffff:127.0.0.1", 4), "DUNNO", "it is whitelisted as its IPv4 address");
}

#[test]
fn an_unknown_protocol_state_is_answered() {
    let daemon = Daemon::start(CONFIG);
    let mut policy = Policy::connect(daemon.endpoint());
    for (client, state) in ["STARTTLS", "connect", "", "END-OF-MESSAGE"].iter().enumerate() {
        let (client, state) = (format!("client_address=198.51.100.{client}"), format!("protocol_state={state}"));
        assert_eq!(policy.ask(&[&state, &client, "client_port=1"]), "DUNNO");
        assert_eq!(policy.ask(&[&state, &client, "client_port=1"]), "DUNNO");
        assert!(policy.ask(&[&state, &client, "client_port=2"]).starts_with("DEFER_IF_PERMIT"), "{state}");
    }
}

#[test]
fn a_unix_socket_serves_the_same_protocol() {
    let dir = Dir::new();
    let daemon = Daemon::start_at(format!("unix:{}", dir.join("policy").display()), CONFIG);
    let mut policy = Policy::connect(daemon.endpoint());
    assert_eq!(policy.connected("198.51.100.1", 1), "DUNNO");
    assert_eq!(policy.connected("198.51.100.1", 2), refusal(2, "198.51.100.1"));
    policy.send("nonsense\n");
    assert_eq!(policy.answer(), None);
    daemon.lines().wait_for("BAD_REQUEST peer=");
}
