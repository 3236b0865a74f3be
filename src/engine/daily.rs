//! What the limits have counted today and yesterday: how much in all, by whom most, and who went over.
//!
//! Days are those of the local calendar. Clients within their limits are in the sums, but not by name: most hosts have
//! more of them than are worth a look.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use crate::engine::report::{MAX_TALLIED, Tally};
use crate::engine::top_keys::TopKeys;
use crate::net::clock::Now;
use crate::net::lock;
use crate::policy::calendar::{LocalCalendar, Period};
use crate::policy::key::KeyPart;
use crate::policy::limit::CounterLimitId;
use crate::policy::record_snapshot::LimitIds;
use crate::policy::{CounterValue, LimitCheck};

/// The usual length of a day in seconds.
const DAY: u64 = 86_400;

/// The sums of today and yesterday.
#[derive(Debug)]
pub struct DailyCounts {
    /// The hits of clients within their limits since the last `collect`. Those of the second in which a day begins may
    /// be of the day before.
    tally: Arc<Tally>,
    tables: Mutex<DayTables>,
}

#[derive(Debug)]
struct DayTables {
    calendar: LocalCalendar,
    days: RecentDays,
}

/// Two days.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecentDays {
    pub today: DayTable,
    pub yesterday: DayTable,
}

/// One day.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DayTable {
    /// Its first moment, in seconds since the Unix epoch.
    pub begins: u64,
    /// The first moment of the next.
    pub ends: u64,
    /// When the counting began.
    pub counted_from: u64,
    limits: HashMap<CounterLimitId, DayOfLimit>,
}

/// What one limit has counted on one day.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DayOfLimit {
    /// Hits that were let pass.
    pub passed: u64,
    /// Times that it was exceeded.
    pub over: u64,
    /// Those with the most hits that were let pass; no clients.
    pub most: TopKeys,
    /// Those who exceeded it most often.
    pub exceeded: TopKeys,
}

impl DailyCounts {
    /// Counts by the days of this time zone.
    pub fn new(zone: TimeZone, tally: Arc<Tally>) -> Self {
        let tables = DayTables { calendar: LocalCalendar::new(Period::Day, zone), days: RecentDays::default() };
        Self { tally, tables: Mutex::new(tables) }
    }

    /// Goes on with the days of another time zone.
    pub fn set_zone(&self, zone: TimeZone) {
        lock(&self.tables).calendar = LocalCalendar::new(Period::Day, zone);
    }

    /// Notes hits by name, of which so many were let pass.
    pub fn note(&self, check: &LimitCheck<'_>, hit: CounterValue, passed: u32, now: Now) {
        let mut tables = lock(&self.tables);
        self.turn(&mut tables, now);
        let day = tables.days.today.limits.entry(check.limit.id).or_default();
        day.passed += u64::from(passed);
        if passed > 0 && !matches!(check.part, KeyPart::Client { .. }) {
            day.most.add(&check.part, passed.into(), now.unix());
        }
        if hit.count > check.threshold {
            day.over += 1;
            day.exceeded.add(&check.part, 1, now.unix());
        }
    }

    /// Takes back hits for recipients to whom nothing was sent.
    pub fn take_back(&self, limit: CounterLimitId, part: &KeyPart, amount: u32, now: Now) {
        let mut tables = lock(&self.tables);
        self.turn(&mut tables, now);
        // Those of a client may not be in the table yet.
        self.collect_of(limit, &mut tables.days.today);
        if let Some(day) = tables.days.today.limits.get_mut(&limit) {
            day.passed = day.passed.saturating_sub(amount.into());
            day.most.take_back(part, amount.into());
        }
    }

    /// Begins another day when it is time.
    pub fn keep_up(&self, now: Now) {
        self.turn(&mut lock(&self.tables), now);
    }

    /// Shows both days, and the calendar that they are of.
    pub fn with<T>(&self, now: Now, show: impl FnOnce(&RecentDays, &LocalCalendar) -> T) -> T {
        let mut tables = lock(&self.tables);
        self.turn(&mut tables, now);
        self.collect(&mut tables.days.today);
        show(&tables.days, &tables.calendar)
    }

    /// Both days as they are, for another process.
    pub fn save(&self, now: Now) -> RecentDays {
        self.with(now, |days, _| days.clone())
    }

    /// Goes on with the days of before, whose limits had these ids then.
    pub fn restore(&self, saved: RecentDays, ids: &LimitIds, now: Now) {
        let known = |day: DayTable| {
            let limits = day.limits.into_iter();
            let limits = limits.filter_map(|(id, of_limit)| Some((ids.counter(id)?, of_limit))).collect();
            DayTable { limits, ..day }
        };
        let mut tables = lock(&self.tables);
        tables.days = RecentDays { today: known(saved.today), yesterday: known(saved.yesterday) };
        self.turn(&mut tables, now);
    }

    fn turn(&self, tables: &mut DayTables, now: Now) {
        let window = tables.calendar.window(now);
        let (begins, ends) = (window.start(), window.end());
        let days = &mut tables.days;
        if (begins, ends) == (days.today.begins, days.today.ends) {
            return;
        }
        let new = DayTable { begins, ends, counted_from: now.unix(), ..DayTable::default() };
        if days.today.ends == 0 {
            days.today = new;
        } else if begins >= days.today.ends {
            self.collect(&mut days.today);
            let before = std::mem::replace(&mut days.today, new);
            let is_yesterday = before.ends == begins;
            days.yesterday = if is_yesterday { before } else { DayTable::default() };
        } else if ends > days.today.begins.saturating_sub(DAY) {
            // The clock was set back a little, or the time zone is another. What is counted stays where it is.
            if ends > days.today.begins {
                (days.today.begins, days.today.ends) = (begins, ends);
            }
        } else {
            *days = RecentDays { today: new, yesterday: DayTable::default() };
        }
    }

    /// Adds the hits of clients within their limits since the last time.
    fn collect(&self, today: &mut DayTable) {
        (0..MAX_TALLIED).for_each(|limit| self.collect_of(CounterLimitId(limit), today));
    }

    fn collect_of(&self, limit: CounterLimitId, today: &mut DayTable) {
        let passed = self.tally.take_passed(limit);
        if passed > 0 {
            today.limits.entry(limit).or_default().passed += passed;
        }
    }
}

impl DayTable {
    /// What a limit has counted, if anything.
    pub fn of(&self, limit: CounterLimitId) -> Option<&DayOfLimit> {
        self.limits.get(&limit)
    }
}
