//! The counts of this process as sections, and as a table again.
//!
//! What a number in the table stands for is known to one process only: texts
//! are hashed under its secret, limits have the ids it gave them. So the first
//! section says both, and when it was; a count of a limit that is no more is
//! left out, and none is ever taken for another limit's.

use std::io::{self, Write};

use bytes::{Buf, BufMut};

use crate::engine::overrides::snapshot as words;
use crate::net::clock::Now;
use crate::policy::Policy;
use crate::policy::record_snapshot::Ids;
use crate::snapshot::section::{Section, SnapshotError, Writer};
use crate::store::local::counter_id::CounterId;
use crate::store::local::{RestoredEntry, Table};

/// When the counts were taken, their secret, and their limits.
const ORIGIN: (u16, u16) = (1, 1);

/// Some counts.
const COUNTS: (u16, u16) = (2, 2);

/// What administrators said of netblocks.
const SAID: (u16, u16) = (3, 1);

/// The most words of a subject.
const WORDS: usize = 5;

/// Writes the counts of the limits of `policy`, and says how many there are. Requests go on meanwhile: each
/// count is one it had at some time between the beginning and the end.
pub fn write(writer: &mut Writer<impl Write>, policy: &Policy, table: &Table, now: Now) -> io::Result<u64> {
    let mut content = Vec::new();
    content.put_u64_le(now.unix_ms);
    content.put_u64_le(now.monotonic);
    table.secret().iter().for_each(|half| content.put_u64_le(*half));
    table.widths().iter().for_each(|entries| content.put_u64_le(*entries as u64));
    for (identity, id) in policy.identities() {
        content.put_u16_le(id);
        content.put_u32_le(identity.len() as u32);
        content.put_slice(identity.as_bytes());
    }
    writer.add(ORIGIN.0, ORIGIN.1, &content)?;
    content.clear();
    words::put(&mut content, &policy.overrides().list());
    writer.add(SAID.0, SAID.1, &content)?;
    let (mut counts, mut written) = (Vec::new(), 0);
    for part in 0..Table::PARTS {
        counts.clear();
        content.clear();
        table.keep(part, now.monotonic, &mut counts);
        if counts.is_empty() {
            continue;
        }
        counts.iter().for_each(|kept| put(&mut content, kept, now));
        writer.add(COUNTS.0, COUNTS.1, &content)?;
        written += counts.len() as u64;
    }
    Ok(written)
}

fn put(content: &mut Vec<u8>, kept: &RestoredEntry, now: Now) {
    let words = kept.subject.words();
    content.put_u8(words.len() as u8);
    words.iter().for_each(|word| content.put_u32_le(*word));
    content.put_u32_le(kept.count);
    content.put_u8(kept.over.into());
    content.put_u64_le(kept.ends.saturating_sub(now.monotonic));
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
pub struct Reading<'p> {
    policy: &'p Policy,
    max_clients: usize,
    since: Since,
    now: Now,
    origin: Option<Origin>,
}

#[derive(Debug)]
struct Origin {
    table: Table,
    /// Milliseconds since then.
    elapsed: u64,
    ids: Ids,
}

impl<'p> Reading<'p> {
    /// For the limits of a policy; a table of at most `max_clients`.
    pub fn new(policy: &'p Policy, max_clients: usize, since: Since, now: Now) -> Self {
        Self { policy, max_clients, since, now, origin: None }
    }

    /// Takes a section, if it is about counts. Says whether it was.
    pub fn take(&mut self, section: &Section) -> Result<bool, SnapshotError> {
        let known = match section.kind {
            kind if kind == ORIGIN.0 => ORIGIN.1,
            kind if kind == COUNTS.0 => COUNTS.1,
            kind if kind == SAID.0 => SAID.1,
            _ => return Ok(false),
        };
        if section.version != known {
            return Err(SnapshotError::Newer(section.version.into()));
        }
        if section.kind == ORIGIN.0 {
            self.origin = Some(self.origin(&section.content)?);
        } else if section.kind == SAID.0 {
            self.policy.overrides().set(words::take(&section.content)?, self.now);
        } else {
            let origin = self.origin.as_ref().ok_or(SnapshotError::Corrupt)?;
            origin.take_in(&section.content, self.now)?;
        }
        Ok(true)
    }

    /// Seconds since they were taken.
    pub fn age(&self) -> u64 {
        self.origin.as_ref().map_or(0, |origin| origin.elapsed / 1000)
    }

    /// The table, and the ids of its limits by those they had; `None` if nothing said what the counts mean.
    pub fn finish(self) -> Option<(Table, Ids)> {
        self.origin.map(|origin| (origin.table, origin.ids))
    }

    fn origin(&self, mut content: &[u8]) -> Result<Origin, SnapshotError> {
        let (unix_ms, monotonic) = (content.try_get_u64_le()?, content.try_get_u64_le()?);
        let secret = [content.try_get_u64_le()?, content.try_get_u64_le()?];
        let mut entries = || content.try_get_u64_le().map(|entries| entries as usize);
        let widths = [entries()?, entries()?, entries()?];
        let mut ids = Ids::new();
        while content.has_remaining() {
            let id = content.try_get_u16_le()?;
            let length = content.try_get_u32_le()? as usize;
            let identity = content.split_off(..length).ok_or(SnapshotError::Corrupt)?;
            if let Some(now) = str::from_utf8(identity).ok().and_then(|identity| self.policy.id(identity)) {
                ids.insert(id, now);
            }
        }
        let elapsed = match self.since {
            Since::Unix => self.now.unix_ms.saturating_sub(unix_ms),
            Since::Monotonic => self.now.monotonic.saturating_sub(monotonic),
        };
        let table = Table::with_secret(self.max_clients, secret);
        table.reserve(widths);
        Ok(Origin { table, elapsed, ids })
    }
}

impl Origin {
    fn take_in(&self, mut content: &[u8], now: Now) -> Result<(), SnapshotError> {
        while content.has_remaining() {
            let mut words = [0; WORDS];
            let words = words.get_mut(..content.try_get_u8()?.into()).ok_or(SnapshotError::Corrupt)?;
            for word in words.iter_mut() {
                *word = content.try_get_u32_le()?;
            }
            let subject = CounterId::of_words(words).ok_or(SnapshotError::Corrupt)?;
            let (count, over) = (content.try_get_u32_le()?, content.try_get_u8()? != 0);
            let left = content.try_get_u64_le()?.saturating_sub(self.elapsed);
            let Some(limit) = self.ids.get(&subject.limit()) else {
                continue;
            };
            let ends = now.monotonic.saturating_add(left);
            self.table.insert_restored(
                &RestoredEntry { subject: subject.of_limit(*limit), count, over, ends },
                now.monotonic,
            );
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
    use crate::snapshot::section::Reader;

    fn policy(toml: &str) -> Policy {
        Policy::new(config(toml).policy(), None)
    }

    fn config(toml: &str) -> Config {
        Config::parse("connshaper.toml".as_ref(), toml).unwrap()
    }

    /// What the limit of a name counts of a client, as the table of this policy knows it.
    fn subject(policy: &Policy, table: &Table, name: &str, purpose: CounterKind) -> CounterId {
        let limit: &Limit = policy.limits().iter().find(|limit| limit.name == name).unwrap();
        let part = KeyPart::client([192, 0, 2, 1].into(), 32, 64);
        table.subject(Key { limit, part: &part, kind: purpose })
    }

    fn written(policy: &Policy, table: &Table, now: Now) -> Vec<u8> {
        let mut writer = Writer::begin(Vec::new()).unwrap();
        write(&mut writer, policy, table, now).unwrap();
        writer.finish().unwrap()
    }

    fn read(bytes: &[u8], policy: &Policy, now: Now) -> Table {
        let (mut reader, mut reading) = (Reader::begin(bytes).unwrap(), Reading::new(policy, 1000, Since::Unix, now));
        while let Some(section) = reader.next_section().unwrap() {
            assert!(reading.take(&section).unwrap());
        }
        reading.finish().unwrap().0
    }

    const THREE: &str = "[limit.a]\nthreshold = 2\n[limit.b]\nthreshold = 3\n[limit.c]\nthreshold = 4\n";
    const NAMES: [&str; 3] = ["a", "b", "c"];

    #[test]
    fn counts_are_those_of_the_same_limits_whatever_ids_these_have() {
        let (before, table) = (policy(THREE), Table::new(1000));
        let start = Now::simulated(7_777);
        for (name, count) in NAMES.iter().zip(1..) {
            for purpose in [CounterKind::Window, CounterKind::Ban] {
                table.hit(subject(&before, &table, name, purpose), count, 60_000, 2, start.monotonic);
            }
        }
        let bytes = written(&before, &table, start);
        // The middle one is gone, the order is another, and there is a new one before them.
        let after = policy("[limit.new]\nthreshold = 9\n[limit.c]\nthreshold = 9\n[limit.a]\nthreshold = 9\n");
        let now = Now::simulated(17_777);
        let table = read(&bytes, &after, now);
        assert_eq!(table.len(), 4);
        for (name, count) in [("a", Some(1)), ("c", Some(3)), ("new", None)] {
            for purpose in [CounterKind::Window, CounterKind::Ban] {
                let hit = table.peek(subject(&after, &table, name, purpose), now.monotonic);
                assert_eq!(hit.map(|hit| hit.count), count, "{name} {purpose:?}");
                assert!(hit.is_none_or(|hit| hit.left_seconds() == 50 || hit.left_seconds() == 51), "{hit:?}");
            }
        }
    }

    #[test]
    fn a_limit_that_counts_something_else_now_begins_anew() {
        let (before, table, now) = (policy(THREE), Table::new(1000), Now::simulated(0));
        table.hit(subject(&before, &table, "a", CounterKind::Window), 2, 60_000, 2, 0);
        let bytes = written(&before, &table, now);
        let after = policy("[limit.a]\nthreshold = 2\ncount = \"messages\"\n");
        assert!(read(&bytes, &after, now).is_empty());
    }

    #[test]
    fn a_clock_that_was_set_back_prolongs_nothing_and_one_that_went_on_ends_what_is_over() {
        let (policy, table) = (policy(THREE), Table::new(1000));
        let start = Now { monotonic: 5_000_000, unix_ms: 1_700_000_000_000 };
        let subject = subject(&policy, &table, "a", CounterKind::Window);
        table.hit(subject, 2, 60_000, 2, start.monotonic - 20_000);
        let bytes = written(&policy, &table, start);
        for (step, left) in [(-86_400_000, Some(40)), (0, Some(40)), (10_000, Some(30)), (40_000, None)] {
            // Another process, whose monotonic clock has another zero.
            let now = Now { monotonic: 100, unix_ms: start.unix_ms.saturating_add_signed(step) };
            let hit = read(&bytes, &policy, now).peek(subject, now.monotonic);
            assert_eq!(hit.map(|hit| hit.left_seconds()), left, "{step}");
        }
    }

    #[test]
    fn counts_that_nobody_says_the_meaning_of_are_corrupt() {
        let policy = policy(THREE);
        let mut reading = Reading::new(&policy, 1000, Since::Unix, Now::simulated(0));
        let section = |content: &[u8]| Section { kind: COUNTS.0, version: COUNTS.1, content: content.to_vec() };
        assert!(matches!(reading.take(&section(&[2, 0, 0])), Err(SnapshotError::Corrupt)));
        let origin = Section { kind: ORIGIN.0, version: ORIGIN.1, content: vec![0; 56] };
        assert!(reading.take(&origin).unwrap());
        for content in [&[2_u8, 0, 0][..], &[4; 40], &[255]] {
            assert!(matches!(reading.take(&section(content)), Err(SnapshotError::Corrupt)), "{content:?}");
        }
        let newer = Section { kind: COUNTS.0, version: COUNTS.1 + 1, content: Vec::new() };
        assert!(matches!(reading.take(&newer), Err(SnapshotError::Newer(3))));
        let other = Section { kind: 99, version: 1, content: Vec::new() };
        assert!(!reading.take(&other).unwrap());
    }
}
