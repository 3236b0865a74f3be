//! Redis or Valkey as a shared store: one server, several of which each has its keys, a cluster, or the master that
//! Sentinels name.

pub mod cluster;
pub mod command;
mod doctor;
mod kind;
pub mod link;
pub mod losses;
pub mod node;
pub mod settings;
pub mod values;

use std::io;
use std::sync::Arc;

use smallvec::SmallVec;
use tokio_util::task::AbortOnDropHandle;

use crate::net::clock::Now;
use crate::policy::Key;
use crate::store::shared::backend::{
    Backend, BackendContext, Boxed, CounterCommand, CounterRequest, CounterRequests, KeyText, PendingReply,
    SavedOutage, StoreError, VersionedValue, all_received, key_text,
};
use crate::store::shared::breaker::ServerHealth;
use crate::store::shared::rank::score;
use cluster::Cluster;
use command::RedisCommand;
pub use kind::KIND;
use link::Connector;
use node::Node;
pub use settings::{RedisConfig, RedisServer, Topology};
use values::ValueConnection;

/// The servers, and the tasks that talk to them.
#[derive(Debug)]
pub struct Redis {
    connector: Connector,
    servers: Servers,
    _tasks: Vec<AbortOnDropHandle<()>>,
    values: ValueConnection,
}

#[derive(Debug)]
enum Servers {
    /// Each key is on the one that ranks highest for it. Of Sentinels there is one: the master.
    Ranked(Vec<Arc<Node>>),
    Cluster(Arc<Cluster>),
}

impl Redis {
    /// Starts talking to the servers of a configuration; must be called within a runtime.
    pub fn new(config: &RedisConfig, context: &BackendContext) -> Self {
        let connector = Connector { config: Arc::new(config.clone()) };
        let node = |server: &RedisServer, name: String| {
            Arc::new(Node::new(server.clone(), name, connector.clone(), None, context))
        };
        let servers = match &config.topology {
            Topology::Servers => {
                Servers::Ranked(config.servers.iter().map(|server| node(server, server.to_string())).collect())
            }
            Topology::Sentinel(name) => Servers::Ranked(vec![node(&config.servers[0], format!("sentinel:{name}"))]),
            Topology::Cluster => Servers::Cluster(Cluster::new(connector.clone(), context)),
        };
        let tasks: Vec<_> = match &servers {
            Servers::Ranked(nodes) => nodes.iter().map(|node| tokio::spawn(Arc::clone(node).run())).collect(),
            Servers::Cluster(cluster) => vec![tokio::spawn(Cluster::follow(Arc::downgrade(cluster)))],
        };
        let _tasks = tasks.into_iter().map(AbortOnDropHandle::new).collect();
        Self { connector, servers, _tasks, values: ValueConnection::default() }
    }

    /// The server that has a key; `None`: none of a cluster has.
    fn node_of(&self, key: &[u8]) -> Option<Arc<Node>> {
        match &self.servers {
            Servers::Ranked(nodes) if nodes.len() == 1 => Some(Arc::clone(&nodes[0])),
            Servers::Ranked(nodes) => nodes.iter().max_by_key(|node| score(&node.queue.server.name, key)).cloned(),
            Servers::Cluster(cluster) => cluster.node_of(key),
        }
    }

    fn nodes(&self) -> Vec<Arc<Node>> {
        match &self.servers {
            Servers::Ranked(nodes) => nodes.clone(),
            Servers::Cluster(cluster) => cluster.nodes(),
        }
    }

    /// The name of a key on the server. In a cluster all counters of one client share a slot.
    fn name_of(&self, key: KeyText) -> KeyText {
        match self.servers {
            Servers::Ranked(_) => key,
            Servers::Cluster(_) => tagged(key, &self.connector.config.key_prefix),
        }
    }
}

/// A key whose slot is that of what is before the last `!`. A `key_prefix` with a tag of its own stays as it is.
fn tagged(key: KeyText, prefix: &str) -> KeyText {
    if key.contains(&b'{') {
        return key;
    }
    let beyond = prefix.len().min(key.len());
    let end = memchr::memrchr(b'!', &key[beyond..]).map_or(key.len(), |end| beyond + end);
    let mut text = KeyText::new();
    text.push(b'{');
    text.extend_from_slice(&key[..end]);
    text.push(b'}');
    text.extend_from_slice(&key[end..]);
    text
}

impl Backend for Redis {
    /// What is submitted without a pause travels in one write to each server.
    fn submit(&self, requests: CounterRequests, waited_for: bool, now: Now) -> SmallVec<[PendingReply; 2]> {
        // The first command that a server gets stands for the request.
        let mut asked = SmallVec::<[*const Node; 2]>::new();
        let submit = |CounterRequest { key, command, exptime, is_known }: CounterRequest| {
            let key = self.name_of(key);
            let Some(node) = self.node_of(&key) else {
                return PendingReply::one(Err(StoreError::Unavailable));
            };
            let is_first = waited_for && !asked.contains(&Arc::as_ptr(&node));
            if is_first {
                asked.push(Arc::as_ptr(&node));
            }
            let command = RedisCommand { key, command, exptime, is_known, unix_ms: now.unix_ms, asking: false };
            PendingReply::one(node.queue.submit(command, is_first))
        };
        requests.into_iter().map(submit).collect()
    }

    fn omits_known_expiry(&self) -> bool {
        true
    }

    fn read_value<'a>(&'a self, key: &'a str) -> Boxed<'a, io::Result<Option<VersionedValue>>> {
        Box::pin(async move {
            let node = self.node_of(key.as_bytes()).ok_or_else(nowhere)?;
            self.values.read(&self.connector, &node.server, key).await
        })
    }

    fn write_value<'a>(
        &'a self,
        key: &'a str,
        value: &'a [u8],
        exptime: u32,
        before: Option<&'a VersionedValue>,
        _: Now,
    ) -> Boxed<'a, io::Result<bool>> {
        Box::pin(async move {
            let node = self.node_of(key.as_bytes()).ok_or_else(nowhere)?;
            self.values.write(&self.connector, &node.server, key, value, exptime, before).await
        })
    }

    fn servers(&self) -> Vec<ServerHealth> {
        self.nodes().iter().map(|node| node.queue.health()).collect()
    }

    fn is_down_for(&self, key: &Key<'_>) -> bool {
        // Nearly always all servers are up, which does not take the text of the key.
        self.nodes().iter().any(|node| node.queue.is_down())
            && self.node_of(&self.name_of(key_text(key))).is_none_or(|node| node.queue.is_down())
    }

    fn outages(&self) -> Vec<SavedOutage> {
        self.nodes().iter().filter_map(|node| node.queue.outage()).collect()
    }

    fn wait_for_background(&self) -> Boxed<'_, ()> {
        // Replies come in the order of the commands, so the reply to one more read is the last.
        let read = || RedisCommand {
            key: KeyText::from_slice(b"connshaper"),
            command: CounterCommand::Read,
            exptime: 0,
            is_known: false,
            unix_ms: 0,
            asking: false,
        };
        all_received(self.nodes().iter().map(|node| node.queue.submit(read(), false)))
    }
}

fn nowhere() -> io::Error {
    io::Error::other("no node of the cluster has the key")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_counters_of_a_client_have_one_slot() {
        let name = |key: &str, prefix: &str| {
            String::from_utf8(tagged(KeyText::from_slice(key.as_bytes()), prefix).to_vec()).unwrap()
        };
        assert_eq!(name("c:192.0.2.1", "c:"), "{c:192.0.2.1}");
        assert_eq!(name("c:192.0.2.1!violations", "c:"), "{c:192.0.2.1}!violations");
        assert_eq!(name("a!b192.0.2.1", "a!b"), "{a!b192.0.2.1}");
        assert_eq!(name("{site}192.0.2.1!ban", "{site}"), "{site}192.0.2.1!ban");
    }
}
