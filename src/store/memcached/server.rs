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
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::losses::LossDetector;
use crate::net::address::Address;
use crate::net::lock;
use crate::net::resolve;
use crate::net::stream::Stream;
use crate::observe::log::Log;
use crate::observe::statistics::{Statistics, add};
use crate::policy::OnStoreFailure;
use crate::store::memcached::connection::Connection;
use crate::store::memcached::protocol::{MemcachedCommand, Protocol, ProtocolError, Response};
use crate::store::shared::backend::{BackendContext, Outcome, SavedOutage, Sent, StoreError};
use crate::store::shared::breaker::{Breaker, ServerHealth};
use crate::store::shared::report;

/// Between two attempts to reach a server that is down.
const PROBE_INTERVAL: Duration = Duration::from_millis(250);

/// For a server that comes up only to fail again the interval is doubled up to this.
const LONGEST_INTERVAL: Duration = Duration::from_secs(5);

/// After a connection that lasted this long the interval is short again.
const LASTING: Duration = Duration::from_secs(60);

/// For one exchange about a value, which no request waits for.
const VALUE_TIMEOUT: Duration = Duration::from_secs(1);

/// One server.
#[derive(Debug)]
pub struct Server {
    name: String,
    address: Address,
    /// How long a command waits for its answer.
    pub(crate) timeout: Duration,
    on_failure: OnStoreFailure,
    pub(crate) log: Log,
    pub(crate) statistics: Arc<Statistics>,
    state: Mutex<ServerState>,
    losses: Mutex<LossDetector>,
    /// There is something in the queue.
    pub(crate) work: Notify,
    /// The connection for values, while it lasts.
    values: tokio::sync::Mutex<Option<Stream>>,
}

#[derive(Debug, Default)]
pub(crate) struct ServerState {
    /// Not sent yet; empty while the breaker is open.
    pub(crate) queue: Vec<PendingCommand>,
    breaker: Breaker,
}

/// One command on its way.
#[derive(Debug)]
pub struct PendingCommand {
    pub(crate) command: MemcachedCommand,
    pub(crate) deadline: Instant,
    /// First command of its request on this server; only this one counts in per-request statistics.
    pub(crate) leads: bool,
    /// The key expired between `add` and `incr`; the command is sent once more.
    pub(crate) again: bool,
    /// Takes the outcome, until it is known or given up.
    waiting: Option<oneshot::Sender<Outcome>>,
}

impl PendingCommand {
    /// A command that is given up at `deadline`, and where its outcome arrives.
    pub(crate) fn new(command: MemcachedCommand, leads: bool, deadline: Instant) -> (Self, oneshot::Receiver<Outcome>) {
        let (sender, receiver) = oneshot::channel();
        (Self { command, deadline, leads, again: false, waiting: Some(sender) }, receiver)
    }

    /// Whether its outcome is open.
    pub(crate) fn is_open(&self) -> bool {
        self.waiting.is_some()
    }

    pub(crate) fn finish(&mut self, outcome: Outcome) {
        if let Some(waiting) = self.waiting.take() {
            // No one receives it when the request's connection has gone, or when no request waits for it.
            let _ = waiting.send(outcome);
        }
    }
}

impl Server {
    /// A server to which no connection is made yet.
    pub fn new(address: Address, context: &BackendContext<'_>) -> Self {
        let BackendContext { timeout, on_failure, statistics, log, .. } = *context;
        Self {
            name: address.to_string(),
            address,
            timeout,
            on_failure,
            log: log.clone(),
            statistics: Arc::clone(statistics),
            state: Mutex::default(),
            losses: Mutex::default(),
            work: Notify::new(),
            values: tokio::sync::Mutex::default(),
        }
    }

    /// Its address, as logs show it and as keys are ranked by it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether no request is sent to it at present.
    pub fn is_down(&self) -> bool {
        self.state().breaker.is_open()
    }

    pub fn condition(&self) -> ServerHealth {
        self.state().breaker.condition(&self.name)
    }

    /// The outage, for the program that takes over; `None`: it is up.
    pub fn outage(&self) -> Option<SavedOutage> {
        self.state().breaker.save(&self.name)
    }

    /// It was down for the program before, and is so until a probe finds it up.
    pub fn restore_outage(&self, saved: &SavedOutage) {
        self.state().breaker.restore(saved);
    }

    /// Queues a command. The first of each request `leads`. The outcome comes within the time-out.
    pub fn submit(&self, command: MemcachedCommand, leads: bool) -> Sent {
        let mut state = self.state();
        state.breaker.admit(leads)?;
        let (pending, receiver) = PendingCommand::new(command, leads, Instant::now() + self.timeout);
        state.queue.push(pending);
        if state.queue.len() == 1 {
            self.work.notify_one();
        }
        Ok(receiver)
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
        let mut interval = PROBE_INTERVAL;
        // Requests that the last connection left unanswered.
        let mut unanswered = 0;
        loop {
            match self.connect().await {
                Ok((stream, protocol)) => {
                    self.mark_up();
                    let started = Instant::now();
                    let ended = Connection::new(&self, stream, protocol).run().await;
                    let lasting = started.elapsed() > LASTING;
                    if lasting {
                        interval = PROBE_INTERVAL;
                    }
                    if lasting && ended.closed {
                        // A server that was restarted accepts connections again at once.
                        unanswered = ended.unanswered;
                        continue;
                    }
                    self.mark_down(&ended.cause, ended.unanswered);
                    sleep(interval).await;
                    interval = (interval * 2).min(LONGEST_INTERVAL);
                }
                Err(cause) => {
                    self.mark_down(&cause, std::mem::take(&mut unanswered));
                    sleep(PROBE_INTERVAL).await;
                }
            }
        }
    }

    /// Connects within the time-out, and finds out which protocol the server speaks.
    async fn connect(&self) -> Result<(Stream, Protocol), String> {
        let deadline = Instant::now() + self.timeout;
        let addresses = self.resolve(deadline).await?;
        // A slow resolver has used it up; but then no request waits, as the server is down already.
        let deadline = if deadline > Instant::now() { deadline } else { Instant::now() + self.timeout };
        self.state().breaker.probe();
        let late = || format!("no connection within {} ms", self.timeout.as_millis());
        timeout_at(deadline, self.attempt(&addresses)).await.unwrap_or_else(|_| Err(late()))
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
                self.mark_down("its name is not resolved in time", 0);
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

    /// Commands go to the server again.
    fn mark_up(&self) {
        if let Some(outage) = self.state().breaker.close() {
            report::up(&self.log, &self.name, outage.seconds(), outage.decisions);
        }
    }

    /// The commands that wait, and those to come, are not sent. `unanswered` requests were sent in vain.
    fn mark_down(&self, cause: &str, unanswered: u64) {
        let mut state = self.state();
        let stranded = std::mem::take(&mut state.queue);
        let decisions = unanswered + stranded.iter().filter(|pending| pending.leads).count() as u64;
        let news = state.breaker.open(decisions);
        drop(state);
        for mut pending in stranded {
            pending.finish(Err(StoreError::Unavailable));
        }
        if news {
            add(&self.statistics.store_outages, 1);
            report::down(&self.log, &self.name, cause, self.on_failure);
        }
    }

    pub(crate) fn losses(&self) -> MutexGuard<'_, LossDetector> {
        lock(&self.losses)
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, ServerState> {
        lock(&self.state)
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
