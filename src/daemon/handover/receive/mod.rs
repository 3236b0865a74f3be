//! Receives the sockets and the state of the old program.
//!
//! A program of another version may have sent sections that this one does not know.
//! Each of them is skipped; sockets are taken over in any case.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Seek};
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use socket2::Socket;

use super::{HandoverOrigin, SavedSocketFile, kind};
use crate::daemon::counts::{CountsReading, RestoredCounts, Since};
use crate::daemon::handover::transport;
use crate::engine::service::Service;
use crate::listener::{ListenError, Listener, Peer, SocketFile};
use crate::net::address::Address;
use crate::net::clock::Now;
use crate::net::secret;
use crate::net::stream::Stream;
use crate::policy::Policy;
use crate::policy::record_snapshot::LimitIds;
use crate::postfix::connection::{ConnectionState, PolicyConnection};
use crate::postfix::suspended::SavedConnection;
use crate::session::SessionPeer;
use crate::session::snapshot::{RestoredIds, SavedHandle};
use crate::snapshot::section::{Section, SectionReader, SnapshotError, decode};
use crate::store::shared::backend::SavedOutage;

/// Read in pieces of this size.
const PIECE: usize = 256 * 1024;

/// All that the old program has handed over.
#[derive(Debug, Default)]
pub struct Handover {
    /// The version of the old program.
    pub from: String,
    /// Since when nobody is answered, in milliseconds on the monotonic clock.
    pub begun: u64,
    /// Parts that could not be read.
    pub problems: Vec<String>,
    listeners: Vec<Socket>,
    connections: Vec<Socket>,
    sections: HashMap<u16, Section>,
    counts: Vec<Section>,
}

impl Handover {
    /// The handover for this process, if there is one. Called once, before anything is hashed.
    pub fn receive() -> Option<Self> {
        let mut handover = match transport::unload() {
            Ok(descriptors) => Self::of(descriptors?),
            Err(error) => {
                let mut nothing = Self::of(Vec::new());
                nothing.problems.insert(0, format!("the sockets cannot be had: {error}"));
                nothing
            }
        };
        if let Err(damage) = handover.begin() {
            handover.problems.push(format!("who hands over: {damage}"));
        }
        Some(handover)
    }

    fn of(descriptors: Vec<OwnedFd>) -> Self {
        let mut handover = Self { begun: Now::read().monotonic, ..Self::default() };
        handover.sort(descriptors);
        handover
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
        let mut reader = SectionReader::begin(BufReader::with_capacity(PIECE, file))?;
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
            return Err(SnapshotError::OtherVersion(section.version.into()));
        }
        Ok(&section.content)
    }

    /// The value of a section.
    fn value<'s, T: Deserialize<'s>>(&'s self, kind: (u16, u16)) -> Result<T, SnapshotError> {
        decode(self.content(kind)?)
    }

    fn begin(&mut self) -> Result<(), SnapshotError> {
        let HandoverOrigin { version, begun, secret } = self.value(kind::ORIGIN)?;
        (self.from, self.begun) = (version, begun);
        // The hashes of recipients and delays have another secret.
        secret::restore(secret).then_some(()).ok_or(SnapshotError::Corrupt)
    }

    /// The listening sockets: those that Postfix asks at, and those of the doors over HTTP.
    pub fn listeners(&mut self) -> Result<(Vec<Listener>, Vec<Listener>), ListenError> {
        let mut files = self.files().unwrap_or_else(|damage| {
            self.problems.push(format!("files of sockets: {damage}"));
            HashMap::new()
        });
        let sockets = (0..).zip(std::mem::take(&mut self.listeners));
        let mut listeners: Vec<_> = sockets
            .map(|(number, socket)| Listener::inherited(socket, files.remove(&number)))
            .collect::<Result<_, _>>()?;
        // An older program has none.
        let http = self.value::<usize>(kind::HTTP).unwrap_or(0).min(listeners.len());
        let http = listeners.split_off(listeners.len() - http);
        Ok((listeners, http))
    }

    /// The addresses that were asked for; none where systemd passed the sockets; `configured` if they are not known.
    pub fn listen(&mut self, configured: &[Address]) -> Vec<Address> {
        let listen = self.value::<Vec<String>>(kind::LISTEN).and_then(|listen| {
            listen.iter().map(|address| address.parse().map_err(|_| SnapshotError::Corrupt)).collect()
        });
        listen.unwrap_or_else(|damage| {
            self.problems.push(format!("what to listen at: {damage}"));
            configured.to_vec()
        })
    }

    fn files(&self) -> Result<HashMap<usize, SocketFile>, SnapshotError> {
        let files: Vec<Option<SavedSocketFile>> = self.value(kind::LISTENERS)?;
        let restore = |SavedSocketFile { path, device, inode }| SocketFile::inherited(path.into(), device, inode);
        Ok(files.into_iter().enumerate().filter_map(|(number, file)| Some((number, restore(file?)))).collect())
    }

    /// The counts of the limits of `policy`. What cannot be understood is left out.
    pub fn counts(&mut self, policy: &Policy, max_clients: usize, now: Now) -> RestoredCounts {
        let mut reading = CountsReading::new(policy, max_clients, Since::Monotonic, now);
        for section in std::mem::take(&mut self.counts) {
            if let Err(damage) = reading.take(&section) {
                self.problems.push(format!("counts: {damage}"));
                break;
            }
        }
        reading.finish().unwrap_or_else(|| RestoredCounts::none(max_clients))
    }

    /// The servers of the store that were down.
    pub fn outages(&mut self) -> Vec<SavedOutage> {
        self.saved(kind::OUTAGES, "servers that are down").unwrap_or_default()
    }

    /// The policy connections as they were left; the sessions they are about, the numbers so far, and who was
    /// mentioned in the log, go to `service`.
    pub fn connections(&mut self, service: &Service, ids: &LimitIds, now: Now) -> Vec<PolicyConnection<Stream>> {
        if let Some(numbers) = self.saved::<Vec<(String, u64)>>(kind::STATISTICS, "statistics") {
            let own: HashMap<_, _> = service.statistics.counters().map(|counter| (counter.name, counter.number)).into();
            for (name, number) in numbers {
                if let Some(own) = own.get(&*name) {
                    own.fetch_add(number, Ordering::Relaxed);
                }
            }
        }
        if let Some(saved) = self.saved(kind::LOG, "log") {
            service.log.restore(saved);
        }
        if let Some(saved) = self.saved(kind::LINK, "what other hosts said") {
            service.overrides.restore(saved);
        }
        if let Some(saved) = self.saved(kind::COMMANDS, "commands that wait") {
            service.log.restore_commands(saved);
        }
        let rules = service.rules.load();
        if let Some(saved) = self.saved(kind::COALESCE, "what coalesces") {
            rules.store.coalesce().restore(saved);
        }
        let sessions = self.saved(kind::SESSIONS, "sessions");
        let places = sessions.map_or_else(RestoredIds::new, |sessions| service.sessions.restore(sessions, ids));
        let connections: Option<Vec<(SavedHandle, SavedConnection)>> = self.saved(kind::CONNECTIONS, "connections");
        let mut saved = connections.unwrap_or_default().into_iter();
        let mut suspended = Vec::new();
        for socket in std::mem::take(&mut self.connections) {
            let saved = saved.next();
            // Postfix may have gone meanwhile.
            let Ok((stream, peer)) = Stream::inherited(socket) else { continue };
            let peer = peer.map_or(Peer::Unix, Peer::inet);
            let session_peer = SessionPeer { address: peer.ip(), process: stream.process() };
            let (session, state) = match saved {
                Some((session, state)) => (
                    service.sessions.restore_handle(session_peer, &session, &places),
                    ConnectionState::restore(&state, &service.delayed),
                ),
                None => (service.sessions.attach(session_peer), ConnectionState::default()),
            };
            suspended.push(PolicyConnection { stream, peer, session, state });
        }
        service.sessions.linger(&places, now);
        suspended
    }

    /// The value of a section; without it a problem is noted.
    fn saved<T: DeserializeOwned>(&mut self, kind: (u16, u16), what: &str) -> Option<T> {
        match self.value(kind) {
            Ok(value) => Some(value),
            Err(damage) => {
                self.problems.push(format!("{what}: {damage}"));
                None
            }
        }
    }
}

#[cfg(test)]
mod tests;
