//! Text for people: tables, durations, and the sentences about a change.

use std::fmt::Display;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::observe::terminal::Paint;

/// A column: its heading, and whether it holds numbers.
pub type Column = (&'static str, bool);

/// Rows under headings; numbers are set to the right.
pub fn table(columns: &[Column], rows: &[Vec<String>], paint: Paint) -> String {
    let width = |at: usize| {
        let cells = rows.iter().map(|row| row[at].chars().count());
        cells.chain([columns[at].0.len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let line = |cells: &[&str]| {
        let padded = cells.iter().zip(&widths).zip(columns).map(|((cell, width), (_, number))| match number {
            true => format!("{cell:>width$}"),
            false => format!("{cell:width$}"),
        });
        format!("  {}", padded.collect::<Vec<_>>().join("  ").trim_end())
    };
    let headings: Vec<&str> = columns.iter().map(|(heading, _)| *heading).collect();
    let mut text = format!("{}\n", paint.bold(&line(&headings)));
    for row in rows {
        text += &line(&row.iter().map(String::as_str).collect::<Vec<_>>());
        text.push('\n');
    }
    text
}

/// A value in a cell; a dash for one that is not known.
pub fn cell(value: Option<impl Display>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// A threshold in a cell.
pub fn allowed(threshold: Option<u64>) -> String {
    threshold.map_or_else(|| "unlimited".to_owned(), |threshold| threshold.to_string())
}

/// A text in a line of comma-separated values: in quotes where RFC 4180 wants them, and with an apostrophe before what a
/// spreadsheet would run as a formula. Strangers choose logins and senders.
pub fn csv_text(text: &str) -> String {
    let apostrophe = if text.starts_with(['=', '+', '-', '@', '\t', '\r']) { "'" } else { "" };
    match text.contains([',', '"', '\r', '\n']) {
        true => format!("\"{apostrophe}{}\"", text.replace('"', "\"\"")),
        false => format!("{apostrophe}{text}"),
    }
}

/// A moment in seconds since the Unix epoch, as RFC 3339 has it.
pub fn time(unix: u64) -> Option<String> {
    let moment = Timestamp::from_second(i64::try_from(unix).ok()?).ok()?;
    Some(moment.to_string())
}

/// A number of seconds in its two largest units.
pub fn lasting(seconds: impl Into<u64>) -> String {
    let seconds = seconds.into();
    let units = [(86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")];
    let at = units.iter().position(|(length, _)| seconds >= *length).unwrap_or(3);
    let (length, unit) = units[at];
    let first = format!("{} {unit}", seconds / length);
    match units.get(at + 1) {
        Some((smaller, unit)) if seconds % length >= *smaller => {
            format!("{first} {} {unit}", seconds % length / smaller)
        }
        _ => first,
    }
}

/// The result of a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// In one sentence.
    pub done: String,
    /// Further notes for the administrator.
    pub notes: Vec<String>,
}

impl Summary {
    pub fn show(&self) -> String {
        let notes = self.notes.iter().map(|note| format!("note: {note}\n"));
        std::iter::once(format!("{}\n", self.done)).chain(notes).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [vec!["192.0.2.1".to_owned(), "7".to_owned()], vec!["a".to_owned(), "12".to_owned()]];
        let text = table(&[("client", false), ("count", true)], &rows, Paint(false));
        assert_eq!(text, "  client     count\n  192.0.2.1      7\n  a             12\n");
    }

    #[test]
    fn no_text_for_a_spreadsheet_is_a_formula() {
        for (text, field) in [
            ("sasl_username=joe", "sasl_username=joe"),
            ("=HYPERLINK(\"http://a\",1)", "\"'=HYPERLINK(\"\"http://a\"\",1)\""),
            ("+1", "'+1"),
            ("-1", "'-1"),
            ("@example.org", "'@example.org"),
            ("\t=1", "'\t=1"),
            ("a\nb", "\"a\nb\""),
        ] {
            assert_eq!(csv_text(text), field, "{text}");
        }
    }

    #[test]
    fn durations_have_two_units_at_most() {
        let said = [0_u32, 59, 60, 61, 3_600, 7_260, 90_000, 86_401].map(lasting);
        assert_eq!(said, ["0 s", "59 s", "1 min", "1 min 1 s", "1 h", "2 h 1 min", "1 d 1 h", "1 d"]);
    }
}
