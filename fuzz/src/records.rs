//! Logs whose entries are not lines: the same however they come in pieces, and an object the same whatever is before it.

use std::io::{self, Cursor, Read};

use connshaper::maillog::lines::json::JsonLayouts;
use connshaper::maillog::lines::records::as_lines;
use connshaper::maillog::lines::source::LogInput;

use super::cuts::Cuts;

/// Reads a log of any form as lines, and each of them as an object.
pub fn run(data: &[u8]) {
    let input = Cuts::read(data);
    let whole = lines([&input.bytes[..]].into_iter());
    let cut = lines(input.pieces());
    assert_eq!(cut, whole, "{input:?}");
    let (text, _) = whole;
    assert!(text.len() <= 2 * input.bytes.len() + 100, "{input:?}");
    let mut layouts = JsonLayouts::default();
    let mut start = 0;
    for line in text.split(|byte| *byte == b'\n') {
        let alone = format!("{:?}", JsonLayouts::default().read(line));
        // What is behind the line is not looked at.
        assert_eq!(format!("{:?}", layouts.read(&text[start..])), alone, "{input:?}");
        start += line.len() + 1;
    }
}

/// The lines of a log that comes in these pieces, and whether it ends with an error.
fn lines<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<u8>, bool) {
    let none: LogInput = Box::new(io::empty());
    let input = pieces.fold(none, |before, piece| Box::new(before.chain(Cursor::new(piece.to_vec()))));
    let mut lines = Vec::new();
    let read = as_lines(input).read_to_end(&mut lines);
    (lines, read.is_err())
}
