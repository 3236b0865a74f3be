//! Several memcached servers as one store: each key goes to the servers that rank highest for it.

use std::sync::Arc;

use smallvec::SmallVec;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::Uncounted;
use super::rank::score;
use super::server::{Outcome, Server};
use super::wire::{self, Command, KeyText, Question};
use crate::clock::Now;
use crate::config::{OnStoreFailure, StoreConfig};
use crate::log::Log;
use crate::policy::Key;

/// The servers, and the task that talks to each.
#[derive(Debug)]
pub struct Memcached {
    servers: Vec<Arc<Server>>,
    tasks: Vec<JoinHandle<()>>,
}

/// One command that is on its way. Nobody need wait for it.
#[derive(Debug)]
pub struct Waiting(Result<oneshot::Receiver<Outcome>, Uncounted>);

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
    pub fn new(config: &StoreConfig, on_failure: OnStoreFailure, log: &Log) -> Self {
        let server = |address| Arc::new(Server::new(address, config.timeout, on_failure, log.clone()));
        let servers: Vec<_> = config.servers.iter().cloned().map(server).collect();
        let tasks = servers.iter().map(|server| tokio::spawn(Arc::clone(server).run())).collect();
        Self { servers, tasks }
    }

    /// Begins to ask for a request. What is sent in a batch without a pause travels in one write to each server.
    pub fn batch(&self, now: Now) -> Batch<'_> {
        Batch { memcached: self, now, asked: SmallVec::new() }
    }

    /// Sends a command that no request waits for on its way.
    pub fn send(&self, key: KeyText, command: Command, exptime: u32, now: Now) -> Waiting {
        let server = self.server(&key);
        self.submit(server, false, key, command, exptime, now)
    }

    fn submit(&self, server: usize, leads: bool, key: KeyText, command: Command, exptime: u32, now: Now) -> Waiting {
        let expiry = wire::expiry(exptime, now.unix());
        Waiting(self.servers[server].submit(Question { key, command, exptime, expiry }, leads))
    }

    /// Whether any server is away.
    pub fn is_away(&self) -> bool {
        self.servers.iter().any(|server| server.is_away())
    }

    fn server(&self, key: &[u8]) -> usize {
        if self.servers.len() == 1 {
            return 0;
        }
        let servers = self.servers.iter().enumerate();
        let highest = servers.max_by_key(|(_, server)| score(server.name(), key));
        highest.map(|(index, _)| index).expect("there is a server")
    }
}

impl Batch<'_> {
    /// Sends a command of the request on its way.
    pub fn send(&mut self, key: KeyText, command: Command, exptime: u32) -> Waiting {
        let server = self.memcached.server(&key);
        let leads = !self.asked.contains(&server);
        if leads {
            self.asked.push(server);
        }
        self.memcached.submit(server, leads, key, command, exptime, self.now)
    }
}

impl Drop for Memcached {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Waiting {
    /// Waits for the answer, at most `store_timeout`.
    pub async fn outcome(self) -> Outcome {
        self.0?.await.unwrap_or(Err(Uncounted::Unanswered))
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
