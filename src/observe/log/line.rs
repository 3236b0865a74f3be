//! One log line: a keyword, then `key=value` pairs.
//!
//! Values may come from strangers. Whatever they hold, a line stays one line,
//! carries no control character to a terminal, can be taken apart again by a
//! program, and has a bounded length.

use std::fmt::{self, Write};

/// Longest value, counted as it is written.
pub const MAX_VALUE: usize = 256;
/// Longest line: the least that every receiver of syslog takes is 1024 bytes, with its header.
pub const MAX_LINE: usize = 1000;

/// What stands in place of what was too long.
const CUT: &str = "...";

/// A line in the making.
#[derive(Debug)]
pub struct Line {
    text: String,
    full: bool,
}

impl Line {
    /// A line that so far has only its keyword.
    pub fn new(keyword: &'static str) -> Self {
        let mut text = String::with_capacity(256);
        text.push_str(keyword);
        Self { text, full: false }
    }

    /// Appends `key=value`.
    pub fn field(&mut self, key: &'static str, value: impl fmt::Display) -> &mut Self {
        self.append(key, |out| {
            // Fails at the value's bound, where the value is cut; and that is meant.
            let _ = write!(out, "{value}");
        })
    }

    /// Appends `key=value` with a value that need not be UTF-8.
    pub fn bytes(&mut self, key: &'static str, value: &[u8]) -> &mut Self {
        self.append(key, |out| {
            for chunk in value.utf8_chunks() {
                let written = out.write_str(chunk.valid());
                if written.and_then(|()| out.escape(chunk.invalid())).is_err() {
                    break;
                }
            }
        })
    }

    /// The line as it is written, without a newline.
    pub fn finish(self) -> String {
        self.text
    }

    fn append(&mut self, key: &'static str, write: impl FnOnce(&mut Value)) -> &mut Self {
        if self.full {
            return self;
        }
        let before = self.text.len();
        self.text.push(' ');
        self.text.push_str(key);
        self.text.push('=');
        let mut value = Value::at_the_end_of(&mut self.text);
        write(&mut value);
        value.close();
        // Pairs are dropped whole: half a value would be taken for another one.
        if self.text.len() > MAX_LINE - " ".len() - CUT.len() {
            self.text.truncate(before);
            self.text.push(' ');
            self.text.push_str(CUT);
            self.full = true;
        }
        self
    }
}

/// Escapes one value into the end of a line.
struct Value<'a> {
    line: &'a mut String,
    start: usize,
    /// Set by a character that needs quotes around the value.
    quoted: bool,
    cut: bool,
}

impl<'a> Value<'a> {
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

impl fmt::Write for Value<'_> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn with(value: &[u8]) -> String {
        let mut line = Line::new("X");
        line.bytes("v", value);
        line.finish()
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
        let mut line = Line::new("X");
        for _ in 0..10 {
            line.field("v", "a".repeat(240));
        }
        line.field("w", 1);
        let line = line.finish();
        assert!(line.ends_with("a ..."), "{line}");
        assert!(line.len() <= MAX_LINE);
    }

    proptest! {
        #[test]
        fn no_value_breaks_a_line(values in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..400), 0..8)) {
            let mut line = Line::new("X");
            for value in &values {
                line.bytes("v", value);
                line.field("w", String::from_utf8_lossy(value));
            }
            let line = line.finish();
            prop_assert!(line.len() <= MAX_LINE);
            prop_assert!(line.bytes().all(|b| b >= 0x20 && b != 0x7f), "{line:?}");
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
