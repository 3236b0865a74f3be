//! The clocks of one log: each program of each host has its own.
//!
//! Stamps with an offset are believed as they are. The others may be of several
//! zones: a chrooted smtpd logs UTC, a host of another zone logs its own. The order
//! of the lines tells: a program that is always hours behind or ahead of its
//! neighbours has another zone, and is put beside them. A single late line moves
//! nothing.

use std::fmt;

use hashbrown::HashMap;

use super::calendar::{Calendar, DISORDER};
use super::event::Event;
use super::merge::ReadStats;
use super::stamp::StampForm;

/// Programs of hosts that are kept apart. The others share a clock.
const MAX_CLOCKS: usize = 4_096;

/// Events that are looked ahead at.
const LOOK_AHEAD: usize = 4_096;

/// Zones differ by multiples of these, in milliseconds, most of them by whole hours.
const STEPS: [i64; 3] = [60 * MINUTE, 30 * MINUTE, 15 * MINUTE];
const MINUTE: i64 = 60_000;

/// Neighbours write their lines in order but for this, in milliseconds.
const NEIGHBOURS: i64 = 10_000;

/// A gap of more than this, in milliseconds, may be a year that turned.
const HALF_A_YEAR: i64 = 183 * DAY;

/// No clock is set back further, in milliseconds: older lines follow newer ones.
const DAY: i64 = 86_400_000;

/// The clocks of one log.
pub struct Clocks {
    /// The calendar of a new clock, until there is a neighbour.
    first: Calendar,
    /// The place of the clock of the last event.
    recent: usize,
    clocks: Vec<Clock>,
    /// Their places.
    index: HashMap<u64, usize>,
    /// The last moment of any clock.
    last: Option<i64>,
    /// Lines that came late, and the longest of these times.
    late: LineNumbers,
    latest: i64,
    /// Older lines that follow newer ones, and how far the first goes back, from where.
    older: LineNumbers,
    goes_back: Option<(i64, i64)>,
    /// Lines where a clock was set back.
    set_back: LineNumbers,
    /// Lines without a year that are more than half a year after the line before.
    gaps: LineNumbers,
}

/// Numbers of lines: how many there are, and the first of them.
#[derive(Debug, Default)]
struct LineNumbers {
    count: u64,
    first: Vec<u64>,
}

/// Numbers that are told.
const MAX_NUMBERS: usize = 5;

impl LineNumbers {
    fn push(&mut self, line: u64) {
        self.count += 1;
        if self.first.len() < MAX_NUMBERS {
            self.first.push(line);
        }
    }
}

impl fmt::Display for LineNumbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first: Vec<String> = self.first.iter().map(u64::to_string).collect();
        let more = self.count - first.len() as u64;
        match (first.split_last(), more) {
            (None, _) => Ok(()),
            (Some((one, [])), _) => write!(f, "line {one}"),
            (Some((last, others)), 0) => write!(f, "lines {} and {last}", others.join(", ")),
            _ => write!(f, "lines {} and {more} more", first.join(", ")),
        }
    }
}

/// The clock of one program.
struct Clock {
    /// Whose it is, as in [`Event::clock`].
    owner: u64,
    calendar: Calendar,
    /// What its zone differs from that of its neighbours, in milliseconds.
    offset: i64,
    /// The number of its first line.
    line: u64,
}

impl Clocks {
    /// All clocks begin in the year of this calendar.
    pub fn new(first: Calendar) -> Self {
        Self {
            first,
            recent: 0,
            clocks: Vec::new(),
            index: HashMap::new(),
            last: None,
            late: LineNumbers::default(),
            latest: 0,
            older: LineNumbers::default(),
            goes_back: None,
            set_back: LineNumbers::default(),
            gaps: LineNumbers::default(),
        }
    }

    /// The moment of an event of this line, in milliseconds since the epoch, never before the last one. `later`
    /// follow it.
    pub fn time(&mut self, event: &Event, line: u64, later: &[Event]) -> i64 {
        let at = self.find(event, line, later);
        self.recent = at;
        let clock = &mut self.clocks[at];
        let is_shared = clock.owner != event.clock;
        let later = || later.iter().take(LOOK_AHEAD).find(|next| next.clock == event.clock || is_shared);
        let before = clock.calendar.state();
        let told = clock.calendar.told(event.stamp);
        if let Some(step) = clock.calendar.step_back(told) {
            let returns = later().is_none_or(|next| {
                let mut calendar = clock.calendar.clone();
                calendar.restore(before);
                let next = calendar.told(next.stamp);
                calendar.step_back(next).is_none()
            });
            if returns {
                // The line came late.
                self.late.push(line);
                self.latest = self.latest.max(step);
                clock.calendar.restore(before);
                return self.advance(i64::MIN);
            }
            if event.stamp.form == StampForm::Absolute || step > DAY {
                self.older.push(line);
                self.goes_back.get_or_insert((told + step, told));
                clock.calendar.begin_again(told);
            } else {
                clock.calendar.go_on_from(told);
                self.set_back.push(line);
            }
        }
        let time = clock.calendar.accept(told) + clock.offset;
        if event.stamp.form == StampForm::WithoutYear && self.last.is_some_and(|last| time - last > HALF_A_YEAR) {
            self.gaps.push(line);
        }
        self.advance(time)
    }

    /// Says what is doubtful about the times.
    pub fn report(&self, name: &str, stats: &mut ReadStats) {
        stats.set_back += self.clocks.iter().map(|clock| clock.calendar.set_back).sum::<u64>();
        let mut others: Vec<&Clock> = self.clocks.iter().filter(|clock| clock.offset != 0).collect();
        others.sort_unstable_by_key(|clock| clock.line);
        if let Some(clock) = others.first() {
            let mut lines = LineNumbers::default();
            others.iter().for_each(|clock| lines.push(clock.line));
            stats.troubles.push(format!(
                "{name}: {}, from {lines} on, as by {} minutes; they are taken to write at the same time",
                match others.len() {
                    1 => "a program writes another zone than the first one".to_owned(),
                    count => format!("{count} programs write another zone than the first one"),
                },
                -clock.offset / 60_000,
            ));
        }
        let mut say = |lines: &LineNumbers, what: String| {
            if lines.count > 0 {
                stats.troubles.push(format!("{name}: {lines}: {what}"));
            }
        };
        say(&self.set_back, "the clock was set back; times go on from the line before".to_owned());
        say(&self.gaps, "more than half a year after the line before, if the year is right".to_owned());
        let minutes = self.latest / 60_000;
        say(&self.late, format!("late, by up to {minutes} minutes; they count when they came"));
        if let Some((from, to)) = self.goes_back {
            let what = format!(
                "older lines follow newer ones: from {} back to {}; the numbers are wrong: give the parts as files \
                 of their own, in any order",
                moment(from),
                moment(to)
            );
            say(&self.older, what);
            stats.is_damaged = true;
        }
    }

    /// The place of an event's clock, which may be new. Stamps with an offset to UTC have one clock for each program,
    /// too: one host may send its lines late.
    fn find(&mut self, event: &Event, line: u64, later: &[Event]) -> usize {
        if self.clocks.get(self.recent).is_some_and(|clock| clock.owner == event.clock) {
            return self.recent;
        }
        if let Some(at) = self.index.get(&event.clock) {
            return *at;
        }
        if self.clocks.len() >= MAX_CLOCKS {
            return MAX_CLOCKS - 1;
        }
        let offset = self.offset(event, later);
        self.clocks.push(Clock { owner: event.clock, calendar: self.new_calendar(), offset, line });
        self.index.insert(event.clock, self.clocks.len() - 1);
        self.clocks.len() - 1
    }

    fn new_calendar(&self) -> Calendar {
        self.clocks.get(self.recent).map_or_else(|| self.first.clone(), |clock| clock.calendar.of_neighbour())
    }

    fn advance(&mut self, time: i64) -> i64 {
        let time = self.last.map_or(time, |last| last.max(time));
        self.last = Some(time);
        time
    }

    /// The offset of a clock that is new.
    fn offset(&self, event: &Event, later: &[Event]) -> i64 {
        let Some(last) = self.last.filter(|_| event.stamp.form != StampForm::Absolute) else {
            return 0;
        };
        let ahead = self.new_calendar().told(event.stamp) - last;
        if ahead.abs() <= NEIGHBOURS || ahead.abs() > 26 * 60 * MINUTE {
            return 0;
        }
        let (least, most) = self.ahead_of_neighbours(event, later, ahead);
        if least <= 0 && most >= 0 {
            return 0;
        }
        let multiple = |step: &i64| Some(most.div_euclid(*step) * step).filter(|ahead| *ahead >= least);
        if let Some(ahead) = STEPS.iter().find_map(multiple) {
            return -ahead;
        }
        // Lines are out of order. Is it ahead of the others, or after a pause? The next one of the others tells.
        let is_pause = ahead > 0
            && later.iter().take(LOOK_AHEAD).find_map(|next| {
                let clock = &self.clocks[*self.index.get(&next.clock)?];
                Some(clock.calendar.clone().told(next.stamp) + clock.offset >= last + ahead - DISORDER * 1000)
            }) != Some(false);
        if is_pause || ahead.abs() <= DISORDER * 1000 {
            0
        } else {
            -(ahead + STEPS[2] / 2).div_euclid(STEPS[2]) * STEPS[2]
        }
    }

    /// How much a new clock is ahead of its neighbours, at least and at most: its lines come after those before them,
    /// and before those after them.
    fn ahead_of_neighbours(&self, event: &Event, later: &[Event], ahead: i64) -> (i64, i64) {
        let (mut least, mut most) = (i64::MIN / 2, ahead);
        let mut calendar = self.new_calendar();
        let (mut own, mut others) = (calendar.told(event.stamp), self.last.unwrap_or(0));
        for next in later.iter().take(LOOK_AHEAD) {
            if next.clock == event.clock {
                own = calendar.told(next.stamp);
                most = most.min(own - others);
            } else if let Some(at) = self.index.get(&next.clock) {
                let clock = &self.clocks[*at];
                others = clock.calendar.clone().told(next.stamp) + clock.offset;
                least = least.max(own - others);
            }
        }
        (least - NEIGHBOURS, most + NEIGHBOURS)
    }
}

fn moment(milliseconds: i64) -> String {
    crate::maillog::text::time(milliseconds, &jiff::tz::TimeZone::UTC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_numbers_of_lines_are_told_and_how_many_more_there_are() {
        let text = |numbers: std::ops::Range<u64>| {
            let mut lines = LineNumbers::default();
            numbers.for_each(|line| lines.push(line));
            lines.to_string()
        };
        assert_eq!([text(3..4), text(3..5), text(3..6)], ["line 3", "lines 3 and 4", "lines 3, 4 and 5"]);
        assert_eq!([text(3..8), text(3..30)], ["lines 3, 4, 5, 6 and 7", "lines 3, 4, 5, 6, 7 and 22 more"]);
    }
}
