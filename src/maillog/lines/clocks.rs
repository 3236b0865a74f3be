//! The clocks of one log: each program of each host has its own.
//!
//! Stamps with an offset are believed as they are. The others may be of several
//! zones: a chrooted smtpd logs UTC, a host of another zone logs its own. The order
//! of the lines tells: a program that is always hours behind or ahead of its
//! neighbours has another zone, and is put beside them. A single late line moves
//! nothing.

use hashbrown::HashMap;

use super::calendar::{Calendar, DISORDER};
use super::event::Event;
use super::merge::ReadStats;
use super::stamp::StampForm;

/// Programs of hosts that are kept apart. The others share a clock.
const MAX_CLOCKS: usize = 4_096;

/// Events that are looked ahead at.
const LOOK_AHEAD: usize = 4_096;

/// Zones differ by multiples of this, in milliseconds.
const QUARTER: i64 = 15 * 60 * 1000;

/// No clock is set back further, in milliseconds: older lines follow newer ones.
const DAY: i64 = 86_400_000;

/// The clocks of one log.
pub struct Clocks {
    /// The calendar of a new clock, until there is a neighbour.
    first: Calendar,
    /// The clock of the last event.
    recent: u64,
    clocks: HashMap<u64, Clock>,
    /// The last moment of any clock.
    last: Option<i64>,
    /// Lines that came late, and the longest of these times.
    late: u64,
    latest: i64,
    /// The number of the first of them.
    first_late: u64,
    /// How far older lines that follow newer ones go back, from where, and in which line.
    goes_back: Option<(i64, i64, u64)>,
    /// The line where a clock was first set back.
    first_set_back: Option<u64>,
}

/// The clock of one program.
struct Clock {
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
            clocks: HashMap::new(),
            last: None,
            late: 0,
            latest: 0,
            first_late: 0,
            goes_back: None,
            first_set_back: None,
        }
    }

    /// The moment of an event of this line, in milliseconds since the epoch, never before the last one. `later`
    /// follow it.
    pub fn time(&mut self, event: &Event, line: u64, later: &[Event]) -> i64 {
        let key = self.key(event);
        if !self.clocks.contains_key(&key) {
            let offset = self.offset(event, later);
            self.clocks.insert(key, Clock { calendar: self.new_calendar(), offset, line });
        }
        let later = || later.iter().take(LOOK_AHEAD).find(|next| next.clock == event.clock || key == 0);
        let Some(clock) = self.clocks.get_mut(&key) else {
            return self.last.unwrap_or(0);
        };
        self.recent = key;
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
                if self.late == 0 {
                    self.first_late = line;
                }
                self.late += 1;
                self.latest = self.latest.max(step);
                clock.calendar.restore(before);
                return self.advance(i64::MIN);
            }
            if event.stamp.form == StampForm::Absolute || step > DAY {
                self.goes_back.get_or_insert((told + step, told, line));
                clock.calendar.begin_again(told);
            } else {
                clock.calendar.go_on_from(told);
                self.first_set_back.get_or_insert(line);
            }
        }
        let time = clock.calendar.accept(told) + clock.offset;
        self.advance(time)
    }

    /// Says what is doubtful about the times.
    pub fn report(&self, name: &str, stats: &mut ReadStats) {
        stats.set_back += self.clocks.values().map(|clock| clock.calendar.set_back).sum::<u64>();
        let count = self.clocks.values().filter(|clock| clock.offset != 0).count();
        let others = self.clocks.values().filter(|clock| clock.offset != 0);
        if let Some(clock) = others.min_by_key(|clock| clock.line) {
            stats.troubles.push(format!(
                "{name}: {count} programs write another zone than the first one, as by {} minutes from line {} on; \
                 they are taken to write at the same time",
                -clock.offset / 60_000,
                clock.line
            ));
        }
        if let Some(line) = self.first_set_back {
            stats
                .troubles
                .push(format!("{name}: line {line}: the clock was set back; times go on from the line before"));
        }
        if self.late > 0 {
            let minutes = self.latest / 60_000;
            stats.troubles.push(format!(
                "{name}: {} lines come late, by up to {minutes} minutes, the first is line {}; they count when they came",
                self.late, self.first_late
            ));
        }
        if let Some((from, to, line)) = self.goes_back {
            stats.is_damaged = true;
            stats.troubles.push(format!(
                "{name}: line {line}: older lines follow newer ones: from {} back to {}; the numbers are wrong: give the parts as files \
                 of their own, in any order",
                moment(from),
                moment(to)
            ));
        }
    }

    /// Stamps with an offset to UTC have one clock for each program, too: one host may send its lines late.
    fn key(&self, event: &Event) -> u64 {
        let is_known = self.clocks.contains_key(&event.clock) || self.clocks.len() < MAX_CLOCKS;
        if is_known { event.clock } else { 0 }
    }

    fn new_calendar(&self) -> Calendar {
        self.clocks.get(&self.recent).map_or_else(|| self.first.clone(), |clock| clock.calendar.of_neighbour())
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
        if ahead.abs() <= DISORDER * 1000 || ahead.abs() > 26 * 3_600_000 {
            return 0;
        }
        // Ahead of the others, or after a pause? The next one of the others tells.
        let is_pause = ahead > 0
            && later.iter().take(LOOK_AHEAD).find_map(|next| {
                let clock = self.clocks.get(&next.clock)?;
                Some(clock.calendar.clone().told(next.stamp) + clock.offset >= last + ahead - DISORDER * 1000)
            }) != Some(false);
        if is_pause { 0 } else { -(ahead as f64 / QUARTER as f64).round() as i64 * QUARTER }
    }
}

fn moment(milliseconds: i64) -> String {
    crate::maillog::text::time(milliseconds, &jiff::tz::TimeZone::UTC)
}
