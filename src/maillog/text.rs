//! Writes numbers, times and the bytes of strangers for people.

use std::io;
use std::path::Path;

use indicatif::HumanCount;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::observe::log::encode::needs_escape;

/// A name of a log as text that is safe anywhere: host names have no other characters.
pub fn printable(bytes: &[u8]) -> String {
    let is_safe = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':');
    bytes.iter().map(|byte| if is_safe(*byte) { char::from(*byte) } else { '?' }).collect()
}

/// A text of the administrator's, as the name of a file, without what a terminal would obey.
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if needs_escape(c) { '?' } else { c }).collect()
}

/// A login or a mail address of a log as text that is safe on a terminal.
pub fn shown(bytes: &[u8]) -> String {
    let is_safe = |c: char| c == ' ' || c.is_ascii_graphic() || c.is_alphanumeric();
    String::from_utf8_lossy(bytes).chars().map(|c| if is_safe(c) { c } else { '?' }).collect()
}

/// What to say of a file that cannot be written.
pub fn cannot_write(path: &Path, error: &io::Error) -> String {
    format!("{}: cannot be written: {error}", plain(&path.display().to_string()))
}

/// `1,234,567`.
pub fn number(number: u64) -> String {
    HumanCount(number).to_string()
}

/// `1 session`, `2 sessions`.
pub fn count(of: u64, noun: &str) -> String {
    format!("{} {noun}{}", number(of), if of == 1 { "" } else { "s" })
}

/// `12.3 %`, with more digits where it is small.
pub fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "0 %".to_owned();
    }
    let share = part as f64 * 100.0 / whole as f64;
    match share {
        0.0 => "0 %".to_owned(),
        share if share < 0.01 => "<0.01 %".to_owned(),
        share if share < 1.0 => format!("{share:.2} %"),
        share => format!("{share:.1} %"),
    }
}

/// `1.5 GB`.
pub fn bytes(bytes: u64) -> String {
    let units = ["bytes", "kB", "MB", "GB", "TB"];
    let unit = (bytes.max(1).ilog10() / 3).min(4);
    let size = bytes as f64 / 1000_f64.powi(unit as i32);
    if unit == 0 { format!("{bytes} bytes") } else { format!("{size:.1} {}", units[unit as usize]) }
}

/// A moment in milliseconds since the epoch as `2026-11-21T09:05:07+01:00`, with a fraction where there is one.
pub fn time(milliseconds: i64, zone: &TimeZone) -> String {
    let Ok(timestamp) = Timestamp::from_millisecond(milliseconds) else {
        return milliseconds.to_string();
    };
    let fraction = if milliseconds.rem_euclid(1000) == 0 { "" } else { "%.3f" };
    timestamp.to_zoned(zone.clone()).strftime(&format!("%Y-%m-%dT%H:%M:%S{fraction}%:z")).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_for_people() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(number), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(
            (percent(1, 8), percent(0, 8), percent(1, 200), percent(1, 1_000_000)),
            ("12.5 %".to_owned(), "0 %".to_owned(), "0.50 %".to_owned(), "<0.01 %".to_owned())
        );
        assert_eq!((bytes(999), bytes(1_234_567)), ("999 bytes".to_owned(), "1.2 MB".to_owned()));
    }

    #[test]
    fn times_are_local_with_their_offset() {
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        assert_eq!(time(1_793_523_907_000, &zone), "2026-11-01T10:05:07+01:00");
        assert_eq!(time(1_793_523_907_250, &TimeZone::UTC), "2026-11-01T09:05:07.250+00:00");
    }

    #[test]
    fn nothing_a_stranger_wrote_can_move_the_cursor_or_end_a_tag() {
        assert_eq!(printable(b"mail-1.example.net"), "mail-1.example.net");
        assert_eq!(printable(b"\x1b[2J<script>\xff"), "??2J?script??");
        assert_eq!(plain("a\x1b[2Jb\u{9b}"), "a?[2Jb?");
        assert_eq!(shown("jürgen+x@example.org\n\u{202e}\x1b".as_bytes()), "jürgen+x@example.org???");
    }
}
