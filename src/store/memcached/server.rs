//! One memcached server: its connection, its deadlines, and whether it is away.
//!
//! One task keeps the connection and holds a `Conversation` over it. When three
//! requests in a row time out, or no connection can be made, the server is away:
//! nothing is sent there any more, and the task, not the requests, finds out
//! when it is back.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep, timeout_at};

use super::losses::LossDetector;
use crate::net::address::Address;
use crate::net::resolve;
use crate::net::stream::Stream;
use crate::observe::log::Log;
use crate::observe::statistics::{Statistics, add};
use crate::policy::OnStoreFailure;
use crate::store::StoreError;
use crate::store::memcached::connection::Connection;
use crate::store::memcached::protocol::{Protocol, Question, Response};
use crate::store::shared::breaker::{Breaker, Condition};
use crate::store::shared::report;

/// Between two attempts to find a server that is away.
const PROBE_INTERVAL: Duration = Duration::from_millis(250);

/// The same for a server that comes back only to fail again: its interval is doubled up to this.
const LONGEST_INTERVAL: Duration = Duration::from_secs(5);

/// A connection that lasts this long makes up for earlier ones.
const LASTING: Duration = Duration::from_secs(60);

/// One server.
#[derive(Debug)]
pub struct Server {
    name: String,
    address: Address,
    /// How long an operation waits.
    pub(crate) timeout: Duration,
    on_failure: OnStoreFailure,
    pub(crate) log: Log,
    pub(crate) statistics: Arc<Statistics>,
    state: Mutex<State>,
    losses: Mutex<LossDetector>,
    /// There is something in the queue.
    pub(crate) work: Notify,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    /// Not sent yet.
    pub(crate) queue: Vec<Operation>,
    /// Since when requests are not sent here.
    away: Option<Outage>,
}

#[derive(Debug)]
struct Outage {
    since: Instant,
    decisions: u64,
    /// It is being asked whether it is back.
    trying: bool,
}

/// What came of an operation; never `Foreign` or `Failed`, which are errors.
pub type Outcome = Result<Response, StoreError>;

/// One command on its way.
#[derive(Debug)]
pub struct Operation {
    pub(crate) question: Question,
    pub(crate) deadline: Instant,
    /// It stands for a request, of whose other operations nothing is said here.
    pub(crate) leads: bool,
    /// The key expired between `add` and `incr`; it is tried once more.
    pub(crate) again: bool,
    /// Who waits; nobody any more once it is given up.
    waiting: Option<oneshot::Sender<Outcome>>,
}

impl Operation {
    /// One that is given up at `deadline`, and where its outcome comes out.
    pub(crate) fn new(question: Question, leads: bool, deadline: Instant) -> (Self, oneshot::Receiver<Outcome>) {
        let (sender, receiver) = oneshot::channel();
        (Self { question, deadline, leads, again: false, waiting: Some(sender) }, receiver)
    }

    /// Whether its outcome is open.
    pub(crate) fn is_open(&self) -> bool {
        self.waiting.is_some()
    }

    pub(crate) fn finish(&mut self, outcome: Outcome) {
        if let Some(waiting) = self.waiting.take() {
            // Nobody listens when the request's connection has gone, or nobody wanted to know.
            let _ = waiting.send(outcome);
        }
    }
}

impl Server {
    /// A server that is not talked to yet.
    pub fn new(
        address: Address,
        timeout: Duration,
        on_failure: OnStoreFailure,
        statistics: Arc<Statistics>,
        log: Log,
    ) -> Self {
        let (state, losses, work) = (Mutex::default(), Mutex::default(), Notify::new());
        Self { name: address.to_string(), address, timeout, on_failure, log, statistics, state, losses, work }
    }

    /// Its address, as logs show it and keys are mapped by it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it is.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Whether nothing is sent to it at present.
    pub fn is_down(&self) -> bool {
        self.state().away.is_some()
    }

    /// How it is.
    pub fn condition(&self) -> Condition {
        let state = self.state();
        let breaker = match &state.away {
            None => Breaker::Closed,
            Some(Outage { trying: false, .. }) => Breaker::Open,
            Some(Outage { trying: true, .. }) => Breaker::HalfOpen,
        };
        let away = state.away.as_ref().map(|away| away.since.elapsed());
        Condition { server: self.name.clone(), breaker, away }
    }

    /// For how many milliseconds nothing has been sent to it, and what was decided without it; `None`: it is there.
    pub fn outage(&self) -> Option<(u64, u64)> {
        self.state().away.as_ref().map(|away| (away.since.elapsed().as_millis() as u64, away.decisions))
    }

    /// It was away for the program before, and is so until it is found to be back.
    pub fn restore_outage(&self, (milliseconds, decisions): (u64, u64)) {
        let now = Instant::now();
        let since = now.checked_sub(Duration::from_millis(milliseconds)).unwrap_or(now);
        self.state().away.get_or_insert(Outage { since, decisions, trying: false });
    }

    /// Queues a command. The first of each request `leads`: it stands for the request where such are counted.
    /// The outcome comes within the time-out.
    pub fn submit(&self, question: Question, leads: bool) -> Result<oneshot::Receiver<Outcome>, StoreError> {
        let mut state = self.state();
        if let Some(away) = &mut state.away {
            away.decisions += u64::from(leads);
            return Err(StoreError::Unavailable);
        }
        let (operation, receiver) = Operation::new(question, leads, Instant::now() + self.timeout);
        state.queue.push(operation);
        if state.queue.len() == 1 {
            self.work.notify_one();
        }
        Ok(receiver)
    }

    /// Keeps a connection and has operations answered, for ever.
    pub async fn run(self: Arc<Self>) {
        let mut interval = PROBE_INTERVAL;
        // Requests that the last connection left unanswered.
        let mut unanswered = 0;
        loop {
            match self.connect().await {
                Ok((stream, dialect)) => {
                    self.mark_up();
                    let started = Instant::now();
                    let ended = Connection::new(&self, stream, dialect).run().await;
                    let lasting = started.elapsed() > LASTING;
                    if lasting {
                        interval = PROBE_INTERVAL;
                    }
                    if lasting && ended.closed {
                        // One that was restarted is there again at once.
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

    /// Connects within the time-out, and finds out which dialect the server speaks.
    async fn connect(&self) -> Result<(Stream, Protocol), String> {
        let deadline = Instant::now() + self.timeout;
        let addresses = self.resolve(deadline).await?;
        // A slow resolver has used it up; but then nobody waits, for the server is away already.
        let deadline = if deadline > Instant::now() { deadline } else { Instant::now() + self.timeout };
        if let Some(away) = &mut self.state().away {
            away.trying = true;
        }
        let late = || format!("no connection within {} ms", self.timeout.as_millis());
        timeout_at(deadline, self.attempt(&addresses)).await.unwrap_or_else(|_| Err(late()))
    }

    async fn attempt(&self, addresses: &[SocketAddr]) -> Result<(Stream, Protocol), String> {
        let mut stream = self.open(addresses).await.map_err(|error| error.to_string())?;
        match probe(&mut stream, Protocol::Meta).await {
            Ok(true) => return Ok((stream, Protocol::Meta)),
            Ok(false) => {}
            // A proxy that hangs up on a command it does not know may know the classic ones.
            Err(_) => stream = self.open(addresses).await.map_err(|error| error.to_string())?,
        }
        match probe(&mut stream, Protocol::Classic).await {
            Ok(true) => Ok((stream, Protocol::Classic)),
            Ok(false) => Err("it does not speak memcached's text protocol".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// The addresses of its name, looked up anew for every connection. A slow resolver makes the server away.
    async fn resolve(&self, deadline: Instant) -> Result<Vec<SocketAddr>, String> {
        let Address::Inet { host, port } = &self.address else {
            return Ok(Vec::new());
        };
        let mut lookup = pin!(resolve::addresses(host, *port));
        let found = match timeout_at(deadline, &mut lookup).await {
            Ok(found) => found,
            Err(_) => {
                self.mark_down("its name is not resolved in time", 0);
                lookup.await
            }
        };
        found.map_err(|error| format!("its name does not resolve: {error}"))
    }

    async fn open(&self, addresses: &[SocketAddr]) -> io::Result<Stream> {
        if let Address::Unix(path) = &self.address {
            return UnixStream::connect(path).await?.try_into();
        }
        TcpStream::connect(addresses).await?.try_into()
    }

    /// The server is there: operations go to it again.
    fn mark_up(&self) {
        if let Some(away) = self.state().away.take() {
            report::up(&self.log, &self.name, away.since.elapsed().as_secs(), away.decisions);
        }
    }

    /// The server is away: what waits, and what is to come, is not sent. `unanswered` requests were, in vain.
    fn mark_down(&self, cause: &str, unanswered: u64) {
        let mut state = self.state();
        let stranded = std::mem::take(&mut state.queue);
        let news = state.away.is_none();
        let away = state.away.get_or_insert_with(|| Outage { since: Instant::now(), decisions: 0, trying: false });
        away.trying = false;
        away.decisions += unanswered + stranded.iter().filter(|operation| operation.leads).count() as u64;
        drop(state);
        for mut operation in stranded {
            operation.finish(Err(StoreError::Unavailable));
        }
        if news {
            add(&self.statistics.outages, 1);
            report::down(&self.log, &self.name, cause, self.on_failure);
        }
    }

    pub(crate) fn losses(&self) -> MutexGuard<'_, LossDetector> {
        // Numbers are whole after any panic.
        self.losses.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        // Nothing below can panic half-way through a change.
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Asks the other end whether it knows a dialect.
async fn probe(stream: &mut Stream, dialect: Protocol) -> io::Result<bool> {
    let (mut input, mut output) = (BytesMut::new(), BytesMut::new());
    dialect.write_probe(&mut output);
    stream.write_all(&output).await?;
    loop {
        if stream.read_buf(&mut input).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let answer = dialect.read_probe(&mut input);
        if let Some(known) = answer.map_err(|nonsense| io::Error::other(nonsense.to_string()))? {
            return Ok(known);
        }
    }
}
