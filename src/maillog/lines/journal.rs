//! Lines of `journalctl -o json`: one object each.

use serde_json::Value;

use super::line::Line;
use super::stamp::{Form, Stamp};

/// An entry of the journal, in the parts that [`Line`] borrows.
#[derive(Debug)]
pub struct Entry {
    stamp: Stamp,
    host: Vec<u8>,
    program: Vec<u8>,
    process: Vec<u8>,
    message: Vec<u8>,
}

impl Entry {
    /// Reads one. `None`: this is no entry of the journal.
    pub fn parse(line: &[u8]) -> Option<Self> {
        let entry: Value = serde_json::from_slice(line).ok()?;
        let microseconds: i64 = entry["__REALTIME_TIMESTAMP"].as_str()?.parse().ok()?;
        let stamp = Stamp {
            seconds: microseconds.div_euclid(1_000_000),
            milliseconds: (microseconds.rem_euclid(1_000_000) / 1000) as u16,
            has_fraction: true,
            form: Form::Absolute,
        };
        let first = |names: &[&str]| names.iter().find_map(|name| bytes(&entry[*name]));
        Some(Self {
            stamp,
            host: first(&["_HOSTNAME"]).unwrap_or_default(),
            program: first(&["SYSLOG_IDENTIFIER", "_COMM"])?,
            // The first is what the program says, which also holds for lines that postlogd passed on.
            process: first(&["SYSLOG_PID", "_PID"]).unwrap_or_default(),
            message: first(&["MESSAGE"])?,
        })
    }

    /// The same as a line.
    pub fn line(&self) -> Line<'_> {
        Line {
            stamp: self.stamp,
            host: &self.host,
            program: &self.program,
            process: &self.process,
            message: &self.message,
        }
    }
}

/// A field: a text or, where it is not UTF-8, its bytes as numbers.
fn bytes(value: &Value) -> Option<Vec<u8>> {
    match value {
        Value::String(text) => Some(text.clone().into_bytes()),
        Value::Array(numbers) => numbers.iter().map(|number| u8::try_from(number.as_u64()?).ok()).collect(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_read_like_a_line() {
        let text = r#"{"__REALTIME_TIMESTAMP":"1793523907250000","_HOSTNAME":"mx","SYSLOG_IDENTIFIER":"postfix/smtpd",
            "_PID":"1","SYSLOG_PID":"411","MESSAGE":"connect from \u0061[192.0.2.1]"}"#;
        let entry = Entry::parse(text.replace('\n', "").as_bytes()).unwrap();
        let line = entry.line();
        let by_syslog = b"2026-11-01T09:05:07.25Z mx postfix/smtpd[411]: connect from a[192.0.2.1]";
        assert_eq!(Some(line), Line::parse(by_syslog));
    }

    #[test]
    fn a_message_may_come_as_numbers() {
        let text = br#"{"__REALTIME_TIMESTAMP":"1","SYSLOG_IDENTIFIER":"x","MESSAGE":[104,255]}"#;
        assert_eq!(Entry::parse(text).unwrap().line().message, b"h\xff");
    }

    #[test]
    fn what_is_no_entry_is_refused() {
        for text in ["{", "{}", "[]", r#"{"__REALTIME_TIMESTAMP":"x","SYSLOG_IDENTIFIER":"x","MESSAGE":"y"}"#] {
            assert!(Entry::parse(text.as_bytes()).is_none(), "{text}");
        }
    }
}
