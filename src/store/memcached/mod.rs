//! memcached as a shared store: each key goes to the servers that rank highest for it.

pub mod connection;
mod doctor;
mod kind;
pub mod link;
pub mod losses;
pub mod protocol;
pub mod replicas;
pub mod server;
pub mod settings;

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use smallvec::{SmallVec, smallvec};
use tokio_util::task::AbortOnDropHandle;

use crate::net::address::Address;
use crate::net::clock::Now;
use crate::policy::Key;
use crate::store::shared::backend::{
    Backend, BackendContext, Boxed, CounterCommand, CounterRequest, CounterRequests, KeyText, PendingReply,
    SavedOutage, StoreError, VersionedValue, all_received, key_text,
};
use crate::store::shared::breaker::ServerHealth;
use crate::store::shared::rank::score;
pub use kind::KIND;
use link::MemcachedConnector;
use protocol::{MemcachedCommand, Response, Verb, expiry};
use server::MemcachedServer;
pub use settings::MemcachedConfig;

/// The servers, and the task that talks to each.
#[derive(Debug)]
pub struct Memcached {
    servers: Vec<Arc<MemcachedServer>>,
    _tasks: Vec<AbortOnDropHandle<()>>,
    /// Servers that have the same key.
    replicas: usize,
    /// While a server is down its keys are those of the next in rank.
    failover: bool,
}

/// The servers of one key, the one that ranks highest first.
type RankedServers = SmallVec<[usize; 2]>;

impl Memcached {
    /// Starts talking to the servers of a configuration; must be called within a runtime.
    pub fn new(config: &MemcachedConfig, context: &BackendContext) -> Self {
        let server = |address: &Address| {
            Arc::new(MemcachedServer::new(MemcachedConnector::new(address.clone(), config), context))
        };
        let servers: Vec<_> = config.servers.iter().map(server).collect();
        let task = |server: &Arc<MemcachedServer>| AbortOnDropHandle::new(tokio::spawn(Arc::clone(server).run()));
        let _tasks = servers.iter().map(task).collect();
        Self { servers, _tasks, replicas: config.replicas, failover: config.failover }
    }

    /// The server that ranks highest for a key, whether or not it is down: the same on every host.
    fn highest(&self, key: &[u8]) -> &MemcachedServer {
        let highest = self.servers.iter().max_by_key(|server| score(server.name(), key));
        highest.expect("there is a server")
    }

    /// The servers that have a key at present.
    fn places(&self, key: &[u8]) -> RankedServers {
        if self.servers.len() == 1 {
            return smallvec![0];
        }
        let scored = self.servers.iter().enumerate().map(|(index, server)| (score(server.name(), key), index));
        if self.replicas == 1 && !self.failover {
            return scored.max().map(|(_, index)| index).into_iter().collect();
        }
        let mut ranked: SmallVec<[(u64, usize); 8]> = scored.collect();
        ranked.sort_unstable_by(|one, other| other.cmp(one));
        if self.failover && !self.servers.iter().all(|server| server.is_down()) {
            ranked.retain(|(_, index)| !self.servers[*index].is_down());
        }
        ranked.into_iter().take(self.replicas).map(|(_, index)| index).collect()
    }
}

impl Backend for Memcached {
    /// What is submitted without a pause travels in one write to each server.
    fn submit(&self, requests: CounterRequests, waited_for: bool, now: Now) -> SmallVec<[PendingReply; 2]> {
        // The first command that a server gets stands for the request.
        let mut asked = SmallVec::<[usize; 2]>::new();
        let mut send = |place: usize, command: MemcachedCommand| {
            let is_first = waited_for && !asked.contains(&place);
            if is_first {
                asked.push(place);
            }
            self.servers[place].queue.submit(command, is_first)
        };
        let submit = |CounterRequest { key, command, exptime, .. }: CounterRequest| {
            // memcached has no exact windows, and no limit asks for one where it counts.
            if matches!(command, CounterCommand::Slide(_) | CounterCommand::SlideBack(_)) {
                return PendingReply::one(Err(StoreError::Unavailable));
            }
            let places = self.places(&key);
            let command =
                MemcachedCommand { key, verb: Verb::Counter(command), exptime, expiry: expiry(exptime, now.unix()) };
            match places[..] {
                [first, second, ..] => {
                    let sent = send(first, command.clone());
                    PendingReply::two(sent, send(second, command), replicas::combine)
                }
                _ => PendingReply::one(send(places[0], command)),
            }
        };
        requests.into_iter().map(submit).collect()
    }

    fn read_value<'a>(&'a self, key: &'a str) -> Boxed<'a, io::Result<Option<VersionedValue>>> {
        Box::pin(async move {
            match self.highest(key.as_bytes()).ask_for_value(MemcachedCommand::value(key, Verb::ReadValue, 0)).await? {
                Response::Value(value) => Ok(Some(value)),
                Response::NotDone => Ok(None),
                other => Err(unexpected(&other)),
            }
        })
    }

    fn write_value<'a>(
        &'a self,
        key: &'a str,
        value: &'a [u8],
        exptime: u32,
        before: Option<&'a VersionedValue>,
        now: Now,
    ) -> Boxed<'a, io::Result<bool>> {
        let verb =
            Verb::WriteValue { value: Bytes::copy_from_slice(value), replaces: before.map(|value| value.version) };
        let command = MemcachedCommand::value(key, verb, expiry(exptime, now.unix()));
        Box::pin(async move {
            match self.highest(key.as_bytes()).ask_for_value(command).await? {
                Response::Done => Ok(true),
                Response::NotDone => Ok(false),
                other => Err(unexpected(&other)),
            }
        })
    }

    fn servers(&self) -> Vec<ServerHealth> {
        self.servers.iter().map(|server| server.queue.health()).collect()
    }

    fn is_down_for(&self, key: &Key<'_>) -> bool {
        // Nearly always all servers are up, which does not take the text of the key.
        self.servers.iter().any(|server| server.is_down())
            && self.places(&key_text(key)).iter().all(|place| self.servers[*place].is_down())
    }

    fn outages(&self) -> Vec<SavedOutage> {
        self.servers.iter().filter_map(|server| server.queue.outage()).collect()
    }

    fn wait_for_background(&self) -> Boxed<'_, ()> {
        // Replies come in the order of the commands, so the reply to one more read is the last.
        let read = || MemcachedCommand {
            key: KeyText::from_slice(b"connshaper"),
            verb: Verb::Counter(CounterCommand::Read),
            exptime: 0,
            expiry: 0,
        };
        all_received(self.servers.iter().map(|server| server.queue.submit(read(), false)))
    }
}

fn unexpected(response: &Response) -> io::Error {
    io::Error::other(match response {
        Response::Failed => "the server answers with an error",
        _ => "the key holds something else",
    })
}
