//! A text with placeholders, parsed once and filled in per refusal.

use std::fmt::{self, Write};
use std::net::IpAddr;

use bytes::BytesMut;
use jiff::Timestamp;

use super::attribute::Attribute;
use super::key::KeyPart;
use super::request::Request;

/// What the placeholders stand for.
#[derive(Clone, Copy, Debug)]
pub struct Values<'a> {
    /// `{client}`: the address that connected.
    pub client: IpAddr,
    /// `{limit}`: the name of the limit.
    pub limit: &'a str,
    /// `{count}`: hits in this window.
    pub count: u64,
    /// `{threshold}`: hits the limit allows.
    pub threshold: u64,
    /// `{left}`: seconds until the window ends.
    pub left: u32,
    /// `{key}`: what was counted together.
    pub key: &'a KeyPart,
    /// Has `{sasl_username}` and `{sender}`; `None`: they are empty.
    pub request: Option<&'a Request<'a>>,
    /// An administrator's reason, in place of the text.
    pub note: Option<&'a str>,
    /// The time in seconds since the Unix epoch, to which `{left}` is added for `{until}`.
    pub now: u64,
}

/// The longest `{key}`, in bytes; a longer one is cut, and ends in `...`.
const MAX_SHOWN_KEY: usize = 100;

/// The longest `{sasl_username}`, and the longest `{sender}`.
const MAX_SHOWN_NAME: usize = 64;

/// The form of `{until}`: in UTC, for the client may be in any time zone.
const UNTIL: &str = "%Y-%m-%d %H:%M UTC";

/// Printable ASCII with placeholders; `{{` and `}}` stand for braces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    segments: Vec<Segment>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Text(String),
    Client,
    Limit,
    Count,
    Threshold,
    Left,
    Key,
    SaslUsername,
    Sender,
    Until,
}

/// The placeholders, and the most bytes each can become.
const PLACEHOLDERS: [(&str, Segment, usize); 9] = [
    ("client", Segment::Client, 39),
    ("limit", Segment::Limit, 64),
    ("count", Segment::Count, 13),
    ("threshold", Segment::Threshold, 13),
    ("left", Segment::Left, 10),
    ("key", Segment::Key, MAX_SHOWN_KEY),
    ("sasl_username", Segment::SaslUsername, MAX_SHOWN_NAME),
    ("sender", Segment::Sender, MAX_SHOWN_NAME),
    ("until", Segment::Until, 20),
];

impl Template {
    /// Reads a text.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        if let Some(odd) = text.chars().find(|c| !(' '..='~').contains(c)) {
            return Err(TemplateError::NotPrintable(odd));
        }
        let (mut segments, mut plain, mut rest) = (Vec::new(), String::new(), text);
        while let Some(at) = rest.find(['{', '}']) {
            plain.push_str(&rest[..at]);
            let brace = &rest[at..];
            if brace.starts_with("{{") || brace.starts_with("}}") {
                plain.push_str(&brace[..1]);
                rest = &brace[2..];
                continue;
            }
            let (name, after) =
                brace.strip_prefix('{').and_then(|name| name.split_once('}')).ok_or(TemplateError::Brace)?;
            let known = PLACEHOLDERS.iter().find(|(known, ..)| *known == name);
            let (_, segment, _) = known.ok_or_else(|| TemplateError::Unknown(name.to_owned()))?;
            segments.extend((!plain.is_empty()).then(|| Segment::Text(std::mem::take(&mut plain))));
            segments.push(segment.clone());
            rest = after;
        }
        plain.push_str(rest);
        segments.extend((!plain.is_empty()).then_some(Segment::Text(plain)));
        Ok(Self { segments })
    }

    /// The most bytes it can become.
    pub fn longest(&self) -> usize {
        let length = |segment: &Segment| match segment {
            Segment::Text(text) => text.len(),
            other => PLACEHOLDERS.iter().find(|(_, known, _)| known == other).map_or(0, |(.., length)| *length),
        };
        self.segments.iter().map(length).sum()
    }

    /// The text up to the first blank or placeholder.
    pub fn first_word(&self) -> &str {
        match self.segments.first() {
            Some(Segment::Text(text)) => text.split(' ').next().unwrap_or(text),
            _ => "",
        }
    }

    /// Appends it, filled in.
    pub fn write(&self, values: &Values<'_>, output: &mut BytesMut) {
        for segment in &self.segments {
            let written = match segment {
                Segment::Text(text) => output.write_str(text),
                Segment::Client => write!(output, "{}", values.client),
                Segment::Limit => output.write_str(values.limit),
                Segment::Count => write!(output, "{}", values.count),
                Segment::Threshold => write!(output, "{}", values.threshold),
                Segment::Left => write!(output, "{}", values.left),
                Segment::Key => write_clipped(values.key.described().as_bytes(), MAX_SHOWN_KEY, output),
                Segment::SaslUsername => {
                    write_clipped(values.attribute(Attribute::SaslUsername), MAX_SHOWN_NAME, output)
                }
                Segment::Sender => write_clipped(values.attribute(Attribute::Sender), MAX_SHOWN_NAME, output),
                Segment::Until => output.write_str(&values.until()),
            };
            written.expect("a BytesMut grows as needed");
        }
    }
}

impl Values<'_> {
    fn attribute(&self, attribute: Attribute) -> &[u8] {
        self.request.map_or(b"", |request| request.value(attribute))
    }

    fn until(&self) -> String {
        let end = i64::try_from(self.now.saturating_add(self.left.into())).ok();
        let end = end.and_then(|end| Timestamp::from_second(end).ok());
        end.map(|end| end.strftime(UNTIL).to_string()).unwrap_or_default()
    }
}

/// Writes what a client chose, as far as it belongs into an SMTP reply, and no more than `most` bytes of it. Letters
/// beyond ASCII are written as RFC 6533 has them where UTF-8 cannot be: Postfix does not tell whether the client
/// understands it.
pub(super) fn write_clipped(value: &[u8], most: usize, output: &mut BytesMut) -> fmt::Result {
    const CUT: &str = "...";
    let mut text = String::new();
    // Where it is cut if it is too long.
    let mut fits = 0;
    for letter in String::from_utf8_lossy(value).chars() {
        match letter {
            ' '..='~' => text.push(letter),
            char::REPLACEMENT_CHARACTER => text.push('?'),
            _ if letter.is_control() => text.push('?'),
            _ => write!(text, "\\x{{{:X}}}", u32::from(letter))?,
        }
        if text.len() + CUT.len() <= most {
            fits = text.len();
        }
        if text.len() > most {
            return write!(output, "{}{CUT}", &text[..fits]);
        }
    }
    output.write_str(&text)
}

/// What is wrong with a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TemplateError {
    /// A character that does not belong into an SMTP reply.
    NotPrintable(char),
    /// An opening or closing brace alone.
    Brace,
    /// A placeholder that does not exist.
    Unknown(String),
}

impl TemplateError {
    /// What to write instead.
    pub fn remedy(&self) -> String {
        match self {
            Self::NotPrintable(_) => "an SMTP reply is printable ASCII on one line".to_owned(),
            Self::Brace => "write {{ or }} for a brace that is no placeholder".to_owned(),
            Self::Unknown(_) => {
                let names: Vec<String> = PLACEHOLDERS.iter().map(|(name, ..)| format!("{{{name}}}")).collect();
                format!("the placeholders are {}", names.join(", "))
            }
        }
    }
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotPrintable(odd) => write!(f, "the character {odd:?} cannot stand in an SMTP reply"),
            Self::Brace => f.write_str("a brace without its partner"),
            Self::Unknown(name) => write!(f, "unknown placeholder {{{name}}}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_filled_in_and_double_braces_are_braces() {
        let template = Template::parse("{{{client}}} {limit}: {count}/{threshold}, {left}s").unwrap();
        let mut output = BytesMut::new();
        let client = "2001:db8::1".parse().unwrap();
        let key = &KeyPart::of_pairs([]);
        let (request, now) = (None, 0);
        let values =
            Values { client, limit: "connections", count: 3, threshold: 2, left: 60, key, request, note: None, now };
        template.write(&values, &mut output);
        assert_eq!(output, "{2001:db8::1} connections: 3/2, 60s");
        assert!(template.longest() >= output.len());
    }

    #[test]
    fn keys_and_times_are_told_in_printable_characters_of_a_bounded_number() {
        let write = |text: &str, login: &str| {
            let (mut output, key) = (BytesMut::new(), KeyPart::of_pairs([("sasl_username", login)]));
            let client = [192, 0, 2, 1].into();
            let (request, now) = (None, 1_795_716_000);
            let (limit, key, note) = ("x", &key, None);
            let values = Values { client, limit, count: 3, threshold: 2, left: 3600, key, request, note, now };
            Template::parse(text).unwrap().write(&values, &mut output);
            assert!(output.len() <= Template::parse(text).unwrap().longest());
            String::from_utf8(output.to_vec()).unwrap()
        };
        assert_eq!(write("{key}", "joe%20doe@example.org"), "login joe doe@example.org");
        assert_eq!(write("{key}", "j%c3%bcrgen%0d%0a"), r"login j\x{FC}rgen??");
        assert_eq!(write("{key}", "%ff%f0%9f%93%a7%e2%80%ae"), r"login ?\x{1F4E7}\x{202E}");
        assert_eq!(write("{key}", &"%c3%bc".repeat(50)), format!("login {}...", r"\x{FC}".repeat(15)));
        assert_eq!(write("{key}", &"x".repeat(300)), format!("login {}...", "x".repeat(91)));
        assert_eq!(write("until {until}", "joe"), "until 2026-11-26 19:00 UTC");
        assert_eq!(write("<{sender}>", "joe"), "<>");
    }

    #[test]
    fn lone_braces_and_unknown_names_are_errors() {
        assert_eq!(Template::parse("a { b"), Err(TemplateError::Brace));
        assert_eq!(Template::parse("a } b"), Err(TemplateError::Brace));
        assert_eq!(Template::parse("{who}"), Err(TemplateError::Unknown("who".into())));
        assert_eq!(Template::parse("a\tb"), Err(TemplateError::NotPrintable('\t')));
    }
}
