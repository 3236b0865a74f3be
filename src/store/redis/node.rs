//! One server: its connection, its deadlines, and whether it is down.
//!
//! All commands that wait go out together, at once and whether or not those before are answered: so the server works
//! while further requests are read. A command that was given up keeps its place until its late answer is read: none ever
//! gets the count of another.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;
use redis::{Pipeline, Value};
use tokio::time::{Instant, sleep_until, timeout};

use super::cluster::Cluster;
use super::command::{CommandForm, RedisCommand, RedisReply, ServerRefusal, read, write};
use super::link::{Connector, Link, NONSENSE};
use super::losses::{self, RedisLosses};
use super::settings::{RedisServer, Topology};
use crate::net::lock;
use crate::store::shared::backend::{BackendContext, CounterReply, StoreError};
use crate::store::shared::losses::SERVER_STATS_INTERVAL;
use crate::store::shared::queue::{CommandQueue, ConnectedServer, LostConnection, PendingCommand, keep_connected};
use crate::store::shared::server::{FAILURES, NOT_A_NUMBER};

/// How long making a connection may take, with name service, TLS and login.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Commands that travel together at most: so many keep a server from others for less than a millisecond.
const TOGETHER: usize = 128;

/// Batches without an answer at most, after which commands wait. A server at a distance has several on their way.
const BATCHES: usize = 8;

type Pending = PendingCommand<RedisCommand>;

/// One server.
#[derive(Debug)]
pub struct Node {
    pub server: RedisServer,
    pub queue: CommandQueue<RedisCommand>,
    connector: Connector,
    losses: Mutex<RedisLosses>,
    /// The cluster it belongs to, if it does.
    cluster: Option<Weak<Cluster>>,
}

impl Node {
    /// A server to which no connection is made yet.
    pub fn new(
        server: RedisServer,
        name: String,
        connector: Connector,
        cluster: Option<Weak<Cluster>>,
        context: &BackendContext,
    ) -> Self {
        Self { server, queue: CommandQueue::new(name, context), connector, losses: Mutex::default(), cluster }
    }

    /// Keeps a connection and has commands answered, for ever.
    pub async fn run(self: Arc<Self>) {
        keep_connected(&*self).await;
    }

    async fn open(&self) -> Result<Link, String> {
        let server = match &self.connector.config.topology {
            Topology::Sentinel(name) => self.connector.master(name).await?,
            Topology::Servers | Topology::Cluster => self.server.clone(),
        };
        self.connector.open_for_counters(&server).await
    }

    /// Makes a batch of the commands that wait, and of a request for statistics or not. Returns it with the future that
    /// sends it and waits for the answers.
    fn send(
        &self,
        link: &Link,
        has_server_stats: bool,
    ) -> (SentBatch, impl Future<Output = Result<Vec<Value>, String>> + Send + 'static) {
        let pending = self.queue.take(TOGETHER);
        let commands: Vec<&RedisCommand> = pending.iter().map(|pending| &pending.command).collect();
        let mut pipeline = Pipeline::new();
        let answers = if commands.is_empty() { 0 } else { write(&commands, link.form, self.together(), &mut pipeline) };
        if has_server_stats {
            losses::ask(&mut pipeline);
        }
        let all_answers = pipeline.len();
        (SentBatch { pending, form: link.form, answers, has_server_stats }, link.send(pipeline, all_answers))
    }

    /// Gives each command of a batch its answer. `Err`: the connection is of no more use.
    fn answered(
        &self,
        batch: SentBatch,
        mut values: Vec<Value>,
        link: &mut Link,
        failures: &mut u32,
    ) -> Result<(), Broken> {
        let SentBatch { pending, form, answers, has_server_stats } = batch;
        // A late answer does not reset the number of failures.
        if pending.is_empty() || pending.iter().any(PendingCommand::is_open) {
            *failures = 0;
        }
        if has_server_stats {
            let told = values.split_off(answers.min(values.len()));
            link.server_stats = self.take_server_stats(&told).then(|| Instant::now() + SERVER_STATS_INTERVAL);
        }
        if pending.is_empty() {
            return Ok(());
        }
        if form == (CommandForm::Script { whole: true }) {
            link.form = CommandForm::Script { whole: false };
        }
        let commands: Vec<&RedisCommand> = pending.iter().map(|pending| &pending.command).collect();
        let replies = read(&commands, form, self.together(), values);
        let replies = replies.filter(|replies| replies.len() == pending.len());
        let replies = replies.ok_or_else(|| Broken::useless(NONSENSE.to_owned()))?;
        let now = Instant::now();
        let mut unusable = None;
        for (mut pending, reply) in pending.into_iter().zip(replies) {
            self.queue.observe(&pending, now);
            match reply {
                RedisReply::Reply(reply) => {
                    if let Some(more) = pending.command.follow_up(form, reply) {
                        self.queue.submit_own(more);
                    }
                    pending.finish(Ok(reply));
                }
                RedisReply::Below(amount) => {
                    self.queue.submit_own(pending.command.give_back(amount));
                    pending.finish(Ok(CounterReply::Done));
                }
                RedisReply::Refused(text) => {
                    if self.refused(pending, &text, link) {
                        unusable = Some(text);
                    }
                }
            }
        }
        unusable.map_or(Ok(()), |text| Err(Broken::useless(text)))
    }

    /// Whether one call of the script does all commands of a batch. In a cluster the keys are in different slots.
    fn together(&self) -> bool {
        self.cluster.is_none()
    }

    fn cluster(&self) -> Option<Arc<Cluster>> {
        self.cluster.as_ref().and_then(Weak::upgrade)
    }

    /// Something says that a cluster has changed.
    fn look_again(&self) {
        if let Some(cluster) = self.cluster() {
            cluster.look_again();
        }
    }

    /// Whether the server tells its statistics.
    fn take_server_stats(&self, told: &[Value]) -> bool {
        let topology = &self.connector.config.topology;
        lock(&self.losses).take(told, self.server.database, topology, &self.queue.server)
    }

    /// Does what follows when a server refuses a command. Returns whether it refuses all of them.
    fn refused(&self, mut pending: Pending, text: &str, link: &mut Link) -> bool {
        let key = pending.command.key.clone();
        match ServerRefusal::of(text) {
            ServerRefusal::NotANumber => {
                self.queue.server.log_error(NOT_A_NUMBER, &key);
                pending.finish(Err(StoreError::NotANumber));
            }
            // Nothing was done, so it may be asked again.
            ServerRefusal::NoScript if !pending.again => {
                link.form = CommandForm::Script { whole: true };
                pending.again = true;
                self.queue.push(pending);
            }
            ServerRefusal::Elsewhere { address, ask }
                if !pending.again
                    && let Some(cluster) = self.cluster() =>
            {
                pending.again = true;
                cluster.redirect(pending, &address, ask, &self.server);
            }
            ServerRefusal::Unusable => {
                pending.finish(Err(StoreError::Unavailable));
                return true;
            }
            _ => {
                self.look_again();
                self.queue.server.log_error(text, &key);
                pending.finish(Err(StoreError::NoAnswer));
            }
        }
        false
    }
}

/// Commands that travel together.
struct SentBatch {
    pending: Vec<Pending>,
    /// How they were written.
    form: CommandForm,
    /// The number of answers to them.
    answers: usize,
    /// The answers to the request for statistics follow.
    has_server_stats: bool,
}

/// Why a connection is of no more use.
struct Broken {
    closed: bool,
    cause: String,
}

impl Broken {
    fn useless(cause: String) -> Self {
        Self { closed: false, cause }
    }
}

impl ConnectedServer for Node {
    type Command = RedisCommand;
    type Link = Link;

    fn queue(&self) -> &CommandQueue<RedisCommand> {
        &self.queue
    }

    async fn connect(&self) -> Result<Link, String> {
        self.queue.probe();
        let mut open = pin!(timeout(CONNECT_TIMEOUT, self.open()));
        let made = match timeout(self.queue.server.timeout, &mut open).await {
            Ok(made) => made,
            Err(_) => {
                // Requests do not wait for it any longer.
                let waited = self.queue.server.timeout.as_millis();
                self.queue.mark_down(&format!("no connection within {waited} ms"), 0);
                self.queue.probe();
                open.await
            }
        };
        let made = made.unwrap_or_else(|_| Err(format!("no connection within {} ms", CONNECT_TIMEOUT.as_millis())));
        made.inspect_err(|_| self.look_again())
    }

    async fn try_out(&self, link: &mut Link) -> Result<(), String> {
        let tried = link.try_counter(&self.connector.config.key_prefix).await;
        tried.inspect_err(|_| self.look_again())
    }

    async fn converse(&self, mut link: Link) -> LostConnection {
        let mut failures = 0;
        let mut batches = VecDeque::<SentBatch>::new();
        let mut answers = FuturesOrdered::new();
        let broken = loop {
            // Until a batch can be sent, statistics are not due: this would wait for nothing again and again.
            let can_send = batches.len() < BATCHES;
            let asks = batches.iter().any(|batch| batch.has_server_stats);
            let server_stats = link.server_stats.filter(|_| can_send && !asks);
            let is_due = server_stats.is_some_and(|due| due <= Instant::now());
            if can_send && (is_due || !self.queue.is_empty()) {
                let (batch, answer) = self.send(&link, is_due);
                batches.push_back(batch);
                answers.push_back(answer);
            }
            let sent = batches.iter().flat_map(|batch| &batch.pending);
            let due = self.queue.deadline(sent).into_iter().chain(server_stats.filter(|_| !is_due)).min();
            tokio::select! {
                biased;
                Some(values) = answers.next() => {
                    let batch = batches.pop_front().expect("as many batches as answers");
                    let values = values.map_err(|cause| Broken { closed: true, cause });
                    let done = values.and_then(|values| self.answered(batch, values, &mut link, &mut failures));
                    if let Err(broken) = done {
                        break broken;
                    }
                }
                cause = link.closed() => break Broken { closed: true, cause: cause.to_owned() },
                () = self.queue.wait_for_work() => {}
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    let sent = batches.iter_mut().flat_map(|batch| &mut batch.pending);
                    failures += self.queue.expire(sent, Instant::now());
                    if failures >= FAILURES {
                        break Broken::useless(self.queue.server.unanswered_cause(failures));
                    }
                }
            }
        };
        let sent = batches.into_iter().flat_map(|batch| batch.pending);
        self.queue.end(sent, failures, broken.closed, broken.cause)
    }
}
