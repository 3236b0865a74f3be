//! One connection to a memcached server: commands out, answers back.
//!
//! All commands that wait go out in one write, and the next write waits for their
//! answers: under load they travel together, and a lone one goes at once. Answers
//! come in the order of the commands, so a command that was given up keeps its place
//! until its late answer is read: none ever gets the count of another.

use std::collections::VecDeque;
use std::pin::pin;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until, timeout};

use super::server::MemcachedServer;
use crate::store::memcached::protocol::{Counted, MemcachedCommand, Protocol, ProtocolError, Response, Verb};
use crate::store::shared::backend::{CounterCommand, CounterReply, KeyText, StoreError};
use crate::store::shared::losses::SERVER_STATS_INTERVAL;
use crate::store::shared::queue::{LostConnection, PendingCommand};
use crate::store::shared::server::{FAILURES, NOT_A_NUMBER};

/// Room for the answers of a write; each is some ten bytes.
const READ: usize = 8 * 1024;

/// One connection.
#[derive(Debug)]
pub struct Connection<'s, S> {
    server: &'s MemcachedServer,
    stream: S,
    protocol: Protocol,
    /// Sent and not answered yet, in their order.
    flight: VecDeque<PendingCommand<MemcachedCommand>>,
    failures: u32,
    input: BytesMut,
    output: BytesMut,
}

/// Why a connection is of no more use.
enum ConnectionEnd {
    Closed(String),
    Useless(String),
}

impl<'s, S: AsyncRead + AsyncWrite + Unpin> Connection<'s, S> {
    /// A connection to a server that speaks this protocol.
    pub fn new(server: &'s MemcachedServer, stream: S, protocol: Protocol) -> Self {
        Self {
            server,
            stream,
            protocol,
            flight: VecDeque::new(),
            failures: 0,
            input: BytesMut::new(),
            output: BytesMut::new(),
        }
    }

    /// Runs until the connection is of no more use.
    pub async fn run(mut self) -> LostConnection {
        let (closed, cause) = match self.converse().await {
            ConnectionEnd::Closed(cause) => (true, cause),
            ConnectionEnd::Useless(cause) => (false, cause),
        };
        self.server.queue.end(self.flight.into_iter(), self.failures, closed, cause)
    }

    async fn converse(&mut self) -> ConnectionEnd {
        let mut timer = pin!(sleep_until(Instant::now()));
        let mut armed = false;
        // Proxies know no meta commands, and some close the connection on `stats` too.
        let mut asks = self.protocol == Protocol::Meta;
        let mut server_stats = pin!(sleep_until(Instant::now() + SERVER_STATS_INTERVAL));
        if asks {
            self.ask_server_stats();
        }
        loop {
            if self.flight.is_empty()
                && let Err(error) = self.send().await
            {
                return ConnectionEnd::Closed(error);
            }
            if !armed && let Some(deadline) = self.server.queue.deadline(self.flight.iter()) {
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
                () = self.server.queue.wait_for_work() => {}
                () = &mut server_stats, if asks => {
                    asks = self.server.asks_server_stats();
                    if asks {
                        self.ask_server_stats();
                    }
                    server_stats.as_mut().reset(Instant::now() + SERVER_STATS_INTERVAL);
                }
                () = &mut timer, if armed => {
                    armed = false;
                    self.failures += self.server.queue.expire(self.flight.iter_mut(), Instant::now());
                    if self.failures >= FAILURES {
                        return ConnectionEnd::Useless(self.server.queue.server.unanswered_cause(self.failures));
                    }
                }
            }
        }
    }

    /// Asks for the server's statistics with the next write.
    fn ask_server_stats(&self) {
        let command = MemcachedCommand { key: KeyText::new(), verb: Verb::Statistics, exptime: 0, expiry: 0 };
        self.server.queue.submit_own(command);
    }

    /// Sends the commands that wait, in one write.
    async fn send(&mut self) -> Result<(), String> {
        if self.server.queue.is_empty() {
            return Ok(());
        }
        // Lets other tasks run once, so that requests they read just now go out with this write.
        yield_now().await;
        self.output.clear();
        for operation in self.server.queue.take(usize::MAX) {
            operation.command.write(self.protocol, &mut self.output);
            self.flight.push_back(operation);
        }
        let write = async {
            self.stream.write_all(&self.output).await?;
            // TLS may keep back the end of it.
            self.stream.flush().await
        };
        match timeout(self.server.queue.server.timeout, write).await {
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
            // An answer that comes too late does not end the run of failures.
            if operation.is_open() {
                self.failures = 0;
            }
            if let Some(operation) = self.flight.pop_front() {
                self.server.queue.observe(&operation, now);
                self.finish(operation, answer);
            }
        }
        match self.input.is_empty() {
            true => Ok(()),
            false => Err(ProtocolError(String::from_utf8_lossy(&self.input).chars().take(64).collect())),
        }
    }

    fn finish(&mut self, mut operation: PendingCommand<MemcachedCommand>, response: Response) {
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
                    return self.server.queue.push(operation);
                }
                // The key expired twice. This hit is the first of a new window, whether or not it is stored.
                Ok(CounterReply::Count { count, left: None })
            }
            Response::Done => Ok(CounterReply::Done),
            Response::NotDone => Ok(CounterReply::NotDone),
            Response::ServerStats(server_stats) => return self.server.take_server_stats(server_stats),
            Response::Failed if operation.command.verb == Verb::Statistics => {
                return self.server.mark_without_statistics();
            }
            Response::Foreign => {
                self.server.queue.server.log_error(NOT_A_NUMBER, &operation.command.key);
                Err(StoreError::NotANumber)
            }
            Response::Failed | Response::Value(_) => {
                self.server.queue.server.log_error("it answers with an error", &operation.command.key);
                Err(StoreError::NoAnswer)
            }
        };
        operation.finish(reply);
    }

    /// Gives an expiry to a key of ours that has none: it would never end.
    fn give_expiry(&self, hit: &MemcachedCommand) {
        let touch = MemcachedCommand { verb: Verb::Counter(CounterCommand::Touch), ..hit.clone() };
        self.server.queue.submit_own(touch);
    }
}
