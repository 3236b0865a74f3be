//! One memcached server: its connection, its deadlines, and whether it is down.
//!
//! One task keeps a `Connection`. When three requests in a row time out, or no
//! connection can be made, the server is down: no request is sent there, and the
//! task finds out when it is up again.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::BytesMut;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::either::Either;

use super::link::{MemcachedConnector, MemcachedLink, exchange};
use super::losses::LossDetector;
use crate::net::lock;
use crate::store::memcached::connection::Connection;
use crate::store::memcached::protocol::{MemcachedCommand, Protocol, Response};
use crate::store::shared::backend::BackendContext;
use crate::store::shared::queue::{CommandQueue, ConnectedServer, LostConnection, keep_connected};

/// For one exchange about a value, which no request waits for.
const VALUE_TIMEOUT: Duration = Duration::from_secs(1);

/// How long making a connection may take with login or TLS.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// One server.
#[derive(Debug)]
pub struct MemcachedServer {
    connector: MemcachedConnector,
    pub(crate) queue: CommandQueue<MemcachedCommand>,
    losses: Mutex<LossDetector>,
    /// The connection for values, while it lasts.
    values: tokio::sync::Mutex<Option<MemcachedLink>>,
}

impl MemcachedServer {
    /// A server to which no connection is made yet.
    pub fn new(connector: MemcachedConnector, context: &BackendContext) -> Self {
        let queue = CommandQueue::new(connector.address.to_string(), context);
        Self { connector, queue, losses: Mutex::default(), values: tokio::sync::Mutex::default() }
    }

    /// Its address, as logs show it and as keys are ranked by it.
    pub fn name(&self) -> &str {
        &self.queue.server.name
    }

    /// Whether no request is sent to it at present.
    pub fn is_down(&self) -> bool {
        self.queue.is_down()
    }

    /// Has a command for a value answered, over a connection of its own: a value may be large, and some proxies close
    /// the connection on these commands. The counters are to notice neither.
    pub async fn ask_for_value(&self, command: MemcachedCommand) -> io::Result<Response> {
        let exchange = async {
            let mut kept = self.values.lock().await;
            // After any error the connection is dropped: what it says next may belong to this command.
            let mut link = match kept.take() {
                Some(link) => link,
                None => self.connector.open_for_values().await?,
            };
            let mut output = BytesMut::new();
            command.write(Protocol::Classic, &mut output);
            let response = exchange(&mut link, &output, |input| command.read(Protocol::Classic, input)).await?;
            *kept = Some(link);
            Ok(response)
        };
        timeout(VALUE_TIMEOUT, exchange).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }

    /// Keeps a connection and has commands answered, for ever.
    pub async fn run(self: Arc<Self>) {
        keep_connected(&*self).await;
    }

    /// The addresses of its name, looked up anew for every connection. While the resolver is slow the server is down.
    async fn resolve(&self, deadline: Instant) -> Result<Vec<SocketAddr>, String> {
        let mut lookup = pin!(self.connector.lookup());
        let found = match timeout_at(deadline, &mut lookup).await {
            Ok(found) => found,
            Err(_) => {
                self.queue.mark_down("its name is not resolved in time", 0);
                lookup.await
            }
        };
        found.map_err(|error| format!("its name does not resolve: {error}"))
    }

    pub(crate) fn losses(&self) -> MutexGuard<'_, LossDetector> {
        lock(&self.losses)
    }
}

impl ConnectedServer for MemcachedServer {
    type Command = MemcachedCommand;
    type Link = (MemcachedLink, Protocol);

    fn queue(&self) -> &CommandQueue<MemcachedCommand> {
        &self.queue
    }

    /// Finds out as well which protocol the server speaks.
    async fn connect(&self) -> Result<(MemcachedLink, Protocol), String> {
        let deadline = Instant::now() + self.queue.server.timeout;
        let addresses = self.resolve(deadline).await?;
        // A slow resolver has used it up; but then no request waits, as the server is down already.
        let deadline = if deadline > Instant::now() { deadline } else { Instant::now() + self.queue.server.timeout };
        self.queue.probe();
        let late = |waited: Duration| format!("no connection within {} ms", waited.as_millis());
        let mut open = pin!(self.connector.open(&addresses));
        match timeout_at(deadline, &mut open).await {
            Ok(made) => made,
            Err(_) if self.connector.is_plain() => Err(late(self.queue.server.timeout)),
            Err(_) => {
                // Files and handshake may take longer; requests do not wait for them.
                self.queue.mark_down(&late(self.queue.server.timeout), 0);
                self.queue.probe();
                timeout(CONNECT_TIMEOUT, open).await.unwrap_or_else(|_| Err(late(CONNECT_TIMEOUT)))
            }
        }
    }

    async fn try_out(&self, (link, protocol): &mut (MemcachedLink, Protocol)) -> Result<(), String> {
        let mut probe = BytesMut::new();
        protocol.write_probe(&mut probe);
        let answer = exchange(link, &probe, |input| protocol.read_probe(input)).await;
        answer.map(drop).map_err(|error| error.to_string())
    }

    async fn converse(&self, (link, protocol): (MemcachedLink, Protocol)) -> LostConnection {
        match link {
            Either::Left(stream) => Connection::new(self, stream, protocol).run().await,
            Either::Right(stream) => Connection::new(self, stream, protocol).run().await,
        }
    }
}
