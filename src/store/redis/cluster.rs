//! A cluster: which node has which keys, as the cluster says, and a [`Node`] for each.
//!
//! Every node is on its own: while one is down only its keys are counted locally, and a command that another node has
//! to do is sent there once more, for it was not done. The crate's own cluster connection repeats commands whose
//! outcome is unknown, and has all keys wait while it looks for a node.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use redis::{Pipeline, Value};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::command::{RedisCommand, text_of};
use super::link::Connector;
use super::node::{CONNECT_TIMEOUT, Node};
use super::settings::RedisServer;
use crate::net::address::Address;
use crate::net::lock;
use crate::store::shared::backend::BackendContext;
use crate::store::shared::queue::PendingCommand;

/// Slots of a cluster.
const SLOTS: usize = 16_384;

/// Between two looks at which node has which slots, if nothing happens.
const LOOK_INTERVAL: Duration = Duration::from_secs(30);

/// The same while a node is down: its slots may get another.
const LOOK_INTERVAL_DOWN: Duration = Duration::from_secs(1);

/// Between two looks whatever happens.
const LOOK_PAUSE: Duration = Duration::from_millis(100);

/// Nodes at most: as many as the Redis documentation recommends.
const MAX_NODES: usize = 1000;

/// A cluster.
pub struct Cluster {
    connector: Connector,
    /// For nodes that are found later.
    context: BackendContext,
    map: ArcSwap<Map>,
    nodes: Mutex<HashMap<String, NodeTask>>,
    look: Notify,
    me: Weak<Cluster>,
}

/// A node and its task.
struct NodeTask {
    node: Arc<Node>,
    _task: AbortOnDropHandle<()>,
}

/// Which node has which slot.
struct Map {
    /// Indices of `nodes`; one that is not there: none has the slot.
    slots: Vec<u16>,
    nodes: Vec<Arc<Node>>,
}

/// Some slots of one node.
struct Range {
    first: usize,
    last: usize,
    host: String,
    port: u16,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("nodes", &self.map.load().nodes).finish_non_exhaustive()
    }
}

impl Cluster {
    /// A cluster of which some nodes are configured. Until it is known which has what, the first is asked, which says
    /// where to go. Must be called within a runtime.
    pub fn new(connector: Connector, context: &BackendContext) -> Arc<Self> {
        let seed = connector.config.servers[0].clone();
        let cluster = Arc::new_cyclic(|me| Self {
            connector,
            context: context.clone(),
            map: ArcSwap::from_pointee(Map { slots: Vec::new(), nodes: Vec::new() }),
            nodes: Mutex::default(),
            look: Notify::new(),
            me: me.clone(),
        });
        let nodes = cluster.node(seed).into_iter().collect();
        cluster.map.store(Arc::new(Map { slots: vec![0; SLOTS], nodes }));
        cluster
    }

    /// Finds out again and again which node has which slots. Ends with the cluster.
    pub async fn follow(me: Weak<Self>) {
        loop {
            let Some(cluster) = me.upgrade() else { return };
            if let Some(ranges) = cluster.ask_around().await {
                cluster.take(&ranges);
            }
            let down = cluster.nodes().iter().any(|node| node.queue.is_down());
            let interval = if down { LOOK_INTERVAL_DOWN } else { LOOK_INTERVAL };
            let _ = timeout(interval, cluster.look.notified()).await;
            drop(cluster);
            sleep(LOOK_PAUSE).await;
        }
    }

    /// The node that has a key; `None`: none has.
    pub fn node_of(&self, key: &[u8]) -> Option<Arc<Node>> {
        let map = self.map.load();
        map.nodes.get(usize::from(map.slots[slot(key)])).cloned()
    }

    /// All nodes that have slots.
    pub fn nodes(&self) -> Vec<Arc<Node>> {
        self.map.load().nodes.clone()
    }

    /// Something says that slots have moved.
    pub fn look_again(&self) {
        self.look.notify_one();
    }

    /// Sends a command to the node that another one named. `ask`: the key's slot is being migrated there.
    pub fn redirect(&self, mut pending: PendingCommand<RedisCommand>, address: &str, ask: bool, from: &RedisServer) {
        self.look_again();
        pending.command.asking = ask;
        let named = address.rsplit_once(':').and_then(|(host, port)| {
            // A node that does not know the name of another means its own.
            Some(self.server(if host.is_empty() { host_of(from) } else { host }, port.parse().ok()?))
        });
        match named.and_then(|server| self.node(server)) {
            Some(node) => node.queue.push(pending),
            None => pending.finish(Err(crate::store::shared::backend::StoreError::Unavailable)),
        }
    }

    fn server(&self, host: &str, port: u16) -> RedisServer {
        let address = Address::Inet { host: host.to_owned(), port };
        RedisServer { address, ..self.connector.config.servers[0].clone() }
    }

    /// The node at an address, from now on if it is new. `None`: there are too many.
    fn node(&self, server: RedisServer) -> Option<Arc<Node>> {
        let name = server.to_string();
        let mut nodes = lock(&self.nodes);
        if let Some(kept) = nodes.get(&name) {
            return Some(Arc::clone(&kept.node));
        }
        if nodes.len() >= MAX_NODES {
            return None;
        }
        let node = Node::new(server, name.clone(), self.connector.clone(), Some(self.me.clone()), &self.context);
        let node = Arc::new(node);
        let _task = AbortOnDropHandle::new(tokio::spawn(Arc::clone(&node).run()));
        nodes.insert(name, NodeTask { node: Arc::clone(&node), _task });
        Some(node)
    }

    /// What the first node says that answers.
    async fn ask_around(&self) -> Option<Vec<Range>> {
        let nodes = self.nodes();
        let known = nodes.iter().filter(|node| !node.queue.is_down()).map(|node| node.server.clone());
        let seeds = self.connector.config.servers.iter().cloned();
        for server in known.chain(seeds) {
            if let Ok(Ok(ranges)) = timeout(CONNECT_TIMEOUT / 2, self.ask(&server)).await
                && !ranges.is_empty()
            {
                return Some(ranges);
            }
        }
        None
    }

    async fn ask(&self, server: &RedisServer) -> Result<Vec<Range>, String> {
        let mut link = self.connector.open(server).await?;
        let mut pipeline = Pipeline::new();
        pipeline.cmd("CLUSTER").arg("SLOTS");
        match link.ask(&pipeline, 1).await?.pop() {
            Some(Value::Array(ranges)) => Ok(ranges.iter().filter_map(|range| read_range(range, server)).collect()),
            Some(Value::ServerError(error)) => {
                // The node refuses commands with the same error, which is logged; but it may never get a command.
                let text = text_of(&error);
                if let Some(node) = lock(&self.nodes).get(&server.to_string()) {
                    node.node.queue.server.log_error(&text, b"CLUSTER SLOTS");
                }
                Err(text)
            }
            _ => Err("no slots".to_owned()),
        }
    }

    /// Takes over what the cluster said. Nodes without slots are left, and what waits for them goes to others.
    fn take(&self, ranges: &[Range]) {
        let mut map = Map { slots: vec![u16::MAX; SLOTS], nodes: Vec::new() };
        let mut indices = HashMap::new();
        for Range { first, last, host, port } in ranges {
            let Some(node) = self.node(self.server(host, *port)) else { continue };
            let index = *indices.entry(node.queue.server.name.clone()).or_insert_with(|| {
                map.nodes.push(node);
                u16::try_from(map.nodes.len() - 1).unwrap_or(u16::MAX)
            });
            map.slots[*first..=*last].fill(index);
        }
        self.map.store(Arc::new(map));
        let left: Vec<NodeTask> =
            lock(&self.nodes).extract_if(|name, _| !indices.contains_key(name)).map(|(_, kept)| kept).collect();
        for NodeTask { node, .. } in &left {
            if let Some(saved) = node.queue.outage() {
                node.queue.server.was_replaced(saved.milliseconds / 1000, saved.decisions);
            }
            for pending in node.queue.take(usize::MAX) {
                if let Some(other) = self.node_of(&pending.command.key) {
                    other.queue.push(pending);
                }
            }
        }
    }
}

fn host_of(server: &RedisServer) -> &str {
    match &server.address {
        Address::Inet { host, .. } => host,
        Address::Unix(_) => "localhost",
    }
}

/// `[FIRST, LAST, [HOST, PORT, ...], REPLICAS...]`; a host that the cluster does not know is the one that was asked.
fn read_range(range: &Value, asked: &RedisServer) -> Option<Range> {
    let Value::Array(parts) = range else { return None };
    let [Value::Int(first), Value::Int(last), Value::Array(master), ..] = &parts[..] else { return None };
    let [host, Value::Int(port), ..] = &master[..] else { return None };
    let host = match host {
        Value::BulkString(host) if !host.is_empty() => String::from_utf8_lossy(host).into_owned(),
        _ => host_of(asked).to_owned(),
    };
    let (first, last) = (usize::try_from(*first).ok()?, usize::try_from(*last).ok()?);
    (first <= last && last < SLOTS).then_some(Range { first, last, host, port: u16::try_from(*port).ok()? })
}

/// The slot of a key: that of what stands between the first `{` and the next `}`, if something does.
pub fn slot(key: &[u8]) -> usize {
    let tag = memchr::memchr(b'{', key).and_then(|open| {
        let length = memchr::memchr(b'}', &key[open + 1..]).filter(|length| *length > 0)?;
        Some(&key[open + 1..open + 1 + length])
    });
    usize::from(crc16(tag.unwrap_or(key))) % SLOTS
}

/// CRC-16 of XMODEM.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte) << 8, |crc, _| if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_specification() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        assert_eq!(slot(b"foo"), 12_182);
        assert_eq!(slot(b"{user1000}.following"), slot(b"user1000"));
        assert_eq!(slot(b"foo{}{bar}"), usize::from(crc16(b"foo{}{bar}")) % SLOTS);
        assert_eq!(slot(b"foo{{bar}}zap"), slot(b"{bar"));
    }
}
