//! A session's record in the form in which it is handed over.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::policy::limit::{CounterLimitId, SessionLimitId};
use crate::policy::message::MessageRecord;
use crate::policy::record::BlacklistState;
use crate::policy::{CountRecord, SessionRecord};

/// The ids of both sorts that limits have now, by those they had before.
#[derive(Debug, Default)]
pub struct LimitIds(HashMap<u16, u16>);

impl LimitIds {
    pub fn counter(&self, before: CounterLimitId) -> Option<CounterLimitId> {
        self.0.get(&before.0).copied().map(CounterLimitId)
    }

    pub fn session(&self, before: SessionLimitId) -> Option<SessionLimitId> {
        self.0.get(&before.0).copied().map(SessionLimitId)
    }
}

impl FromIterator<(u16, u16)> for LimitIds {
    /// Takes pairs of an id from before and the one that it is now.
    fn from_iter<T: IntoIterator<Item = (u16, u16)>>(ids: T) -> Self {
        Self(ids.into_iter().collect())
    }
}

/// The record of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedRecord {
    blacklist: BlacklistState,
    delayed: bool,
    messages: u32,
    counts: Vec<CountRecord>,
    message: Option<MessageRecord>,
}

impl SavedRecord {
    pub fn of(record: &SessionRecord) -> Self {
        let SessionRecord { blacklist, delayed, messages, .. } = *record;
        let message = record.message().map(|message| message.clone());
        Self { blacklist, delayed, messages, counts: record.counts_of_all(), message }
    }

    /// The record. What limits remember that no longer exist is dropped.
    pub fn restore(self, ids: &LimitIds) -> SessionRecord {
        let mut record = SessionRecord::default();
        (record.blacklist, record.delayed, record.messages) = (self.blacklist, self.delayed, self.messages);
        for count in self.counts {
            ids.session(count.limit).into_iter().for_each(|limit| record.keep(CountRecord { limit, ..count }));
        }
        self.message.into_iter().for_each(|message| record.restore_message(message.renamed(ids)));
        record
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::key::KeyPart;
    use crate::policy::message::HeldHits;
    use crate::policy::{CounterKind, CounterValue, Scope};
    use crate::snapshot::section::{decode, encode};

    #[test]
    fn ids_are_saved_as_their_numbers() {
        assert_eq!(encode(&CounterLimitId(300)), encode(&300_u16));
        assert_eq!(encode(&SessionLimitId(300)), encode(&300_u16));
    }

    #[test]
    fn a_record_is_the_same_under_the_ids_of_the_limits_there_are() {
        let hit = Some(CounterValue { count: 3, left: 59, added: 2 });
        let counts = [
            CountRecord { passed: true, ..CountRecord::new(SessionLimitId(1), Scope::Session, hit, 0, true) },
            CountRecord { delay_limit: true, ..CountRecord::new(SessionLimitId(1), Scope::Message, None, 0, false) },
            CountRecord::new(SessionLimitId(2), Scope::Session, hit, 7, false),
            CountRecord {
                key: u64::MAX,
                at: 7,
                messages: 9,
                ..CountRecord::new(SessionLimitId(1), Scope::Recipient(u64::MAX), hit, 0, false)
            },
        ];
        let mut record = SessionRecord::default();
        (record.blacklist, record.delayed, record.messages) = (BlacklistState::PassedBefore, true, 70);
        counts.iter().for_each(|count| record.keep(*count));
        let held = |limit| HeldHits {
            passed: 1,
            limit: CounterLimitId(limit),
            memory_id: SessionLimitId(1),
            part: KeyPart::group("a"),
            kind: CounterKind::Slot(7),
            amount: 1,
            recipient: None,
            ends: 60_000,
            count_unsent: Some(false),
        };
        record.message_mut().cover(SessionLimitId(1), 7);
        [1, 3].into_iter().for_each(|limit| record.message_mut().hold(SessionLimitId(1), Some(held(limit))));
        record.message_mut().violate(SessionLimitId(1), 8);
        let bytes = encode(&SavedRecord::of(&record));
        let restored = decode::<SavedRecord>(&bytes).unwrap().restore(&LimitIds::from_iter([(1, 5), (3, 6)]));
        let state = (restored.blacklist, restored.delayed, restored.messages, restored.covered(SessionLimitId(5)));
        assert_eq!(state, (BlacklistState::PassedBefore, true, 70, 9));
        let mut message = restored.message().unwrap().clone();
        assert!(message.has_violated(SessionLimitId(5), 8));
        assert_eq!(
            message.give_up(|_| true),
            [5, 6].map(|limit| HeldHits { memory_id: SessionLimitId(5), ..held(limit) })
        );
        for count in counts {
            let expected =
                (count.limit == SessionLimitId(1)).then_some(CountRecord { limit: SessionLimitId(5), ..count });
            assert_eq!(
                restored.find(SessionLimitId(5), count.scope).filter(|_| count.limit == SessionLimitId(1)),
                expected
            );
        }
        assert_eq!(restored.counts_of_all().len(), 2);
        for length in 0..bytes.len() {
            assert!(decode::<SavedRecord>(&bytes[..length]).is_err(), "{length}");
        }
    }
}
