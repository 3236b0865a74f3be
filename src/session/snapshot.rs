//! Sessions and seats on their way into the process that takes this one's place.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use bytes::{Buf, BufMut};

use super::table::{Endpoints, LINGER, Port, Session, SessionId, Table};
use super::{Position, SessionHandle, Sessions};
use crate::net::clock::Now;
use crate::policy::record_snapshot as record;
use crate::policy::record_snapshot::Ids;
use crate::policy::request::Instance;
use crate::snapshot::fields::{put_option, take_option, take_truth};
use crate::snapshot::section::SnapshotError;

impl Sessions {
    /// Adds all sessions.
    pub fn put(&self, output: &mut Vec<u8>) {
        self.lock().put(output);
    }

    /// Takes them over, and says where they are now: for `seat_again`, and then for `linger`.
    pub fn take(&self, input: &mut &[u8], ids: &Ids) -> Result<Places, SnapshotError> {
        self.lock().take(input, ids)
    }

    /// A policy connection's place in the sessions, as it was before.
    pub fn seat_again(
        self: &Arc<Self>,
        peer: Option<IpAddr>,
        input: &mut &[u8],
        places: &Places,
    ) -> Result<SessionHandle, SnapshotError> {
        let (number, opening) = (input.try_get_u64_le()?, take_truth(input)?);
        let place = if take_truth(input)? { Some(take_place(input)?) } else { None };
        let mut table = self.lock();
        let current = place.and_then(|place| places.get(&place)).copied();
        current.into_iter().for_each(|place| table.attach(place));
        let position = Position { number, peer, current, opening, last: None, repeated: false };
        Ok(SessionHandle { position, sessions: Arc::clone(self) })
    }

    /// Has sessions that no policy connection is about any more end in their time.
    pub fn linger(&self, places: &Places, now: Now) {
        self.lock().linger(places, now.monotonic);
    }
}

impl SessionHandle {
    /// Adds it, for `seat_again`.
    pub fn put(&self, output: &mut Vec<u8>) {
        let Position { number, opening, current, .. } = &self.position;
        output.put_u64_le(*number);
        output.put_u8((*opening).into());
        output.put_u8(current.is_some().into());
        current.into_iter().for_each(|id| put_place(output, *id));
    }
}

/// Where sessions are now, by where they were.
pub type Places = HashMap<SessionId, SessionId>;

impl Table {
    /// Adds all sessions: those without a policy connection in the order in which they are forgotten.
    pub fn put(&self, output: &mut Vec<u8>) {
        output.put_u64_le(self.newest);
        let mut places: Vec<SessionId> = self.lingering.iter().map(|(_, place)| *place).collect();
        places.extend((0..self.slots.len() as u32).map(|slot| self.id(slot)));
        let known = |place: &SessionId| place.id != 0 && self.slots[place.slot as usize].id == place.id;
        let mut put = HashSet::new();
        for place in places.into_iter().filter(known).filter(|place| put.insert(*place)) {
            output.put_u8(1);
            put_place(output, place);
            let slot = &self.slots[place.slot as usize];
            slot.endpoints.put(output);
            slot.session.put(output);
        }
        output.put_u8(0);
    }

    /// Takes them over. Until their policy connections sit down again `linger` must not be called.
    pub fn take(&mut self, input: &mut &[u8], ids: &Ids) -> Result<Places, SnapshotError> {
        self.newest = self.newest.max(input.try_get_u64_le()?);
        let mut places = Places::new();
        while take_truth(input)? {
            let before = take_place(input)?;
            let endpoints = Endpoints::take(input)?;
            let session = Session::take(input, ids)?;
            let hash = self.hash(&endpoints);
            places.insert(before, self.begin(endpoints, hash, session));
        }
        Ok(places)
    }

    /// Has the sessions of `places` that no policy connection is about end as they would have.
    pub fn linger(&mut self, places: &Places, now: u64) {
        let mut left: Vec<_> = Vec::new();
        for place in places.values() {
            if let Some(session) = self.session(*place).filter(|session| session.handles == 0) {
                if session.ends == 0 {
                    session.ends = now + LINGER;
                }
                left.push((session.ends, *place));
            }
        }
        left.sort_by_key(|(ends, _)| *ends);
        self.lingering.extend(left);
        while self.lingering.len() > self.max_lingering {
            self.drop_oldest();
        }
    }
}

/// Adds a place.
pub fn put_place(output: &mut Vec<u8>, place: SessionId) {
    output.put_u32_le(place.slot);
    output.put_u64_le(place.id);
}

/// Takes one off.
pub fn take_place(input: &mut &[u8]) -> Result<SessionId, SnapshotError> {
    Ok(SessionId { slot: input.try_get_u32_le()?, id: input.try_get_u64_le()? })
}

impl Endpoints {
    fn put(&self, output: &mut Vec<u8>) {
        output.put_u128_le(self.client);
        output.put_u128_le(self.there);
        put_option(output, self.server_port.map(u64::from));
        let (kind, number) = match self.port {
            Port::Client(port) => (0, u64::from(port)),
            Port::Process(process) => (1, process),
            Port::Handle(seat) => (2, seat),
        };
        output.put_u8(kind);
        output.put_u64_le(number);
    }

    fn take(input: &mut &[u8]) -> Result<Self, SnapshotError> {
        let (client, there) = (input.try_get_u128_le()?, input.try_get_u128_le()?);
        let server_port = take_option(input)?.map(|port| port as u16);
        let port = match (input.try_get_u8()?, input.try_get_u64_le()?) {
            (0, port) => Port::Client(port as u16),
            (1, process) => Port::Process(process),
            (2, seat) => Port::Handle(seat),
            _ => return Err(SnapshotError::Corrupt),
        };
        Ok(Self { client, there, server_port, port })
    }
}

impl Session {
    fn put(&self, output: &mut Vec<u8>) {
        // `ends` has no meaning while a connection is attached; write 0.
        output.put_u64_le(if self.handles == 0 { self.ends } else { 0 });
        put_option(output, self.opened);
        output.put_u8(self.unanswered.into());
        put_option(output, self.left);
        output.put_u8(self.instance.is_some().into());
        if let Some(Instance { pid, time: (seconds, more), seqno }) = self.instance {
            [pid, seconds, more, seqno].into_iter().for_each(|part| output.put_u64_le(part));
        }
        record::put(output, &self.record);
    }

    fn take(input: &mut &[u8], ids: &Ids) -> Result<Self, SnapshotError> {
        let (ends, opened) = (input.try_get_u64_le()?, take_option(input)?);
        let (unanswered, left) = (take_truth(input)?, take_option(input)?);
        let instance = if take_truth(input)? {
            let mut part = || input.try_get_u64_le();
            Some(Instance { pid: part()?, time: (part()?, part()?), seqno: part()? })
        } else {
            None
        };
        let record = record::take(input, ids)?;
        // Nothing was being counted when it was handed over.
        Ok(Self { handles: 0, ends, opened, unanswered, left, counting: false, instance, record })
    }
}
