//! A finished line taken apart again: as JSON, and as the fields of the journal.
//!
//! Done on the log's own thread, so whoever logs pays for the line only.

use std::time::SystemTime;

use serde_json::{Map, Value};

use super::{Facility, Severity};

/// Fields that are texts even where they look like numbers.
const TEXTS: [&str; 6] = ["limit", "key", "user", "target", "note", "version"];

/// Keyword and fields of a line, unescaped.
pub fn fields(line: &str) -> (&str, Vec<(&str, String)>) {
    let (keyword, mut rest) = line.split_once(' ').unwrap_or((line, ""));
    let mut fields = Vec::new();
    while let Some((key, value)) = rest.split_once('=') {
        let (value, after) = match value.strip_prefix('"') {
            Some(quoted) => unquote(quoted),
            None => {
                let (value, after) = value.split_once(' ').unwrap_or((value, ""));
                (value.to_owned(), after)
            }
        };
        fields.push((key, value));
        rest = after;
    }
    (keyword, fields)
}

/// What stands before the closing quote, and what after it.
fn unquote(text: &str) -> (String, &str) {
    let (mut value, mut bytes) = (Vec::new(), text.bytes().enumerate());
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'"' => return (String::from_utf8_lossy(&value).into_owned(), text[at + 1..].trim_start_matches(' ')),
            b'\\' => match bytes.next() {
                Some((at, b'x')) => {
                    let digits = text.get(at + 1..at + 3).and_then(|digits| u8::from_str_radix(digits, 16).ok());
                    value.extend(digits);
                    bytes.nth(1);
                }
                Some((_, byte)) => value.push(byte),
                None => {}
            },
            byte => value.push(byte),
        }
    }
    (String::from_utf8_lossy(&value).into_owned(), "")
}

/// The line as one JSON object, without a newline.
pub fn json(line: &str, severity: Severity, time: SystemTime) -> String {
    let (keyword, fields) = fields(line);
    let mut object = Map::new();
    object.insert("time".to_owned(), humantime::format_rfc3339_millis(time).to_string().into());
    object.insert("severity".to_owned(), severity.to_string().into());
    object.insert("event".to_owned(), keyword.into());
    for (key, value) in fields {
        let number = value.parse::<u64>().ok().filter(|_| !TEXTS.contains(&key));
        object.insert(key.to_owned(), number.map_or_else(|| Value::from(value), Value::from));
    }
    Value::Object(object).to_string()
}

/// The line as a datagram of the journal's own protocol.
pub fn journal(line: &str, severity: Severity, facility: Facility) -> Vec<u8> {
    let (keyword, fields) = fields(line);
    let facility = facility.priority(Severity::Err) / 8;
    let mut datagram = format!(
        "MESSAGE={line}\nPRIORITY={}\nSYSLOG_IDENTIFIER=connshaper\nSYSLOG_FACILITY={facility}\nSYSLOG_PID={}\n\
         CONNSHAPER_EVENT={keyword}\n",
        severity as u8,
        std::process::id()
    )
    .into_bytes();
    for (key, value) in fields {
        datagram.extend_from_slice(format!("CONNSHAPER_{}", key.to_uppercase()).as_bytes());
        if value.contains('\n') {
            // With its length, so that no value ends a field.
            datagram.push(b'\n');
            datagram.extend_from_slice(&(value.len() as u64).to_le_bytes());
        } else {
            datagram.push(b'=');
        }
        datagram.extend_from_slice(value.as_bytes());
        datagram.push(b'\n');
    }
    datagram
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::log::Line;
    use proptest::prelude::*;

    #[test]
    fn numbers_are_numbers_and_names_are_texts() {
        let mut line = Line::new("REFUSED");
        line.field("client", "198.51.100.7").field("limit", "7").field("count", 11).field("note", "say \"no\"");
        let text = json(&line.finish(), Severity::Info, SystemTime::UNIX_EPOCH);
        let expected = serde_json::json!({
            "time": "1970-01-01T00:00:00.000Z", "severity": "info", "event": "REFUSED",
            "client": "198.51.100.7", "limit": "7", "count": 11, "note": "say \"no\"",
        });
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), expected);
    }

    #[test]
    fn the_journal_gets_every_field_and_no_value_ends_one() {
        let mut line = Line::new("X");
        line.field("client", "192.0.2.1").field("sender", "a\nPRIORITY=0");
        let datagram = journal(&line.finish(), Severity::Info, Facility::MAIL);
        let head = b"MESSAGE=X client=192.0.2.1 sender=\"a\\x0aPRIORITY=0\"\nPRIORITY=6\nSYSLOG_IDENTIFIER=connshaper\nSYSLOG_FACILITY=2\n";
        assert!(datagram.starts_with(head), "{}", String::from_utf8_lossy(&datagram));
        let tail =
            b"CONNSHAPER_EVENT=X\nCONNSHAPER_CLIENT=192.0.2.1\nCONNSHAPER_SENDER\n\x0c\0\0\0\0\0\0\0a\nPRIORITY=0\n";
        assert!(datagram.ends_with(tail), "{}", String::from_utf8_lossy(&datagram));
    }

    proptest! {
        #[test]
        fn what_was_written_reads_back(values in prop::collection::vec(".{0,40}", 0..6)) {
            let mut line = Line::new("X");
            for value in &values {
                line.field("v", value);
            }
            let text = line.finish();
            let (keyword, read) = fields(&text);
            prop_assert_eq!(keyword, "X");
            let read: Vec<String> = read.into_iter().map(|(_, value)| value).collect();
            prop_assert_eq!(read, values);
        }
    }
}
