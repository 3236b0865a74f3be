use super::*;
use proptest::prelude::*;

fn answers(dialect: Dialect, text: &str) -> Vec<Answer> {
    let mut input = BytesMut::from(text);
    std::iter::from_fn(|| dialect.read_hit(60, &mut input).unwrap()).collect()
}

fn counted(count: u32, left: Option<u32>) -> Answer {
    Answer::Counted(Counted { count, left, endless: false })
}

#[test]
fn hits_are_written_in_both_dialects() {
    let written = |dialect: Dialect| {
        let mut output = BytesMut::new();
        dialect.write_hit(b"c:192.0.2.1", expiry(60, 0), &mut output);
        String::from_utf8(output.to_vec()).unwrap()
    };
    assert_eq!(written(Dialect::Meta), "ma c:192.0.2.1 N60 J1 v t\r\n");
    assert_eq!(written(Dialect::Classic), "add c:192.0.2.1 0 60 1\r\n0\r\nincr c:192.0.2.1 1\r\n");
}

#[test]
fn an_expiry_over_thirty_days_is_told_as_unix_time() {
    assert_eq!(expiry(2_592_000, 1_700_000_000), 2_592_000);
    assert_eq!(expiry(2_592_001, 1_700_000_000), 1_702_592_001);
}

#[test]
fn meta_answers_are_read() {
    let text = "VA 2 t60\r\n11\r\nVA 3 t0\r\n7  \r\nNS\r\nSERVER_ERROR out of memory\r\n\
                CLIENT_ERROR cannot increment or decrement non-numeric value\r\n";
    let expected = [counted(11, Some(60)), counted(7, Some(0)), Answer::Gone, Answer::Failed, Answer::Foreign];
    assert_eq!(answers(Dialect::Meta, text), expected);
    let endless = Answer::Counted(Counted { count: 5, left: None, endless: true });
    assert_eq!(answers(Dialect::Meta, "VA 1 t-1\r\n5\r\n"), [endless]);
    assert_eq!(answers(Dialect::Meta, "VA 20 t9\r\n18446744073709551615\r\n"), [counted(u32::MAX, Some(9))]);
}

#[test]
fn classic_answers_are_read() {
    let text = "STORED\r\n1\r\nNOT_STORED\r\n12\r\nNOT_STORED\r\nNOT_FOUND\r\nSERVER_ERROR out of memory\r\nNOT_FOUND\r\n\
                NOT_STORED\r\nCLIENT_ERROR cannot increment or decrement non-numeric value\r\n";
    let expected = [counted(1, Some(60)), counted(12, None), Answer::Gone, Answer::Failed, Answer::Foreign];
    assert_eq!(answers(Dialect::Classic, text), expected);
}

#[test]
fn probes_tell_the_dialect() {
    let probe = |dialect: Dialect, text: &str| dialect.read_probe(&mut BytesMut::from(text)).unwrap();
    assert_eq!(probe(Dialect::Meta, "NF\r\n"), Some(true));
    assert_eq!(probe(Dialect::Meta, "ERROR\r\n"), Some(false));
    assert_eq!(probe(Dialect::Meta, "N"), None);
    assert_eq!(probe(Dialect::Classic, "END\r\n"), Some(true));
}

#[test]
fn answers_to_something_else_are_nonsense() {
    for text in ["HTTP/1.1 400 Bad Request\r\n", "VA x t1\r\n", "VA 1 t1\r\nxy\r\n", "VA 99999 t1\r\n", "STORED\r\n"] {
        assert!(Dialect::Meta.read_hit(60, &mut BytesMut::from(text)).is_err(), "{text}");
    }
    assert!(Dialect::Classic.read_hit(60, &mut BytesMut::from("VALUE x 0 1\r\n1\r\n")).is_err());
    assert!(Dialect::Meta.read_hit(60, &mut BytesMut::from("x".repeat(2000).as_str())).is_err());
}

proptest! {
    #[test]
    fn no_answer_makes_it_panic_and_half_an_answer_takes_nothing(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        for dialect in [Dialect::Meta, Dialect::Classic] {
            let mut input = BytesMut::from(bytes.as_slice());
            if let Ok(None) = dialect.read_hit(60, &mut input) {
                prop_assert_eq!(&input[..], &bytes[..]);
            }
        }
    }
}
