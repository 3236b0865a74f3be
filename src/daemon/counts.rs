//! Writes the counts of this process as sections, and reads them into a table again.
//!
//! The keys in a table mean something in one process only: texts are hashed
//! under its secret, and limits have the ids that it assigned. So the first section
//! has both, and the time. A count of a limit that no longer exists is left out, and
//! none is ever taken for another limit's.

use std::io::{self, Write};

use serde::{Deserialize, Serialize};

use crate::engine::daily::RecentDays;
use crate::engine::overrides::OverrideList;
use crate::net::clock::Now;
use crate::policy::Policy;
use crate::policy::record_snapshot::LimitIds;
use crate::snapshot::section::{Section, SectionWriter, SnapshotError, decode};
use crate::store::local::{RestoredEntry, Table};

/// When the counts were taken, their secret, and their limits.
const ORIGIN: (u16, u16) = (1, 2);

/// Some counts.
const COUNTS: (u16, u16) = (2, 3);

/// Bans and allowances of administrators.
const OVERRIDES: (u16, u16) = (3, 4);

/// The sums of today and yesterday.
const DAYS: (u16, u16) = (4, 1);

/// The names of the limits behind the numbers of the table.
#[derive(Serialize, Deserialize)]
struct SavedOrigin {
    unix_ms: u64,
    monotonic: u64,
    secret: [u64; 2],
    widths: [usize; 3],
    limits: Vec<(u16, String)>,
}

/// Writes the counts of the limits of `policy`, and returns how many there are. Requests go on meanwhile: each
/// count is one it had at some time between the beginning and the end.
pub fn write(
    writer: &mut SectionWriter<impl Write>,
    policy: &Policy,
    table: &Table,
    days: &RecentDays,
    now: Now,
) -> io::Result<u64> {
    let origin = SavedOrigin {
        unix_ms: now.unix_ms,
        monotonic: now.monotonic,
        secret: table.secret(),
        widths: table.widths(),
        limits: policy.identities().map(|(identity, id)| (id, identity.to_owned())).collect(),
    };
    writer.add_value(ORIGIN, &origin)?;
    writer.add_value(OVERRIDES, &OverrideList::of(&policy.overrides().list(), now))?;
    writer.add_value(DAYS, days)?;
    let (mut counts, mut written) = (Vec::new(), 0);
    for shard in 0..Table::SHARDS {
        counts.clear();
        table.copy_shard(shard, now.monotonic, &mut counts);
        if counts.is_empty() {
            continue;
        }
        counts.iter_mut().for_each(|entry| entry.ends = entry.ends.saturating_sub(now.monotonic));
        writer.add_value(COUNTS, &counts)?;
        written += counts.len() as u64;
    }
    Ok(written)
}

/// Which clock says how long ago the counts were taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// The system clock. If it was set back meanwhile no time has passed: no window lasts longer than it
    /// had left.
    Unix,
    /// The monotonic one, within one run of the host.
    Monotonic,
}

/// Makes a table of sections.
#[derive(Debug)]
pub struct CountsReading<'p> {
    policy: &'p Policy,
    max_clients: usize,
    since: Since,
    now: Now,
    origin: Option<SnapshotOrigin>,
    days: RecentDays,
}

/// The counts that were read.
#[derive(Debug)]
pub struct RestoredCounts {
    pub table: Table,
    /// The ids of the limits by those they had.
    pub ids: LimitIds,
    pub days: RecentDays,
}

impl RestoredCounts {
    /// Nothing, with room for that many clients.
    pub fn none(max_clients: usize) -> Self {
        Self { table: Table::new(max_clients), ids: LimitIds::default(), days: RecentDays::default() }
    }
}

#[derive(Debug)]
struct SnapshotOrigin {
    table: Table,
    /// Milliseconds since then.
    elapsed: u64,
    ids: LimitIds,
}

impl<'p> CountsReading<'p> {
    /// For the limits of a policy; a table of at most `max_clients`.
    pub fn new(policy: &'p Policy, max_clients: usize, since: Since, now: Now) -> Self {
        Self { policy, max_clients, since, now, origin: None, days: RecentDays::default() }
    }

    /// Takes a section, if it is about counts. Returns whether it was. The bans and allowances of administrators, which
    /// come before the counts, are in force at once, so they outlast damage behind them.
    pub fn take(&mut self, section: &Section) -> Result<bool, SnapshotError> {
        let known = match section.kind {
            kind if kind == ORIGIN.0 => ORIGIN.1,
            kind if kind == COUNTS.0 => COUNTS.1,
            kind if kind == OVERRIDES.0 => OVERRIDES.1,
            kind if kind == DAYS.0 => DAYS.1,
            _ => return Ok(false),
        };
        if section.version != known {
            return Err(SnapshotError::OtherVersion(section.version.into()));
        }
        if section.kind == ORIGIN.0 {
            self.origin = Some(self.origin(&section.content)?);
        } else if section.kind == OVERRIDES.0 {
            let saved: OverrideList = decode(&section.content)?;
            let (overrides, spellings) = (saved.overrides(&[], self.now), self.policy.spellings());
            self.policy.overrides().set(overrides, spellings, self.now);
        } else if section.kind == DAYS.0 {
            self.days = decode(&section.content)?;
        } else {
            let origin = self.origin.as_ref().ok_or(SnapshotError::Corrupt)?;
            origin.restore(&section.content, self.now)?;
        }
        Ok(true)
    }

    /// Seconds since they were taken.
    pub fn age(&self) -> u64 {
        self.origin.as_ref().map_or(0, |origin| origin.elapsed / 1000)
    }

    /// The counts that were read; `None` if the names of their limits are missing.
    pub fn finish(self) -> Option<RestoredCounts> {
        let days = self.days;
        self.origin.map(|SnapshotOrigin { table, ids, .. }| RestoredCounts { table, ids, days })
    }

    fn origin(&self, content: &[u8]) -> Result<SnapshotOrigin, SnapshotError> {
        let SavedOrigin { unix_ms, monotonic, secret, widths, limits } = decode(content)?;
        let now = |(id, identity): (u16, String)| Some((id, self.policy.id(&identity)?));
        let ids = limits.into_iter().filter_map(now).collect();
        let elapsed = match self.since {
            Since::Unix => self.now.unix_ms.saturating_sub(unix_ms),
            Since::Monotonic => self.now.monotonic.saturating_sub(monotonic),
        };
        let table = Table::with_secret(self.max_clients, secret);
        table.reserve(widths);
        Ok(SnapshotOrigin { table, elapsed, ids })
    }
}

impl SnapshotOrigin {
    fn restore(&self, content: &[u8], now: Now) -> Result<(), SnapshotError> {
        for entry in decode::<Vec<RestoredEntry>>(content)? {
            if let Some(limit) = self.ids.counter(entry.id.limit()) {
                let left = entry.ends.saturating_sub(self.elapsed);
                let (id, ends) = (entry.id.of_limit(limit), now.monotonic.saturating_add(left));
                self.table.insert_restored(&RestoredEntry { id, ends, ..entry }, now.monotonic);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::policy::key::KeyPart;
    use crate::policy::{CounterKind, Key, Limit};
    use crate::snapshot::section::SectionReader;
    use crate::snapshot::section::encode;
    use crate::store::local::CounterId;

    fn policy(toml: &str) -> Policy {
        Policy::new(&config(toml).policy, None)
    }

    fn config(toml: &str) -> Config {
        Config::parse("connshaper.toml".as_ref(), toml).unwrap()
    }

    /// The counter of a client for the limit of this name, in the table of this policy.
    fn counter_id(policy: &Policy, table: &Table, name: &str, kind: CounterKind) -> CounterId {
        let limit: &Limit = policy.limits().iter().find(|limit| limit.name == name).unwrap();
        let part = KeyPart::client([192, 0, 2, 1].into(), 32, 64);
        table.counter_id(Key { limit, part: &part, kind })
    }

    fn written(policy: &Policy, table: &Table, now: Now) -> Vec<u8> {
        let mut writer = SectionWriter::begin(Vec::new()).unwrap();
        write(&mut writer, policy, table, &RecentDays::default(), now).unwrap();
        writer.finish().unwrap()
    }

    fn read(bytes: &[u8], policy: &Policy, now: Now) -> Table {
        let (mut reader, mut reading) =
            (SectionReader::begin(bytes).unwrap(), CountsReading::new(policy, 1000, Since::Unix, now));
        while let Some(section) = reader.next_section().unwrap() {
            assert!(reading.take(&section).unwrap());
        }
        reading.finish().unwrap().table
    }

    const THREE: &str = "[limit.a]\nthreshold = 2\n[limit.b]\nthreshold = 3\n[limit.c]\nthreshold = 4\n";
    const NAMES: [&str; 3] = ["a", "b", "c"];

    #[test]
    fn counts_are_those_of_the_same_limits_whatever_ids_these_have() {
        let (before, table) = (policy(THREE), Table::new(1000));
        let start = Now::simulated(7_777);
        for (name, count) in NAMES.iter().zip(1..) {
            for kind in [CounterKind::FixedWindow, CounterKind::ActiveBan] {
                table.hit(counter_id(&before, &table, name, kind), count, 60_000, 2, start.monotonic);
            }
        }
        let bytes = written(&before, &table, start);
        // The middle one is gone, the order is another, and there is a new one before them.
        let after = policy("[limit.new]\nthreshold = 9\n[limit.c]\nthreshold = 9\n[limit.a]\nthreshold = 9\n");
        let now = Now::simulated(17_777);
        let table = read(&bytes, &after, now);
        assert_eq!(table.len(), 4);
        for (name, count) in [("a", Some(1)), ("c", Some(3)), ("new", None)] {
            for kind in [CounterKind::FixedWindow, CounterKind::ActiveBan] {
                let hit = table.peek(counter_id(&after, &table, name, kind), now.monotonic);
                assert_eq!(hit.map(|hit| hit.count), count, "{name} {kind:?}");
                assert!(hit.is_none_or(|hit| hit.left_seconds() == 50 || hit.left_seconds() == 51), "{hit:?}");
            }
        }
    }

    #[test]
    fn a_limit_that_counts_something_else_now_begins_anew() {
        let (before, table, now) = (policy(THREE), Table::new(1000), Now::simulated(0));
        table.hit(counter_id(&before, &table, "a", CounterKind::FixedWindow), 2, 60_000, 2, 0);
        let bytes = written(&before, &table, now);
        let after = policy("[limit.a]\nthreshold = 2\ncount = \"messages\"\n");
        assert_eq!(read(&bytes, &after, now).len(), 0);
    }

    #[test]
    fn a_clock_that_was_set_back_prolongs_nothing_and_one_that_went_on_ends_what_is_over() {
        let (policy, table) = (policy(THREE), Table::new(1000));
        let start = Now { monotonic: 5_000_000, unix_ms: 1_700_000_000_000 };
        let id = counter_id(&policy, &table, "a", CounterKind::FixedWindow);
        table.hit(id, 2, 60_000, 2, start.monotonic - 20_000);
        let bytes = written(&policy, &table, start);
        for (step, left) in [(-86_400_000, Some(40)), (0, Some(40)), (10_000, Some(30)), (40_000, None)] {
            // Another process, whose monotonic clock has another zero.
            let now = Now { monotonic: 100, unix_ms: start.unix_ms.saturating_add_signed(step) };
            let hit = read(&bytes, &policy, now).peek(id, now.monotonic);
            assert_eq!(hit.map(|hit| hit.left_seconds()), left, "{step}");
        }
    }

    #[test]
    fn counts_that_nobody_says_the_meaning_of_are_corrupt() {
        let policy = policy(THREE);
        let mut reading = CountsReading::new(&policy, 1000, Since::Unix, Now::simulated(0));
        let section = |content: &[u8]| Section { kind: COUNTS.0, version: COUNTS.1, content: content.to_vec() };
        assert!(matches!(reading.take(&section(&[2, 0, 0])), Err(SnapshotError::Corrupt)));
        let origin = SavedOrigin { unix_ms: 0, monotonic: 0, secret: [0; 2], widths: [0; 3], limits: Vec::new() };
        let origin = Section { kind: ORIGIN.0, version: ORIGIN.1, content: encode(&origin) };
        assert!(reading.take(&origin).unwrap());
        for content in [&[2_u8, 0, 0][..], &[4; 40], &[255]] {
            assert!(matches!(reading.take(&section(content)), Err(SnapshotError::Corrupt)), "{content:?}");
        }
        let newer = Section { kind: COUNTS.0, version: COUNTS.1 + 1, content: Vec::new() };
        assert!(matches!(reading.take(&newer), Err(SnapshotError::OtherVersion(4))));
        let older = Section { kind: COUNTS.0, version: COUNTS.1 - 1, content: Vec::new() };
        assert!(matches!(reading.take(&older), Err(SnapshotError::OtherVersion(2))));
        let other = Section { kind: 99, version: 1, content: Vec::new() };
        assert!(!reading.take(&other).unwrap());
    }
}
