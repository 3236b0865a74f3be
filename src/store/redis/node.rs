//! One server: its connection, its deadlines, and whether it is down.
//!
//! All commands that wait go out together, and the next ones wait for the answers. A command that was given up keeps
//! its place until its late answer is read: none ever gets the count of another.

use std::pin::pin;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use redis::{Pipeline, Value};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until, timeout};

use super::cluster::Cluster;
use super::command::{CommandForm, RedisCommand, RedisReply, ServerRefusal, read, write};
use super::link::{Connector, Link, NONSENSE};
use super::losses::{self, RedisLosses};
use super::settings::{RedisServer, Topology};
use crate::net::lock;
use crate::store::shared::backend::{BackendContext, CounterReply, StoreError};
use crate::store::shared::losses::CENSUS_INTERVAL;
use crate::store::shared::queue::{CommandQueue, ConnectedServer, LostConnection, PendingCommand, keep_connected};
use crate::store::shared::server::{FAILURES, NOT_A_NUMBER};

/// How long making a connection may take, with name service, TLS and login.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Commands that travel together at most: so many keep a server from others for less than a millisecond.
const TOGETHER: usize = 128;

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

    /// Has a batch answered. `Err`: the connection is of no more use.
    async fn exchange(&self, link: &mut Link, flight: &mut Vec<Pending>, failures: &mut u32) -> Result<(), Broken> {
        let (form, together) = (link.form, self.cluster.is_none());
        let asks = link.census.is_some_and(|due| due <= Instant::now());
        let commands: Vec<RedisCommand> = flight.iter().map(|pending| pending.command.clone()).collect();
        let commands: Vec<&RedisCommand> = commands.iter().collect();
        let mut pipeline = Pipeline::new();
        let answers = if flight.is_empty() { 0 } else { write(&commands, form, together, &mut pipeline) };
        if asks {
            losses::ask(&mut pipeline);
        }
        let mut values = self.wait(link, &pipeline, pipeline.len(), flight, failures).await?;
        // An answer that comes too late is none.
        if flight.is_empty() || flight.iter().any(PendingCommand::is_open) {
            *failures = 0;
        }
        if asks {
            let told = values.split_off(answers.min(values.len()));
            link.census = self.take_census(&told).then(|| Instant::now() + CENSUS_INTERVAL);
        }
        if flight.is_empty() {
            return Ok(());
        }
        if form == (CommandForm::Script { whole: true }) {
            link.form = CommandForm::Script { whole: false };
        }
        let answers = read(&commands, form, together, values).ok_or_else(|| Broken::useless(NONSENSE.to_owned()))?;
        if answers.len() != flight.len() {
            return Err(Broken::useless(NONSENSE.to_owned()));
        }
        let now = Instant::now();
        let mut unusable = None;
        for (pending, answer) in flight.drain(..).zip(answers) {
            self.queue.observe(&pending, now);
            match answer {
                RedisReply::Reply(reply) => {
                    if let Some(more) = pending.command.follow_up(form, reply) {
                        self.queue.submit_own(more);
                    }
                    let mut pending = pending;
                    pending.finish(Ok(reply));
                }
                RedisReply::Below(amount) => {
                    self.queue.submit_own(pending.command.give_back(amount));
                    let mut pending = pending;
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
    fn take_census(&self, told: &[Value]) -> bool {
        let topology = &self.connector.config.topology;
        lock(&self.losses).take(told, self.server.database, topology, &self.queue.server)
    }

    /// Waits for answers, and gives up commands meanwhile whose time is over.
    async fn wait(
        &self,
        link: &mut Link,
        pipeline: &Pipeline,
        answers: usize,
        flight: &mut [Pending],
        failures: &mut u32,
    ) -> Result<Vec<Value>, Broken> {
        let mut asked = pin!(link.ask(pipeline, answers));
        loop {
            let deadline = self.queue.deadline(flight.iter());
            let timer = sleep_until(deadline.unwrap_or_else(|| Instant::now() + CONNECT_TIMEOUT));
            tokio::select! {
                biased;
                values = &mut asked => return values.map_err(|cause| Broken { closed: true, cause }),
                () = self.queue.wait_for_work() => {}
                () = timer => {
                    *failures += self.queue.expire(flight.iter_mut(), Instant::now());
                    if *failures >= FAILURES {
                        return Err(Broken::useless(self.queue.server.unanswered_cause(*failures)));
                    }
                }
            }
        }
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
        let mut flight: Vec<Pending> = Vec::new();
        let broken = loop {
            if self.queue.is_empty() {
                let census = link.census;
                tokio::select! {
                    biased;
                    () = self.queue.wait_for_work() => continue,
                    () = sleep_until(census.unwrap_or_else(Instant::now)), if census.is_some() => {}
                    cause = link.closed() => break Broken { closed: true, cause: cause.to_owned() },
                }
            }
            // Requests that are being read at this moment come along.
            yield_now().await;
            flight = self.queue.take(TOGETHER);
            if let Err(broken) = self.exchange(&mut link, &mut flight, &mut failures).await {
                break broken;
            }
        };
        self.queue.end(flight.into_iter(), failures, broken.closed, broken.cause)
    }
}
