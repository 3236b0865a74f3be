use proptest::prelude::*;

use super::*;

proptest! {
    #[test]
    fn no_line_makes_the_reader_stumble(
        head in "(<[0-9]{1,3}>)?(1 )?(Nov [ 0-9][0-9] 09:05:0[0-9]|2026-11-[0-9]{2}T09:05:07([.][0-9]{0,7})?([+-][0-9:]{0,5}|Z)?)? ?",
        middle in "(mx )?(postfix(-in)?/(submission/)?(smtpd|qmgr|lmtp|postscreen)(\\[[0-9]*\\]?)?:? ?)?",
        what in "(connect from |disconnect from |[0-9A-F]{1,6}: (client=|from=|to=|reject: RCPT from )|CONNECT from )?",
        rest in prop::collection::vec(any::<u8>(), 0..80),
    ) {
        let line = [head.as_bytes(), middle.as_bytes(), what.as_bytes(), &rest].concat();
        let (lines, _) = read([&line[..], b"\n"].concat());
        prop_assert_eq!(lines.all, lines.told + lines.idle + lines.foreign + lines.strange);
    }
}

fn read(text: impl Into<Vec<u8>>) -> (Lines, Vec<Event>) {
    read_with(2, text)
}

fn read_with(cores: usize, text: impl Into<Vec<u8>>) -> (Lines, Vec<Event>) {
    let mut blocks = Blocks::read_with(cores, Box::new(io::Cursor::new(text.into())), 100, &Reader::new(&[]));
    let (mut lines, mut events) = (Lines::default(), Vec::new());
    while let Some(batch) = blocks.next() {
        lines.add(&batch.lines);
        events.extend_from_slice(&batch.events);
        assert!(batch.error.is_none());
        blocks.recycle(batch);
    }
    (lines, events)
}

#[test]
fn lines_come_in_their_order_whatever_the_number_of_blocks_and_cores() {
    const COUNT: i64 = 60_000;
    let line = |n: i64| {
        let (hour, minute, second) = (n / 3600, n / 60 % 60, n % 60);
        format!("Nov 21 {hour:02}:{minute:02}:{second:02} mx postfix/smtpd[1]: connect from a[192.0.2.1]\n")
    };
    let text: String = (0..COUNT).map(line).collect();
    assert!(text.len() > 5 * BLOCK);
    for cores in [1, 2, 5] {
        let (lines, events) = read_with(cores, text.trim_end());
        assert_eq!((lines.all, lines.told, lines.bytes), (COUNT as u64, COUNT as u64, text.len() as u64 - 1));
        let seconds = events.iter().map(|event| event.stamp.seconds - events[0].stamp.seconds);
        assert!(seconds.eq(0..COUNT), "{cores} cores");
    }
}

#[test]
fn a_line_longer_than_a_block_is_one_strange_line() {
    let line = b"Nov 21 09:05:07 mx postfix/smtpd[1]: connect from a[192.0.2.1]\n".to_vec();
    let long = [b"x".repeat(3 * BLOCK + 7), b"\n".to_vec()].concat();
    let (lines, events) = read([line.clone(), long, line.clone()].concat());
    assert_eq!((lines.all, lines.strange, events.len()), (3, 1, 2));
    let (lines, _) = read([line, b"x".repeat(3 * BLOCK)].concat());
    assert_eq!((lines.all, lines.strange), (2, 1));
}

#[test]
fn a_line_behind_zeros_is_one() {
    let line = b"Nov 21 09:05:07 mx postfix/smtpd[1]: connect from a[192.0.2.1]\n";
    let (lines, events) = read([&[0; 5_000][..], line, &[0; 5_000]].concat());
    assert_eq!((lines.all, lines.strange, events.len()), (2, 1, 1));
}

#[test]
fn lines_that_are_not_understood_are_counted() {
    let text = "what?\n\nNov 21 09:05:07 mx sshd[1]: x\r\nNov 21 09:05:07 mx postfix/anvil[1]: x\n\x00\u{fffd}\n";
    let (lines, _) = read(text);
    let expected =
        Lines { all: 4, told: 0, idle: 1, foreign: 1, strange: 2, strange_postfix: 0, bytes: text.len() as u64 };
    assert_eq!(lines, expected);
}

#[test]
fn an_error_of_the_input_comes_after_what_was_read() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("broken"))
        }
    }
    let text = "Nov 21 09:05:07 mx postfix/smtpd[1]: connect from a[192.0.2.1]\n".repeat(20_000);
    let blocks =
        Blocks::read(Box::new(io::Cursor::new(text.clone().into_bytes()).chain(Broken)), 100, &Reader::new(&[]));
    let (mut events, mut errors) = (0, 0);
    for batch in blocks {
        events += batch.events.len();
        errors += usize::from(batch.error.is_some());
    }
    assert!(events >= 15_000, "{events}");
    assert_eq!(errors, 1);
}
