//! The commands for counters, as statements. Each runs within a transaction of its caller.
//!
//! Statements are prepared once for each connection. Time is an argument, in milliseconds since the Unix epoch.

use rusqlite::{Connection, OptionalExtension, Result, Row, params};

use crate::store::shared::backend::{CounterCommand, CounterReply, Slide};

/// A counter cannot end farther away than its command says, but for this: then the system clock was set back. In
/// milliseconds; processes read it at slightly different moments.
const CLOCK_TOLERANCE_MS: i64 = 1000;

/// Carries out a command for a counter. `now` is that of the request.
pub fn execute(
    connection: &Connection,
    key: &str,
    command: CounterCommand,
    exptime: u32,
    now: i64,
) -> Result<CounterReply> {
    let ends = now + i64::from(exptime) * 1000;
    match command {
        CounterCommand::Hit(amount) => hit(connection, key, amount, ends, now),
        CounterCommand::Read => read(connection, key, now),
        CounterCommand::Slide(Slide { amount: 0, threshold, .. }) => read_hits(connection, key, threshold, now),
        CounterCommand::Slide(slide) => ExactWindow { connection, key, now }.slide(slide, ends),
        CounterCommand::SlideBack(amount) => ExactWindow { connection, key, now }.take_back(amount, ends),
        CounterCommand::TakeBack(amount) => changed(
            connection,
            "UPDATE counter SET count = max(count - ?2, 0) WHERE key = ?1 AND ends > ?3",
            params![key, amount, now],
        ),
        CounterCommand::Add(count) => changed(
            connection,
            "INSERT INTO counter (key, count, ends) VALUES (?1, ?2, ?3)
             ON CONFLICT (key) DO UPDATE SET count = ?2, ends = ?3 WHERE ends <= ?4",
            params![key, count, ends, now],
        ),
        CounterCommand::Replace(count) => changed(
            connection,
            "UPDATE counter SET count = ?2, ends = ?3 WHERE key = ?1 AND ends > ?4",
            params![key, count, ends, now],
        ),
        CounterCommand::Touch => {
            changed(connection, "UPDATE counter SET ends = ?2 WHERE key = ?1 AND ends > ?3", params![key, ends, now])
        }
        CounterCommand::Delete => delete(connection, key),
    }
}

/// Whether a command changes nothing.
pub fn only_reads(command: CounterCommand) -> bool {
    matches!(command, CounterCommand::Read | CounterCommand::Slide(Slide { amount: 0, .. }))
}

/// Ends a counter, and the hits of a sliding window.
pub fn delete(connection: &Connection, key: &str) -> Result<CounterReply> {
    connection.prepare_cached("DELETE FROM hit WHERE key = ?1")?.execute([key])?;
    changed(connection, "DELETE FROM counter WHERE key = ?1", params![key])
}

/// Deletes at most `most` counters, and as many hits, that end until `until`: the first to end first. Returns how
/// many counters.
pub fn purge(connection: &Connection, most: usize, until: i64) -> Result<usize> {
    let most = i64::try_from(most).unwrap_or(i64::MAX);
    let counters = "DELETE FROM counter WHERE key IN (SELECT key FROM counter WHERE ends <= ?1 ORDER BY ends LIMIT ?2)";
    let hits = "DELETE FROM hit
        WHERE (key, ends) IN (SELECT key, ends FROM hit WHERE ends <= ?1 ORDER BY ends LIMIT ?2)";
    let number = connection.prepare_cached(counters)?.execute([until, most])?;
    connection.prepare_cached(hits)?.execute([until, most])?;
    Ok(number)
}

fn changed(connection: &Connection, statement: &str, values: impl rusqlite::Params) -> Result<CounterReply> {
    Ok(match connection.prepare_cached(statement)?.execute(values)? {
        0 => CounterReply::NotDone,
        _ => CounterReply::Done,
    })
}

fn hit(connection: &Connection, key: &str, amount: u32, ends: i64, now: i64) -> Result<CounterReply> {
    // The index of ends is not touched where none changes, which is nearly always.
    let mut counts = connection.prepare_cached(
        "UPDATE counter SET count = min(count + ?2, 4294967295) WHERE key = ?1 AND ends > ?3 AND ends <= ?4
         RETURNING count, ends",
    )?;
    let counted = counts.query_row(params![key, amount, now, ends + CLOCK_TOLERANCE_MS], of_row(now)).optional()?;
    if let Some(counted) = counted {
        return Ok(counted);
    }
    let mut begins = connection.prepare_cached(
        "INSERT INTO counter (key, count, ends) VALUES (?1, ?2, ?3)
         ON CONFLICT (key) DO UPDATE SET count = iif(ends > ?4, min(count + ?2, 4294967295), ?2), ends = ?3
         RETURNING count, ends",
    )?;
    begins.query_row(params![key, amount, ends, now], of_row(now))
}

fn read(connection: &Connection, key: &str, now: i64) -> Result<CounterReply> {
    let mut reads = connection.prepare_cached("SELECT count, ends FROM counter WHERE key = ?1 AND ends > ?2")?;
    Ok(reads.query_row(params![key, now], of_row(now)).optional()?.unwrap_or(CounterReply::NotDone))
}

fn read_hits(connection: &Connection, key: &str, threshold: u32, now: i64) -> Result<CounterReply> {
    let window = ExactWindow { connection, key, now };
    Ok(match window.sum()? {
        0 => CounterReply::NotDone,
        count => window.answer(count, count, threshold)?,
    })
}

/// The count and the seconds left of a row with a count and an end.
fn of_row(now: i64) -> impl FnOnce(&Row<'_>) -> Result<CounterReply> {
    move |row| Ok(CounterReply::Count { count: row.get(0)?, left: Some(seconds(row.get::<_, i64>(1)? - now)) })
}

/// Seconds, rounded up.
fn seconds(milliseconds: i64) -> u32 {
    u32::try_from((milliseconds.max(0) + 999) / 1000).unwrap_or(u32::MAX)
}

/// An exact sliding window: its hits, each until it leaves.
#[derive(Clone, Copy)]
struct ExactWindow<'a> {
    connection: &'a Connection,
    key: &'a str,
    now: i64,
}

impl ExactWindow<'_> {
    /// Adds hits that are in the window until `ends`.
    fn slide(&self, Slide { amount, threshold, keeps_over }: Slide, ends: i64) -> Result<CounterReply> {
        let before = self.without_expired(ends)?;
        let amount = i64::from(amount);
        let (count, most) = (before + amount, i64::from(threshold));
        if count > most && !keeps_over {
            return self.answer(count, before, threshold);
        }
        self.add(amount, ends)?;
        self.set_sum(count, ends)?;
        // Without the oldest hits it is still over as long as they would be in the window.
        let mut kept = count;
        while kept > most {
            let Some((oldest, number)) = self.oldest()? else { break };
            if kept - number <= most {
                break;
            }
            self.delete(oldest)?;
            kept -= number;
        }
        self.answer(count, kept, threshold)
    }

    /// Takes hits back: of those until `ends`, then of the newest. Done, if there were any.
    fn take_back(&self, amount: u32, ends: i64) -> Result<CounterReply> {
        let mut left = i64::from(amount);
        let Self { connection, key, now } = *self;
        let of_row = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?));
        let mut this = connection.prepare_cached("SELECT ends, count FROM hit WHERE key = ?1 AND ends = ?2")?;
        let mut next = this.query_row(params![key, ends], of_row).optional()?;
        let mut newest = connection
            .prepare_cached("SELECT ends, count FROM hit WHERE key = ?1 AND ends > ?2 ORDER BY ends DESC LIMIT 1")?;
        while left > 0 {
            if next.is_none() {
                next = newest.query_row(params![key, now], of_row).optional()?;
            }
            let Some((hit, number)): Option<(i64, i64)> = next.take() else { break };
            if number <= left {
                self.delete(hit)?;
            } else {
                let mut less =
                    connection.prepare_cached("UPDATE hit SET count = count - ?3 WHERE key = ?1 AND ends = ?2")?;
                less.execute(params![key, hit, left])?;
                let mut less = connection.prepare_cached("UPDATE counter SET count = count - ?2 WHERE key = ?1")?;
                less.execute(params![key, left])?;
            }
            left -= number.min(left);
        }
        Ok(if left < i64::from(amount) { CounterReply::Done } else { CounterReply::NotDone })
    }

    /// The answer with a count of `count`, while `kept` hits are in the window.
    fn answer(&self, count: i64, kept: i64, threshold: u32) -> Result<CounterReply> {
        // So many of the oldest have to leave before one more fits in.
        let mut surplus = kept - i64::from(threshold) + 1;
        let mut left = 0;
        if surplus > 0 {
            let mut oldest = self
                .connection
                .prepare_cached("SELECT ends, count FROM hit WHERE key = ?1 AND ends > ?2 ORDER BY ends")?;
            let mut rows = oldest.query(params![self.key, self.now])?;
            while surplus > 0
                && let Some(row) = rows.next()?
            {
                left = seconds(row.get::<_, i64>(0)? - self.now);
                surplus -= row.get::<_, i64>(1)?;
            }
        }
        Ok(CounterReply::Count { count: u32::try_from(count).unwrap_or(u32::MAX), left: Some(left) })
    }

    /// Drops what has left the window, and returns the sum of the rest. No hit stays longer than until `ends`, which is
    /// that of one that comes now.
    fn without_expired(&self, ends: i64) -> Result<i64> {
        let Self { connection, key, now } = *self;
        connection.prepare_cached("DELETE FROM hit WHERE key = ?1 AND ends <= ?2")?.execute(params![key, now])?;
        let mut sum = connection.prepare_cached("SELECT count FROM counter WHERE key = ?1")?;
        let sum = sum.query_row([key], |row| row.get(0)).optional()?.map_or_else(|| self.sum(), Ok)?;
        let mut newest = connection.prepare_cached("SELECT max(ends) FROM hit WHERE key = ?1")?;
        let newest: Option<i64> = newest.query_row([key], |row| row.get(0))?;
        if newest.is_some_and(|newest| newest > ends + CLOCK_TOLERANCE_MS) {
            // The clock was set back, or the window was longer.
            let mut late =
                connection.prepare_cached("SELECT coalesce(sum(count), 0) FROM hit WHERE key = ?1 AND ends > ?2")?;
            let late: i64 = late.query_row(params![key, ends], |row| row.get(0))?;
            connection.prepare_cached("DELETE FROM hit WHERE key = ?1 AND ends > ?2")?.execute(params![key, ends])?;
            self.add(late, ends)?;
            self.set_sum(sum, ends)?;
        }
        Ok(sum)
    }

    fn sum(&self) -> Result<i64> {
        let mut sum =
            self.connection.prepare_cached("SELECT coalesce(sum(count), 0) FROM hit WHERE key = ?1 AND ends > ?2")?;
        sum.query_row(params![self.key, self.now], |row| row.get(0))
    }

    fn add(&self, amount: i64, ends: i64) -> Result<()> {
        let mut adds = self.connection.prepare_cached(
            "INSERT INTO hit (key, ends, count) VALUES (?1, ?2, ?3)
             ON CONFLICT (key, ends) DO UPDATE SET count = count + ?3",
        )?;
        adds.execute(params![self.key, ends, amount]).map(|_| ())
    }

    fn set_sum(&self, sum: i64, ends: i64) -> Result<()> {
        let mut sets = self.connection.prepare_cached(
            "INSERT INTO counter (key, count, ends) VALUES (?1, ?2, ?3)
             ON CONFLICT (key) DO UPDATE SET count = ?2, ends = ?3",
        )?;
        sets.execute(params![self.key, sum, ends]).map(|_| ())
    }

    fn oldest(&self) -> Result<Option<(i64, i64)>> {
        let mut oldest =
            self.connection.prepare_cached("SELECT ends, count FROM hit WHERE key = ?1 ORDER BY ends LIMIT 1")?;
        oldest.query_row([self.key], |row| Ok((row.get(0)?, row.get(1)?))).optional()
    }

    /// Deletes the hits until `ends`; the sum follows by itself.
    fn delete(&self, ends: i64) -> Result<()> {
        let mut deletes = self.connection.prepare_cached("DELETE FROM hit WHERE key = ?1 AND ends = ?2")?;
        deletes.execute(params![self.key, ends]).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::store::shared::backend::CounterReply::{Count, Done, NotDone};

    const START: i64 = 1_700_000_000_000;

    fn schema() -> Connection {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(include_str!("schema.sql")).unwrap();
        connection
    }

    fn number(connection: &Connection, query: &str) -> i64 {
        connection.query_row(query, [], |row| row.get(0)).unwrap()
    }

    fn slide(connection: &Connection, slide: Slide, exptime: u32, now: i64) -> (u32, u32) {
        match execute(connection, "k!hits", CounterCommand::Slide(slide), exptime, now).unwrap() {
            Count { count, left: Some(left) } => (count, left),
            NotDone => (0, 0),
            reply => panic!("{reply:?}"),
        }
    }

    #[test]
    fn a_fixed_window_ends_at_its_millisecond_and_nothing_extends_it() {
        let connection = schema();
        let hit = |at| execute(&connection, "k", CounterCommand::Hit(2), 60, START + at).unwrap();
        assert_eq!(hit(0), Count { count: 2, left: Some(60) });
        assert_eq!(hit(59_999), Count { count: 4, left: Some(1) });
        assert_eq!(hit(60_000), Count { count: 2, left: Some(60) });
        let read = |at| execute(&connection, "k", CounterCommand::Read, 0, START + at).unwrap();
        assert_eq!(read(119_999), Count { count: 2, left: Some(1) });
        assert_eq!(read(120_000), NotDone);
    }

    #[test]
    fn no_command_revives_what_has_expired_nor_leaves_it_without_an_end() {
        let connection = schema();
        let say = |command, at| execute(&connection, "k", command, 10, START + at).unwrap();
        use CounterCommand::{Add, Delete, Hit, Replace, TakeBack, Touch};
        for command in [TakeBack(1), Replace(3), Touch, Delete] {
            assert_eq!(say(command, 0), NotDone, "{command:?}");
        }
        assert_eq!(say(Add(1), 0), Done);
        assert_eq!(say(Add(1), 9_999), NotDone);
        assert_eq!(say(Add(1), 10_000), Done, "the one before has ended");
        assert_eq!(say(Replace(7), 11_000), Done);
        assert_eq!(say(TakeBack(9), 11_000), Done);
        assert_eq!(say(Hit(1), 20_999), Count { count: 1, left: Some(1) }, "down to 0, with the end it had");
        assert_eq!(say(Touch, 20_999), Done);
        for command in [TakeBack(1), Replace(3), Touch] {
            assert_eq!(say(command, 30_999), NotDone, "{command:?}");
        }
        assert_eq!(purge(&connection, 10, START + 30_999).unwrap(), 1);
        assert_eq!(number(&connection, "SELECT count(*) FROM counter"), 0);
    }

    #[test]
    fn a_clock_that_was_set_back_prolongs_no_window() {
        let connection = schema();
        let day = 86_400_000;
        for exptime in [60_u32, 600] {
            let key = format!("k{exptime}");
            execute(&connection, &key, CounterCommand::Hit(3), exptime, START + day).unwrap();
            let after = execute(&connection, &key, CounterCommand::Hit(1), exptime, START).unwrap();
            assert_eq!(after, Count { count: 4, left: Some(exptime) });
        }
        let hit = Slide { amount: 1, threshold: 3, keeps_over: true };
        for turn in 0..3 {
            slide(&connection, hit, 60, START + day + turn);
        }
        assert_eq!(slide(&connection, hit, 60, START).0, 4, "they are in the window still");
        assert_eq!(slide(&connection, hit, 60, START + 60_000).0, 1, "and leave it by the new clock");
    }

    #[test]
    fn the_last_hits_of_a_sliding_window_can_be_taken_back_at_any_time() {
        let connection = schema();
        let hit = Slide { amount: 2, threshold: 10, keeps_over: true };
        for at in [0, 10_000, 20_000] {
            slide(&connection, hit, 60, START + at);
        }
        let back =
            |amount, at| execute(&connection, "k!hits", CounterCommand::SlideBack(amount), 60, START + at).unwrap();
        let count = |at| slide(&connection, Slide { amount: 0, ..hit }, 60, START + at).0;
        assert_eq!(back(1, 10_000), Done, "of the hits of that moment");
        assert_eq!((count(20_000), count(60_000)), (5, 3));
        assert_eq!(back(3, 30_000), Done, "of the newest");
        assert_eq!((count(30_000), count(60_000)), (2, 0));
        assert_eq!(back(9, 30_000), Done);
        assert_eq!(back(1, 30_000), NotDone);
        assert_eq!(number(&connection, "SELECT count(*) FROM hit"), 0);
        assert_eq!(number(&connection, "SELECT sum(count) FROM counter"), 0);
    }

    #[test]
    fn purging_is_bounded_and_begins_with_what_ended_first() {
        let connection = schema();
        for number in 0..20 {
            execute(&connection, &format!("k{number:02}"), CounterCommand::Hit(1), 20 - number, START).unwrap();
        }
        assert_eq!(purge(&connection, 5, START + 10_000).unwrap(), 5);
        assert_eq!(purge(&connection, 100, START + 10_000).unwrap(), 5);
        assert_eq!(number(&connection, "SELECT count(*) FROM counter WHERE key < 'k10'"), 10);
        let hit = Slide { amount: 1, threshold: 100, keeps_over: true };
        for at in 0..10 {
            slide(&connection, hit, 60, START + at);
        }
        purge(&connection, 4, START + 60_004).unwrap();
        assert_eq!(number(&connection, "SELECT count FROM counter WHERE key = 'k!hits'"), 6, "the sum follows");
        // As where there was no room for it.
        connection.execute("DELETE FROM counter", []).unwrap();
        assert_eq!(slide(&connection, hit, 60, START + 60_005), (5, 0), "the hits are still counted");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Against a list of all hits, which has no bound.
        #[test]
        fn an_exact_window_is_exact_and_bounded(
            hits in prop::collection::vec((0_i64..4_000, 1_u32..4), 1..150),
            exptime in 1_u32..10,
            threshold in 1_u32..8,
            keeps_over: bool,
        ) {
            let connection = schema();
            let (mut all, mut now) = (Vec::<(i64, u32)>::new(), START);
            let length = i64::from(exptime) * 1000;
            for (pause, amount) in hits {
                now += pause;
                let within: u32 = all.iter().filter(|(at, _)| at + length > now).map(|(_, amount)| amount).sum();
                let is_over = within + amount > threshold;
                if !is_over || keeps_over {
                    all.push((now, amount));
                }
                let (count, left) = slide(&connection, Slide { amount, threshold, keeps_over }, exptime, now);
                prop_assert_eq!(count > threshold, is_over);
                if !keeps_over || !is_over {
                    prop_assert_eq!(count, within + amount);
                }
                // After that time one more hit fits in, and a second before it does not.
                let room = |at: i64| {
                    let kept = all.iter().filter(|(hit, _)| hit + length > at).map(|(_, amount)| amount).sum::<u32>();
                    kept < threshold
                };
                let left = i64::from(left) * 1000;
                prop_assert!(room(now + left), "{left} ms after {now}");
                prop_assert!(left == 0 || !room(now + left - 1000));
                let rows = number(&connection, "SELECT count(*) FROM hit");
                prop_assert!(rows <= i64::from(threshold) + 1, "{rows} rows");
                let sums = number(&connection, "SELECT coalesce(sum(count), 0) FROM hit");
                prop_assert_eq!(sums, number(&connection, "SELECT count FROM counter UNION ALL SELECT 0 LIMIT 1"));
            }
        }
    }
}
