//! What is logged: a keyword, and fields with their values as they are. `encode` makes lines of it.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path;

use crate::net::origin::CountryCode;

/// The longest value. A longer one is cut, and shows it.
const MAX_VALUE: usize = 1024;

/// All values together. Further fields are left out whole: half of one would be taken for another.
const MAX_VALUES: usize = 8 * 1024;

/// What stands at the end of a value, or of a line, that was cut.
pub(super) const CUT: &str = "...";

/// Something that is logged.
#[derive(Clone, Debug)]
pub struct LogRecord {
    keyword: &'static str,
    /// The values, one after the other: two allocations do for all fields.
    values: Vec<u8>,
    fields: Vec<FieldEnd>,
    /// Whether fields were left out.
    is_cut: bool,
}

#[derive(Clone, Copy, Debug)]
struct FieldEnd {
    name: &'static str,
    end: usize,
    is_number: bool,
}

/// A field of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogField<'r> {
    pub name: &'static str,
    /// Not UTF-8, where a peer sent what is not.
    pub value: &'r [u8],
    pub is_number: bool,
}

impl LogRecord {
    /// A record that so far has only its keyword.
    pub fn new(keyword: &'static str) -> Self {
        Self { keyword, values: Vec::with_capacity(192), fields: Vec::with_capacity(10), is_cut: false }
    }

    /// Appends a field.
    pub fn field(&mut self, name: &'static str, value: impl FieldValue) -> &mut Self {
        let start = self.values.len();
        // An error means that the value has reached its bound, and is cut there.
        let _ = value.write(&mut Bounded { values: &mut self.values, start });
        self.close(name, start, value.is_number())
    }

    /// Appends a field whose value need not be UTF-8.
    pub fn bytes(&mut self, name: &'static str, value: &[u8]) -> &mut Self {
        let start = self.values.len();
        match value.get(..MAX_VALUE) {
            Some(beginning) if value.len() > MAX_VALUE => {
                self.values.extend_from_slice(beginning);
                self.values.extend_from_slice(CUT.as_bytes());
            }
            _ => self.values.extend_from_slice(value),
        }
        self.close(name, start, false)
    }

    /// What happened.
    pub fn keyword(&self) -> &'static str {
        self.keyword
    }

    /// The fields in their order.
    pub fn fields(&self) -> impl Iterator<Item = LogField<'_>> {
        let starts = [0].into_iter().chain(self.fields.iter().map(|field| field.end));
        starts.zip(&self.fields).map(|(start, FieldEnd { name, end, is_number })| LogField {
            name,
            value: &self.values[start..*end],
            is_number: *is_number,
        })
    }

    fn close(&mut self, name: &'static str, start: usize, is_number: bool) -> &mut Self {
        if self.is_cut || self.values.len() > MAX_VALUES {
            self.values.truncate(start);
            self.is_cut = true;
            return self;
        }
        self.fields.push(FieldEnd { name, end: self.values.len(), is_number });
        self
    }
}

/// A value in the making.
struct Bounded<'v> {
    values: &'v mut Vec<u8>,
    start: usize,
}

impl fmt::Write for Bounded<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = MAX_VALUE.saturating_sub(self.values.len() - self.start);
        if text.len() <= room {
            self.values.extend_from_slice(text.as_bytes());
            return Ok(());
        }
        self.values.extend_from_slice(&text.as_bytes()[..text.floor_char_boundary(room)]);
        self.values.extend_from_slice(CUT.as_bytes());
        Err(fmt::Error)
    }
}

/// What can be the value of a field: numbers, and whatever can be shown.
pub trait FieldValue {
    /// Writes it.
    fn write(&self, output: &mut dyn fmt::Write) -> fmt::Result;

    /// Whether programs that read it may take it for a number.
    fn is_number(&self) -> bool {
        false
    }
}

impl<T: fmt::Display + ?Sized> FieldValue for &T {
    fn write(&self, output: &mut dyn fmt::Write) -> fmt::Result {
        write!(output, "{self}")
    }
}

macro_rules! texts {
    ($($type:ty),*) => {
        $(impl FieldValue for $type {
            fn write(&self, output: &mut dyn fmt::Write) -> fmt::Result {
                write!(output, "{self}")
            }
        })*
    };
}

macro_rules! numbers {
    ($($type:ty),*) => {
        $(impl FieldValue for $type {
            fn write(&self, output: &mut dyn fmt::Write) -> fmt::Result {
                write!(output, "{self}")
            }

            fn is_number(&self) -> bool {
                true
            }
        })*
    };
}

texts!(String, CountryCode, IpAddr, path::Display<'_>, io::Error);
numbers!(u8, u16, u32, u64, usize, i32);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_value_is_cut_at_a_character_and_shows_it() {
        let mut record = LogRecord::new("X");
        record.field("v", "\u{e4}".repeat(1000)).field("w", 7).bytes("x", &[0xff; 2000]);
        let fields: Vec<_> = record.fields().collect();
        assert_eq!(fields[0].value, ("\u{e4}".repeat(512) + CUT).as_bytes());
        assert_eq!(fields[1], LogField { name: "w", value: b"7", is_number: true });
        assert!(fields[2].value.ends_with(b"\xff...") && fields[2].value.len() == MAX_VALUE + CUT.len());
    }

    #[test]
    fn a_record_is_bounded_and_loses_whole_fields() {
        let mut record = LogRecord::new("X");
        for _ in 0..20 {
            record.field("v", "a".repeat(MAX_VALUE));
        }
        record.field("w", 1);
        assert!(record.is_cut && record.values.len() <= MAX_VALUES);
        assert!(record.fields().all(|field| field.name == "v" && field.value.len() == MAX_VALUE));
    }
}
