//! A session's record in the form in which it is handed over.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::policy::limit::LimitId;
use crate::policy::record::BlacklistState;
use crate::policy::{CountRecord, SessionRecord};

/// The ids that limits have now, by those they had before.
pub type Ids = HashMap<LimitId, LimitId>;

/// The record of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedRecord {
    blacklist: BlacklistState,
    delayed: bool,
    messages: u32,
    /// Recipients that are too many to be remembered, by limit.
    more: Vec<(LimitId, u32)>,
    counts: Vec<CountRecord>,
}

impl SavedRecord {
    pub fn of(record: &SessionRecord) -> Self {
        let SessionRecord { blacklist, delayed, messages, .. } = *record;
        Self { blacklist, delayed, messages, more: record.more(), counts: record.counts() }
    }

    /// The record. What limits remember that no longer exist is dropped.
    pub fn restore(self, ids: &Ids) -> SessionRecord {
        let mut record = SessionRecord::default();
        (record.blacklist, record.delayed, record.messages) = (self.blacklist, self.delayed, self.messages);
        for (limit, more) in self.more {
            ids.get(&limit).into_iter().for_each(|limit| record.keep_more(*limit, more));
        }
        for count in self.counts {
            ids.get(&count.limit).into_iter().for_each(|limit| record.keep(CountRecord { limit: *limit, ..count }));
        }
        record
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Counter, Scope};
    use crate::snapshot::section::{decode, encode};

    #[test]
    fn a_record_is_the_same_under_the_ids_of_the_limits_there_are() {
        let hit = Some(Counter { count: 3, left: 59, added: 2 });
        let counts = [
            CountRecord { passed: true, ..CountRecord::new(1, Scope::Session, hit, 0, true) },
            CountRecord { delay_limit: true, ..CountRecord::new(1, Scope::Message, None, 0, false) },
            CountRecord::new(2, Scope::Session, hit, 7, false),
            CountRecord {
                key: u64::MAX,
                at: 7,
                messages: 9,
                ..CountRecord::new(1, Scope::Recipient(u64::MAX), hit, 0, false)
            },
        ];
        let mut record = SessionRecord::default();
        (record.blacklist, record.delayed, record.messages) = (BlacklistState::PassedBefore, true, 70);
        record.keep_more(1, 7);
        counts.iter().for_each(|count| record.keep(*count));
        let bytes = encode(&SavedRecord::of(&record));
        let restored = decode::<SavedRecord>(&bytes).unwrap().restore(&HashMap::from([(1, 5)]));
        let state = (restored.blacklist, restored.delayed, restored.messages, restored.recipients(5));
        assert_eq!(state, (BlacklistState::PassedBefore, true, 70, 8));
        for count in counts {
            let expected = (count.limit == 1).then_some(CountRecord { limit: 5, ..count });
            assert_eq!(restored.find(5, count.scope).filter(|_| count.limit == 1), expected);
        }
        assert_eq!(restored.counts().len(), 3);
        for length in 0..bytes.len() {
            assert!(decode::<SavedRecord>(&bytes[..length]).is_err(), "{length}");
        }
    }
}
