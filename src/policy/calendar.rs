//! A window of the calendar: a full hour, a day, a week from Monday on, or a month, in a time zone.
//!
//! Every host finds the same window for the same moment in the same zone, and the key of a counter names it. So hosts
//! agree without asking each other, and those with different zones never count together.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use serde::{Deserialize, Serialize};
use strum::{IntoStaticStr, VariantArray};

use crate::net::clock::Now;

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

/// How long a window of the calendar is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(const_into_str, serialize_all = "snake_case")]
pub enum Period {
    Hour,
    Day,
    /// From Monday on.
    Week,
    Month,
}

impl Period {
    /// Its seconds, apart from changes of the clock: of a month those of the longest.
    pub fn seconds(self) -> u32 {
        let days = match self {
            Self::Hour => return HOUR as u32,
            Self::Day => 1,
            Self::Week => 7,
            Self::Month => 31,
        };
        days * DAY as u32
    }
}

/// The windows of a limit.
#[derive(Debug)]
pub struct LocalCalendar {
    period: Period,
    zone: TimeZone,
    /// The window that was found last: a lookup in the time zone is needed once per window.
    last: AtomicU64,
}

impl Clone for LocalCalendar {
    fn clone(&self) -> Self {
        Self::new(self.period, self.zone.clone())
    }
}

impl PartialEq for LocalCalendar {
    fn eq(&self, other: &Self) -> bool {
        (self.period, &self.zone) == (other.period, &other.zone)
    }
}

impl Eq for LocalCalendar {}

impl LocalCalendar {
    pub fn new(period: Period, zone: TimeZone) -> Self {
        Self { period, zone, last: AtomicU64::new(0) }
    }

    pub fn period(&self) -> Period {
        self.period
    }

    /// The name of the time zone.
    pub fn zone_name(&self) -> &str {
        self.zone.iana_name().unwrap_or("the system's time zone")
    }

    /// The local date of a moment in seconds since the Unix epoch.
    pub fn date(&self, unix: u64) -> String {
        let moment = i64::try_from(unix).ok().and_then(|unix| Timestamp::from_second(unix).ok());
        moment.map(|moment| moment.to_zoned(self.zone.clone()).date().to_string()).unwrap_or_default()
    }

    /// The window that a moment is in.
    pub fn window(&self, now: Now) -> CalendarWindow {
        let last = CalendarWindow(self.last.load(Relaxed));
        if last.contains(now) {
            return last;
        }
        let window = self.find(now.unix());
        self.last.store(window.0, Relaxed);
        window
    }

    fn find(&self, unix: u64) -> CalendarWindow {
        let now = i64::try_from(unix).unwrap_or(i64::MAX);
        let found = match self.period {
            Period::Hour => self.hour(now),
            _ => self.days(now),
        };
        // Time zones end with the year 9999.
        let length = i64::from(self.period.seconds());
        let (start, end) = found.unwrap_or((now - now % length, now - now % length + length));
        CalendarWindow::new(start, end)
    }

    /// From one full hour of the local clock to the next. A window also ends where the clock is changed, for what it
    /// shows then may be no full hour, or one that it has shown already.
    fn hour(&self, now: i64) -> Option<(i64, i64)> {
        let moment = Timestamp::from_second(now).ok()?;
        let start = now - (now + i64::from(self.zone.to_offset(moment).seconds())).rem_euclid(HOUR);
        let end = start + HOUR;
        // A change at this very moment has come.
        let before = self.zone.preceding(Timestamp::from_second(now + 1).ok()?).next();
        let after = self.zone.following(moment).next();
        let start = before.map_or(start, |change| start.max(change.timestamp().as_second()));
        let end = after.map_or(end, |change| end.min(change.timestamp().as_second()));
        Some((start, end))
    }

    /// From the first moment of a day to that of another.
    fn days(&self, now: i64) -> Option<(i64, i64)> {
        let mut first = self.first_day(Timestamp::from_second(now).ok()?.to_zoned(self.zone.clone()).date())?;
        let mut start = self.begin_of(first)?;
        // Where a clock is set back over midnight it shows the day before again, whose window is over.
        loop {
            let next = self.next(first)?;
            let end = self.begin_of(next)?;
            if now < start {
                first = self.first_day(first.yesterday().ok()?)?;
                start = self.begin_of(first)?;
            } else if now < end {
                return Some((start, end));
            } else {
                (first, start) = (next, end);
            }
        }
    }

    /// The first day of the window that a day is in.
    fn first_day(&self, day: Date) -> Option<Date> {
        match self.period {
            Period::Hour | Period::Day => Some(day),
            Period::Week => day.checked_sub(i64::from(day.weekday().to_monday_zero_offset()).days()).ok(),
            Period::Month => Some(day.first_of_month()),
        }
    }

    /// The first day of the next window.
    fn next(&self, first: Date) -> Option<Date> {
        let length = match self.period {
            Period::Hour | Period::Day => 1.day(),
            Period::Week => 1.week(),
            Period::Month => 1.month(),
        };
        first.checked_add(length).ok()
    }

    /// The first moment of a day; its midnight may not exist.
    fn begin_of(&self, day: Date) -> Option<i64> {
        let noon = day.at(12, 0, 0, 0).to_zoned(self.zone.clone()).ok()?;
        Some(noon.start_of_day().ok()?.timestamp().as_second())
    }
}

/// One window: its first second since the Unix epoch, and its length in seconds in the lower 24 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CalendarWindow(u64);

impl CalendarWindow {
    /// The bits of the length: half a year.
    const LENGTH: u32 = 24;

    fn new(start: i64, end: i64) -> Self {
        let (start, end) = (u64::try_from(start).unwrap_or(0), u64::try_from(end).unwrap_or(0));
        Self(start << Self::LENGTH | end.saturating_sub(start))
    }

    /// When it begins, in seconds since the Unix epoch.
    pub fn start(self) -> u64 {
        self.0 >> Self::LENGTH
    }

    /// When it ends.
    pub fn end(self) -> u64 {
        self.start() + self.length()
    }

    /// Seconds from its begin to its end.
    pub fn length(self) -> u64 {
        self.0 & ((1 << Self::LENGTH) - 1)
    }

    /// A number that no other window has.
    pub fn number(self) -> u64 {
        self.0
    }

    /// Milliseconds until it ends.
    pub fn left_ms(self, now: Now) -> u64 {
        (self.end() * 1000).saturating_sub(now.unix_ms)
    }

    /// Seconds until it ends, rounded up.
    pub fn left(self, now: Now) -> u32 {
        u32::try_from(self.left_ms(now).div_ceil(1000)).unwrap_or(u32::MAX)
    }

    /// How many seconds its counters are kept in a shared store: a while longer, for a host whose clock is behind.
    pub fn lifetime(self, now: Now) -> u32 {
        const LATE: u32 = 10;
        self.left(now).saturating_add(LATE)
    }

    fn contains(self, now: Now) -> bool {
        self.start() <= now.unix() && now.unix() < self.end()
    }
}

#[cfg(test)]
mod tests {
    use jiff::Zoned;

    use super::*;

    fn calendar(period: Period, zone: &str) -> LocalCalendar {
        LocalCalendar::new(period, TimeZone::get(zone).unwrap())
    }

    fn now(time: &Timestamp) -> Now {
        Now { monotonic: 0, unix_ms: time.as_millisecond() as u64 }
    }

    /// The window of a moment, as local times.
    fn window(period: Period, zone: &str, moment: &str) -> (String, String) {
        let calendar = calendar(period, zone);
        let window = calendar.window(now(&moment.parse().unwrap()));
        let local = |unix: u64| {
            let moment = Timestamp::from_second(unix as i64).unwrap();
            Zoned::new(moment, calendar.zone.clone()).strftime("%Y-%m-%d %H:%M%:z").to_string()
        };
        (local(window.start()), local(window.end()))
    }

    #[track_caller]
    fn assert_window(period: Period, zone: &str, moment: &str, start: &str, end: &str) {
        assert_eq!(
            window(period, zone, moment),
            (start.to_owned(), end.to_owned()),
            "{period:?} in {zone} at {moment}"
        );
    }

    #[test]
    fn a_day_ends_at_local_midnight_whatever_the_clock_does() {
        use Period::Day;
        let berlin = "Europe/Berlin";
        assert_window(Day, berlin, "2026-01-10T22:59:59.999Z", "2026-01-10 00:00+01:00", "2026-01-11 00:00+01:00");
        assert_window(Day, berlin, "2026-01-10T23:00:00Z", "2026-01-11 00:00+01:00", "2026-01-12 00:00+01:00");
        // Summer time begins: 23 hours; ends: 25.
        assert_window(Day, berlin, "2026-03-29T12:00:00Z", "2026-03-29 00:00+01:00", "2026-03-30 00:00+02:00");
        assert_window(Day, berlin, "2026-10-25T22:30:00Z", "2026-10-25 00:00+02:00", "2026-10-26 00:00+01:00");
        assert_window(Day, "Asia/Kolkata", "2026-05-01T18:29:59Z", "2026-05-01 00:00+05:30", "2026-05-02 00:00+05:30");
        assert_eq!(calendar(Day, berlin).window(now(&"2026-03-29T12:00:00Z".parse().unwrap())).length(), 23 * 3600);
        assert_eq!(calendar(Day, berlin).window(now(&"2026-10-25T12:00:00Z".parse().unwrap())).length(), 25 * 3600);
    }

    #[test]
    fn a_day_without_midnight_begins_with_its_first_moment_and_a_repeated_hour_is_of_one_day() {
        use Period::Day;
        let paulo = "America/Sao_Paulo";
        assert_window(Day, paulo, "2018-11-04T02:59:59Z", "2018-11-03 00:00-03:00", "2018-11-04 01:00-02:00");
        assert_window(Day, paulo, "2018-11-04T03:00:00Z", "2018-11-04 01:00-02:00", "2018-11-05 00:00-02:00");
        // At midnight the clock is set back to 23:00.
        for moment in ["2018-02-18T01:30:00Z", "2018-02-18T02:30:00Z"] {
            assert_window(Day, paulo, moment, "2018-02-17 00:00-02:00", "2018-02-18 00:00-03:00");
        }
        // At 00:01 the clock was set back to 23:01 of the day before.
        let johns = "America/St_Johns";
        for moment in ["2010-11-07T02:30:30Z", "2010-11-07T02:45:00Z", "2010-11-07T12:00:00Z"] {
            assert_window(Day, johns, moment, "2010-11-07 00:00-02:30", "2010-11-08 00:00-03:30");
        }
        // A day that never was.
        assert_window(Day, "Pacific/Apia", "2011-12-30T09:59:59Z", "2011-12-29 00:00-10:00", "2011-12-31 00:00+14:00");
    }

    #[test]
    fn an_hour_ends_when_the_local_clock_shows_a_full_one() {
        use Period::Hour;
        assert_window(Hour, "Asia/Kolkata", "2026-05-01T10:29:59Z", "2026-05-01 15:00+05:30", "2026-05-01 16:00+05:30");
        // The hour that is shown twice is two windows.
        let berlin = "Europe/Berlin";
        assert_window(Hour, berlin, "2026-10-25T00:59:59Z", "2026-10-25 02:00+02:00", "2026-10-25 02:00+01:00");
        assert_window(Hour, berlin, "2026-10-25T01:00:00Z", "2026-10-25 02:00+01:00", "2026-10-25 03:00+01:00");
        assert_window(Hour, berlin, "2026-03-29T00:59:59Z", "2026-03-29 01:00+01:00", "2026-03-29 03:00+02:00");
        // Half an hour is skipped, or shown twice.
        let howe = "Australia/Lord_Howe";
        assert_window(Hour, howe, "2026-10-03T15:30:00Z", "2026-10-04 02:30+11:00", "2026-10-04 03:00+11:00");
        assert_window(Hour, howe, "2026-04-04T14:30:00Z", "2026-04-05 01:00+11:00", "2026-04-05 01:30+10:30");
        assert_window(Hour, howe, "2026-04-04T15:00:00Z", "2026-04-05 01:30+10:30", "2026-04-05 02:00+10:30");
    }

    #[test]
    fn a_week_begins_on_monday_and_a_month_on_its_first() {
        use Period::{Month, Week};
        let berlin = "Europe/Berlin";
        assert_window(Week, berlin, "2026-03-29T21:59:59Z", "2026-03-23 00:00+01:00", "2026-03-30 00:00+02:00");
        assert_window(Week, berlin, "2026-03-29T22:00:00Z", "2026-03-30 00:00+02:00", "2026-04-06 00:00+02:00");
        assert_window(Week, "UTC", "2025-12-31T12:00:00Z", "2025-12-29 00:00+00:00", "2026-01-05 00:00+00:00");
        assert_window(Month, berlin, "2026-01-31T22:59:59Z", "2026-01-01 00:00+01:00", "2026-02-01 00:00+01:00");
        assert_window(Month, "UTC", "2028-02-29T23:59:59Z", "2028-02-01 00:00+00:00", "2028-03-01 00:00+00:00");
        assert_window(Month, "UTC", "2026-02-28T23:59:59Z", "2026-02-01 00:00+00:00", "2026-03-01 00:00+00:00");
        assert_window(Month, berlin, "2026-03-31T12:00:00Z", "2026-03-01 00:00+01:00", "2026-04-01 00:00+02:00");
        assert_window(Month, "UTC", "2026-12-31T23:59:59Z", "2026-12-01 00:00+00:00", "2027-01-01 00:00+00:00");
    }

    #[test]
    fn windows_follow_each_other_without_gap_or_overlap() {
        let zones = [
            "Europe/Berlin",
            "America/Sao_Paulo",
            "America/St_Johns",
            "America/Havana",
            "Asia/Kolkata",
            "Asia/Beirut",
            "Australia/Lord_Howe",
            "Pacific/Apia",
            "Africa/Casablanca",
        ];
        for (zone, period) in zones.iter().flat_map(|zone| Period::VARIANTS.iter().map(move |period| (zone, *period))) {
            let calendar = calendar(period, zone);
            // From 2009 on, for a year by the hour and longer for the others.
            let mut at = 1_230_768_000;
            let mut before: Option<CalendarWindow> = None;
            for _ in 0..9_000 {
                if at > 1_800_000_000 {
                    break;
                }
                let window = calendar.find(at);
                assert!(window.start() <= at && at < window.end(), "{zone} {period:?} at {at}");
                assert!(window.length() <= u64::from(period.seconds()) + 86_400, "{zone} {period:?} at {at}");
                if let Some(before) = before {
                    assert_eq!(before.end(), window.start(), "{zone} {period:?} at {at}");
                }
                for inside in [window.start(), (window.start() + window.end()) / 2, window.end() - 1] {
                    assert_eq!(calendar.find(inside), window, "{zone} {period:?} at {inside}");
                }
                (at, before) = (window.end(), Some(window));
            }
        }
    }

    #[test]
    fn what_is_left_is_told_to_the_millisecond_and_windows_of_different_zones_have_different_numbers() {
        let berlin = calendar(Period::Day, "Europe/Berlin");
        let moment = now(&"2026-01-10T22:59:58.500Z".parse().unwrap());
        let window = berlin.window(moment);
        assert_eq!((window.left_ms(moment), window.left(moment)), (1500, 2));
        assert_eq!(berlin.window(moment), window, "from memory");
        // They begin at the same moment, and end an hour apart.
        let moment = now(&"2026-03-29T12:00:00Z".parse().unwrap());
        let lagos = calendar(Period::Day, "Africa/Lagos").window(moment);
        assert_eq!(berlin.window(moment).start(), lagos.start());
        assert_ne!(berlin.window(moment).number(), lagos.number());
        assert!(
            format!(
                "!w{:x}",
                CalendarWindow::new(i64::from(u32::MAX) * 8, i64::from(u32::MAX) * 8 + 2_700_000).number()
            )
            .len()
                <= 18
        );
    }
}
