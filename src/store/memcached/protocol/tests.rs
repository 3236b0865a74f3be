use proptest::prelude::*;

use super::*;
use crate::store::shared::backend::VersionedValue;

const PROTOCOLS: [Protocol; 2] = [Protocol::Meta, Protocol::Classic];

const COMMANDS: [CounterCommand; 7] = [
    CounterCommand::Hit(1),
    CounterCommand::Read,
    CounterCommand::TakeBack(3),
    CounterCommand::Add(1),
    CounterCommand::Replace(12),
    CounterCommand::Touch,
    CounterCommand::Delete,
];

fn counter(command: CounterCommand) -> MemcachedCommand {
    let key = KeyText::from_slice(b"c:192.0.2.1");
    MemcachedCommand { key, verb: Verb::Counter(command), exptime: 60, expiry: 60 }
}

fn written(protocol: Protocol, command: CounterCommand) -> String {
    let mut output = BytesMut::new();
    counter(command).write(protocol, &mut output);
    String::from_utf8(output.to_vec()).unwrap()
}

/// All answers in a text.
fn answers(protocol: Protocol, command: CounterCommand, text: &str) -> Vec<Response> {
    let mut input = BytesMut::from(text);
    let answers = std::iter::from_fn(|| counter(command).read(protocol, &mut input).unwrap()).collect();
    assert!(input.is_empty(), "left over: {input:?}");
    answers
}

fn counted(count: u32, left: Option<u32>) -> Response {
    Response::Counted(Counted { count, left, endless: false })
}

#[test]
fn commands_are_written_in_both_dialects() {
    let cases = [
        (
            CounterCommand::Hit(1),
            "ma c:192.0.2.1 N60 J1 D1 v t\r\n",
            "add c:192.0.2.1 0 60 1\r\n0\r\nincr c:192.0.2.1 1\r\n",
        ),
        (
            CounterCommand::Hit(1 << 30),
            "ma c:192.0.2.1 N60 J1073741824 D1073741824 v t\r\n",
            "add c:192.0.2.1 0 60 1\r\n0\r\nincr c:192.0.2.1 1073741824\r\n",
        ),
        (CounterCommand::Read, "mg c:192.0.2.1 v t\r\n", "get c:192.0.2.1\r\n"),
    ];
    for (command, meta, classic) in cases {
        assert_eq!([written(Protocol::Meta, command), written(Protocol::Classic, command)], [meta, classic]);
    }
}

#[test]
fn what_classic_commands_do_is_written_in_them_alone() {
    let cases = [
        (CounterCommand::TakeBack(3), "decr c:192.0.2.1 3\r\n"),
        (CounterCommand::Add(1), "add c:192.0.2.1 0 60 1\r\n1\r\n"),
        (CounterCommand::Replace(12), "replace c:192.0.2.1 0 60 2\r\n12\r\n"),
        (CounterCommand::Replace(u32::MAX), "replace c:192.0.2.1 0 60 10\r\n4294967295\r\n"),
        (CounterCommand::Touch, "touch c:192.0.2.1 60\r\n"),
        (CounterCommand::Delete, "delete c:192.0.2.1\r\n"),
    ];
    for (command, text) in cases {
        assert_eq!(PROTOCOLS.map(|protocol| written(protocol, command)), [text; 2]);
    }
}

#[test]
fn an_expiry_over_thirty_days_is_told_as_unix_time() {
    assert_eq!(expiry(2_592_000, 1_700_000_000), 2_592_000);
    assert_eq!(expiry(2_592_001, 1_700_000_000), 1_702_592_001);
}

#[test]
fn meta_answers_to_hits_are_read() {
    let text = "VA 2 t60\r\n11\r\nVA 3 t0\r\n7  \r\nNS\r\nNF\r\nSERVER_ERROR out of memory\r\nERROR\r\n\
                CLIENT_ERROR cannot increment or decrement non-numeric value\r\n";
    let expected = [
        counted(11, Some(60)),
        counted(7, Some(0)),
        Response::NotDone,
        Response::NotDone,
        Response::Failed,
        Response::Failed,
        Response::Foreign,
    ];
    let hits = |text| answers(Protocol::Meta, CounterCommand::Hit(1), text);
    assert_eq!(hits(text), expected);
    let endless = Response::Counted(Counted { count: 5, left: None, endless: true });
    assert_eq!(hits("VA 1 t-1\r\n5\r\n"), [endless]);
    assert_eq!(hits("VA 20 t9\r\n18446744073709551615\r\n"), [counted(u32::MAX, Some(9))]);
}

#[test]
fn classic_answers_to_hits_are_read() {
    let text = "STORED\r\n1\r\nNOT_STORED\r\n12\r\nNOT_STORED\r\nNOT_FOUND\r\nSERVER_ERROR out of memory\r\nNOT_FOUND\r\n\
                SERVER_ERROR out of memory\r\n3\r\n\
                NOT_STORED\r\nCLIENT_ERROR cannot increment or decrement non-numeric value\r\n";
    let expected = [
        counted(1, Some(60)),
        counted(12, None),
        Response::NotDone,
        Response::Failed,
        Response::Failed,
        Response::Foreign,
    ];
    assert_eq!(answers(Protocol::Classic, CounterCommand::Hit(1), text), expected);
}

#[test]
fn answers_to_reads_are_read() {
    // What `decr` made shorter is padded with blanks.
    let meta = "VA 2 t60\r\n9 \r\nEN\r\nVA 5 t-1\r\nhello\r\nVA 0 t5\r\n\r\nSERVER_ERROR busy\r\n";
    let expected = [counted(9, Some(60)), Response::NotDone, Response::Foreign, Response::Foreign, Response::Failed];
    assert_eq!(answers(Protocol::Meta, CounterCommand::Read, meta), expected);

    let classic = "VALUE c:192.0.2.1 0 2\r\n9 \r\nEND\r\nEND\r\nVALUE c:192.0.2.1 7 5\r\nhello\r\nEND\r\n\
                   VALUE c:192.0.2.1 0 3\r\nEND\r\nEND\r\nSERVER_ERROR busy\r\n";
    let expected = [counted(9, None), Response::NotDone, Response::Foreign, Response::Foreign, Response::Failed];
    assert_eq!(answers(Protocol::Classic, CounterCommand::Read, classic), expected);
}

#[test]
fn answers_to_what_is_said_in_classic_commands_are_read() {
    let cases = [
        (
            CounterCommand::TakeBack(3),
            "7\r\n0 \r\nNOT_FOUND\r\n",
            vec![Response::Done, Response::Done, Response::NotDone],
        ),
        (
            CounterCommand::TakeBack(3),
            "CLIENT_ERROR cannot increment or decrement non-numeric value\r\n",
            vec![Response::Foreign],
        ),
        (CounterCommand::Add(1), "STORED\r\nNOT_STORED\r\n", vec![Response::Done, Response::NotDone]),
        (CounterCommand::Replace(2), "STORED\r\nNOT_STORED\r\n", vec![Response::Done, Response::NotDone]),
        (CounterCommand::Touch, "TOUCHED\r\nNOT_FOUND\r\n", vec![Response::Done, Response::NotDone]),
        (CounterCommand::Delete, "DELETED\r\nNOT_FOUND\r\n", vec![Response::Done, Response::NotDone]),
    ];
    for (command, text, expected) in cases {
        for protocol in PROTOCOLS {
            assert_eq!(answers(protocol, command, text), expected, "{command:?}");
            assert_eq!(
                answers(protocol, command, "SERVER_ERROR no\r\nERROR\r\n"),
                [Response::Failed, Response::Failed],
                "{command:?}"
            );
        }
    }
}

#[test]
fn probes_tell_the_dialect() {
    let probe = |protocol: Protocol, text: &str| protocol.read_probe(&mut BytesMut::from(text)).unwrap();
    assert_eq!(probe(Protocol::Meta, "NF\r\n"), Some(Probed::Knows));
    assert_eq!(probe(Protocol::Meta, "ERROR\r\n"), Some(Probed::Lacks));
    assert_eq!(probe(Protocol::Meta, "N"), None);
    assert_eq!(probe(Protocol::Classic, "END\r\n"), Some(Probed::Knows));
    for protocol in PROTOCOLS {
        assert_eq!(probe(protocol, "CLIENT_ERROR unauthenticated\r\n"), Some(Probed::WantsLogin));
    }
}

#[test]
fn a_login_is_a_value_that_is_set() {
    let mut output = BytesMut::new();
    write_login("joe", "secret", &mut output);
    assert_eq!(output, "set connshaper-probe 0 0 10\r\njoe secret\r\n");
    let answer = |text: &str| read_login(&mut BytesMut::from(text));
    assert_eq!(answer("STORED\r\n"), Ok(Some(true)));
    assert_eq!(answer("CLIENT_ERROR authentication failure\r\n"), Ok(Some(false)));
    assert_eq!(answer("STOR"), Ok(None));
    assert!(answer("VALUE\r\n").is_err());
}

#[test]
fn answers_to_something_else_are_nonsense() {
    let nonsense = |protocol, command, text: &str| {
        let answer = counter(command).read(protocol, &mut BytesMut::from(text));
        assert!(answer.is_err(), "{text:?} to {command:?} is {answer:?}");
    };
    let long = "x".repeat(2000);
    for command in COMMANDS {
        for protocol in PROTOCOLS {
            for text in ["HTTP/1.1 400 Bad Request\r\n\r\n", "OK\r\nOK\r\n", "\r\n\r\n", "HD\r\nHD\r\n", &long] {
                nonsense(protocol, command, text);
            }
        }
    }
    for command in [CounterCommand::Hit(1), CounterCommand::Read] {
        for text in ["VA x t1\r\n", "VA 1 t1\r\nxy\r\n", "VA 99999 t1\r\n", "VA \r\n", "STORED\r\n", "END\r\n"] {
            nonsense(Protocol::Meta, command, text);
        }
    }
    // Each command has its own words for what is not there.
    nonsense(Protocol::Meta, CounterCommand::Hit(1), "EN\r\n");
    nonsense(Protocol::Meta, CounterCommand::Read, "NF\r\n");
    nonsense(Protocol::Classic, CounterCommand::Hit(1), "VALUE x 0 1\r\n1\r\n");
    for text in [
        "VALUE c:192.0.2.11 0 1\r\n1\r\nEND\r\n",
        "VALUE c:192.0.2.1 0\r\n1\r\nEND\r\n",
        "VALUE c:192.0.2.1 0 99999\r\n",
        "VALUE c:192.0.2.1 0 1\r\n12\r\nEND\r\n",
        "VALUE c:192.0.2.1 0 1\r\n1\r\nVALUE c:192.0.2.1 0 1\r\n",
        "NOT_FOUND\r\n",
    ] {
        nonsense(Protocol::Classic, CounterCommand::Read, text);
    }
    for (command, text) in [
        (CounterCommand::TakeBack(3), "STORED\r\n"),
        (CounterCommand::Add(1), "NOT_FOUND\r\n"),
        (CounterCommand::Replace(2), "5\r\n"),
        (CounterCommand::Touch, "DELETED\r\n"),
        (CounterCommand::Delete, "TOUCHED\r\n"),
    ] {
        nonsense(Protocol::Classic, command, text);
    }
}

fn reply() -> impl Strategy<Value = Vec<u8>> {
    let words = prop::sample::select(vec![
        "VA 1 t5\r\n",
        "VA 3 t-1\r\n",
        "EN\r\n",
        "NF\r\n",
        "STORED\r\n",
        "NOT_STORED\r\n",
        "7\r\n",
        "NOT_FOUND\r\n",
        "VALUE c:192.0.2.1 0 1\r\n",
        "END\r\n",
        "SERVER_ERROR x\r\n",
        "TOUCHED\r\n",
        "\r\n",
        "1",
        "VA 1",
    ]);
    prop_oneof![
        prop::collection::vec(words, 0..6).prop_map(|words| words.concat().into_bytes()),
        prop::collection::vec(any::<u8>(), 0..200),
    ]
}

proptest! {
    #[test]
    fn no_answer_makes_it_panic_and_half_an_answer_takes_nothing(bytes in reply()) {
        for protocol in PROTOCOLS {
            for command in COMMANDS {
                let mut input = BytesMut::from(bytes.as_slice());
                if let Ok(None) = counter(command).read(protocol, &mut input) {
                    prop_assert_eq!(&input[..], &bytes[..]);
                }
            }
        }
    }
}

/// A command for a value.
fn value(verb: Verb) -> MemcachedCommand {
    MemcachedCommand::value("c:!overrides", verb, 60)
}

#[test]
fn values_are_read_with_their_version_and_written_in_place_of_it() {
    let write = |replaces| value(Verb::WriteValue { value: Bytes::from_static(b"two words"), replaces });
    let texts = [value(Verb::ReadValue), write(None), write(Some(7))].map(|command| {
        let mut output = BytesMut::new();
        command.write(Protocol::Classic, &mut output);
        String::from_utf8(output.to_vec()).unwrap()
    });
    let expected = [
        "gets c:!overrides\r\n",
        "add c:!overrides 0 60 9\r\ntwo words\r\n",
        "cas c:!overrides 0 60 9 7\r\ntwo words\r\n",
    ];
    assert_eq!(texts, expected);
    for (text, done) in [("STORED", true), ("EXISTS", false), ("NOT_STORED", false), ("NOT_FOUND", false)] {
        let response = write(None).read(Protocol::Classic, &mut BytesMut::from(&*format!("{text}\r\n")));
        assert_eq!(response, Ok(Some(if done { Response::Done } else { Response::NotDone })), "{text}");
    }
    let read = |text: &str| value(Verb::ReadValue).read(Protocol::Classic, &mut BytesMut::from(text));
    let whole = "VALUE c:!overrides 0 9 7\r\ntwo\r\nword\r\nEND\r\n";
    let found = VersionedValue { bytes: b"two\r\nword".to_vec(), version: 7 };
    assert_eq!(read(whole), Ok(Some(Response::Value(found))));
    for end in 0..whole.len() {
        assert_eq!(read(&whole[..end]), Ok(None), "{end}");
    }
    assert_eq!(read("END\r\n"), Ok(Some(Response::NotDone)));
    for text in
        ["VALUE c:!overrides 0 9\r\ntwo words\r\nEND\r\n", "VALUE c:!overrides 0 1048577 7\r\n", "VALUE c 0 1 7\r\n"]
    {
        assert!(read(text).is_err(), "{text}");
    }
}
