//! Several memcached servers as one store: which server has a key.
//!
//! Each key belongs to the server that scores highest for it (rendezvous
//! hashing), so adding or losing a server moves only that server's share. The
//! score is SipHash-1-3 with a zero key over the server's address, as the
//! configuration writes it, and the key: the same in every build, on every host.

use std::hash::Hasher;
use std::sync::Arc;

use siphasher::sip::SipHasher13;
use smallvec::SmallVec;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::Uncounted;
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

    /// Waits until the servers have answered all that was sent before, or it was given up.
    pub async fn settled(&self) {
        // Answers come in the order of the questions.
        let question =
            || Question { key: KeyText::from_slice(b"connshaper"), command: Command::Read, exptime: 0, expiry: 0 };
        let last: Vec<_> = self.servers.iter().map(|server| Waiting(server.submit(question(), false))).collect();
        for waiting in last {
            let _ = waiting.outcome().await;
        }
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

fn score(server: &str, key: &[u8]) -> u64 {
    let mut hasher = SipHasher13::new();
    hasher.write(server.as_bytes());
    hasher.write(key);
    hasher.finish()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_the_same_in_every_build() {
        assert_eq!(score("inet:127.0.0.1:11211", b"connshaper:192.0.2.1"), 17_110_413_493_875_272_879);
    }

    #[test]
    fn a_lost_server_moves_only_its_share() {
        let highest = |servers: &[&'static str], key: &str| {
            servers.iter().copied().max_by_key(|server| score(server, key.as_bytes())).unwrap()
        };
        let (three, two) = (["a", "b", "c"], ["a", "b"]);
        let mut moved = 0;
        for key in (0..3000).map(|number| format!("connshaper:{number}")) {
            let (before, after) = (highest(&three, &key), highest(&two, &key));
            assert!(before == after || before == "c");
            moved += usize::from(before != after);
        }
        assert!((900..1100).contains(&moved), "{moved} of 3000 keys moved");
    }
}
