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
use super::server::Server;
use super::wire::{self, Counted};
use crate::clock::Now;
use crate::config::{OnStoreFailure, StoreConfig};
use crate::log::Log;
use crate::policy::Operation;

/// The servers, and the task that talks to each.
#[derive(Debug)]
pub struct Memcached {
    servers: Vec<Arc<Server>>,
    tasks: Vec<JoinHandle<()>>,
}

/// One hit that is on its way.
#[must_use]
#[derive(Debug)]
pub struct Waiting(Result<oneshot::Receiver<Result<Counted, Uncounted>>, Uncounted>);

impl Memcached {
    /// Starts talking to the servers of a configuration; must be called within a runtime.
    pub fn new(config: &StoreConfig, on_failure: OnStoreFailure, log: &Log) -> Self {
        let server = |address| Arc::new(Server::new(address, config.timeout, on_failure, log.clone()));
        let servers: Vec<_> = config.servers.iter().cloned().map(server).collect();
        let tasks = servers.iter().map(|server| tokio::spawn(Arc::clone(server).run())).collect();
        Self { servers, tasks }
    }

    /// Sends a hit on its way. Hits of concurrent requests travel together.
    pub fn hit(&self, operation: &Operation<'_>, now: Now) -> Waiting {
        let mut text = KeyText::default();
        operation.key.write(&mut text).expect("a key text grows as needed");
        let server = self.server(&text.0);
        let exptime = operation.exptime;
        Waiting(server.submit(text.0, exptime, wire::expiry(exptime, now.unix())))
    }

    /// Whether any server is away.
    pub fn is_away(&self) -> bool {
        self.servers.iter().any(|server| server.is_away())
    }

    fn server(&self, key: &[u8]) -> &Server {
        match self.servers.as_slice() {
            [only] => only,
            servers => servers.iter().max_by_key(|server| score(server.name(), key)).expect("there is a server"),
        }
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
    pub async fn outcome(self) -> Result<Counted, Uncounted> {
        self.0?.await.unwrap_or(Err(Uncounted::Unanswered))
    }
}

fn score(server: &str, key: &[u8]) -> u64 {
    let mut hasher = SipHasher13::new();
    hasher.write(server.as_bytes());
    hasher.write(key);
    hasher.finish()
}

/// The text of a key; most fit without an allocation.
#[derive(Default)]
struct KeyText(SmallVec<[u8; 64]>);

impl std::fmt::Write for KeyText {
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
