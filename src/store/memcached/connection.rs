//! One connection to a memcached server: commands out, answers back.
//!
//! All commands that wait go out in one write, and the next write waits for their
//! answers: under load they travel together, and a lone one goes at once. Answers
//! come in the order of the commands, so a command that was given up keeps its place
//! until its late answer is read: none ever gets the count of another.

use std::collections::VecDeque;
use std::pin::pin;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until, timeout};

use super::server::{PendingCommand, Server};
use crate::net::stream::Stream;
use crate::store::memcached::protocol::{Counted, MemcachedCommand, Protocol, ProtocolError, Response, Verb};
use crate::store::shared::backend::{CounterCommand, CounterReply, KeyText, StoreError};
use crate::store::shared::report;

/// After this many requests in a row without an answer the server is down.
const FAILURES: u32 = 3;

/// Between two log lines on answers that are errors.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(10);

/// Between two reads of the server's statistics.
const CENSUS_INTERVAL: Duration = Duration::from_secs(5);

/// Room for the answers of a write; each is some ten bytes.
const READ: usize = 8 * 1024;

/// One connection.
#[derive(Debug)]
pub struct Connection<'s> {
    server: &'s Server,
    stream: Stream,
    protocol: Protocol,
    /// Sent and not answered yet, in their order.
    flight: VecDeque<PendingCommand>,
    failures: u32,
    complained: Option<Instant>,
    input: BytesMut,
    output: BytesMut,
}

/// How a connection ended.
#[derive(Debug)]
pub struct Ended {
    /// The server or the network closed the connection. Else we did, because the server did not answer, or not to what
    /// was asked.
    pub closed: bool,
    /// The reason, for the log.
    pub cause: String,
    /// Requests that had no answer at the end.
    pub unanswered: u64,
}

/// Why a connection is of no more use.
enum ConnectionEnd {
    Closed(String),
    Useless(String),
}

impl<'s> Connection<'s> {
    /// A connection to a server that speaks this protocol.
    pub fn new(server: &'s Server, stream: Stream, protocol: Protocol) -> Self {
        Self {
            server,
            stream,
            protocol,
            flight: VecDeque::new(),
            failures: 0,
            complained: None,
            input: BytesMut::new(),
            output: BytesMut::new(),
        }
    }

    /// Runs until the connection is of no more use.
    pub async fn run(mut self) -> Ended {
        let (closed, cause) = match self.converse().await {
            ConnectionEnd::Closed(cause) => (true, cause),
            ConnectionEnd::Useless(cause) => (false, cause),
        };
        let mut unanswered = u64::from(self.failures);
        for mut operation in self.flight {
            unanswered += u64::from(operation.leads && operation.is_open());
            operation.finish(Err(StoreError::TimedOut));
        }
        Ended { closed, cause, unanswered }
    }

    async fn converse(&mut self) -> ConnectionEnd {
        let mut timer = pin!(sleep_until(Instant::now()));
        let mut armed = false;
        // Proxies know no meta commands, and some close the connection on `stats` too.
        let mut asks = self.protocol == Protocol::Meta;
        let mut census = pin!(sleep_until(Instant::now() + CENSUS_INTERVAL));
        if asks {
            self.ask_census();
        }
        loop {
            if self.flight.is_empty()
                && let Err(error) = self.send().await
            {
                return ConnectionEnd::Closed(error);
            }
            if !armed && let Some(deadline) = self.deadline() {
                timer.as_mut().reset(deadline);
                armed = true;
            }
            self.input.reserve(READ);
            tokio::select! {
                biased;
                read = self.stream.read_buf(&mut self.input) => match read {
                    Ok(0) => return ConnectionEnd::Closed("it closed the connection".to_owned()),
                    Ok(_) => if let Err(nonsense) = self.receive() {
                        return ConnectionEnd::Useless(nonsense.to_string());
                    },
                    Err(error) => return ConnectionEnd::Closed(error.to_string()),
                },
                // Also while answers are awaited: the commands that wait behind them have deadlines too.
                () = self.server.work.notified() => {}
                () = &mut census, if asks => {
                    asks = self.server.tells();
                    if asks {
                        self.ask_census();
                    }
                    census.as_mut().reset(Instant::now() + CENSUS_INTERVAL);
                }
                () = &mut timer, if armed => {
                    armed = false;
                    self.expire(Instant::now());
                    if self.failures >= FAILURES {
                        let waited = self.server.timeout.as_millis();
                        return ConnectionEnd::Useless(format!("{} requests in a row without an answer in {waited} ms", self.failures));
                    }
                }
            }
        }
    }

    /// Asks for the server's statistics with the next write.
    fn ask_census(&self) {
        let command = MemcachedCommand { key: KeyText::new(), verb: Verb::Statistics, exptime: 0, expiry: 0 };
        let (operation, _) = PendingCommand::new(command, false, Instant::now() + self.server.timeout);
        self.server.state().queue.push(operation);
    }

    /// Sends the commands that wait, in one write.
    async fn send(&mut self) -> Result<(), String> {
        if self.server.state().queue.is_empty() {
            return Ok(());
        }
        // Requests that are being read at this moment come along.
        yield_now().await;
        self.output.clear();
        for operation in self.server.state().queue.drain(..) {
            operation.command.write(self.protocol, &mut self.output);
            self.flight.push_back(operation);
        }
        match timeout(self.server.timeout, self.stream.write_all(&self.output)).await {
            Ok(written) => written.map_err(|error| error.to_string()),
            Err(_) => Err("it does not read what we send".to_owned()),
        }
    }

    /// Passes on the answers that are complete.
    fn receive(&mut self) -> Result<(), ProtocolError> {
        let now = Instant::now();
        while let Some(operation) = self.flight.front() {
            let Some(answer) = operation.command.read(self.protocol, &mut self.input)? else {
                return Ok(());
            };
            self.failures = 0;
            if let Some(operation) = self.flight.pop_front() {
                if operation.leads && operation.is_open() {
                    let asked = operation.deadline - self.server.timeout;
                    self.server.statistics.store_latency.observe(now.saturating_duration_since(asked));
                }
                self.finish(operation, answer);
            }
        }
        match self.input.is_empty() {
            true => Ok(()),
            false => Err(ProtocolError(String::from_utf8_lossy(&self.input).chars().take(64).collect())),
        }
    }

    fn finish(&mut self, mut operation: PendingCommand, response: Response) {
        let reply = match response {
            Response::Counted(Counted { count, left, endless }) => {
                if endless && matches!(operation.command.verb, Verb::Counter(CounterCommand::Hit(_))) {
                    self.give_expiry(&operation.command);
                }
                Ok(CounterReply::Count { count, left })
            }
            Response::NotDone if let Verb::Counter(CounterCommand::Hit(count)) = operation.command.verb => {
                if !operation.again {
                    operation.again = true;
                    return self.server.state().queue.push(operation);
                }
                // The key expired twice. This hit is the first of a new window, whether or not it is stored.
                Ok(CounterReply::Count { count, left: None })
            }
            Response::Done => Ok(CounterReply::Done),
            Response::NotDone => Ok(CounterReply::NotDone),
            Response::Census(census) => return self.server.take_census(census),
            Response::Failed if operation.command.verb == Verb::Statistics => return self.server.tells_nothing(),
            Response::Foreign => {
                self.complain("a value that is no number is under one of our keys; set key_prefix", &operation);
                Err(StoreError::NotANumber)
            }
            Response::Failed | Response::Value(_) => {
                self.complain("it answers with an error", &operation);
                Err(StoreError::TimedOut)
            }
        };
        operation.finish(reply);
    }

    /// Gives a key of ours that has no expiry one, lest it be over for ever.
    fn give_expiry(&self, hit: &MemcachedCommand) {
        let touch = MemcachedCommand { verb: Verb::Counter(CounterCommand::Touch), ..hit.clone() };
        let (touch, _) = PendingCommand::new(touch, false, Instant::now() + self.server.timeout);
        self.server.state().queue.push(touch);
    }

    fn complain(&mut self, problem: &str, operation: &PendingCommand) {
        if self.complained.is_none_or(|at| at.elapsed() >= COMPLAINT_INTERVAL) {
            self.complained = Some(Instant::now());
            report::error(&self.server.log, self.server.name(), problem, &operation.command.key);
        }
    }

    /// Gives up the commands whose time is over.
    fn expire(&mut self, now: Instant) {
        let mut failures = 0;
        let mut give_up = |operation: &mut PendingCommand| {
            let late = operation.deadline <= now && operation.is_open();
            if late {
                operation.finish(Err(StoreError::TimedOut));
                failures += u32::from(operation.leads);
                if operation.leads {
                    self.server.statistics.store_latency.observe(self.server.timeout);
                }
            }
            late
        };
        for operation in &mut self.flight {
            give_up(operation);
        }
        self.server.state().queue.retain_mut(|operation| !give_up(operation));
        self.failures += failures;
    }

    /// The moment at which the command that waits longest is given up.
    fn deadline(&self) -> Option<Instant> {
        let asked = self.flight.iter().filter(|operation| operation.is_open()).map(|operation| operation.deadline);
        asked.chain(self.server.state().queue.first().map(|operation| operation.deadline)).min()
    }
}
