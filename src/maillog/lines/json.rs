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
#[derive(Clone, Copy, Debug, PartialEq)]
enum JsonField {
    Message,
    Program,
    Process,
    Host,
    Time,
}

/// The number of these.
const FIELDS: usize = 5;

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
    /// The place of the next one that has other members: behind these, or that of the oldest one.
    next: usize,
    /// What the last object had that has too many values to be known.
    unknown: JsonEntry<'a>,
}

/// An object, and where its values are.
#[derive(Debug)]
struct JsonLayout<'a> {
    text: &'a [u8],
    values: Vec<KnownValue>,
    /// The values that may differ: the text from the one before to each, and the field it is the best one for.
    parts: Vec<(&'a [u8], Option<JsonField>)>,
    /// The text behind them.
    end: &'a [u8],
    /// What is in the last object like this one. The next object changes only what may differ.
    entry: JsonEntry<'a>,
}

/// A value that is no object, within the text of its object.
#[derive(Clone, Copy, Debug)]
struct KnownValue {
    start: usize,
    end: usize,
    /// The place of the member's name in `NAMES`.
    name: Option<usize>,
    /// Whether it is a text or a number.
    has_text: bool,
    /// Whether it has to be read in the next object: an object before had another one, or it has to be decoded.
    may_differ: bool,
}

/// A value as it is written, and the text that it means, where that is a part of it.
#[derive(Clone, Copy)]
struct JsonValue<'a> {
    written: &'a [u8],
    plain: Option<&'a [u8]>,
}

/// The best member found for each field.
#[derive(Debug, Default)]
pub struct JsonEntry<'a> {
    fields: [Option<Cow<'a, [u8]>>; FIELDS],
}

impl<'a> JsonEntry<'a> {
    /// Takes the line in it apart, which follows one with this head, and what `use_it` makes of it.
    pub fn with_line<T>(&self, head: &mut Option<LineHead<'a>>, use_it: impl FnOnce(&Line<'_>) -> T) -> Option<T> {
        let value = |field: JsonField| self.fields[field as usize].as_ref();
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
    /// Reads the object that a text begins with, and says how long that is. What is behind its line is not looked at.
    /// `None`: this is not an object with a message.
    pub fn read(&mut self, text: &'a [u8]) -> Option<(&JsonEntry<'a>, usize)> {
        let known = self.known.iter_mut().enumerate().find_map(|(at, layout)| Some((at, layout.read(text)?)));
        let (entry, length) = match known {
            Some((at, length)) => (&self.known[at].entry, length),
            None => {
                let mut scanner = Scanner::new(text);
                scanner.object(b"", 0)?;
                let Scanner { at, values, best, .. } = scanner;
                let entry = JsonEntry { fields: best.map(|best| best.map(|(_, text)| text)) };
                (self.learn(&text[..at], values, entry), at)
            }
        };
        entry.fields[JsonField::Message as usize].is_some().then_some((entry, length))
    }

    fn learn(&mut self, text: &'a [u8], mut values: Vec<KnownValue>, entry: JsonEntry<'a>) -> &JsonEntry<'a> {
        if values.len() > MAX_VALUES {
            self.unknown = entry;
            return &self.unknown;
        }
        let known = self.known.iter().position(|known| known.has_members_of(text, &values));
        if let Some(known) = known.map(|at| &self.known[at]) {
            for (value, before) in values.iter_mut().zip(&known.values) {
                value.may_differ |=
                    before.may_differ || known.text[before.start..before.end] != text[value.start..value.end];
            }
        }
        let at = known.unwrap_or(self.next);
        if known.is_none() {
            self.next = (self.next + 1) % MAX_LAYOUTS;
        }
        let layout = JsonLayout::new(text, values, entry);
        match self.known.get_mut(at) {
            Some(known) => *known = layout,
            None => self.known.push(layout),
        }
        &self.known[at].entry
    }
}

impl<'a> JsonLayout<'a> {
    /// Notes what an object like this one is compared with.
    fn new(text: &'a [u8], values: Vec<KnownValue>, entry: JsonEntry<'a>) -> Self {
        let (mut parts, mut before) = (Vec::new(), 0);
        for (place, value) in values.iter().enumerate().filter(|(_, value)| value.may_differ) {
            let field = value.name.map(|name| NAMES[name].2).filter(|field| best(*field, &values) == Some(place));
            parts.push((&text[before..value.start], field));
            before = value.end;
        }
        Self { text, values, parts, end: &text[before..], entry }
    }

    /// Reads an object that differs from this one in nothing but values that may differ, and says how long it is.
    fn read(&mut self, text: &'a [u8]) -> Option<usize> {
        let mut rest = text;
        for (before, field) in &self.parts {
            rest = rest.strip_prefix(*before)?;
            let value = JsonValue::parse(rest)?;
            rest = &rest[value.written.len()..];
            if let Some(field) = field {
                let kept = &mut self.entry.fields[*field as usize];
                match value.plain {
                    Some(text) => *kept = Some(Cow::Borrowed(text)),
                    // Where it has no text, another member may be the best one.
                    None => *kept = Some(value.decoded()?),
                }
            }
        }
        let rest = rest.strip_prefix(self.end)?;
        Some(text.len() - rest.len())
    }

    /// Whether an object has the same text around its values.
    fn has_members_of(&self, text: &[u8], values: &[KnownValue]) -> bool {
        self.values.len() == values.len() && around(self.text, &self.values).eq(around(text, values))
    }
}

/// The place of the value that is the best one for a field.
fn best(field: JsonField, values: &[KnownValue]) -> Option<usize> {
    let of_field = (0..values.len()).filter(|at| values[*at].name.is_some_and(|name| NAMES[name].2 == field));
    // One that is never a text does not count.
    of_field.filter(|at| values[*at].has_text || values[*at].may_differ).min_by_key(|at| values[*at].name)
}

/// What is in an object around its values.
fn around<'a>(text: &'a [u8], values: &[KnownValue]) -> impl Iterator<Item = &'a [u8]> {
    let starts = values.iter().map(|value| value.start).chain([text.len()]);
    let ends = [0].into_iter().chain(values.iter().map(|value| value.end));
    ends.zip(starts).map(|(end, start)| &text[end..start])
}

impl<'a> JsonValue<'a> {
    /// Reads the value that a text begins with. `None`: it begins with an object, with a blank, or with no value.
    #[inline(always)]
    fn parse(text: &'a [u8]) -> Option<Self> {
        match text.first()? {
            b'"' => {
                let (inner, has_escapes) = string(text)?;
                Some(Self { written: &text[..inner.len() + 2], plain: (!has_escapes).then_some(inner) })
            }
            // The members of an object may be of interest.
            b'{' => None,
            first if is_blank(*first) => None,
            first => {
                let written = &text[..length(text, 0)?];
                Some(Self { written, plain: first.is_ascii_digit().then_some(written) })
            }
        }
    }

    /// The text that one means that is not plain, if it means one.
    #[inline(never)]
    fn decoded(self) -> Option<Cow<'a, [u8]>> {
        match self.written {
            [b'"', inner @ .., b'"'] => decoded(inner, self.written),
            // A text as the numbers of its bytes.
            [b'[', ..] => serde_json::from_slice::<Vec<u8>>(self.written).ok().map(Cow::Owned),
            _ => None,
        }
    }
}

/// What is between the quotes of the string that a text begins with, and whether there are escapes in it.
#[inline(always)]
fn string(text: &[u8]) -> Option<(&[u8], bool)> {
    let (inner, mut end, mut has_escapes) = (text.get(1..)?, 0, false);
    loop {
        // A line break is not in a string: what is behind it is of another line.
        end += find([b'"', b'\\', b'\n'], inner.get(end..)?)?;
        let (before, behind) = inner.split_at_checked(end)?;
        match behind {
            [b'"', ..] => return Some((before, has_escapes)),
            [b'\\', next, ..] if *next != b'\n' => (end, has_escapes) = (end + 2, true),
            _ => return None,
        }
    }
}

/// Goes through the members of an object.
struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
    values: Vec<KnownValue>,
    /// The best member found for each field, and the place of its name in `NAMES`.
    best: [Option<(usize, Cow<'a, [u8]>)>; FIELDS],
}

impl<'a> Scanner<'a> {
    fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0, values: Vec::new(), best: Default::default() }
    }

    fn object(&mut self, parent: &[u8], depth: u32) -> Option<()> {
        self.expect(b'{')?;
        if self.peek()? == b'}' {
            self.at += 1;
            return Some(());
        }
        loop {
            (self.peek()? == b'"').then_some(())?;
            let (name, _) = string(&self.text[self.at..])?;
            self.at += name.len() + 2;
            self.expect(b':')?;
            match self.peek()? {
                b'{' if depth < MAX_DEPTH => self.object(name, depth + 1)?,
                b'{' => self.at += length(&self.text[self.at..], 0)?,
                _ => self.value(place_of(parent, name))?,
            }
            match self.peek()? {
                b',' => self.at += 1,
                _ => return self.expect(b'}'),
            }
        }
    }

    /// Reads a value, and keeps it where it is the best one for its field so far.
    fn value(&mut self, name: Option<usize>) -> Option<()> {
        let (start, value) = (self.at, JsonValue::parse(&self.text[self.at..])?);
        self.at += value.written.len();
        let text = name.and_then(|_| value.plain.map(Cow::Borrowed).or_else(|| value.decoded()));
        let has_text = text.is_some();
        if let (Some(name), Some(text)) = (name, text) {
            let best = &mut self.best[NAMES[name].2 as usize];
            if best.as_ref().is_none_or(|(known, _)| name < *known) {
                *best = Some((name, text));
            }
        }
        let may_differ = has_text && value.plain.is_none();
        self.values.push(KnownValue { start, end: self.at, name, has_text, may_differ });
        Some(())
    }

    /// The next byte that is not blank.
    fn peek(&mut self) -> Option<u8> {
        self.at += self.text[self.at..].iter().position(|byte| !is_blank(*byte))?;
        Some(self.text[self.at])
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }
}

/// Whether a byte may stand between values. A line break may not: it ends the line.
fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\x0c')
}

/// How long the value is that a text begins with.
fn length(text: &[u8], depth: u32) -> Option<usize> {
    match text.first()? {
        b'"' => Some(string(text)?.0.len() + 2),
        open @ (b'{' | b'[') if depth < MAX_DEPTH * 2 => {
            let close = if *open == b'{' { b'}' } else { b']' };
            let mut at = 1;
            loop {
                match text.get(at)? {
                    byte if *byte == close => return Some(at + 1),
                    byte if is_blank(*byte) || matches!(byte, b',' | b':') => at += 1,
                    _ => at += length(&text[at..], depth + 1)?,
                }
            }
        }
        _ => {
            let is_end = |byte: &u8| matches!(byte, b',' | b'}' | b']' | b':' | b' ' | b'\t' | b'\n');
            Some(text.iter().position(is_end).unwrap_or(text.len())).filter(|length| *length > 0)
        }
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
fn place_of(parent: &[u8], key: &[u8]) -> Option<usize> {
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
            objects in prop::collection::vec(prop::collection::vec((0..9_usize, 0..10_usize), 0..7), 1..12),
        ) {
            let names = ["MESSAGE", "_PID", "SYSLOG_PID", "a", "b", "host", "process", "time", "x\\\"y"];
            let values = [
                "\"m\"", "\"n\"", "7", "{\"name\":\"c\"}", "{\"name\":\"d\"}", "[1,{}]", "[104]", "\"\\\\\\n\"",
                " null ", "null",
            ];
            let member = |(name, value): &(usize, usize)| format!("\"{}\":{}", names[*name], values[*value]);
            let object = |members: &Vec<_>| format!("{{{}}}", members.iter().map(member).collect::<Vec<_>>().join(","));
            let objects: Vec<String> = objects.iter().map(object).collect();
            let mut layouts = JsonLayouts::default();
            for object in &objects {
                let alone = format!("{:?}", JsonLayouts::default().read(object.as_bytes()));
                prop_assert_eq!(format!("{:?}", layouts.read(object.as_bytes())), alone);
            }
        }

        #[test]
        fn what_is_behind_a_line_is_not_looked_at(
            lines in prop::collection::vec("([{]\"MESSAGE\":\"a)?([\\[{\"\\\\,: \r]|}|]|\"[ab]\":|\"MESSAGE\":\"|1){0,9}}?", 1..9),
        ) {
            let text = lines.join("\n");
            let (mut layouts, mut alone, mut at) = (JsonLayouts::default(), JsonLayouts::default(), 0);
            for line in &lines {
                let expected = format!("{:?}", alone.read(line.as_bytes()));
                prop_assert_eq!(format!("{:?}", layouts.read(&text.as_bytes()[at..])), expected);
                at += line.len() + 1;
            }
        }
    }

    fn line(text: &str) -> Option<String> {
        let show = |line: &Line<'_>| {
            let text = |part: &[u8]| String::from_utf8_lossy(part).into_owned();
            let moment = line.stamp.seconds * 1000 + i64::from(line.stamp.milliseconds);
            format!("{moment} {} {} {} {}", text(line.host), text(line.program), text(line.process), text(line.message))
        };
        JsonLayouts::default().read(text.as_bytes())?.0.with_line(&mut None, show)
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
