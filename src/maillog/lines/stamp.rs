//! The time a log line begins with, as it is written there.
//!
//! Syslog's traditional form (RFC 3164) has neither year nor zone, ISO forms
//! have both or at least the year. What is missing is found by
//! [`Calendar`](super::calendar::Calendar), which sees the lines in order.

/// A moment as a log wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Seconds since the Unix epoch; of a stamp without a year, since the beginning of a leap year.
    pub seconds: i64,
    /// The rest, in milliseconds.
    pub milliseconds: u16,
    /// Whether the log tells fractions of a second.
    pub has_fraction: bool,
    /// What `seconds` leaves open.
    pub form: Form,
}

/// What is known of a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// All of it.
    Absolute,
    /// Local time: all but the offset to UTC.
    Local,
    /// Local time, in an unknown year.
    WithoutYear,
}

/// Days before each month of a leap year.
const BEFORE_MONTH: [i64; 12] = [0, 31, 60, 91, 121, 152, 182, 213, 244, 274, 305, 335];

/// Seconds of a day.
pub const DAY: i64 = 86_400;

impl Stamp {
    /// Reads `Nov  1 09:05:00` at the beginning of a line; returns what follows it, too.
    pub fn traditional(line: &[u8]) -> Option<(Self, &[u8])> {
        let (head, rest) = line.split_at_checked(15)?;
        let month = month(head.first_chunk()?)?;
        let day = if head[4] == b' ' { digit(head[5])? } else { two(head, 4)? };
        if head[3] != b' ' || head[6] != b' ' || !(1..=31).contains(&day) {
            return None;
        }
        let seconds = (BEFORE_MONTH[month] + day - 1) * DAY + time_of_day(&head[7..])?;
        Some((Self { seconds, milliseconds: 0, has_fraction: false, form: Form::WithoutYear }, rest))
    }

    /// Reads `2026-11-01T09:05:00`, with fraction and offset (`Z`, `+01:00`, `+0100`) if there are any.
    pub fn iso(line: &[u8]) -> Option<(Self, &[u8])> {
        let (head, mut rest) = line.split_at_checked(19)?;
        let (year, month, day) = (two(head, 0)? * 100 + two(head, 2)?, two(head, 5)?, two(head, 8)?);
        let separators = head[4] == b'-' && head[7] == b'-' && matches!(head[10], b'T' | b' ');
        if !separators || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
            return None;
        }
        let mut seconds = days(year, month, day) * DAY + time_of_day(&head[11..])?;
        let (mut milliseconds, mut has_fraction) = (0, false);
        if let [b'.' | b',', fraction @ ..] = rest {
            let length = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
            let digit = |at: usize| if at < length { u16::from(fraction[at] - b'0') } else { 0 };
            milliseconds = digit(0) * 100 + digit(1) * 10 + digit(2);
            has_fraction = length > 0;
            rest = &fraction[length..];
        }
        let form = match offset(rest) {
            Some((offset, after)) => {
                seconds -= offset;
                rest = after;
                Form::Absolute
            }
            None => Form::Local,
        };
        Some((Self { seconds, milliseconds, has_fraction, form }, rest))
    }
}

/// Days from the Unix epoch to a date of the Gregorian calendar.
pub fn days(year: i64, month: i64, day: i64) -> i64 {
    // The year begins in March here, so that the leap day is its last.
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

fn month(name: &[u8; 3]) -> Option<usize> {
    Some(match name {
        b"Jan" => 0,
        b"Feb" => 1,
        b"Mar" => 2,
        b"Apr" => 3,
        b"May" => 4,
        b"Jun" => 5,
        b"Jul" => 6,
        b"Aug" => 7,
        b"Sep" => 8,
        b"Oct" => 9,
        b"Nov" => 10,
        b"Dec" => 11,
        _ => return None,
    })
}

/// `09:05:00` in seconds. A leap second is the last one of its minute.
fn time_of_day(text: &[u8]) -> Option<i64> {
    let (hour, minute, second) = (two(text, 0)?, two(text, 3)?, two(text, 6)?.min(59));
    let right = text[2] == b':' && text[5] == b':' && hour < 24 && minute < 60;
    right.then_some(hour * 3600 + minute * 60 + second)
}

fn offset(text: &[u8]) -> Option<(i64, &[u8])> {
    let sign = match text.first()? {
        b'Z' => return Some((0, &text[1..])),
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let minutes_at = if text.get(3) == Some(&b':') { 4 } else { 3 };
    if text.len() < minutes_at + 2 {
        return None;
    }
    let (hours, minutes) = (two(text, 1)?, two(text, minutes_at)?);
    Some((sign * (hours * 3600 + minutes * 60), &text[minutes_at + 2..]))
}

fn two(text: &[u8], at: usize) -> Option<i64> {
    Some(digit(text[at])? * 10 + digit(text[at + 1])?)
}

fn digit(byte: u8) -> Option<i64> {
    byte.is_ascii_digit().then(|| i64::from(byte - b'0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forms_of_a_moment_are_told_apart() {
        let (stamp, rest) = Stamp::traditional(b"Nov  1 09:05:07 mx").unwrap();
        assert_eq!((stamp.seconds, stamp.form, rest), (305 * DAY + 32_707, Form::WithoutYear, &b" mx"[..]));
        assert_eq!(Stamp::traditional(b"Nov 01 09:05:07 mx").unwrap().0, stamp);
        let at = 1_793_523_907;
        for text in ["2026-11-01T09:05:07.25Z", "2026-11-01T10:05:07.250+01:00", "2026-11-01T04:35:07,250999-0430"] {
            let (stamp, rest) = Stamp::iso(text.as_bytes()).unwrap();
            assert_eq!((stamp.seconds, stamp.milliseconds, stamp.form), (at, 250, Form::Absolute), "{text}");
            assert_eq!(rest, b"");
        }
        assert_eq!(Stamp::iso(b"2026-11-01 09:05:07 mx").unwrap().0.form, Form::Local);
    }

    #[test]
    fn what_is_no_moment_is_refused() {
        for text in ["", "Nov  1", "Foo  1 09:05:07", "Nov 32 09:05:07", "Nov  1 24:05:07", "Nov  1 09.05:07"] {
            assert_eq!(Stamp::traditional(text.as_bytes()), None, "{text}");
        }
        for text in ["2026-13-01T09:05:07Z", "2026-11-01T09:65:07Z", "2026/11/01T09:05:07Z", "20261101T090507Z...."] {
            assert_eq!(Stamp::iso(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn days_are_those_of_the_calendar() {
        assert_eq!(days(1970, 1, 1), 0);
        assert_eq!(days(2000, 2, 29), 11_016);
        assert_eq!(days(2026, 12, 31) - days(2026, 1, 1), 364);
    }
}
