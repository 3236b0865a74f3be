//! The time a log line begins with, as it is written there.
//!
//! Syslog's traditional form (RFC 3164) has neither year nor zone, ISO forms
//! have both or at least the year. What is missing is found by
//! [`Calendar`](super::calendar::Calendar), which sees the lines in order.

/// A moment as a log wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stamp {
    /// Seconds since the Unix epoch; of a stamp without a year, since the beginning of a leap year.
    pub seconds: i64,
    /// The rest, in milliseconds.
    pub milliseconds: u16,
    /// Whether the log tells fractions of a second.
    pub has_fraction: bool,
    /// What `seconds` leaves open.
    pub form: StampForm,
}

/// What is known of a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StampForm {
    /// All of it.
    Absolute,
    /// Local time: all but the offset to UTC.
    Local,
    /// Local time, in an unknown year.
    WithoutYear,
}

/// The months as syslog writes them.
const ENGLISH_MONTHS: [&[u8; 3]; 12] =
    [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];

/// Days before each month of a leap year.
const BEFORE_MONTH: [i64; 12] = [0, 31, 60, 91, 121, 152, 182, 213, 244, 274, 305, 335];

/// Bytes of a date with names before its time of day.
const MAX_DATE: usize = 60;

/// Seconds of a day.
pub const DAY: i64 = 86_400;

impl Stamp {
    /// Reads a moment in any form at the beginning of a text; returns what follows it, too.
    pub fn parse(text: &[u8]) -> Option<(Self, &[u8])> {
        match text {
            [b'[', inner @ ..] => {
                let (stamp, rest) = Self::parse(inner)?;
                Some((stamp, rest.strip_prefix(b"]")?))
            }
            [b'0'..=b'9', ..] => Self::iso(text).or_else(|| Self::year_first(text)).or_else(|| Self::epoch(text)),
            _ => Self::traditional(text).or_else(|| Self::by_name(text)).or_else(|| {
                // `Sat 2026-11-21 09:05:00 CET`: a day of the week, and a zone at the end.
                let (day, rest) = name(text)?;
                let (mut stamp, rest) = Self::iso(rest.strip_prefix(b" ")?)?;
                (2..=4).contains(&day.chars().count()).then_some(())?;
                let zone = rest.strip_prefix(b" ")?;
                let end = zone.iter().position(|byte| *byte == b' ').unwrap_or(zone.len());
                stamp.in_zone(&zone[..end]);
                Some((stamp, &zone[end..]))
            }),
        }
    }

    /// Reads `Nov  1 09:05:00`, the usual form of syslog.
    pub fn traditional(line: &[u8]) -> Option<(Self, &[u8])> {
        let (head, rest) = line.split_at_checked(15)?;
        let month = ENGLISH_MONTHS.iter().position(|month| head.starts_with(*month))?;
        let day = if head[4] == b' ' { digit(head[5])? } else { two(head, 4)? };
        if head[3] != b' ' || head[6] != b' ' || !(1..=31).contains(&day) {
            return None;
        }
        let stamp = Self::without_year(month, day, time_of_day(&head[7..])?);
        Some(if rest.starts_with(b" ") { stamp.with_year_behind(rest) } else { stamp.with_fraction(rest) })
    }

    /// Reads `2026-11-01T09:05:00`, with fraction and offset (`Z`, `+01:00`, `+0100`) if there are any.
    pub fn iso(line: &[u8]) -> Option<(Self, &[u8])> {
        let (head, rest) = line.split_at_checked(19)?;
        let (year, month, day) = (two(head, 0)? * 100 + two(head, 2)?, two(head, 5)?, two(head, 8)?);
        let separators = matches!((head[4], head[7]), (b'-', b'-') | (b'/', b'/')) && matches!(head[10], b'T' | b' ');
        if !separators || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
            return None;
        }
        let seconds = days(year, month, day) * DAY + time_of_day(&head[11..])?;
        let stamp = Self { seconds, milliseconds: 0, has_fraction: false, form: StampForm::Local };
        Some(stamp.with_fraction(rest))
    }

    /// Reads `2026 Nov 21 09:05:00`.
    fn year_first(text: &[u8]) -> Option<(Self, &[u8])> {
        let (year, rest) = number(text)?;
        let (stamp, rest) = Self::by_name(rest.strip_prefix(b" ")?)?;
        Some((stamp.in_year(year)?, rest))
    }

    /// Reads seconds since the epoch: `1793523907.123456`.
    fn epoch(text: &[u8]) -> Option<(Self, &[u8])> {
        let (seconds, rest) = number(text)?;
        let is_now = (1_000_000_000..10_000_000_000).contains(&seconds);
        let stamp = Self { seconds, milliseconds: 0, has_fraction: false, form: StampForm::Absolute };
        is_now.then(|| stamp.with_fraction(rest))
    }

    /// Reads `nov. 1 09:05:00` in any language, with a day of the week, a year, or one blank too few.
    fn by_name(text: &[u8]) -> Option<(Self, &[u8])> {
        // What has no time of day near is no date: most words of a message.
        let colon = memchr::memchr(b':', &text[..text.len().min(MAX_DATE)])?;
        text[..colon].last().filter(|byte| byte.is_ascii_digit())?;
        let (first, rest) = name(text)?;
        let (month, rest) = match month_named(&first) {
            Some(month) => (month, rest),
            None => {
                let (second, rest) = name(rest.strip_prefix(b" ")?)?;
                (month_named(&second)?, rest)
            }
        };
        let (day, rest) = number(rest.strip_prefix(b" ")?.trim_ascii_start())?;
        let rest = rest.strip_prefix(b" ")?;
        let (year, rest) = match number(rest) {
            Some((year @ 1970..=2999, rest)) => (Some(year), rest.strip_prefix(b" ")?),
            _ => (None, rest),
        };
        let (head, rest) = rest.split_at_checked(8)?;
        if !(1..=31).contains(&day) {
            return None;
        }
        let stamp = Self::without_year(month, day, time_of_day(head)?);
        match year {
            Some(year) => Some(stamp.in_year(year)?.with_fraction(rest)),
            None => Some(stamp.with_year_behind(rest)),
        }
    }

    fn without_year(month: usize, day: i64, time: i64) -> Self {
        let seconds = (BEFORE_MONTH[month] + day - 1) * DAY + time;
        Self { seconds, milliseconds: 0, has_fraction: false, form: StampForm::WithoutYear }
    }

    fn in_year(mut self, year: i64) -> Option<Self> {
        let place = self.seconds / DAY;
        let month = BEFORE_MONTH.iter().rposition(|before| *before <= place)?;
        let day = place - BEFORE_MONTH[month] + 1;
        self.seconds = days(year, month as i64 + 1, day) * DAY + self.seconds % DAY;
        self.form = StampForm::Local;
        Some(self)
    }

    /// Reads a fraction and an offset, or the name of a zone, if they are there.
    fn with_fraction(mut self, mut rest: &[u8]) -> (Self, &[u8]) {
        if let [b'.' | b',', fraction @ ..] = rest {
            let length = fraction.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(fraction.len());
            let digit = |at: usize| if at < length { u16::from(fraction[at] - b'0') } else { 0 };
            if length > 0 {
                self.milliseconds = digit(0) * 100 + digit(1) * 10 + digit(2);
                (self.has_fraction, rest) = (true, &fraction[length..]);
            }
        }
        if self.form == StampForm::Local
            && let Some((offset, after)) = offset(rest.strip_prefix(b" ").unwrap_or(rest))
        {
            (self.seconds, self.form) = (self.seconds - offset, StampForm::Absolute);
            rest = after;
        }
        (self, rest)
    }

    /// Reads ` CET 2026`, ` 2026`, or nothing more, behind a time without a year.
    fn with_year_behind(self, rest: &[u8]) -> (Self, &[u8]) {
        let (mut stamp, rest) = self.with_fraction(rest);
        let Some(behind) = rest.strip_prefix(b" ") else {
            return (stamp, rest);
        };
        let end = behind.iter().position(|byte| *byte == b' ').unwrap_or(behind.len());
        let year = |text: &[u8]| match number(text) {
            Some((year @ 1970..=2999, after)) if matches!(after, [] | [b' ', ..]) => {
                Some((year, text.len() - after.len()))
            }
            _ => None,
        };
        if let Some((year, length)) = year(behind)
            && let Some(stamp) = stamp.in_year(year)
        {
            return (stamp, &behind[length..]);
        }
        if zone(&behind[..end]).is_some()
            && let Some((year, length)) = behind.get(end + 1..).and_then(year)
            && let Some(with_year) = stamp.in_year(year)
        {
            stamp = with_year;
            stamp.in_zone(&behind[..end]);
            return (stamp, &behind[end + 1 + length..]);
        }
        (stamp, rest)
    }

    /// Takes local time for that of a zone, if its name is unambiguous.
    fn in_zone(&mut self, name: &[u8]) {
        if let (StampForm::Local, Some(hours)) = (self.form, zone(name)) {
            (self.seconds, self.form) = (self.seconds - hours * 3600, StampForm::Absolute);
        }
    }
}

/// Hours east of Greenwich.
fn zone(name: &[u8]) -> Option<i64> {
    Some(match name {
        b"UTC" | b"GMT" | b"WET" => 0,
        b"CET" | b"WEST" => 1,
        b"CEST" | b"EET" => 2,
        b"EEST" | b"MSK" => 3,
        b"EDT" => -4,
        b"EST" | b"CDT" => -5,
        b"MDT" => -6,
        b"PDT" => -7,
        b"PST" => -8,
        _ => return None,
    })
}

/// Short names of each month in the languages of syslog and journalctl, without a dot.
const MONTHS: [&str; 12] = [
    "jan janv ene gen sty led oca янв января",
    "feb févr fév fev lut úno şub фев febr",
    "mar mär märz mars mrt bře мар марта márc",
    "apr abr avr avril kwi dub nis апр ápr",
    "may mai maj mei mag kvě май мая máj",
    "jun juin juni giu cze čen haz июн jún",
    "jul juil juli lug lip čec tem июл júl",
    "aug août ago sie srp ağu авг",
    "sep sept set wrz zář eyl сен szept",
    "oct okt ott out paź říj eki окт",
    "nov lis kas ноя",
    "dec dez déc dic gru pro ara дек des",
];

/// The place of a month that a word in lower case names.
fn month_named(word: &str) -> Option<usize> {
    MONTHS.iter().position(|names| names.split(' ').any(|name| name == word))
}

/// A word of letters in lower case, without the dot behind it.
fn name(text: &[u8]) -> Option<(String, &[u8])> {
    let end = text.iter().take(20).position(|byte| matches!(byte, b' ' | b'.' | b','))?;
    let word =
        str::from_utf8(&text[..end]).ok().filter(|word| !word.is_empty() && word.chars().all(char::is_alphabetic))?;
    let rest = &text[end..];
    Some((word.to_lowercase(), if rest[0] == b' ' { rest } else { &rest[1..] }))
}

/// A number of at most ten digits.
fn number(text: &[u8]) -> Option<(i64, &[u8])> {
    let end = text.iter().take(11).position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    let number = str::from_utf8(text.get(..end)?).ok()?.parse().ok()?;
    Some((number, &text[end..]))
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
        assert_eq!((stamp.seconds, stamp.form, rest), (305 * DAY + 32_707, StampForm::WithoutYear, &b" mx"[..]));
        assert_eq!(Stamp::traditional(b"Nov 01 09:05:07 mx").unwrap().0, stamp);
        let at = 1_793_523_907;
        for text in ["2026-11-01T09:05:07.25Z", "2026-11-01T10:05:07.250+01:00", "2026-11-01T04:35:07,250999-0430"] {
            let (stamp, rest) = Stamp::iso(text.as_bytes()).unwrap();
            assert_eq!((stamp.seconds, stamp.milliseconds, stamp.form), (at, 250, StampForm::Absolute), "{text}");
            assert_eq!(rest, b"");
        }
        assert_eq!(Stamp::iso(b"2026-11-01 09:05:07 mx").unwrap().0.form, StampForm::Local);
    }

    #[test]
    fn a_moment_is_read_in_every_form() {
        let moment = |text: &str| {
            let (stamp, rest) = Stamp::parse(text.as_bytes()).unwrap_or_else(|| panic!("{text}"));
            assert_eq!(rest, b" mx x: y", "{text}");
            stamp
        };
        let absolute = moment("2026-11-01T09:05:07Z mx x: y");
        for text in [
            "1793523907 mx x: y",
            "Sun 2026-11-01 10:05:07 CET mx x: y",
            "Sun Nov  1 09:05:07 UTC 2026 mx x: y",
            "[2026-11-01T09:05:07Z] mx x: y",
            "2026-11-01 10:05:07 +0100 mx x: y",
        ] {
            assert_eq!(moment(text), absolute, "{text}");
        }
        let local = Stamp { form: StampForm::Local, ..absolute };
        for text in ["Nov  1 09:05:07 2026 mx x: y", "Nov 1 2026 09:05:07 mx x: y", "2026 Nov  1 09:05:07 mx x: y"] {
            assert_eq!(moment(text), local, "{text}");
        }
        let year_first = moment("2026/11/01 09:05:07.250 mx x: y");
        assert_eq!(year_first, Stamp { milliseconds: 250, has_fraction: true, ..local });
        let without_year = moment("Nov  1 09:05:07 mx x: y");
        for text in [
            "Nov 1 09:05:07 mx x: y",
            "nov. 1 09:05:07 mx x: y",
            "ноя 1 09:05:07 mx x: y",
            "Sun Nov  1 09:05:07 mx x: y",
        ] {
            assert_eq!(moment(text), without_year, "{text}");
        }
        let fraction = Stamp { milliseconds: 123, has_fraction: true, ..without_year };
        assert_eq!(moment("Nov  1 09:05:07.123456 mx x: y"), fraction);
        assert_eq!(moment("Dez  1 09:05:07 mx x: y"), moment("Dec  1 09:05:07 mx x: y"));
    }

    #[test]
    fn what_is_no_moment_is_refused() {
        for text in ["", "Nov  1", "Foo  1 09:05:07", "Nov 32 09:05:07", "Nov  1 24:05:07", "Nov  1 09.05:07"] {
            assert_eq!(Stamp::traditional(text.as_bytes()), None, "{text}");
        }
        for text in ["2026-13-01T09:05:07Z", "2026-11-01T09:65:07Z", "2026-11/01T09:05:07Z", "20261101T090507Z...."] {
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
