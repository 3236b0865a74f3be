//! The sessions of all policy connections, found by their endpoints or by their id.
//!
//! A session keeps its slot while a policy connection is about it, so that
//! connection reaches it without a search; the index serves the others. Slots
//! are reused, so nothing is allocated once the table has reached its peak size.

use std::collections::VecDeque;
use std::hash::{BuildHasher, Hasher};
use std::net::IpAddr;

use foldhash::fast::FixedState;
use hashbrown::HashTable;
use serde::{Deserialize, Serialize};

use super::unsent::Unsent;
use crate::net::clock::Now;
use crate::net::secret;
use crate::policy::SessionRecord;
use crate::policy::attribute::Attribute;
use crate::policy::message::{HeldHits, MessageProgress};
use crate::policy::request::{Instance, Request};

/// How many milliseconds a session outlives its last policy connection: Postfix may close an idle one in mid-session.
pub const LINGER: u64 = 300_000;

/// What a session is found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoints {
    /// Addresses are kept as IPv6, so that one comparison serves both families.
    pub(super) client: u128,
    pub(super) server: u128,
    pub(super) peer: u128,
    pub(super) server_port: Option<u16>,
    pub(super) discriminator: Discriminator,
}

/// What tells the sessions of one client address apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Discriminator {
    /// The client's port.
    Port(u16),
    /// Postfix before 3.0 tells no port; the smtpd process is the next best.
    Process(u64),
    /// Nor is there a process id before the first MAIL command, so only its own policy connection finds the session.
    Handle(u64),
}

impl Endpoints {
    /// `server` is what the client connected to, if Postfix tells it. `peer` is the host that asks: several may use one
    /// server address, behind a translation of addresses or each in a container.
    pub fn new(
        client: IpAddr,
        discriminator: Discriminator,
        server: Option<(IpAddr, u16)>,
        peer: Option<IpAddr>,
    ) -> Self {
        let bits = |address: IpAddr| match address {
            IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
            IpAddr::V6(address) => address.to_bits(),
        };
        // This host may ask over either family and over a unix socket.
        let peer = peer.filter(|peer| !peer.is_loopback()).map_or(0, bits);
        let server_port = server.map(|(_, port)| port);
        let server = server.map_or(0, |(address, _)| bits(address));
        Self { client: bits(client), server, peer, server_port, discriminator }
    }

    /// Clients choose their addresses and ports, so the hash has a secret. It need not withstand more: the table has at
    /// most two sessions for each policy connection.
    fn hash(&self, secret: &FixedState) -> u64 {
        let (kind, number) = match self.discriminator {
            Discriminator::Port(port) => (0, u64::from(port)),
            Discriminator::Process(process) => (1, process),
            Discriminator::Handle(handle) => (2, handle),
        };
        let mut hasher = secret.build_hasher();
        for address in [self.client, self.server, self.peer] {
            hasher.write_u128(address);
        }
        hasher.write_u64(number);
        hasher.write_u64(kind << 32 | u64::from(self.server_port.unwrap_or(0)));
        hasher.finish()
    }
}

/// One SMTP session.
#[derive(Debug, Default)]
pub struct Session {
    /// Open policy connections whose current session this is.
    pub(super) handles: u32,
    /// When it is forgotten, once there are none.
    pub(super) ends: u64,
    /// When its CONNECT or XCLIENT came.
    pub opened: Option<u64>,
    /// When the last answer to that was written.
    pub answered: Option<u64>,
    /// The process that asked first, over a unix socket.
    pub process: Option<u32>,
    /// The policy connection that asked closed before our answer was written, so Postfix will ask again.
    pub unanswered: bool,
    /// When a policy connection closed after it had asked about the beginning only: the answer may have been lost.
    pub left_at: Option<u64>,
    /// Its hits are on their way to the store.
    pub counting: bool,
    /// The newest message.
    pub instance: Option<Instance>,
    /// What it has been judged for.
    pub record: SessionRecord,
}

impl Session {
    /// Makes it an empty session, in its place: a session is large, and most requests begin one.
    fn clear(&mut self) {
        let Self { handles, ends, opened, answered, process, unanswered, left_at, counting, instance, record } = self;
        (*handles, *ends, *unanswered, *counting) = (0, 0, false, false);
        (*opened, *answered, *process, *left_at, *instance) = (None, None, None, None, None);
        record.clear();
    }
}

/// Where a session is, as long as it is the same session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SessionId {
    pub(super) slot: u32,
    pub(super) id: u64,
}

/// All sessions known to this process.
#[derive(Debug)]
pub struct SessionTable {
    pub(super) slots: Vec<SessionSlot>,
    pub(super) free: Vec<u32>,
    pub(super) index: HashTable<u32>,
    pub(super) secret: FixedState,
    /// Sessions whose policy connections are all closed, in the order of their end.
    pub(super) lingering: VecDeque<(u64, SessionId)>,
    pub(super) max_lingering: usize,
    pub(super) newest: u64,
    /// Finds messages that end before they are sent.
    pub(super) unsent: Unsent,
    /// Hits for their recipients, to take back with the next request, or once a second.
    pub(super) unsent_hits: Vec<HeldHits>,
}

#[derive(Debug)]
pub(super) struct SessionSlot {
    /// 0: no session is here.
    pub(super) id: u64,
    pub(super) hash: u64,
    pub(super) endpoints: Endpoints,
    pub(super) session: Session,
}

impl SessionTable {
    /// An empty table that keeps at most `max_lingering` sessions without a policy connection.
    pub fn new(max_lingering: usize) -> Self {
        let [seed, _] = secret::random();
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            index: HashTable::new(),
            secret: FixedState::with_seed(seed),
            lingering: VecDeque::new(),
            max_lingering,
            newest: 0,
            unsent: Unsent::default(),
            unsent_hits: Vec::new(),
        }
    }

    /// Sessions known.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// A number that was never given before.
    pub fn next_id(&mut self) -> u64 {
        self.newest += 1;
        self.newest
    }

    /// The hash for `find` and `begin`, made once for both.
    pub fn hash(&self, endpoints: &Endpoints) -> u64 {
        endpoints.hash(&self.secret)
    }

    /// A hash of the recipient of a request. Collisions would only make the diagnosis of duplicate queries wrong, so
    /// the fast hash will do.
    pub fn hash_recipient(&self, request: &Request) -> u64 {
        self.secret.hash_one(request.value(Attribute::Recipient))
    }

    /// The session between these endpoints.
    pub fn find(&self, endpoints: &Endpoints, hash: u64) -> Option<SessionId> {
        let slot = self.index.find(hash, |slot| self.slots[*slot as usize].endpoints == *endpoints);
        slot.map(|slot| self.id(*slot))
    }

    /// The endpoints of a session that is still known.
    pub fn endpoints(&self, id: SessionId) -> Option<&Endpoints> {
        self.slots.get(id.slot as usize).filter(|slot| slot.id == id.id).map(|slot| &slot.endpoints)
    }

    /// A session that is still known.
    pub fn session(&mut self, id: SessionId) -> Option<&mut Session> {
        self.slots.get_mut(id.slot as usize).filter(|slot| slot.id == id.id).map(|slot| &mut slot.session)
    }

    /// Shows every session with its client.
    pub fn each(&mut self, mut show: impl FnMut(IpAddr, &mut Session)) {
        for slot in self.slots.iter_mut().filter(|slot| slot.id != 0) {
            show(IpAddr::V6(slot.endpoints.client.into()).to_canonical(), &mut slot.session);
        }
    }

    /// Begins a session, in place of `found`, the one between the same endpoints, if that has not ended since.
    pub fn begin(&mut self, endpoints: Endpoints, hash: u64, found: Option<SessionId>) -> (SessionId, &mut Session) {
        let id = self.next_id();
        if let Some(known) = found.filter(|known| self.endpoints(*known).is_some()) {
            self.end_message(known);
            return self.renew(known.slot, id);
        }
        let slot = match self.free.pop() {
            Some(slot) => {
                let free = &mut self.slots[slot as usize];
                (free.hash, free.endpoints) = (hash, endpoints);
                slot
            }
            None => {
                self.slots.push(SessionSlot { id, hash, endpoints, session: Session::default() });
                u32::try_from(self.slots.len() - 1).expect("there are fewer sessions than file descriptors")
            }
        };
        let slots = &self.slots;
        self.index.insert_unique(hash, slot, |slot| slots[*slot as usize].hash);
        self.renew(slot, id)
    }

    /// Puts a new session into a slot.
    fn renew(&mut self, slot: u32, id: u64) -> (SessionId, &mut Session) {
        let SessionSlot { id: its_id, session, .. } = &mut self.slots[slot as usize];
        *its_id = id;
        session.clear();
        (SessionId { slot, id }, session)
    }

    /// Attaches a policy connection to a session.
    pub fn attach(&mut self, id: SessionId) {
        if let Some(session) = self.session(id) {
            session.handles += 1;
        }
    }

    /// Detaches a policy connection. The last one ends the session: at once if it has moved
    /// to another session, and [`LINGER`] after `closed` if it has closed.
    pub fn detach(&mut self, id: SessionId, closed: Option<u64>) {
        let Some(session) = self.session(id) else {
            return;
        };
        session.handles -= 1;
        if session.handles > 0 {
            return;
        }
        let Some(closed) = closed else {
            return self.remove(id);
        };
        session.ends = closed + LINGER;
        let ends = session.ends;
        self.end_message(id);
        self.lingering.push_back((ends, id));
        if self.lingering.len() > self.max_lingering {
            self.drop_oldest();
        }
    }

    /// Forgets the sessions that have lingered long enough.
    pub fn drop_ended(&mut self, now: u64) {
        while self.lingering.front().is_some_and(|(ends, _)| *ends <= now) {
            self.drop_oldest();
        }
    }

    pub(super) fn drop_oldest(&mut self) {
        // A policy connection may have attached to it since, and may have closed again.
        if let Some((ends, id)) = self.lingering.pop_front()
            && self.session(id).is_some_and(|session| session.handles == 0 && session.ends == ends)
        {
            self.remove(id);
        }
    }

    /// The message of a session has ended, or is taken to have.
    pub(super) fn end_message(&mut self, id: SessionId) {
        let Self { slots, unsent, unsent_hits, .. } = self;
        let SessionSlot { endpoints, session, .. } = &mut slots[id.slot as usize];
        if session.record.message().is_some() {
            unsent_hits.extend(unsent.end(endpoints, &mut session.record));
        }
    }

    /// Ends messages about which Postfix has asked nothing for too long.
    pub(super) fn end_silent_messages(&mut self, now: Now) {
        let Self { slots, unsent, unsent_hits, .. } = self;
        for SessionSlot { endpoints, session, .. } in slots.iter_mut().filter(|slot| slot.id != 0) {
            if session.record.message().is_some() {
                unsent_hits.extend(unsent.end_silent(endpoints, &mut session.record, now));
            }
        }
    }

    /// Notes how far a request says that the message of a session has come.
    pub(super) fn follow_message(&mut self, id: SessionId, request: &Request, progress: MessageProgress, now: Now) {
        let Self { slots, unsent, unsent_hits, .. } = self;
        let Some(SessionSlot { endpoints, session, .. }) =
            slots.get_mut(id.slot as usize).filter(|slot| slot.id == id.id)
        else {
            return;
        };
        let Some(mut message) = session.record.message().filter(|message| message.holds()) else {
            return;
        };
        let service = super::service(request);
        match progress {
            MessageProgress::Recipients => message.name_recipient(service, now),
            MessageProgress::Data | MessageProgress::Whole => {
                let (recipients, only) = super::recipients(request);
                // What was held for recipients that it does not go to.
                unsent_hits.extend(message.proceed(progress, recipients, only));
                unsent.proceeded(endpoints, service, progress);
            }
        }
    }

    fn remove(&mut self, id: SessionId) {
        self.end_message(id);
        let hash = self.slots[id.slot as usize].hash;
        if let Ok(entry) = self.index.find_entry(hash, |slot| *slot == id.slot) {
            entry.remove();
            self.slots[id.slot as usize].id = 0;
            self.free.push(id.slot);
        }
    }

    pub(super) fn id(&self, slot: u32) -> SessionId {
        SessionId { slot, id: self.slots[slot as usize].id }
    }
}
