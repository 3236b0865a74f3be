//! The time of each line on one clock that never goes back.
//!
//! Fills in what the stamps of a log leave open: the year, which turns when
//! December is followed by January, and the offset to UTC, for which the zone
//! is asked. In the hour that comes twice when daylight saving ends, the order
//! of the lines says which one is meant.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use super::stamp::{DAY, Stamp, StampForm, days};

/// A line of a place in the year that is this many seconds before that of its neighbour is of the next year.
const HALF_A_YEAR: i64 = 183 * DAY;

/// A gap of more than this, in seconds, is none: the line is a late one of the year before.
const LONGEST_GAP: i64 = 330 * DAY;

/// Seconds of a quarter of an hour: no zone changes within one of local time.
const QUARTER: i64 = 900;

/// Lines may be this many seconds out of order without anybody having set the clock.
pub const DISORDER: i64 = 30 * 60;

/// The calendar of one log.
#[derive(Clone, Debug)]
pub struct Calendar {
    zone: TimeZone,
    /// The year of the last line that had none, and its place in it.
    year: Year,
    place: Option<i64>,
    /// Hours of local time that were looked up last, each with what to subtract.
    offset: Option<(i64, Offset)>,
    /// What to subtract from the stamps of the quarter of an hour that was looked up last.
    recent: Option<RecentQuarter>,
    /// An hour comes twice, and this is the second time.
    is_second_time: bool,
    /// The last moment that was told, in milliseconds since the epoch.
    last: Option<i64>,
    /// What is added because the clock was set back, in milliseconds.
    shift: i64,
    /// How often the clock was set back.
    pub set_back: u64,
}

/// A quarter of an hour of stamps without an offset. It has one year, one day, and one offset to UTC.
#[derive(Clone, Copy, Debug)]
struct RecentQuarter {
    form: StampForm,
    quarter: i64,
    ahead: i64,
}

/// Local time minus UTC in seconds; two where the hour comes twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Offset {
    earlier: i64,
    later: i64,
}

/// The year, the place in it, and whether an hour comes for the second time.
type YearState = (Year, Option<i64>, bool);

impl Calendar {
    /// For a log of this zone that was last written to at `written`, in seconds since the epoch. Its
    /// last line, if that is known, or else its first, is from the year before that moment.
    pub fn new(zone: TimeZone, first: Stamp, last: Option<Stamp>, written: i64) -> Self {
        let mut calendar = Self {
            zone,
            year: Year::new(1970),
            place: None,
            offset: None,
            recent: None,
            is_second_time: false,
            last: None,
            shift: 0,
            set_back: 0,
        };
        if first.form == StampForm::WithoutYear {
            // A log may be read a little before its own time, when clocks differ.
            let latest = written + DAY;
            let this_year = 1970 + written / 31_556_952;
            let last = last.filter(|last| last.form == StampForm::WithoutYear && last.seconds >= first.seconds);
            let last = last.unwrap_or(first).seconds;
            let is_past =
                |year: &Year| year.at(first.seconds).is_some() && year.at(last).is_some_and(|at| at <= latest);
            // Every eight years at the most there is a 29th of February.
            let years = (this_year - 9..=this_year + 1).rev().map(Year::new);
            calendar.year = years.into_iter().find(is_past).unwrap_or(Year::new(this_year));
        }
        calendar
    }

    /// The moment of the next line, in milliseconds since the epoch, never before the one of the last line.
    pub fn time(&mut self, stamp: Stamp) -> i64 {
        let told = self.told(stamp);
        if self.step_back(told).is_some() {
            self.go_on_from(told);
        }
        self.accept(told)
    }

    /// The calendar of another clock, in the same year.
    pub fn of_neighbour(&self) -> Self {
        Self { last: None, shift: 0, set_back: 0, ..self.clone() }
    }

    /// What `told` changes.
    pub fn state(&self) -> YearState {
        (self.year, self.place, self.is_second_time)
    }

    /// Takes back what `told` changed.
    pub fn restore(&mut self, state: YearState) {
        (self.year, self.place, self.is_second_time) = state;
        self.recent = None;
    }

    /// Goes on at an earlier moment.
    pub fn begin_again(&mut self, told: i64) {
        self.last = Some(told);
    }

    /// The moment of a line, which may be before that of the last one.
    pub fn told(&mut self, stamp: Stamp) -> i64 {
        self.utc(stamp) * 1000 + i64::from(stamp.milliseconds) + self.shift
    }

    /// How much a moment is before the last one, in milliseconds, if that is more than disorder.
    pub fn step_back(&self, told: i64) -> Option<i64> {
        self.last.map(|last| last - told).filter(|step| *step > DISORDER * 1000)
    }

    /// The clock was set back to this moment. What comes after goes on from the last one.
    pub fn go_on_from(&mut self, told: i64) {
        self.shift += self.last.unwrap_or(told) - told;
        self.set_back += 1;
    }

    /// Takes a moment for the last one, unless it is earlier.
    pub fn accept(&mut self, told: i64) -> i64 {
        let time = self.last.map_or(told, |last| told.max(last));
        self.last = Some(time);
        time
    }

    fn utc(&mut self, stamp: Stamp) -> i64 {
        let Stamp { seconds, form, .. } = stamp;
        if form == StampForm::Absolute {
            return seconds;
        }
        let quarter = seconds.div_euclid(QUARTER);
        if let Some(recent) = self.recent.filter(|recent| recent.quarter == quarter && recent.form == form) {
            self.place = if form == StampForm::WithoutYear { Some(seconds) } else { self.place };
            return seconds - recent.ahead;
        }
        let (utc, is_plain) = self.looked_up(stamp);
        self.recent = is_plain.then_some(RecentQuarter { form, quarter, ahead: seconds - utc });
        utc
    }

    /// UTC, and whether all of this quarter of an hour is as far ahead of it.
    fn looked_up(&mut self, stamp: Stamp) -> (i64, bool) {
        let local = match stamp.form {
            StampForm::WithoutYear => self.with_year(stamp.seconds),
            _ => stamp.seconds,
        };
        let offset = self.offset(local);
        let earlier = local - offset.earlier;
        // The second time round, the first reading lies well before the last line, once.
        let shown = self.last.map(|last| (last - self.shift) / 1000);
        let goes_back = shown.is_some_and(|last| earlier < last - DISORDER);
        self.is_second_time = offset.earlier != offset.later && (self.is_second_time || goes_back);
        (if self.is_second_time { local - offset.later } else { earlier }, offset.earlier == offset.later)
    }

    fn with_year(&mut self, place: i64) -> i64 {
        if let Some(last) = self.place {
            if place < last - HALF_A_YEAR {
                self.year = Year::new(self.year.number + 1);
            } else if place > last + LONGEST_GAP {
                // A late line of December after the first one of January.
                self.year = Year::new(self.year.number - 1);
            }
        }
        self.place = Some(place);
        // A 29th of February where there is none: the clock ran wrong, and so does the year.
        self.year.at(place).unwrap_or(self.year.start + LEAP_DAY * DAY + place % DAY)
    }

    fn offset(&mut self, local: i64) -> Offset {
        let quarter = local.div_euclid(QUARTER);
        if let Some((known, offset)) = self.offset
            && known == quarter
        {
            return offset;
        }
        let offset = lookup(&self.zone, quarter * QUARTER).unwrap_or(Offset { earlier: 0, later: 0 });
        self.offset = Some((quarter, offset));
        offset
    }
}

fn lookup(zone: &TimeZone, local: i64) -> Option<Offset> {
    let civil: DateTime = TimeZone::UTC.to_datetime(jiff::Timestamp::from_second(local).ok()?);
    let ambiguous = zone.to_ambiguous_timestamp(civil);
    let utc = |time: Result<jiff::Timestamp, jiff::Error>| time.ok().map(jiff::Timestamp::as_second);
    // In the hour that is left out in spring both readings are odd; the earlier offset is then the later moment.
    let (a, b) = (utc(ambiguous.earlier())?, utc(ambiguous.later())?);
    Some(Offset { earlier: local - a.min(b), later: local - a.max(b) })
}

/// A year of the calendar.
#[derive(Clone, Copy, Debug)]
pub struct Year {
    number: i64,
    /// Seconds of local time to its beginning.
    start: i64,
    is_leap: bool,
}

/// The 29th of February, counted from 0.
const LEAP_DAY: i64 = 59;

impl Year {
    fn new(number: i64) -> Self {
        let is_leap = days(number, 3, 1) - days(number, 2, 1) == 29;
        Self { number, start: days(number, 1, 1) * DAY, is_leap }
    }

    /// A place in a leap year as seconds of local time in this one; `None` for a 29th of February it has not.
    fn at(&self, place: i64) -> Option<i64> {
        match place / DAY {
            day if self.is_leap || day < LEAP_DAY => Some(self.start + place),
            LEAP_DAY => None,
            _ => Some(self.start + place - DAY),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(text: &str) -> Stamp {
        Stamp::traditional(text.as_bytes()).or_else(|| Stamp::iso(text.as_bytes())).unwrap().0
    }

    fn at(text: &str) -> i64 {
        stamp(text).seconds
    }

    /// The moments of lines, in seconds after the first.
    fn seconds(zone: &str, written: &str, lines: &[&str]) -> Vec<i64> {
        let zone = TimeZone::get(zone).unwrap();
        let mut calendar = Calendar::new(zone, stamp(lines[0]), None, at(written));
        let times: Vec<i64> = lines.iter().map(|line| calendar.time(stamp(line)) / 1000).collect();
        times.iter().map(|time| time - times[0]).collect()
    }

    #[test]
    fn the_year_is_the_last_one_before_the_log_was_written() {
        let year = |line: &str, written: &str| {
            let mut calendar = Calendar::new(TimeZone::UTC, stamp(line), None, at(written));
            calendar.time(stamp(line)) / 1000
        };
        assert_eq!(year("Nov 21 09:00:00", "2026-11-21T10:00:00Z"), at("2026-11-21T09:00:00Z"));
        assert_eq!(year("Dec 20 09:00:00", "2026-01-03T10:00:00Z"), at("2025-12-20T09:00:00Z"));
        assert_eq!(year("Feb 29 09:00:00", "2026-01-03T10:00:00Z"), at("2024-02-29T09:00:00Z"));
        assert_eq!(year("Mar  1 09:00:00", "2026-03-03T10:00:00Z"), at("2026-03-01T09:00:00Z"));
    }

    #[test]
    fn the_year_turns_with_january_and_a_late_line_is_no_new_one() {
        let lines = ["Dec 31 23:59:58", "Jan  1 00:00:01", "Dec 31 23:59:59", "Jan  1 00:00:03"];
        assert_eq!(seconds("UTC", "2026-01-03T10:00:00Z", &lines), [0, 3, 3, 5]);
    }

    #[test]
    fn a_gap_of_more_than_half_a_year_is_one() {
        let lines = ["Jan  5 10:00:00", "Aug 20 10:00:00", "Nov 20 10:00:00", "Jan  3 10:00:00", "Aug 20 10:00:00"];
        let days =
            seconds("UTC", "2027-11-21T10:00:00Z", &lines).iter().map(|seconds| seconds / DAY).collect::<Vec<_>>();
        assert_eq!(days, [0, 227, 319, 363, 593]);
    }

    #[test]
    fn the_last_line_of_a_log_is_not_in_the_future() {
        let (first, last) = (stamp("Jan  5 10:00:00"), stamp("Nov 20 10:00:00"));
        let mut calendar = Calendar::new(TimeZone::UTC, first, Some(last), at("2027-02-01T10:00:00Z"));
        assert_eq!(calendar.time(first) / 1000, at("2026-01-05T10:00:00Z"));
    }

    #[test]
    fn daylight_saving_neither_repeats_an_hour_nor_leaves_one_out() {
        let autumn = ["Oct 25 02:59:00", "Oct 25 02:00:00", "Oct 25 02:59:00", "Oct 25 03:00:00"];
        assert_eq!(seconds("Europe/Berlin", "2026-10-26T00:00:00Z", &autumn), [0, 60, 3600, 3660]);
        let spring = ["Mar 29 01:59:59", "Mar 29 03:00:00"];
        assert_eq!(seconds("Europe/Berlin", "2026-03-30T00:00:00Z", &spring), [0, 1]);
        let iso = ["2026-10-25T02:59:00+02:00", "2026-10-25T02:00:00+01:00"];
        assert_eq!(seconds("UTC", "2026-10-26T00:00:00Z", &iso), [0, 60]);
    }

    #[test]
    fn a_clock_that_was_set_back_goes_on() {
        let mut calendar = Calendar::new(TimeZone::UTC, stamp("Nov 21 09:00:00"), None, at("2026-11-21T10:00:00Z"));
        let mut time = |line| calendar.time(stamp(line));
        let first = time("Nov 21 09:00:00");
        assert_eq!(time("Nov 21 04:00:00") - first, 0);
        assert_eq!(time("Nov 21 04:00:07") - first, 7_000);
        assert_eq!(calendar.set_back, 1);
    }
}
