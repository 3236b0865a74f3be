//! Lines of JSON: one object each, as journalctl, Docker, rsyslog, syslog-ng, Elastic, Vector and Fluent Bit
//! write them.
//!
//! An object has either a whole line of syslog in it, or its parts under names
//! that differ from program to program. Only the members of interest are
//! decoded, without building the object.

use std::borrow::Cow;

use super::find::find;
use super::line::{Line, LineHead};
use super::stamp::{Stamp, StampForm};

/// Objects within objects that are looked into.
const MAX_DEPTH: u32 = 6;

/// Objects with other members, after which an object is read.
const MAX_LAYOUTS: usize = 4;

/// Values of an object that is read after.
const MAX_VALUES: usize = 128;

/// What a member of an object may be of interest as.
#[derive(Clone, Copy, PartialEq)]
enum JsonField {
    Message,
    Program,
    Process,
    Host,
    Time,
}

/// Names of members and of the objects around them, without underscores, hyphens and case, the better ones first.
const NAMES: [(&str, &str, JsonField); 40] = [
    ("", "realtimetimestamp", JsonField::Time),
    ("", "timereported", JsonField::Time),
    ("", "isodate", JsonField::Time),
    ("", "timestamp", JsonField::Time),
    ("", "time", JsonField::Time),
    ("", "date", JsonField::Time),
    ("", "datetime", JsonField::Time),
    ("", "ts", JsonField::Time),
    ("", "timegenerated", JsonField::Time),
    ("", "message", JsonField::Message),
    ("", "log", JsonField::Message),
    ("", "msg", JsonField::Message),
    ("", "shortmessage", JsonField::Message),
    ("", "line", JsonField::Message),
    ("event", "original", JsonField::Message),
    ("", "syslogidentifier", JsonField::Program),
    ("syslog", "appname", JsonField::Program),
    ("", "appname", JsonField::Program),
    ("", "applicationname", JsonField::Program),
    ("", "programname", JsonField::Program),
    ("", "program", JsonField::Program),
    ("", "ident", JsonField::Program),
    ("", "syslogtag", JsonField::Program),
    ("process", "name", JsonField::Program),
    ("", "comm", JsonField::Program),
    ("", "tag", JsonField::Program),
    ("", "syslogpid", JsonField::Process),
    ("", "pid", JsonField::Process),
    ("", "procid", JsonField::Process),
    ("", "processid", JsonField::Process),
    ("syslog", "procid", JsonField::Process),
    ("process", "pid", JsonField::Process),
    ("host", "hostname", JsonField::Host),
    ("", "hostname", JsonField::Host),
    ("host", "name", JsonField::Host),
    ("", "host", JsonField::Host),
    ("syslog", "hostname", JsonField::Host),
    ("", "logsource", JsonField::Host),
    ("", "fromhost", JsonField::Host),
    ("", "source", JsonField::Host),
];

/// Objects before. The next one has mostly the members of one of them, in the same order, and many of the same values.
#[derive(Debug, Default)]
pub struct JsonLayouts<'a> {
    known: Vec<JsonLayout<'a>>,
    /// The place of the oldest one.
    oldest: usize,
}

/// An object, and where its values are.
#[derive(Debug)]
struct JsonLayout<'a> {
    text: &'a [u8],
    values: Vec<KnownValue>,
    /// The values that may differ: the text from the one before to each, and the rank of its name.
    parts: Vec<(&'a [u8], Option<usize>)>,
    /// The text behind them.
    end: &'a [u8],
}

/// A value that is no object, within the text of its object.
#[derive(Clone, Copy, Debug)]
struct KnownValue {
    start: usize,
    end: usize,
    /// The place of the member's name in `NAMES`.
    rank: Option<usize>,
    /// Whether the next object may have another one here: it is of interest, or was another one before.
    may_differ: bool,
}

/// The best member found for each field: its place in `NAMES`, and its value.
#[derive(Debug, Default)]
pub struct JsonEntry<'a> {
    fields: [Option<(usize, Cow<'a, [u8]>)>; 5],
}

impl<'a> JsonEntry<'a> {
    /// Reads one. `None`: this is not an object with a message.
    pub fn parse(text: &'a [u8], layouts: &mut JsonLayouts<'a>) -> Option<Self> {
        let mut scanner = Scanner::new(text);
        let is_known = layouts.known.iter().any(|layout| {
            let is_like = scanner.object_like(layout).is_some();
            if !is_like {
                scanner = Scanner::new(text);
            }
            is_like
        });
        if !is_known {
            scanner.object(b"", 0)?;
            let values = std::mem::take(&mut scanner.values);
            layouts.learn(JsonLayout { text: &text[..scanner.at], values, parts: Vec::new(), end: b"" });
        }
        scanner.entry.fields[JsonField::Message as usize].is_some().then_some(scanner.entry)
    }

    /// Takes the line in it apart, which follows one with this head, and what `use_it` makes of it.
    pub fn with_line<T>(&self, head: &mut Option<LineHead<'a>>, use_it: impl FnOnce(&Line<'_>) -> T) -> Option<T> {
        let value = |field: JsonField| self.fields[field as usize].as_ref().map(|(_, value)| value);
        let text = |field: JsonField| value(field).map_or(&b""[..], |value| value);
        let (message, program, host) = (text(JsonField::Message), text(JsonField::Program), text(JsonField::Host));
        let message = message.trim_ascii();
        let is_of_postfix = |program: &[u8]| find([b'/'], program).is_some();
        if !is_of_postfix(program) {
            let line = match value(JsonField::Message) {
                Some(Cow::Borrowed(message)) => Line::parse_after(head, message.trim_ascii()),
                _ => Line::parse(message),
            };
            if let Some(line) = line {
                let host = if line.host.is_empty() { host } else { line.host };
                return Some(use_it(&Line { host, ..line }));
            }
        }
        let stamp = time(text(JsonField::Time))?;
        if let Some(line) = Line::within(stamp, host, message) {
            return Some(use_it(&line));
        }
        // A tag ends with the process number, a colon, or both.
        let is_tag = matches!(program.trim_ascii_end().last(), Some(b']' | b':'));
        let (tag, process) = match find([b'[', b':'], if is_tag { program } else { b"" }) {
            Some(end) => (&program[..end], program[end..].split(|byte| matches!(byte, b'[' | b']')).nth(1)),
            None => (program, None),
        };
        let process = process.unwrap_or(text(JsonField::Process));
        (!tag.is_empty()).then(|| use_it(&Line { stamp, host, program: tag, process, message }))
    }

    #[inline]
    fn set(&mut self, rank: usize, value: Cow<'a, [u8]>) {
        let field = &mut self.fields[NAMES[rank].2 as usize];
        if field.as_ref().is_none_or(|(known, _)| rank < *known) {
            *field = Some((rank, value));
        }
    }
}

/// A moment as text, or a number of seconds, milliseconds, microseconds or nanoseconds.
fn time(value: &[u8]) -> Option<Stamp> {
    // Seconds have ten digits until 2286.
    if let Some((digits, rest)) = value.split_first_chunk::<13>()
        && digits.iter().fold(true, |all, byte| all & byte.is_ascii_digit())
    {
        let end = rest.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(rest.len());
        if end <= 6 && matches!(rest.get(end), None | Some(b'.' | b'e' | b'E')) {
            let number = |digits: &[u8]| digits.iter().fold(0, |number, digit| number * 10 + i64::from(digit - b'0'));
            let (seconds, milliseconds) = (number(&digits[..10]), number(&digits[10..]) as u16);
            return Some(Stamp { seconds, milliseconds, has_fraction: true, form: StampForm::Absolute });
        }
    }
    Stamp::parse(value).map(|(stamp, _)| stamp)
}

impl<'a> JsonLayouts<'a> {
    fn learn(&mut self, mut layout: JsonLayout<'a>) {
        if layout.values.len() > MAX_VALUES {
            return;
        }
        let known = self.known.iter().position(|known| known.has_members_of(&layout));
        if let Some(known) = known.map(|at| &self.known[at]) {
            for (value, before) in layout.values.iter_mut().zip(&known.values) {
                value.may_differ |=
                    before.may_differ || known.text[before.start..before.end] != layout.text[value.start..value.end];
            }
        }
        layout.divide();
        match known {
            Some(at) => self.known[at] = layout,
            None if self.known.len() < MAX_LAYOUTS => self.known.push(layout),
            None => {
                self.known[self.oldest] = layout;
                self.oldest = (self.oldest + 1) % MAX_LAYOUTS;
            }
        }
    }
}

impl JsonLayout<'_> {
    /// Notes what an object like this one is compared with.
    fn divide(&mut self) {
        let mut before = 0;
        for value in self.values.iter().filter(|value| value.may_differ) {
            self.parts.push((&self.text[before..value.start], value.rank));
            before = value.end;
        }
        self.end = &self.text[before..];
    }

    /// Whether two objects have the same text around their values.
    fn has_members_of(&self, other: &JsonLayout<'_>) -> bool {
        self.values.len() == other.values.len() && self.around_values().eq(other.around_values())
    }

    fn around_values(&self) -> impl Iterator<Item = &[u8]> {
        let starts = self.values.iter().map(|value| value.start).chain([self.text.len()]);
        let ends = [0].into_iter().chain(self.values.iter().map(|value| value.end));
        ends.zip(starts).map(|(end, start)| &self.text[end..start])
    }
}

/// Goes through the members of an object.
struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
    values: Vec<KnownValue>,
    entry: JsonEntry<'a>,
}

impl<'a> Scanner<'a> {
    fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0, values: Vec::new(), entry: JsonEntry::default() }
    }

    /// Reads an object that differs from this one in nothing but values that may differ.
    fn object_like(&mut self, layout: &JsonLayout<'_>) -> Option<()> {
        for (before, rank) in &layout.parts {
            self.same(before)?;
            let first = self.peek()?;
            // The members of an object may be of interest.
            (first != b'{').then_some(())?;
            self.value(first, *rank)?;
        }
        self.same(layout.end)
    }

    fn same(&mut self, text: &[u8]) -> Option<()> {
        self.text[self.at..].starts_with(text).then(|| self.at += text.len())
    }

    fn object(&mut self, parent: &[u8], depth: u32) -> Option<()> {
        self.expect(b'{')?;
        if self.peek()? == b'}' {
            self.at += 1;
            return Some(());
        }
        loop {
            (self.peek()? == b'"').then_some(())?;
            let (name, _) = self.string()?;
            self.expect(b':')?;
            match self.peek()? {
                b'{' if depth < MAX_DEPTH => self.object(name, depth + 1)?,
                first => {
                    let (start, rank) = (self.at, rank(parent, name));
                    self.value(first, rank)?;
                    self.values.push(KnownValue { start, end: self.at, rank, may_differ: rank.is_some() });
                }
            }
            match self.peek()? {
                b',' => self.at += 1,
                _ => return self.expect(b'}'),
            }
        }
    }

    /// Reads a value that begins so, and keeps it where it is of interest.
    #[inline(always)]
    fn value(&mut self, first: u8, rank: Option<usize>) -> Option<()> {
        let start = self.at;
        if first == b'"' {
            let (text, has_escapes) = self.string()?;
            if let Some(rank) = rank {
                match has_escapes {
                    false => self.entry.set(rank, Cow::Borrowed(text)),
                    true => decoded(text, &self.text[start..self.at])
                        .into_iter()
                        .for_each(|text| self.entry.set(rank, text)),
                }
            }
            return Some(());
        }
        self.skip(0)?;
        let value = &self.text[start..self.at];
        match (rank, first) {
            (Some(rank), b'0'..=b'9') => self.entry.set(rank, Cow::Borrowed(value)),
            // A text as the numbers of its bytes.
            (Some(rank), b'[') => {
                if let Ok(text) = serde_json::from_slice::<Vec<u8>>(value) {
                    self.entry.set(rank, Cow::Owned(text));
                }
            }
            _ => {}
        }
        Some(())
    }

    /// The next byte that is not blank.
    #[inline]
    fn peek(&mut self) -> Option<u8> {
        loop {
            match self.text.get(self.at)? {
                b' ' | b'\t' | b'\n' | b'\r' | b'\x0c' => self.at += 1,
                byte => return Some(*byte),
            }
        }
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }

    /// What is between the quotes, and whether there are escapes in it.
    #[inline(always)]
    fn string(&mut self) -> Option<(&'a [u8], bool)> {
        let start = self.at + 1;
        let (mut at, mut has_escapes) = (start, false);
        loop {
            at += find([b'"', b'\\'], self.text.get(at..)?)?;
            if self.text[at] == b'"' {
                self.at = at + 1;
                return Some((&self.text[start..at], has_escapes));
            }
            (at, has_escapes) = (at + 2, true);
        }
    }

    /// Goes past a value.
    fn skip(&mut self, depth: u32) -> Option<()> {
        match self.peek()? {
            b'"' => drop(self.string()?),
            open @ (b'{' | b'[') if depth < MAX_DEPTH * 2 => {
                let close = if open == b'{' { b'}' } else { b']' };
                self.at += 1;
                while self.peek()? != close {
                    match self.text[self.at] {
                        b',' | b':' => self.at += 1,
                        _ => self.skip(depth + 1)?,
                    }
                }
                self.at += 1;
            }
            _ => {
                let rest = &self.text[self.at..];
                let is_end = |byte: &u8| matches!(byte, b',' | b'}' | b']' | b':' | b' ' | b'\t');
                let length = rest.iter().position(is_end).unwrap_or(rest.len());
                (length > 0).then(|| self.at += length)?;
            }
        }
        Some(())
    }
}

/// The places in `NAMES`, a bit each, of the names that begin with a letter, and of those that end with one.
const BY_FIRST: [u64; 256] = places(true);
const BY_LAST: [u64; 256] = places(false);

const fn places(is_first: bool) -> [u64; 256] {
    let mut places = [0; 256];
    let mut at = 0;
    while at < NAMES.len() {
        let name = NAMES[at].1.as_bytes();
        let letter = name[if is_first { 0 } else { name.len() - 1 }];
        places[letter as usize] |= 1 << at;
        places[letter.to_ascii_uppercase() as usize] |= 1 << at;
        at += 1;
    }
    places
}

/// The place of a member's name in `NAMES`.
fn rank(parent: &[u8], key: &[u8]) -> Option<usize> {
    let is_separator = |byte: &u8| matches!(byte, b'_' | b'-' | b'@');
    let (first, last) = (key.iter().find(|byte| !is_separator(byte))?, key.last()?);
    let mut places = BY_FIRST[usize::from(*first)] & BY_LAST[usize::from(*last)];
    // Nearly always none.
    while places != 0 {
        let place = places.trailing_zeros() as usize;
        let (of, known, _) = NAMES[place];
        let is_here = || match of.is_empty() {
            true => parent.is_empty() || known.len() > 8 || known == "message",
            false => parent.eq_ignore_ascii_case(of.as_bytes()),
        };
        let letters = key.iter().filter(|byte| !is_separator(byte)).map(u8::to_ascii_lowercase);
        if (key == known.as_bytes() || letters.eq(known.bytes())) && is_here() {
            return Some(place);
        }
        places &= places - 1;
    }
    None
}

/// A text that has escapes, as it is between its quotes and with them.
fn decoded<'a>(text: &'a [u8], quoted: &[u8]) -> Option<Cow<'a, [u8]>> {
    // Docker puts a line break at the end.
    if let Some(line) = text.strip_suffix(b"\\n").filter(|line| memchr::memchr(b'\\', line).is_none()) {
        return Some(Cow::Borrowed(line));
    }
    let decode = || serde_json::from_slice::<String>(quoted).ok().map(String::into_bytes);
    unescaped(text).or_else(decode).map(Cow::Owned)
}

/// A text with the escapes of one letter; `None` where there are others.
fn unescaped(mut text: &[u8]) -> Option<Vec<u8>> {
    let mut plain = Vec::with_capacity(text.len());
    while let Some(at) = memchr::memchr(b'\\', text) {
        plain.extend_from_slice(&text[..at]);
        plain.push(match text.get(at + 1)? {
            b'n' => b'\n',
            b't' => b'\t',
            b'r' => b'\r',
            byte @ (b'"' | b'\\' | b'/') => *byte,
            _ => return None,
        });
        text = &text[at + 2..];
    }
    plain.extend_from_slice(text);
    Some(plain)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_object_is_read_the_same_whatever_is_before_it(
            objects in prop::collection::vec(prop::collection::vec((0..9_usize, 0..8_usize), 0..7), 1..12),
        ) {
            let names = ["MESSAGE", "_PID", "SYSLOG_PID", "a", "b", "host", "process", "time", "x\\\"y"];
            let values =
                ["\"m\"", "\"n\"", "7", "{\"name\":\"c\"}", "{\"name\":\"d\"}", "[1,{}]", "\"\\\\\\n\"", " null "];
            let member = |(name, value): &(usize, usize)| format!("\"{}\":{}", names[*name], values[*value]);
            let object = |members: &Vec<_>| format!("{{{}}}", members.iter().map(member).collect::<Vec<_>>().join(","));
            let objects: Vec<String> = objects.iter().map(object).collect();
            let mut layouts = JsonLayouts::default();
            for object in &objects {
                let alone = JsonEntry::parse(object.as_bytes(), &mut JsonLayouts::default());
                let after_others = JsonEntry::parse(object.as_bytes(), &mut layouts);
                prop_assert_eq!(format!("{after_others:?}"), format!("{alone:?}"));
            }
        }
    }

    fn line(text: &str) -> Option<String> {
        let show = |line: &Line<'_>| {
            let text = |part: &[u8]| String::from_utf8_lossy(part).into_owned();
            let moment = line.stamp.seconds * 1000 + i64::from(line.stamp.milliseconds);
            format!("{moment} {} {} {} {}", text(line.host), text(line.program), text(line.process), text(line.message))
        };
        JsonEntry::parse(text.as_bytes(), &mut JsonLayouts::default())?.with_line(&mut None, show)
    }

    #[test]
    fn the_parts_are_found_under_the_names_of_each_program() {
        let expected = "1793523907250 mx postfix/smtpd 411 connect from a[192.0.2.1]";
        for text in [
            r#"{"__REALTIME_TIMESTAMP":"1793523907250000","_HOSTNAME":"mx","SYSLOG_IDENTIFIER":"postfix/smtpd","_PID":"1","SYSLOG_PID":"411","MESSAGE":"connect from \u0061[192.0.2.1]"}"#,
            r#"{"log":"2026-11-01T09:05:07.25Z mx postfix/smtpd[411]: connect from a[192.0.2.1]\n","stream":"stdout","time":"2026-11-01T09:05:09Z"}"#,
            r#"{"timestamp":"2026-11-01T10:05:07.25+01:00","host":"mx","severity":"info","syslogtag":"postfix/smtpd[411]:","message":" connect from a[192.0.2.1]"}"#,
            r#"{"@timestamp":"2026-11-01T09:05:07.250Z","host":{"name":"mx"},"process":{"name":"postfix/smtpd","pid":411},"message":"connect from a[192.0.2.1]","tags":["x","{"]}"#,
            r#"{"appname":"postfix/smtpd","facility":"mail","host":"mx","message":"connect from a[192.0.2.1]","procid":411,"timestamp":"2026-11-01T09:05:07.250Z"}"#,
            r#"{"date":1793523907.25,"host":"mx","ident":"postfix/smtpd","pid":"411","message":"connect from a[192.0.2.1]"}"#,
            r#"{"timestamp":1793523907250,"hostname":"mx","message":"postfix/smtpd[411]: connect from a[192.0.2.1]"}"#,
        ] {
            assert_eq!(line(text).as_deref().map(|line| line.replace("  ", " ")), Some(expected.to_owned()), "{text}");
        }
    }

    #[test]
    fn a_message_may_come_as_numbers() {
        let text = r#"{"__REALTIME_TIMESTAMP":"1793523907250000","SYSLOG_IDENTIFIER":"x","MESSAGE":[104,105]}"#;
        assert_eq!(line(text).unwrap(), "1793523907250  x  hi");
    }

    #[test]
    fn a_name_with_colons_is_no_tag() {
        let text = r#"{"time":"1793523907250","ident":"2001:db8::1/smtpd","pid":"7","message":"connect from a"}"#;
        assert_eq!(line(text).unwrap(), "1793523907250  2001:db8::1/smtpd 7 connect from a");
    }

    #[test]
    fn what_is_not_an_entry_is_refused() {
        for text in ["{", "{}", "[]", r#"{"a":"#, r#"{"message":"x"}"#, r#"{"message":"y","ident":"x","time":"z"}"#] {
            assert_eq!(line(text), None, "{text}");
        }
    }
}
