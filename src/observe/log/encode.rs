//! Records as lines of text, as JSON, and as datagrams of the journal.
//!
//! Done on the log's own thread. Values may come from strangers: whatever they hold, a text stays one line, carries no
//! control character to a terminal, can be taken apart again by a program, and has a bounded length.

use std::fmt::{self, Write};
use std::time::SystemTime;

use serde_json::{Map, Value};

use super::record::{CUT, LogRecord};
use super::{Facility, Severity};

/// The longest value of a text, counted as it is written.
pub const MAX_VALUE: usize = 256;

/// The longest text: the least that every receiver of syslog takes is 1024 bytes, with its header.
pub const MAX_LINE: usize = 1000;

/// The keyword, then `key=value` pairs.
pub fn text(record: &LogRecord) -> String {
    let mut line = String::with_capacity(256);
    line.push_str(record.keyword());
    for field in record.fields() {
        let before = line.len();
        line.push(' ');
        line.push_str(field.name);
        line.push('=');
        let mut value = Escaped::at_the_end_of(&mut line);
        for chunk in field.value.utf8_chunks() {
            // An error means that the value has reached its bound, and is cut there.
            if value.write_str(chunk.valid()).and_then(|()| value.escape(chunk.invalid())).is_err() {
                break;
            }
        }
        value.close();
        // Pairs are dropped whole: half a value would be taken for another one.
        if line.len() > MAX_LINE - " ".len() - CUT.len() {
            line.truncate(before);
            return line + " " + CUT;
        }
    }
    line
}

/// Escapes one value into the end of a line.
struct Escaped<'a> {
    line: &'a mut String,
    start: usize,
    /// Set by a character that needs quotes around the value.
    quoted: bool,
    cut: bool,
}

impl<'a> Escaped<'a> {
    fn at_the_end_of(line: &'a mut String) -> Self {
        let start = line.len();
        Self { line, start, quoted: false, cut: false }
    }

    fn close(self) {
        let empty = self.line.len() == self.start;
        if self.cut {
            self.line.push_str(CUT);
        }
        if self.quoted || empty {
            self.line.insert(self.start, '"');
            self.line.push('"');
        }
    }

    fn escape(&mut self, bytes: &[u8]) -> fmt::Result {
        bytes.iter().try_for_each(|byte| self.push(&format!("\\x{byte:02x}"), true))
    }

    /// Appends what stands for one character, whole or not at all.
    fn push(&mut self, piece: &str, quoted: bool) -> fmt::Result {
        if self.line.len() - self.start + piece.len() > MAX_VALUE - CUT.len() - "\"\"".len() {
            self.cut = true;
            return Err(fmt::Error);
        }
        self.line.push_str(piece);
        self.quoted |= quoted;
        Ok(())
    }
}

impl fmt::Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut buffer = [0; 4];
        for c in text.chars() {
            let piece = &*c.encode_utf8(&mut buffer);
            match c {
                '"' => self.push("\\\"", true)?,
                '\\' => self.push("\\\\", true)?,
                ' ' | '=' => self.push(piece, true)?,
                _ if needs_escape(c) => self.escape(piece.as_bytes())?,
                _ => self.push(piece, false)?,
            }
        }
        Ok(())
    }
}

/// Characters that a terminal obeys instead of showing them: controls, line
/// separators, and those that reverse or hide what stands around them.
pub(crate) fn needs_escape(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// JSON that no terminal obeys. Within strings the encoder escapes those below U+0020; what is left of them in indented
/// JSON are its own ends of lines.
pub(crate) fn escape_json(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len() + 1);
    for c in text.chars() {
        match c != '\n' && needs_escape(c) {
            true => escaped.extend(c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}"))),
            false => escaped.push(c),
        }
    }
    escaped
}

/// One JSON object, without a newline. Numbers are numbers, and nothing is cut but what the record itself cuts.
pub fn json(record: &LogRecord, severity: Severity, time: SystemTime) -> String {
    let mut object = Map::new();
    object.insert("time".to_owned(), humantime::format_rfc3339_millis(time).to_string().into());
    object.insert("severity".to_owned(), severity.to_string().into());
    object.insert("event".to_owned(), record.keyword().into());
    for field in record.fields() {
        let text = String::from_utf8_lossy(field.value);
        let number = text.parse::<i64>().ok().filter(|_| field.is_number);
        object.insert(field.name.to_owned(), number.map_or_else(|| Value::from(text), Value::from));
    }
    escape_json(&Value::Object(object).to_string())
}

/// A datagram of the journal's own protocol, with all of every field.
pub fn journal(record: &LogRecord, severity: Severity, facility: Facility) -> Vec<u8> {
    let (message, keyword) = (text(record), record.keyword());
    let mut datagram = format!(
        "MESSAGE={message}\nPRIORITY={}\nSYSLOG_IDENTIFIER=connshaper\nSYSLOG_FACILITY={}\nSYSLOG_PID={}\n\
         CONNSHAPER_EVENT={keyword}\n",
        severity as u8,
        facility.number(),
        std::process::id()
    )
    .into_bytes();
    for field in record.fields() {
        datagram.extend_from_slice(format!("CONNSHAPER_{}", field.name.to_uppercase()).as_bytes());
        if field.value.contains(&b'\n') {
            // With its length, so that no value ends a field.
            datagram.push(b'\n');
            datagram.extend_from_slice(&(field.value.len() as u64).to_le_bytes());
        } else {
            datagram.push(b'=');
        }
        datagram.extend_from_slice(field.value);
        datagram.push(b'\n');
    }
    datagram
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn with(value: &[u8]) -> String {
        let mut record = LogRecord::new("X");
        record.bytes("v", value);
        text(&record)
    }

    #[test]
    fn values_are_quoted_only_where_they_must_be() {
        let cases: &[(&[u8], &str)] = &[
            (b"192.0.2.1", "X v=192.0.2.1"),
            (b"", "X v=\"\""),
            (b"two words", "X v=\"two words\""),
            (b"a=b", "X v=\"a=b\""),
            (b"say \"no\"", "X v=\"say \\\"no\\\"\""),
            (b"back\\slash", "X v=\"back\\\\slash\""),
            (b"\x1b[2J", "X v=\"\\x1b[2J\""),
            (b"a\nSTART", "X v=\"a\\x0aSTART\""),
            (b"\xff\x7f", "X v=\"\\xff\\x7f\""),
            ("caf\u{e9}".as_bytes(), "X v=caf\u{e9}"),
            ("\u{9b}1m".as_bytes(), "X v=\"\\xc2\\x9b1m\""),
            ("\u{202e}".as_bytes(), "X v=\"\\xe2\\x80\\xae\""),
        ];
        for (value, line) in cases {
            assert_eq!(with(value), *line);
        }
    }

    #[test]
    fn a_long_value_is_cut_and_shows_it() {
        let line = with(&[b'a'; 5000]);
        assert!(line.ends_with("aaa..."), "{line}");
        assert!(line.len() <= "X v=".len() + MAX_VALUE);
    }

    #[test]
    fn a_long_line_loses_whole_fields_and_shows_it() {
        let mut record = LogRecord::new("X");
        for _ in 0..10 {
            record.field("v", "a".repeat(240));
        }
        record.field("w", 1);
        let line = text(&record);
        assert!(line.ends_with("a ..."), "{line}");
        assert!(line.len() <= MAX_LINE);
    }

    #[test]
    fn numbers_are_numbers_and_texts_that_look_like_numbers_are_texts() {
        let mut record = LogRecord::new("REFUSED");
        record.field("client", "198.51.100.7").field("limit", "7").field("count", 11).field("note", "say \"no\"");
        let text = json(&record, Severity::Info, SystemTime::UNIX_EPOCH);
        let expected = serde_json::json!({
            "time": "1970-01-01T00:00:00.000Z", "severity": "info", "event": "REFUSED",
            "client": "198.51.100.7", "limit": "7", "count": 11, "note": "say \"no\"",
        });
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), expected);
    }

    #[test]
    fn the_journal_gets_every_field_and_no_value_ends_one() {
        let mut record = LogRecord::new("X");
        record.field("client", "192.0.2.1").field("sender", "a\nPRIORITY=0");
        let datagram = journal(&record, Severity::Info, Facility::MAIL);
        let head = b"MESSAGE=X client=192.0.2.1 sender=\"a\\x0aPRIORITY=0\"\nPRIORITY=6\nSYSLOG_IDENTIFIER=connshaper\nSYSLOG_FACILITY=2\n";
        assert!(datagram.starts_with(head), "{}", String::from_utf8_lossy(&datagram));
        let tail =
            b"CONNSHAPER_EVENT=X\nCONNSHAPER_CLIENT=192.0.2.1\nCONNSHAPER_SENDER\n\x0c\0\0\0\0\0\0\0a\nPRIORITY=0\n";
        assert!(datagram.ends_with(tail), "{}", String::from_utf8_lossy(&datagram));
    }

    #[test]
    fn json_and_the_journal_have_what_the_line_has_no_room_for() {
        let mut record = LogRecord::new("X");
        for name in ["a", "b", "c", "d", "e"] {
            record.field(name, name.repeat(500));
        }
        assert!(text(&record).len() <= MAX_LINE);
        let object: Value = serde_json::from_str(&json(&record, Severity::Info, SystemTime::UNIX_EPOCH)).unwrap();
        assert_eq!(object["e"], "e".repeat(500));
        let datagram = String::from_utf8(journal(&record, Severity::Info, Facility::MAIL)).unwrap();
        assert!(datagram.ends_with(&format!("CONNSHAPER_E={}\n", "e".repeat(500))));
    }

    proptest! {
        #[test]
        fn no_value_breaks_a_line(values in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..400), 0..8)) {
            let mut record = LogRecord::new("X");
            for value in &values {
                record.bytes("v", value);
                record.field("w", &String::from_utf8_lossy(value));
            }
            let line = text(&record);
            prop_assert!(line.len() <= MAX_LINE);
            prop_assert!(line.bytes().all(|b| b >= 0x20 && b != 0x7f), "{line:?}");
            let object = json(&record, Severity::Info, SystemTime::UNIX_EPOCH);
            prop_assert!(!object.contains(needs_escape), "{object:?}");
        }

        #[test]
        fn json_is_escaped_and_reads_back_the_same(value in "[a\u{7f}-\u{9f}\u{2028}-\u{202e}\n\\\\\"]{0,40}") {
            let mut record = LogRecord::new("X");
            record.field("v", &value);
            let object = json(&record, Severity::Info, SystemTime::UNIX_EPOCH);
            prop_assert!(!object.contains(needs_escape), "{object:?}");
            let read: Value = serde_json::from_str(&object).unwrap();
            prop_assert_eq!(read["v"].as_str(), Some(&*value));
        }

        #[test]
        fn a_value_can_be_read_back(value in prop::collection::vec(any::<u8>(), 0..60)) {
            let line = with(&value);
            let text = line.strip_prefix("X v=").unwrap();
            prop_assert_eq!(unescape(text.strip_prefix('"').map_or(text, |t| t.strip_suffix('"').unwrap())), value);
        }
    }

    fn unescape(text: &str) -> Vec<u8> {
        let mut bytes = text.bytes();
        let mut out = Vec::new();
        while let Some(byte) = bytes.next() {
            if byte != b'\\' {
                out.push(byte);
                continue;
            }
            match bytes.next().unwrap() {
                b'x' => {
                    let digits = [bytes.next().unwrap(), bytes.next().unwrap()];
                    out.push(u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap());
                }
                byte => out.push(byte),
            }
        }
        out
    }
}
