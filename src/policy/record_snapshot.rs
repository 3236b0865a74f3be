//! What a session remembers, as bytes.

use std::collections::HashMap;

use bytes::{Buf, BufMut};

use crate::policy::limit::LimitId;
use crate::policy::record::BlacklistState;
use crate::policy::{CountRecord, Counter, Scope, SessionRecord};
use crate::snapshot::fields::{put_option, take_option, take_truth};
use crate::snapshot::section::SnapshotError;

/// The ids that limits have now, by those they had before.
pub type Ids = HashMap<LimitId, LimitId>;

/// Adds a memory.
pub fn put(output: &mut Vec<u8>, memory: &SessionRecord) {
    let admission = match memory.blacklist {
        BlacklistState::Unchecked => 0,
        BlacklistState::Passed => 1,
        BlacklistState::Delayed => 2,
        BlacklistState::TooManyDelayed => 3,
    };
    output.put_u8(admission);
    output.put_u8(memory.delayed.into());
    let more = memory.more();
    output.put_u32_le(more.len() as u32);
    for (limit, more) in more {
        output.put_u16_le(limit);
        output.put_u32_le(more);
    }
    let counts = memory.counts();
    output.put_u32_le(counts.len() as u32);
    for count in counts {
        output.put_u16_le(count.limit);
        let (kind, recipient) = match count.scope {
            Scope::Request => (0, 0),
            Scope::Session => (1, 0),
            Scope::Message => (2, 0),
            Scope::Recipient(hash) => (3, hash),
        };
        output.put_u8(kind);
        output.put_u64_le(recipient);
        put_option(output, count.hit.map(|hit| u64::from(hit.count) << 32 | u64::from(hit.left)));
        output.put_u32_le(count.hit.map_or(0, |hit| hit.added));
        output.put_u32_le(count.banned);
        output.put_u64_le(count.key);
        output.put_u8(u8::from(count.stress) | u8::from(count.passed) << 1 | u8::from(count.delay_limit) << 2);
    }
}

/// Takes one off. What limits remember that are no more is forgotten.
pub fn take(input: &mut &[u8], ids: &Ids) -> Result<SessionRecord, SnapshotError> {
    let mut memory = SessionRecord::default();
    memory.blacklist = match input.try_get_u8()? {
        0 => BlacklistState::Unchecked,
        1 => BlacklistState::Passed,
        2 => BlacklistState::Delayed,
        3 => BlacklistState::TooManyDelayed,
        _ => return Err(SnapshotError::Corrupt),
    };
    memory.delayed = take_truth(input)?;
    for _ in 0..input.try_get_u32_le()? {
        let (limit, more) = (input.try_get_u16_le()?, input.try_get_u32_le()?);
        if let Some(limit) = ids.get(&limit) {
            memory.keep_more(*limit, more);
        }
    }
    for _ in 0..input.try_get_u32_le()? {
        let limit = input.try_get_u16_le()?;
        let (kind, recipient) = (input.try_get_u8()?, input.try_get_u64_le()?);
        let scope = match kind {
            0 => Scope::Request,
            1 => Scope::Session,
            2 => Scope::Message,
            3 => Scope::Recipient(recipient),
            _ => return Err(SnapshotError::Corrupt),
        };
        let (hit, added) = (take_option(input)?, input.try_get_u32_le()?);
        let (banned, key) = (input.try_get_u32_le()?, input.try_get_u64_le()?);
        let hit = hit.map(|hit| Counter { count: (hit >> 32) as u32, left: hit as u32, added });
        let flags = input.try_get_u8()?;
        let [stress, passed, crowded] = [0, 1, 2].map(|bit| flags >> bit & 1 == 1);
        if let Some(limit) = ids.get(&limit) {
            memory.keep(CountRecord { limit: *limit, scope, hit, banned, stress, passed, delay_limit: crowded, key });
        }
    }
    Ok(memory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_memory_is_the_same_under_the_ids_of_the_limits_there_are() {
        let hit = Some(Counter { count: 3, left: 59, added: 2 });
        let counts = [
            CountRecord { passed: true, ..CountRecord::new(1, Scope::Session, hit, 0, true) },
            CountRecord { delay_limit: true, ..CountRecord::new(1, Scope::Message, None, 0, false) },
            CountRecord::new(2, Scope::Session, hit, 7, false),
            CountRecord { key: u64::MAX, ..CountRecord::new(1, Scope::Recipient(u64::MAX), hit, 0, false) },
        ];
        let mut memory = SessionRecord::default();
        (memory.blacklist, memory.delayed) = (BlacklistState::Passed, true);
        memory.keep_more(1, 7);
        counts.iter().for_each(|count| memory.keep(*count));
        let mut bytes = Vec::new();
        put(&mut bytes, &memory);
        let taken = take(&mut bytes.as_slice(), &HashMap::from([(1, 5)])).unwrap();
        assert_eq!((taken.blacklist, taken.delayed, taken.recipients(5)), (BlacklistState::Passed, true, 8));
        for count in counts {
            let expected = (count.limit == 1).then_some(CountRecord { limit: 5, ..count });
            assert_eq!(taken.find(5, count.scope).filter(|_| count.limit == 1), expected);
        }
        assert_eq!(taken.counts().len(), 3);
        for length in 0..bytes.len() {
            assert!(take(&mut &bytes[..length], &HashMap::new()).is_err(), "{length}");
        }
    }
}
