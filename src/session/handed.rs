//! Sessions and seats on their way into the process that takes this one's place.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::{Buf, BufMut};

use super::table::handed::{Places, put_place, take_place};
use super::{SessionHandle, Sessions};
use crate::net::clock::Now;
use crate::policy::record_snapshot::Ids;
use crate::snapshot::fields::take_truth;
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
        Ok(SessionHandle { number, peer, current, opening, last: None, repeated: false, sessions: Arc::clone(self) })
    }

    /// Has sessions that no policy connection is about any more end in their time.
    pub fn linger(&self, places: &Places, now: Now) {
        self.lock().linger(places, now.monotonic);
    }
}

impl SessionHandle {
    /// Adds it, for `seat_again`.
    pub fn put(&self, output: &mut Vec<u8>) {
        output.put_u64_le(self.number);
        output.put_u8(self.opening.into());
        output.put_u8(self.current.is_some().into());
        self.current.into_iter().for_each(|place| put_place(output, place));
    }
}
