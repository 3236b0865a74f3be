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
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout, timeout_at};

use super::losses::LossDetector;
use crate::net::address::Address;
use crate::net::lock;
use crate::net::resolve;
use crate::net::stream::Stream;
use crate::store::memcached::connection::Connection;
use crate::store::memcached::protocol::{MemcachedCommand, Protocol, ProtocolError, Response};
use crate::store::shared::backend::BackendContext;
use crate::store::shared::queue::{CommandQueue, KeptServer, LostConnection, keep};

/// For one exchange about a value, which no request waits for.
const VALUE_TIMEOUT: Duration = Duration::from_secs(1);

/// One server.
#[derive(Debug)]
pub struct MemcachedServer {
    address: Address,
    pub(crate) queue: CommandQueue<MemcachedCommand>,
    losses: Mutex<LossDetector>,
    /// The connection for values, while it lasts.
    values: tokio::sync::Mutex<Option<Stream>>,
}

impl MemcachedServer {
    /// A server to which no connection is made yet.
    pub fn new(address: Address, context: &BackendContext<'_>) -> Self {
        let queue = CommandQueue::new(address.to_string(), context);
        Self { address, queue, losses: Mutex::default(), values: tokio::sync::Mutex::default() }
    }

    /// Its address, as logs show it and as keys are ranked by it.
    pub fn name(&self) -> &str {
        self.queue.name()
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
            let mut stream = match kept.take() {
                Some(stream) => stream,
                None => self.open(&self.lookup().await?).await?,
            };
            let mut output = BytesMut::new();
            command.write(Protocol::Classic, &mut output);
            let response = exchange(&mut stream, &output, |input| command.read(Protocol::Classic, input)).await?;
            *kept = Some(stream);
            Ok(response)
        };
        timeout(VALUE_TIMEOUT, exchange).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }

    /// Keeps a connection and has commands answered, for ever.
    pub async fn run(self: Arc<Self>) {
        keep(&*self).await;
    }

    async fn attempt(&self, addresses: &[SocketAddr]) -> Result<(Stream, Protocol), String> {
        let mut stream = self.open(addresses).await.map_err(|error| error.to_string())?;
        match probe(&mut stream, Protocol::Meta).await {
            Ok(true) => return Ok((stream, Protocol::Meta)),
            Ok(false) => {}
            // A proxy that closes the connection on an unknown command may know the classic ones.
            Err(_) => stream = self.open(addresses).await.map_err(|error| error.to_string())?,
        }
        match probe(&mut stream, Protocol::Classic).await {
            Ok(true) => Ok((stream, Protocol::Classic)),
            Ok(false) => Err("it does not speak memcached's text protocol".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// The addresses of its name, looked up anew for every connection. While the resolver is slow the server is down.
    async fn resolve(&self, deadline: Instant) -> Result<Vec<SocketAddr>, String> {
        let mut lookup = pin!(self.lookup());
        let found = match timeout_at(deadline, &mut lookup).await {
            Ok(found) => found,
            Err(_) => {
                self.queue.mark_down("its name is not resolved in time", 0);
                lookup.await
            }
        };
        found.map_err(|error| format!("its name does not resolve: {error}"))
    }

    async fn lookup(&self) -> io::Result<Vec<SocketAddr>> {
        match &self.address {
            Address::Inet { host, port } => resolve::addresses(host, *port).await,
            Address::Unix(_) => Ok(Vec::new()),
        }
    }

    async fn open(&self, addresses: &[SocketAddr]) -> io::Result<Stream> {
        if let Address::Unix(path) = &self.address {
            return UnixStream::connect(path).await?.try_into();
        }
        TcpStream::connect(addresses).await?.try_into()
    }

    pub(crate) fn losses(&self) -> MutexGuard<'_, LossDetector> {
        lock(&self.losses)
    }
}

impl KeptServer for MemcachedServer {
    type Command = MemcachedCommand;
    type Link = (Stream, Protocol);

    fn queue(&self) -> &CommandQueue<MemcachedCommand> {
        &self.queue
    }

    /// Finds out as well which protocol the server speaks.
    async fn connect(&self) -> Result<(Stream, Protocol), String> {
        let deadline = Instant::now() + self.queue.timeout();
        let addresses = self.resolve(deadline).await?;
        // A slow resolver has used it up; but then no request waits, as the server is down already.
        let deadline = if deadline > Instant::now() { deadline } else { Instant::now() + self.queue.timeout() };
        self.queue.probe();
        let late = || format!("no connection within {} ms", self.queue.timeout().as_millis());
        timeout_at(deadline, self.attempt(&addresses)).await.unwrap_or_else(|_| Err(late()))
    }

    async fn converse(&self, (stream, protocol): (Stream, Protocol)) -> LostConnection {
        Connection::new(self, stream, protocol).run().await
    }
}

/// Asks the server whether it knows a protocol.
async fn probe(stream: &mut Stream, protocol: Protocol) -> io::Result<bool> {
    let mut output = BytesMut::new();
    protocol.write_probe(&mut output);
    exchange(stream, &output, |input| protocol.read_probe(input)).await
}

/// Sends one command on a connection that carries no other, and reads the answer.
async fn exchange<T>(
    stream: &mut Stream,
    command: &[u8],
    mut read: impl FnMut(&mut BytesMut) -> Result<Option<T>, ProtocolError>,
) -> io::Result<T> {
    stream.write_all(command).await?;
    let mut input = BytesMut::new();
    loop {
        if stream.read_buf(&mut input).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(answer) = read(&mut input).map_err(|error| io::Error::other(error.to_string()))? {
            return Ok(answer);
        }
    }
}
