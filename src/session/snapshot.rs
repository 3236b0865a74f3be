//! Sessions and the handles of policy connections, in the form in which another process takes them over.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::table::{Endpoints, LINGER, Session, SessionId, SessionTable};
use super::{HandleState, SessionHandle, SessionPeer, Sessions};
use crate::net::clock::Now;
use crate::policy::record_snapshot::{LimitIds, SavedRecord};
use crate::policy::request::Instance;

/// All sessions.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedSessions {
    /// The newest id.
    newest: u64,
    /// Those without a policy connection in the order in which they are forgotten.
    sessions: Vec<(SessionId, SavedSession)>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedSession {
    endpoints: Endpoints,
    /// 0 while a connection is attached.
    ends: u64,
    opened: Option<u64>,
    answered: Option<u64>,
    process: Option<u32>,
    unanswered: bool,
    left_at: Option<u64>,
    instance: Option<Instance>,
    record: SavedRecord,
}

/// The handle of a policy connection.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedHandle {
    number: u64,
    opening: bool,
    current: Option<SessionId>,
}

/// Where sessions are now, by where they were.
pub type RestoredIds = HashMap<SessionId, SessionId>;

impl Sessions {
    pub fn save(&self) -> SavedSessions {
        self.lock().save()
    }

    /// Takes sessions over. Returns where they are now, for `restore_handle` and then for `linger`.
    pub fn restore(&self, saved: SavedSessions, ids: &LimitIds) -> RestoredIds {
        self.lock().restore(saved, ids)
    }

    /// The handle of a policy connection, as it was before.
    pub fn restore_handle(
        self: &Arc<Self>,
        peer: SessionPeer,
        saved: &SavedHandle,
        places: &RestoredIds,
    ) -> SessionHandle {
        let SavedHandle { number, opening, current } = *saved;
        let current = current.and_then(|place| places.get(&place)).copied();
        let mut table = self.lock();
        current.into_iter().for_each(|place| table.attach(place));
        let state = HandleState { number, peer, current, opening, last: None, repeated: false };
        SessionHandle { state, sessions: Arc::clone(self) }
    }

    /// Has sessions without a policy connection end when they would have.
    pub fn linger(&self, places: &RestoredIds, now: Now) {
        self.lock().linger(places, now.monotonic);
    }
}

impl SessionHandle {
    pub fn save(&self) -> SavedHandle {
        let HandleState { number, opening, current, .. } = self.state;
        SavedHandle { number, opening, current }
    }
}

impl SessionTable {
    pub fn save(&self) -> SavedSessions {
        let mut places: Vec<SessionId> = self.lingering.iter().map(|(_, place)| *place).collect();
        places.extend((0..self.slots.len() as u32).map(|slot| self.id(slot)));
        let known = |place: &SessionId| place.id != 0 && self.slots[place.slot as usize].id == place.id;
        let mut saved = HashSet::new();
        let places = places.into_iter().filter(known).filter(|place| saved.insert(*place));
        let session = |place: SessionId| {
            let slot = &self.slots[place.slot as usize];
            (place, SavedSession::of(slot.endpoints, &slot.session))
        };
        SavedSessions { newest: self.newest, sessions: places.map(session).collect() }
    }

    /// Takes sessions over. Until the handles of their policy connections are restored `linger` must not be called.
    pub fn restore(&mut self, saved: SavedSessions, ids: &LimitIds) -> RestoredIds {
        self.newest = self.newest.max(saved.newest);
        let mut places = RestoredIds::new();
        for (before, saved) in saved.sessions {
            let (endpoints, hash) = (saved.endpoints, self.hash(&saved.endpoints));
            let found = self.find(&endpoints, hash);
            let (id, session) = self.begin(endpoints, hash, found);
            *session = saved.restore(ids);
            places.insert(before, id);
        }
        places
    }

    /// Has the sessions of `places` that no policy connection is about end as they would have.
    pub fn linger(&mut self, places: &RestoredIds, now: u64) {
        let mut lingering: Vec<_> = Vec::new();
        for place in places.values() {
            if let Some(session) = self.session(*place).filter(|session| session.handles == 0) {
                if session.ends == 0 {
                    session.ends = now + LINGER;
                }
                lingering.push((session.ends, *place));
            }
        }
        lingering.sort_by_key(|(ends, _)| *ends);
        self.lingering.extend(lingering);
        while self.lingering.len() > self.max_lingering {
            self.drop_oldest();
        }
    }
}

impl SavedSession {
    fn of(endpoints: Endpoints, session: &Session) -> Self {
        let Session { handles, ends, opened, answered, process, unanswered, left_at, instance, .. } = *session;
        // `ends` has no meaning while a connection is attached.
        let ends = if handles == 0 { ends } else { 0 };
        let record = SavedRecord::of(&session.record);
        Self { endpoints, ends, opened, answered, process, unanswered, left_at, instance, record }
    }

    fn restore(self, ids: &LimitIds) -> Session {
        let Self { ends, opened, answered, process, unanswered, left_at, instance, record, .. } = self;
        let record = record.restore(ids);
        // Nothing was being counted when the session was handed over.
        let (handles, counting) = (0, false);
        Session { handles, ends, opened, answered, process, unanswered, left_at, counting, instance, record }
    }
}
