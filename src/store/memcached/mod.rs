//! Several memcached servers as one store: each key goes to the servers that rank highest for it.

pub mod connection;
pub mod losses;
pub mod protocol;
pub mod rank;
pub mod replicas;
pub mod server;
pub mod value;

use std::sync::Arc;

use bytes::{Buf, BufMut};
use smallvec::{SmallVec, smallvec};
use tokio::task::JoinHandle;

use crate::net::address::Address;
use crate::net::clock::Now;
use crate::observe::log::Log;
use crate::observe::statistics::Statistics;
use crate::policy::Key;
use crate::policy::OnStoreFailure;
use crate::snapshot::fields::{put_bytes, take_bytes};
use crate::snapshot::section::SnapshotError;
use crate::store::StoreConfig;
use crate::store::memcached::protocol as wire;
use crate::store::memcached::protocol::{Command, KeyText, Question};
use crate::store::memcached::rank::score;
use crate::store::memcached::replicas::ReplicaWait;
use crate::store::memcached::server::Server;
use crate::store::shared::breaker::Condition;

/// The servers, and the task that talks to each.
#[derive(Debug)]
pub struct Memcached {
    servers: Vec<Arc<Server>>,
    tasks: Vec<JoinHandle<()>>,
    /// Servers that have the same key.
    replicas: usize,
    /// While a server is away its keys are those of the next in rank.
    failover: bool,
}

/// The servers of one key, the one that ranks highest first.
type Places = SmallVec<[usize; 2]>;

/// The commands of one request, which are on their way together.
#[derive(Debug)]
pub struct Batch<'m> {
    memcached: &'m Memcached,
    now: Now,
    /// The servers that are asked already, each of which has the request counted once.
    asked: SmallVec<[usize; 2]>,
}

impl Memcached {
    /// Starts talking to the servers of a configuration; must be called within a runtime.
    pub fn new(config: &StoreConfig, on_failure: OnStoreFailure, statistics: &Arc<Statistics>, log: &Log) -> Self {
        let server =
            |address| Arc::new(Server::new(address, config.timeout, on_failure, Arc::clone(statistics), log.clone()));
        let servers: Vec<_> = config.servers.iter().cloned().map(server).collect();
        let tasks = servers.iter().map(|server| tokio::spawn(Arc::clone(server).run())).collect();
        Self { servers, tasks, replicas: config.replicas, failover: config.failover }
    }

    /// Begins to ask for a request. What is sent in a batch without a pause travels in one write to each server.
    pub fn batch(&self, now: Now) -> Batch<'_> {
        Batch { memcached: self, now, asked: SmallVec::new() }
    }

    /// Sends a command that no request waits for on its way.
    pub fn send(&self, key: KeyText, command: Command, exptime: u32, now: Now) -> ReplicaWait {
        self.submit(key, command, exptime, now, |_| false)
    }

    /// `leads` says of a server whether this is the first that a request asks it.
    fn submit(
        &self,
        key: KeyText,
        command: Command,
        exptime: u32,
        now: Now,
        mut leads: impl FnMut(usize) -> bool,
    ) -> ReplicaWait {
        let expiry = wire::expiry(exptime, now.unix());
        let places = self.places(&key);
        let question = Question { key, command, exptime, expiry };
        match places[..] {
            [first, second, ..] => {
                let sent = self.servers[first].submit(question.clone(), leads(first));
                ReplicaWait::new(sent, Some(self.servers[second].submit(question, leads(second))))
            }
            _ => ReplicaWait::new(self.servers[places[0]].submit(question, leads(places[0])), None),
        }
    }

    /// The server that ranks highest for a key, whether or not it is away: the same on every host.
    pub fn address(&self, key: &[u8]) -> Address {
        let highest = self.servers.iter().max_by_key(|server| score(server.name(), key));
        highest.expect("there is a server").address().clone()
    }

    /// How every server is.
    pub fn servers(&self) -> Vec<Condition> {
        self.servers.iter().map(|server| server.condition()).collect()
    }

    /// Adds the servers that are away.
    pub fn put_absences(&self, output: &mut Vec<u8>) {
        for server in &self.servers {
            if let Some((milliseconds, decisions)) = server.outage() {
                put_bytes(output, server.name().as_bytes());
                output.put_u64_le(milliseconds);
                output.put_u64_le(decisions);
            }
        }
    }

    /// Takes them over. Must be called before the servers are asked anything.
    pub fn take_absences(&self, mut input: &[u8]) -> Result<(), SnapshotError> {
        while input.has_remaining() {
            let name = take_bytes(&mut input)?;
            let absence = (input.try_get_u64_le()?, input.try_get_u64_le()?);
            // The configuration may have others now.
            if let Some(server) = self.servers.iter().find(|server| server.name().as_bytes() == name) {
                server.restore_outage(absence);
            }
        }
        Ok(())
    }

    /// Waits until the servers have answered all that was sent before, or it was given up.
    pub async fn settled(&self) {
        // Answers come in the order of the questions.
        let question =
            || Question { key: KeyText::from_slice(b"connshaper"), command: Command::Read, exptime: 0, expiry: 0 };
        let last: Vec<_> =
            self.servers.iter().map(|server| ReplicaWait::new(server.submit(question(), false), None)).collect();
        for waiting in last {
            let _ = waiting.outcome().await;
        }
    }

    /// Whether any server is away.
    pub fn is_away(&self) -> bool {
        self.servers.iter().any(|server| server.is_down())
    }

    /// Whether no server that has a key can be asked.
    pub fn is_away_for(&self, key: &Key<'_>) -> bool {
        // Nearly always all are there, which is found out without the text of the key.
        self.is_away() && self.places(&text(key)).iter().all(|place| self.servers[*place].is_down())
    }

    /// Whether every server is away.
    fn is_gone(&self) -> bool {
        self.servers.iter().all(|server| server.is_down())
    }

    /// Which servers have a key at present.
    fn places(&self, key: &[u8]) -> Places {
        if self.servers.len() == 1 {
            return smallvec![0];
        }
        let scored = self.servers.iter().enumerate().map(|(index, server)| (score(server.name(), key), index));
        if self.replicas == 1 && !self.failover {
            return scored.max().map(|(_, index)| index).into_iter().collect();
        }
        let mut ranked: SmallVec<[(u64, usize); 8]> = scored.collect();
        ranked.sort_unstable_by(|one, other| other.cmp(one));
        if self.failover && !self.is_gone() {
            ranked.retain(|(_, index)| !self.servers[*index].is_down());
        }
        ranked.into_iter().take(self.replicas).map(|(_, index)| index).collect()
    }
}

impl Batch<'_> {
    /// Sends a command of the request on its way.
    pub fn send(&mut self, key: KeyText, command: Command, exptime: u32) -> ReplicaWait {
        let Self { memcached, now, asked } = self;
        memcached.submit(key, command, exptime, *now, |server| {
            let leads = !asked.contains(&server);
            if leads {
                asked.push(server);
            }
            leads
        })
    }
}

impl Drop for Memcached {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// The text of a key.
pub fn text(key: &Key<'_>) -> KeyText {
    let mut text = Text::default();
    key.write(&mut text).expect("a key text grows as needed");
    text.0
}

#[derive(Default)]
struct Text(KeyText);

impl std::fmt::Write for Text {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}
