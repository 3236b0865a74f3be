//! A text with placeholders, parsed once and filled in per refusal.

use std::fmt::{self, Write};
use std::net::IpAddr;

use bytes::BytesMut;

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
}

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
}

/// The placeholders, and the most bytes each can become.
const PLACEHOLDERS: [(&str, Segment, usize); 5] = [
    ("client", Segment::Client, 39),
    ("limit", Segment::Limit, 64),
    ("count", Segment::Count, 13),
    ("threshold", Segment::Threshold, 13),
    ("left", Segment::Left, 10),
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
            };
            written.expect("a BytesMut grows as needed");
        }
    }
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
            Self::Unknown(_) => "the placeholders are {client}, {limit}, {count}, {threshold} and {left}".to_owned(),
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
        template.write(&Values { client, limit: "connections", count: 3, threshold: 2, left: 60 }, &mut output);
        assert_eq!(output, "{2001:db8::1} connections: 3/2, 60s");
        assert!(template.longest() >= output.len());
    }

    #[test]
    fn lone_braces_and_unknown_names_are_errors() {
        assert_eq!(Template::parse("a { b"), Err(TemplateError::Brace));
        assert_eq!(Template::parse("a } b"), Err(TemplateError::Brace));
        assert_eq!(Template::parse("{who}"), Err(TemplateError::Unknown("who".into())));
        assert_eq!(Template::parse("a\tb"), Err(TemplateError::NotPrintable('\t')));
    }
}
