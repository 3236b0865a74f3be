//! Logs whose entries are not lines: journalctl's `export` and `verbose`, objects of JSON over several lines or in an
//! array, and syslog with a count of octets before each message (RFC 6587).
//!
//! They are told by how they begin. Each entry becomes a line, in a form that
//! [`line`](super::line) or [`json`](super::json) takes apart.

use std::io::{self, BufRead, BufReader, Cursor, Read};

use memchr::memmem;

use super::source::LogInput;

/// Bytes that are looked at to tell the form.
const PEEK: u64 = 64 * 1024;

/// Bytes of an entry that are kept. What is longer is none of Postfix's.
const MAX_ENTRY: usize = 128 * 1024;

/// What tells where an entry ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    /// Lines `NAME=value`, or a name, a length and as many bytes; then an empty line.
    Export,
    /// A line with time and cursor; then lines `NAME=value` behind four blanks.
    Verbose,
    /// Braces.
    Json,
    /// Its length is before it.
    Octets,
}

/// The log with a line for each entry, as most logs are.
pub fn as_lines(mut input: LogInput) -> LogInput {
    let mut beginning = Vec::new();
    let error = input.by_ref().take(PEEK).read_to_end(&mut beginning).err();
    let framing = Framing::of(&beginning);
    let rest = error.map_or(input, |error| Box::new(Failed(Some(error))));
    let whole = Cursor::new(beginning).chain(rest);
    match framing {
        None => Box::new(whole),
        Some(framing) => {
            Box::new(Entries { framing, input: BufReader::new(whole), text: Vec::new(), line: Vec::new(), given: 0 })
        }
    }
}

/// An error that comes when what was read before it has been used.
pub struct Failed(pub Option<io::Error>);

impl Read for Failed {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        self.0.take().map_or(Ok(0), Err)
    }
}

impl Framing {
    /// The framing of a text that begins so; `None`: its entries are lines.
    fn of(text: &[u8]) -> Option<Self> {
        let mut text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text).trim_ascii_start();
        // `-- Boot 1234 --`
        while text.starts_with(b"-- ") {
            text = text.split_at(memchr::memchr(b'\n', text)?).1.trim_ascii_start();
        }
        let end = memchr::memchr(b'\n', text).unwrap_or(text.len());
        let (line, rest) = (&text[..end], text.get(end + 1..).unwrap_or_default());
        let is_export = || line.starts_with(b"__") && name_and_value(line).is_some();
        let is_verbose = || time_of_cursor(line).is_some() && rest.starts_with(b"    ");
        match text.first()? {
            b'{' | b'[' if is_json_beyond_lines(text) => Some(Self::Json),
            b'0'..=b'9' if octets(text).is_some_and(|(start, length)| is_followed(&text[start..], length)) => {
                Some(Self::Octets)
            }
            b'_' if is_export() => Some(Self::Export),
            _ if is_verbose() => Some(Self::Verbose),
            _ => None,
        }
    }
}

/// Whether another message follows one of this length, with nothing between them.
fn is_followed(text: &[u8], length: usize) -> bool {
    text.get(length..).and_then(octets).is_some()
}

/// Where a message begins behind its length, and the length: `187 <22>...`.
fn octets(text: &[u8]) -> Option<(usize, usize)> {
    let digits = text.iter().take(7).take_while(|byte| byte.is_ascii_digit()).count();
    let length = str::from_utf8(&text[..digits]).ok()?.parse().ok()?;
    text[digits..].starts_with(b" <").then_some((digits + 1, length))
}

/// Whether objects do not have one line each.
fn is_json_beyond_lines(text: &[u8]) -> bool {
    if let Some(array) = text.strip_prefix(b"[") {
        return array.trim_ascii_start().starts_with(b"{");
    }
    let mut braces = Braces::default();
    match text.iter().position(|byte| braces.close(*byte)) {
        Some(end) => {
            let rest = text[end + 1..].iter().find(|byte| !matches!(byte, b' ' | b'\t' | b'\r'));
            text[..end].contains(&b'\n') || !matches!(rest, None | Some(b'\n'))
        }
        None => text.contains(&b'\n'),
    }
}

/// The braces of an object of JSON.
#[derive(Default)]
struct Braces {
    depth: u32,
    is_in_string: bool,
    is_escaped: bool,
}

impl Braces {
    /// Whether the object ends with this byte.
    fn close(&mut self, byte: u8) -> bool {
        match byte {
            _ if self.is_escaped => self.is_escaped = false,
            b'\\' if self.is_in_string => self.is_escaped = true,
            b'"' if self.depth > 0 => self.is_in_string = !self.is_in_string,
            _ if self.is_in_string => {}
            b'{' => self.depth += 1,
            b'}' if self.depth > 0 => {
                self.depth -= 1;
                return self.depth == 0;
            }
            _ => {}
        }
        false
    }
}

/// `NAME=value`, as the journal names its fields.
fn name_and_value(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr::memchr(b'=', line)?;
    is_name(&line[..end]).then_some((&line[..end], &line[end + 1..]))
}

fn is_name(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(|byte| matches!(byte, b'A'..=b'Z' | b'0'..=b'9' | b'_'))
}

/// Microseconds since the epoch, in `Thu 2026-11-26 21:22:08.123456 CET [s=...;i=...;b=...;m=...;t=...;x=...]`.
fn time_of_cursor(line: &[u8]) -> Option<u64> {
    let cursor = line.trim_ascii_end().strip_suffix(b"]")?;
    let cursor = &cursor[memmem::find(cursor, b" [s=")? + 2..];
    let time = cursor.split(|byte| *byte == b';').find_map(|part| part.strip_prefix(b"t="))?;
    u64::from_str_radix(str::from_utf8(time).ok()?, 16).ok()
}

/// A log of entries, read as lines.
struct Entries<R> {
    framing: Framing,
    input: R,
    /// A line of the log.
    text: Vec<u8>,
    /// The line of the entry, and how much of it was given out.
    line: Vec<u8>,
    given: usize,
}

impl<R: BufRead> Read for Entries<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.given == self.line.len() {
            self.line.clear();
            self.given = 0;
            match self.framing {
                Framing::Export => self.export()?,
                Framing::Verbose => self.verbose()?,
                Framing::Json => self.json()?,
                Framing::Octets => self.octets()?,
            }
        }
        let length = (&self.line[self.given..]).read(buffer)?;
        self.given += length;
        Ok(length)
    }
}

impl<R: BufRead> Entries<R> {
    fn export(&mut self) -> io::Result<()> {
        let mut fields = Fields::default();
        while self.next_text()? {
            match name_and_value(&self.text) {
                _ if self.text.is_empty() && !fields.has_some => {}
                _ if self.text.is_empty() => break,
                Some((name, value)) => fields.set(name, value),
                None if is_name(&self.text) => {
                    let mut length = [0; 8];
                    self.input.read_exact(&mut length)?;
                    let name = std::mem::take(&mut self.text);
                    self.next_bytes(u64::from_le_bytes(length))?;
                    fields.set(&name, &self.text);
                    self.input.skip_until(b'\n')?;
                }
                None => fields.has_some = true,
            }
        }
        fields.write(&mut self.line);
        Ok(())
    }

    fn verbose(&mut self) -> io::Result<()> {
        if !self.next_text()? {
            return Ok(());
        }
        let Some(time) = time_of_cursor(&self.text) else {
            // `-- Boot 1234 --`
            self.line.extend_from_slice(&self.text);
            self.line.push(b'\n');
            return Ok(());
        };
        let mut fields = Fields { time: time.to_string().into_bytes(), has_some: true, ..Fields::default() };
        while self.input.fill_buf()?.starts_with(b" ") {
            self.next_text()?;
            // Further lines of a value have more blanks.
            if let Some((name, value)) = self.text.strip_prefix(b"    ").and_then(name_and_value) {
                fields.set(name, value);
            }
        }
        fields.write(&mut self.line);
        Ok(())
    }

    fn json(&mut self) -> io::Result<()> {
        let mut braces = Braces::default();
        loop {
            let chunk = self.input.fill_buf()?;
            if chunk.is_empty() {
                return Ok(());
            }
            for (at, byte) in chunk.iter().enumerate() {
                let is_end = braces.close(*byte);
                // Neither line breaks nor what stands between objects.
                if (is_end || braces.depth > 0) && !matches!(byte, b'\n' | b'\r') && self.line.len() < MAX_ENTRY {
                    self.line.push(*byte);
                }
                if is_end {
                    self.line.push(b'\n');
                    self.input.consume(at + 1);
                    return Ok(());
                }
            }
            let length = chunk.len();
            self.input.consume(length);
        }
    }

    fn octets(&mut self) -> io::Result<()> {
        // Some write a line break between messages.
        while self.input.fill_buf()?.first().is_some_and(u8::is_ascii_whitespace) {
            self.input.consume(1);
        }
        if self.input.fill_buf()?.is_empty() {
            return Ok(());
        }
        let mut digits = Vec::new();
        while let Some(digit @ b'0'..=b'9') = self.input.fill_buf()?.first().copied().filter(|_| digits.len() < 9) {
            digits.push(digit);
            self.input.consume(1);
        }
        let length = str::from_utf8(&digits).ok().and_then(|digits| digits.parse().ok());
        match length.filter(|_| matches!(self.input.fill_buf(), Ok([b' ', ..]))) {
            Some(length) => {
                self.input.consume(1);
                self.next_bytes(length)?;
            }
            None => {
                // From here to the next line break nothing is known.
                self.next_text()?;
                self.line.append(&mut digits);
            }
        }
        append(self.text.trim_ascii_end(), &mut self.line);
        self.line.push(b'\n');
        Ok(())
    }

    /// Reads a line without its line break; `false` at the end.
    fn next_text(&mut self) -> io::Result<bool> {
        self.text.clear();
        self.input.by_ref().take(MAX_ENTRY as u64).read_until(b'\n', &mut self.text)?;
        let is_there = !self.text.is_empty();
        if self.text.last() == Some(&b'\n') {
            self.text.pop();
        } else {
            self.input.skip_until(b'\n')?;
        }
        Ok(is_there)
    }

    /// Reads so many bytes, of which it keeps what an entry may have.
    fn next_bytes(&mut self, length: u64) -> io::Result<()> {
        self.text.clear();
        let kept = length.min(MAX_ENTRY as u64);
        self.input.by_ref().take(kept).read_to_end(&mut self.text)?;
        io::copy(&mut self.input.by_ref().take(length - kept), &mut io::sink())?;
        Ok(())
    }
}

/// A text as part of a line.
fn append(text: &[u8], line: &mut Vec<u8>) {
    line.extend(text.iter().map(|byte| if *byte == b'\n' { b' ' } else { *byte }));
}

/// What is of interest in an entry of the journal.
#[derive(Default)]
struct Fields {
    time: Vec<u8>,
    host: Vec<u8>,
    program: Vec<u8>,
    process: Vec<u8>,
    /// What the kernel says of the process, and not itself.
    kernel_program: Vec<u8>,
    kernel_process: Vec<u8>,
    message: Vec<u8>,
    /// Whether there was any field, or another line.
    has_some: bool,
}

impl Fields {
    fn set(&mut self, name: &[u8], value: &[u8]) {
        self.has_some = true;
        let field = match name {
            b"__REALTIME_TIMESTAMP" => &mut self.time,
            b"_HOSTNAME" => &mut self.host,
            b"SYSLOG_IDENTIFIER" => &mut self.program,
            b"SYSLOG_PID" => &mut self.process,
            b"_COMM" => &mut self.kernel_program,
            b"_PID" => &mut self.kernel_process,
            b"MESSAGE" => &mut self.message,
            _ => return,
        };
        field.clear();
        field.extend_from_slice(value);
    }

    /// Writes `1793523907.250000 mx postfix/smtpd[411]: connect from ...`.
    fn write(&self, line: &mut Vec<u8>) {
        if !self.has_some {
            return;
        }
        if let Some((seconds, micros)) = self.time.split_last_chunk::<6>() {
            let either = |own, kernel| if Vec::is_empty(own) { kernel } else { own };
            let word = |text: &[u8]| {
                let is_apart = |byte: &u8| matches!(byte, b'[' | b']' | b':') || byte.is_ascii_whitespace();
                let word: Vec<u8> = text.iter().map(|byte| if is_apart(byte) { b'_' } else { *byte }).collect();
                if word.is_empty() { b"-".to_vec() } else { word }
            };
            let program = word(either(&self.program, &self.kernel_program));
            let process = word(either(&self.process, &self.kernel_process));
            let parts = [seconds, b".", micros, b" ", &word(&self.host), b" ", &program, b"[", &process, b"]: "];
            parts.iter().for_each(|part| line.extend_from_slice(part));
        }
        append(&self.message, line);
        line.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_entry_makes_the_reader_stumble(
            head in prop::sample::select(&[
                "", "{\n", "[{", "__CURSOR=a\n", "6 <22>ab6 <22>cd",
                "Sun 2026-11-01 10:05:07 CET [s=0;t=65f3353634750]\n    MESSAGE=a\n",
            ]),
            parts in prop::collection::vec("[{}\"\\\\ \n=_A-C0-9<]{0,8}|.{0,3}", 0..40),
        ) {
            let text = [head, &parts.concat()].concat();
            let mut lines = Vec::new();
            as_lines(Box::new(Cursor::new(text.clone().into_bytes()))).read_to_end(&mut lines).unwrap_or_default();
            prop_assert!(lines.len() <= 2 * text.len() + 100, "{lines:?}");
        }
    }

    fn lines(text: &[u8]) -> String {
        let mut lines = String::new();
        as_lines(Box::new(Cursor::new(text.to_vec()))).read_to_string(&mut lines).unwrap();
        lines
    }

    #[test]
    fn lines_stay_as_they_are() {
        for text in [
            "",
            "x",
            "Nov  1 09:05:07 mx x: y\n",
            "{\"a\":1}\n{\"a\":2}\n",
            "{\"a\":\"}{\"}",
            "[2026-11-01T09:05:07Z] x\n",
            "9 <22>1 x\n9 <22>1 x\n",
            "__a\n__b\n",
            "-- Boot",
        ] {
            assert_eq!(lines(text.as_bytes()), text);
        }
    }

    #[test]
    fn an_entry_of_export_is_a_line() {
        let text = b"__CURSOR=s=1\n__REALTIME_TIMESTAMP=1793523907250000\n_COMM=x\nSYSLOG_IDENTIFIER=postfix/smtpd\n\
            _PID=1\nMESSAGE=a: b\n\n\n__REALTIME_TIMESTAMP=1793523908000001\n_HOSTNAME=mx\n_COMM=a b\nMESSAGE\n\
            \x05\0\0\0\0\0\0\0a\nb=c\nSYSLOG_PID=7\n";
        assert_eq!(lines(text), "1793523907.250000 - postfix/smtpd[1]: a: b\n1793523908.000001 mx a_b[7]: a b=c\n");
    }

    #[test]
    fn an_entry_of_verbose_is_a_line() {
        let text = "-- Boot 1 --\nSun 2026-11-01 10:05:07.250000 CET [s=0;i=1;b=2;m=3;t=65f33536347d0;x=5]\n    _PID=1\n    \
            SYSLOG_IDENTIFIER=postfix/smtpd\n    MESSAGE=one\n            two=2\n-- Boot 2 --\n";
        assert_eq!(lines(text.as_bytes()), "-- Boot 1 --\n1793523907.250128 - postfix/smtpd[1]: one\n-- Boot 2 --\n");
    }

    #[test]
    fn an_object_is_a_line() {
        let text = "[\n{\n\t\"a\" : \"}{\\\"\",\n\t\"b\" : {\"c\":[1,\n2]}\n},{\"d\":3}]{";
        assert_eq!(lines(text.as_bytes()), "{\t\"a\" : \"}{\\\"\",\t\"b\" : {\"c\":[1,2]}}\n{\"d\":3}\n{");
        assert_eq!(lines(b"{\"a\":1}{\"b\":2} {\"c\":3}"), "{\"a\":1}\n{\"b\":2}\n{\"c\":3}\n");
    }

    #[test]
    fn a_message_behind_its_length_is_a_line() {
        assert_eq!(lines(b"6 <22>ab7 <22>c\nd\n6 <22>ef4 <22>"), "<22>ab\n<22>c d\n<22>ef\n<22>\n");
        assert_eq!(lines(b"6 <22>ab6 <22>cdwhat?\n6 <22>ef"), "<22>ab\n<22>cd\nwhat?\n<22>ef\n");
        assert_eq!(lines(b"6 <22>ab0 6 <22>cd"), "6 <22>ab0 6 <22>cd");
    }

    #[test]
    fn an_entry_without_an_end_has_a_bound() {
        let long = |head: &str| [head.as_bytes(), &b"x".repeat(3 * MAX_ENTRY)].concat();
        for head in ["{\n\"", "__CURSOR=", "6 <22>ab999999 <22>", "6 <22>ab6 <22>cd"] {
            assert!(lines(&long(head)).len() <= MAX_ENTRY + 100, "{head}");
        }
    }
}
