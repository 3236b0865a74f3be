//! The commands that wait for one server, and the breaker before it.
//!
//! One task of each server takes commands out, sends them and reads the replies. A command without a reply within
//! `store_timeout` ends with [`StoreError::NoAnswer`]; its request is counted in this process, whatever
//! `on_store_failure` says. Only after [`FAILURES`](super::server::FAILURES) such requests in a row, or when the
//! connection is lost and cannot be made again at once, is the server down. Then commands end with
//! [`StoreError::Unavailable`] at once, and `on_store_failure` decides.

use std::pin::pin;
use std::sync::{Mutex, MutexGuard};

use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::backend::{BackendContext, Outcome, SavedOutage, Sent, StoreError};
use super::breaker::{Breaker, ServerHealth};
use super::server::{PROBE_INTERVAL, ProbePause, StoreServer};
use crate::net::lock;

/// What waits for one server.
#[derive(Debug)]
pub struct CommandQueue<C> {
    pub server: StoreServer,
    state: Mutex<CommandQueueState<C>>,
    /// There is something in the queue.
    work: Notify,
}

#[derive(Debug)]
struct CommandQueueState<C> {
    /// Not sent yet; empty while the breaker is open.
    commands: Vec<PendingCommand<C>>,
    breaker: Breaker,
}

/// One command on its way.
#[derive(Debug)]
pub struct PendingCommand<C> {
    pub command: C,
    deadline: Instant,
    /// First command of its request on this server; only this one counts in per-request statistics.
    pub is_first: bool,
    /// It was not carried out the first time, and is sent once more.
    pub again: bool,
    /// Takes the outcome, until it is known or given up.
    waiting: Option<oneshot::Sender<Outcome>>,
}

impl<C> PendingCommand<C> {
    /// Whether its outcome is open.
    pub fn is_open(&self) -> bool {
        self.waiting.is_some()
    }

    /// Sends its outcome to who waits for it.
    pub fn finish(&mut self, outcome: Outcome) {
        if let Some(waiting) = self.waiting.take() {
            // No one receives it when the request's connection has gone, or when no request waits for it.
            let _ = waiting.send(outcome);
        }
    }
}

/// How a connection ended.
#[derive(Debug)]
pub struct LostConnection {
    /// The server or the network closed the connection. False: we did, because replies came too late or did not fit the
    /// commands.
    pub closed: bool,
    /// The reason, for the log.
    pub cause: String,
    /// Requests that had no answer at the end.
    pub unanswered: u64,
}

impl<C> CommandQueue<C> {
    /// The queue before a server that is known by this name.
    pub fn new(name: String, context: &BackendContext) -> Self {
        let server = StoreServer::new(name, context);
        let state = CommandQueueState { commands: Vec::new(), breaker: server.breaker(context) };
        Self { server, state: Mutex::new(state), work: Notify::new() }
    }

    /// Whether no request is sent to the server at present.
    pub fn is_down(&self) -> bool {
        self.state().breaker.is_open()
    }

    pub fn health(&self) -> ServerHealth {
        self.state().breaker.health(&self.server.name)
    }

    /// The outage, for the new program of an upgrade; `None`: it is up.
    pub fn outage(&self) -> Option<SavedOutage> {
        self.state().breaker.save(&self.server.name)
    }

    /// Queues a command. `is_first`: it is the first of its request on this server. The outcome comes within the time-out.
    pub fn submit(&self, command: C, is_first: bool) -> Sent {
        let mut state = self.state();
        state.breaker.admit(is_first)?;
        let (pending, receiver) = self.pending(command, is_first);
        state.commands.push(pending);
        if state.commands.len() == 1 {
            self.work.notify_one();
        }
        Ok(receiver)
    }

    /// Queues a command of the connection's own, which no request waits for.
    pub fn submit_own(&self, command: C) {
        let (pending, _) = self.pending(command, false);
        self.push(pending);
    }

    /// Queues a command that was taken out, and was not carried out. If the server is down it is given up.
    pub fn push(&self, mut pending: PendingCommand<C>) {
        let mut state = self.state();
        match state.breaker.admit(pending.is_first && pending.is_open()) {
            Ok(()) => {
                state.commands.push(pending);
                self.work.notify_one();
            }
            Err(error) => pending.finish(Err(error)),
        }
    }

    fn pending(&self, command: C, is_first: bool) -> (PendingCommand<C>, oneshot::Receiver<Outcome>) {
        let (sender, receiver) = oneshot::channel();
        let deadline = Instant::now() + self.server.timeout;
        (PendingCommand { command, deadline, is_first, again: false, waiting: Some(sender) }, receiver)
    }

    /// Takes out what waits longest, at most this many.
    pub fn take(&self, most: usize) -> Vec<PendingCommand<C>> {
        let commands = &mut self.state().commands;
        match commands.len() <= most {
            true => std::mem::take(commands),
            false => commands.drain(..most).collect(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.state().commands.is_empty()
    }

    /// Returns when something was queued.
    pub async fn wait_for_work(&self) {
        self.work.notified().await;
    }

    /// The moment at which the command that waits longest is given up, of those in `flight` and in the queue.
    pub fn deadline<'f>(&self, flight: impl Iterator<Item = &'f PendingCommand<C>>) -> Option<Instant>
    where
        C: 'f,
    {
        let asked = flight.filter(|pending| pending.is_open()).map(|pending| pending.deadline);
        asked.chain(self.state().commands.first().map(|pending| pending.deadline)).min()
    }

    /// Gives up the commands whose time is over, and returns how many requests had no answer.
    pub fn expire<'f>(&self, flight: impl Iterator<Item = &'f mut PendingCommand<C>>, now: Instant) -> u32
    where
        C: 'f,
    {
        let mut failures = 0;
        let mut give_up = |pending: &mut PendingCommand<C>| {
            let late = pending.deadline <= now && pending.is_open();
            if late {
                pending.finish(Err(StoreError::NoAnswer));
                failures += u32::from(pending.is_first);
                if pending.is_first {
                    self.server.gave_up();
                }
            }
            late
        };
        flight.for_each(|pending| {
            give_up(pending);
        });
        self.state().commands.retain_mut(|pending| !give_up(pending));
        failures
    }

    /// Counts how long a request waited for its answer, which is here.
    pub fn observe(&self, pending: &PendingCommand<C>, now: Instant) {
        if pending.is_first && pending.is_open() {
            self.server.answered(pending.deadline, now);
        }
    }

    /// The end of a connection on which these commands are not answered.
    pub fn end(
        &self,
        flight: impl Iterator<Item = PendingCommand<C>>,
        failures: u32,
        closed: bool,
        cause: String,
    ) -> LostConnection {
        let mut unanswered = u64::from(failures);
        for mut pending in flight {
            unanswered += u64::from(pending.is_first && pending.is_open());
            pending.finish(Err(StoreError::NoAnswer));
        }
        LostConnection { closed, cause, unanswered }
    }

    /// The server is being tried.
    pub fn probe(&self) {
        self.state().breaker.probe();
    }

    /// Commands go to the server again.
    pub fn mark_up(&self) {
        let outage = self.state().breaker.close();
        self.server.came_up(outage);
    }

    /// The commands that wait, and those to come, are not sent. `unanswered` requests were sent in vain.
    pub fn mark_down(&self, cause: &str, unanswered: u64) {
        let mut state = self.state();
        let stranded = std::mem::take(&mut state.commands);
        let decisions = unanswered + stranded.iter().filter(|pending| pending.is_first).count() as u64;
        let logged = state.breaker.open(cause, decisions, Instant::now());
        drop(state);
        for mut pending in stranded {
            pending.finish(Err(StoreError::Unavailable));
        }
        self.server.went_down(logged, cause);
    }

    fn state(&self) -> MutexGuard<'_, CommandQueueState<C>> {
        lock(&self.state)
    }
}

/// A server to which a connection is kept.
pub trait ConnectedServer: Send + Sync {
    type Command: Send;
    /// A connection.
    type Link: Send;

    fn queue(&self) -> &CommandQueue<Self::Command>;

    /// Connects, within the time-out or with the server marked as down. `Err` is the reason, for the log.
    fn connect(&self) -> impl Future<Output = Result<Self::Link, String>> + Send;

    /// Sends one command like those of requests, and reads its reply.
    fn try_out(&self, link: &mut Self::Link) -> impl Future<Output = Result<(), String>> + Send;

    /// Sends commands and reads replies until the connection ends.
    fn converse(&self, link: Self::Link) -> impl Future<Output = LostConnection> + Send;
}

/// Keeps a connection for ever: makes one, uses it, and makes the next one when it ends.
pub async fn keep_connected(server: &impl ConnectedServer) {
    let queue = server.queue();
    let mut pause = ProbePause::default();
    // Requests that the last connection left unanswered.
    let mut unanswered = 0;
    loop {
        match usable(server).await {
            Ok(link) => {
                queue.mark_up();
                let started = Instant::now();
                let ended = server.converse(link).await;
                if pause.was_used(started.elapsed()) && ended.closed {
                    // A server that was restarted accepts connections again at once.
                    unanswered = ended.unanswered;
                    continue;
                }
                queue.mark_down(&ended.cause, ended.unanswered);
                sleep(pause.take()).await;
            }
            Err(cause) => {
                queue.mark_down(&cause, std::mem::take(&mut unanswered));
                sleep(PROBE_INTERVAL).await;
            }
        }
    }
}

/// A connection whose answers come in time. With a server that is slower every request would wait in vain, until it
/// is marked as down once more.
async fn usable<S: ConnectedServer>(server: &S) -> Result<S::Link, String> {
    let queue = server.queue();
    let longest = queue.server.timeout;
    let begun = Instant::now();
    let mut link = server.connect().await?;
    let late = || format!("its answer takes longer than {} ms", longest.as_millis());
    let answered = {
        let mut answer = pin!(timeout(longest, server.try_out(&mut link)));
        match timeout_at(begun + longest, &mut answer).await {
            Ok(answered) => answered,
            Err(_) => {
                // Requests that wait since the connection began do not wait for this as well.
                if !queue.is_down() {
                    queue.mark_down(&late(), 0);
                }
                queue.probe();
                answer.await
            }
        }
    };
    answered.unwrap_or_else(|_| Err(late())).map(|()| link)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::observe::log::{Log, Severity};
    use crate::policy::OnStoreFailure;
    use crate::store::shared::server::FAILURES;

    /// A server that is as fast as needed whenever it is tried, and slow again after so long.
    struct SlowNowAndThen {
        queue: CommandQueue<()>,
        fast_for: Duration,
    }

    impl ConnectedServer for SlowNowAndThen {
        type Command = ();
        type Link = ();

        fn queue(&self) -> &CommandQueue<()> {
            &self.queue
        }

        async fn connect(&self) -> Result<(), String> {
            Ok(())
        }

        async fn try_out(&self, (): &mut ()) -> Result<(), String> {
            Ok(())
        }

        async fn converse(&self, (): ()) -> LostConnection {
            sleep(self.fast_for).await;
            let cause = self.queue.server.unanswered_cause(FAILURES);
            LostConnection { closed: false, cause, unanswered: FAILURES.into() }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_is_slow_now_and_then_has_a_line_in_two_seconds_at_most() {
        // How long it is fast, and the most outages in an hour: after five short pauses there is one in five seconds.
        let cases = [(0, 720 + 5), (100, 706 + 5), (1_000, 600 + 5), (60_000, 56 + 1), (61_000, 59), (600_000, 6)];
        for (milliseconds, most) in cases {
            let log = Log::in_memory(Severity::Info);
            let context = BackendContext {
                timeout: Duration::from_millis(100),
                on_failure: OnStoreFailure::Local,
                outages: Vec::new(),
                statistics: Arc::default(),
                log: log.clone(),
            };
            let queue = CommandQueue::new("mc1".to_owned(), &context);
            let server = SlowNowAndThen { queue, fast_for: Duration::from_millis(milliseconds) };
            let _ = timeout(Duration::from_secs(3600), keep_connected(&server)).await;
            let lines = log.lines();
            assert!(lines.len().div_ceil(2) <= most, "{} lines, fast for {milliseconds} ms", lines.len());
            for (line, keyword) in lines.iter().zip(["STORE_DOWN ", "STORE_UP "].into_iter().cycle()) {
                assert!(line.starts_with(keyword), "{line}");
            }
        }
    }
}
