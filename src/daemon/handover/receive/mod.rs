//! What the program before this one has left: every socket, and what it knew beside them.
//!
//! A program of another version may have said things that mean nothing here.
//! They are passed over, one section at a time; sockets are taken over in any case.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufReader, Seek};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::Ordering;

use bytes::Buf;
use socket2::Socket;

use super::kind;
use crate::daemon::counts::{Reading, Since};
use crate::daemon::handover::transport as carrier;
use crate::engine::service::Service;
use crate::listener::{ListenError, Listener, Peer, SocketFile};
use crate::net::address::Address;
use crate::net::clock::Now;
use crate::net::secret;
use crate::net::stream::Stream;
use crate::policy::Policy;
use crate::policy::record_snapshot::Ids;
use crate::postfix::connection::ConnectionState;
use crate::postfix::suspended::SuspendedConnection;
use crate::snapshot::fields::take_bytes;
use crate::snapshot::section::{Reader, Section, SnapshotError, decode};
use crate::store::local::Table;
use crate::store::shared::backend::SavedOutage;

/// Read in pieces of this size.
const PIECE: usize = 256 * 1024;

/// All that was left.
#[derive(Debug, Default)]
pub struct Handover {
    /// The version of the program before.
    pub from: String,
    /// Since when nobody is answered, in milliseconds on the monotonic clock.
    pub begun: u64,
    /// What could not be understood.
    pub problems: Vec<String>,
    listeners: Vec<Socket>,
    connections: Vec<Socket>,
    sections: HashMap<u16, Section>,
    counts: Vec<Section>,
}

impl Handover {
    /// What is there for this process, if anything is. To be asked once, before anything is hashed.
    pub fn receive() -> Option<Self> {
        let mut inheritance = match carrier::unload() {
            Ok(descriptors) => Self::of(descriptors?),
            Err(error) => {
                let mut nothing = Self::of(Vec::new());
                nothing.problems.insert(0, format!("the sockets cannot be had: {error}"));
                nothing
            }
        };
        if let Err(damage) = inheritance.begin() {
            inheritance.problems.push(format!("who hands over: {damage}"));
        }
        Some(inheritance)
    }

    fn of(descriptors: Vec<OwnedFd>) -> Self {
        let mut inheritance = Self { begun: Now::read().monotonic, ..Self::default() };
        inheritance.sort(descriptors);
        inheritance
    }

    /// The first is what is known; of the others each says itself what it is.
    fn sort(&mut self, descriptors: Vec<OwnedFd>) {
        let mut descriptors = descriptors.into_iter();
        let known = descriptors.next();
        for socket in descriptors.map(Socket::from) {
            match socket.is_listener() {
                Ok(true) => self.listeners.push(socket),
                Ok(false) => self.connections.push(socket),
                Err(error) => self.problems.push(format!("a socket: {error}")),
            }
        }
        if let Some(known) = known
            && let Err(damage) = self.read(known.into())
        {
            self.problems.push(format!("what was known: {damage}"));
        }
    }

    fn read(&mut self, mut file: File) -> Result<(), SnapshotError> {
        file.rewind()?;
        let mut reader = Reader::begin(BufReader::with_capacity(PIECE, file))?;
        while let Some(section) = reader.next_section()? {
            if section.kind < kind::ORIGIN.0 {
                self.counts.push(section);
            } else {
                self.sections.insert(section.kind, section);
            }
        }
        Ok(())
    }

    /// The content of a section, if it is there in a version that is known here.
    fn content(&self, (kind, version): (u16, u16)) -> Result<&[u8], SnapshotError> {
        let section = self.sections.get(&kind).ok_or(SnapshotError::CutShort)?;
        if section.version != version {
            return Err(SnapshotError::Newer(section.version.into()));
        }
        Ok(&section.content)
    }

    fn begin(&mut self) -> Result<(), SnapshotError> {
        let mut content = self.content(kind::ORIGIN)?;
        let from = String::from_utf8_lossy(take_bytes(&mut content)?).into_owned();
        let begun = content.try_get_u64_le()?;
        let secret = [content.try_get_u64_le()?, content.try_get_u64_le()?];
        (self.from, self.begun) = (from, begun);
        // What is remembered of recipients and delays would mean others.
        secret::inherit(secret).then_some(()).ok_or(SnapshotError::Corrupt)
    }

    /// The listening sockets.
    pub fn listeners(&mut self) -> Result<Vec<Listener>, ListenError> {
        let mut files = self.files().unwrap_or_else(|damage| {
            self.problems.push(format!("files of sockets: {damage}"));
            HashMap::new()
        });
        let sockets = (0..).zip(std::mem::take(&mut self.listeners));
        sockets.map(|(number, socket)| Listener::inherited(socket, files.remove(&number))).collect()
    }

    /// What they were asked for by; nothing where systemd passed them. `configured` now, where that is not said.
    pub fn listen(&mut self, configured: &[Address]) -> Vec<Address> {
        let said = self.content(kind::LISTEN).and_then(|mut content| {
            let mut said = Vec::new();
            while content.has_remaining() {
                let address = str::from_utf8(take_bytes(&mut content)?).ok().and_then(|text| text.parse().ok());
                said.push(address.ok_or(SnapshotError::Corrupt)?);
            }
            Ok(said)
        });
        said.unwrap_or_else(|damage| {
            self.problems.push(format!("what to listen at: {damage}"));
            configured.to_vec()
        })
    }

    fn files(&self) -> Result<HashMap<u32, SocketFile>, SnapshotError> {
        let mut content = self.content(kind::LISTENERS)?;
        let mut files = HashMap::new();
        while content.has_remaining() {
            let number = content.try_get_u32_le()?;
            let path = OsStr::from_bytes(take_bytes(&mut content)?).into();
            files.insert(number, SocketFile::inherited(path, content.try_get_u64_le()?, content.try_get_u64_le()?));
        }
        Ok(files)
    }

    /// The counts of the limits of `policy`, and the ids these had before. What cannot be understood is left out.
    pub fn counts(&mut self, policy: &Policy, max_clients: usize, now: Now) -> (Table, Ids) {
        let mut reading = Reading::new(policy, max_clients, Since::Monotonic, now);
        for section in std::mem::take(&mut self.counts) {
            if let Err(damage) = reading.take(&section) {
                self.problems.push(format!("counts: {damage}"));
                break;
            }
        }
        reading.finish().unwrap_or_else(|| (Table::new(max_clients), HashMap::new()))
    }

    /// The policy connections as they were left; the sessions they are about, the numbers so far, and who was
    /// mentioned in the log, go to `service`.
    pub fn connections(&mut self, service: &Service, ids: &Ids, now: Now) -> Vec<SuspendedConnection<Stream>> {
        if let Err(damage) = self.statistics(service) {
            self.problems.push(format!("statistics: {damage}"));
        }
        if let Err(damage) = self.content(kind::LOG).and_then(|mut content| service.log.take(&mut content)) {
            self.problems.push(format!("log: {damage}"));
        }
        if let Err(damage) =
            self.content(kind::COMMANDS).and_then(|mut content| service.log.take_commands(&mut content))
        {
            self.problems.push(format!("commands that wait: {damage}"));
        }
        let coalesced = self.content(kind::COALESCE);
        if let Err(damage) = coalesced.and_then(|content| service.rules.load().store.coalesce().take(content)) {
            self.problems.push(format!("what coalesces: {damage}"));
        }
        match self.content(kind::OUTAGES).and_then(decode::<Vec<SavedOutage>>) {
            Ok(outages) => service.rules.load().store.restore_outages(&outages),
            Err(damage) => self.problems.push(format!("servers that are down: {damage}")),
        }
        let places = self.content(kind::SESSIONS).and_then(|mut content| service.sessions.take(&mut content, ids));
        let places = places.unwrap_or_else(|damage| {
            self.problems.push(format!("sessions: {damage}"));
            HashMap::new()
        });
        let content = self.sections.remove(&kind::CONNECTIONS.0);
        let content = content.filter(|section| section.version == kind::CONNECTIONS.1);
        let mut content = content.as_ref().map_or(&[][..], |section| &section.content);
        let mut parked = Vec::new();
        for socket in std::mem::take(&mut self.connections) {
            let one = take_bytes(&mut content);
            // Postfix may have gone meanwhile.
            let Ok((stream, peer)) = Stream::inherited(socket) else { continue };
            let peer = peer.map_or(Peer::Unix, Peer::inet);
            let known = one.and_then(|mut one| {
                let seat = service.sessions.seat_again(peer.ip(), &mut one, &places)?;
                Ok((seat, ConnectionState::take(&mut one, &service.delayed)?))
            });
            let (seat, business) = known.unwrap_or_else(|damage| {
                self.problems.push(format!("a connection: {damage}"));
                (service.sessions.attach(peer.ip()), ConnectionState::default())
            });
            parked.push(SuspendedConnection { stream, peer, session: seat, state: business });
        }
        service.sessions.linger(&places, now);
        parked
    }

    fn statistics(&self, service: &Service) -> Result<(), SnapshotError> {
        let mut content = self.content(kind::STATISTICS)?;
        let numbers: HashMap<_, _> = service.statistics.counters().map(|counter| (counter.name, counter.number)).into();
        while content.has_remaining() {
            let name = take_bytes(&mut content)?;
            let number = content.try_get_u64_le()?;
            if let Some(own) = str::from_utf8(name).ok().and_then(|name| numbers.get(name)) {
                own.fetch_add(number, Ordering::Relaxed);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
