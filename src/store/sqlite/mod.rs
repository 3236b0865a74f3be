//! A SQLite file as a shared store: for the processes of one host, without any server.
//!
//! A thread owns the file. All commands that wait at one moment are done in one transaction, so many requests share
//! the cost of a commit. `queue` is what requests see of it, `worker` the thread, `counters` the statements, `file` how
//! the file is made, opened and judged, `checkpoint` the way to the disk.

mod checkpoint;
mod counters;
mod doctor;
pub mod file;
mod kind;
mod listing;
mod queue;
mod settings;
mod worker;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use smallvec::{SmallVec, smallvec};
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use crate::net::clock::Now;
use crate::policy::Key;
use crate::store::shared::backend::{
    Backend, BackendContext, Boxed, CounterCommand, CounterRequest, CounterRequests, KeyListing, KeyQuery, KeyText,
    PendingReply, SavedOutage, VersionedValue, all_received,
};
use crate::store::shared::breaker::ServerHealth;
pub use kind::KIND;
use queue::{Job, JobQueue, WrittenValue};
pub use settings::SqliteConfig;
use worker::Worker;

/// For one exchange about a value, which no request waits for.
const VALUE_TIMEOUT: Duration = Duration::from_secs(1);

/// The file, and who works on it.
#[derive(Debug)]
pub struct Sqlite {
    queue: Arc<JobQueue>,
    _giving_up: AbortOnDropHandle<()>,
}

impl Sqlite {
    /// Opens the file of a configuration, on a thread of its own; must be called within a runtime.
    pub fn new(config: &SqliteConfig, context: &BackendContext) -> Self {
        let queue = Arc::new(JobQueue::new(&config.path, context));
        let _giving_up = AbortOnDropHandle::new(tokio::spawn(Arc::clone(&queue).give_up_in_time()));
        let worker = Worker { queue: Arc::clone(&queue), config: config.clone() };
        if let Err(error) = worker.start() {
            queue.mark_down(&format!("cannot start its thread: {error}"));
        }
        Self { queue, _giving_up }
    }
}

impl Backend for Sqlite {
    /// What is submitted without a pause is done in one transaction.
    fn submit(&self, requests: CounterRequests, waited_for: bool, now: Now) -> SmallVec<[PendingReply; 2]> {
        let sent = self.queue.submit(requests, waited_for, unix_ms(now));
        sent.into_iter().map(PendingReply::one).collect()
    }

    fn read_value<'a>(&'a self, key: &'a str) -> Boxed<'a, io::Result<Option<VersionedValue>>> {
        let (reply, answer) = oneshot::channel();
        let job = Job::ReadValue { key: key.to_owned(), reply };
        Box::pin(async move { self.ask(job, answer).await })
    }

    fn write_value<'a>(
        &'a self,
        key: &'a str,
        value: &'a [u8],
        exptime: u32,
        before: Option<&'a VersionedValue>,
        now: Now,
    ) -> Boxed<'a, io::Result<bool>> {
        let (reply, answer) = oneshot::channel();
        let now = unix_ms(now);
        let value = WrittenValue {
            bytes: value.to_owned(),
            ends: now + i64::from(exptime) * 1000,
            replaces: before.map(|value| value.version),
            now,
        };
        let job = Job::WriteValue { key: key.to_owned(), value, reply };
        Box::pin(async move { self.ask(job, answer).await })
    }

    fn lists_keys(&self) -> bool {
        true
    }

    fn list_keys(&self, query: KeyQuery, now: Now) -> Boxed<'_, io::Result<KeyListing>> {
        let (path, now) = (self.queue.path.clone(), unix_ms(now));
        Box::pin(async move {
            let listing = spawn_blocking(move || listing::list(&path, &query, now));
            listing.await.unwrap_or_else(|error| Err(io::Error::other(error)))
        })
    }

    fn servers(&self) -> Vec<ServerHealth> {
        vec![self.queue.health()]
    }

    fn is_down_for(&self, _: &Key<'_>) -> bool {
        self.queue.is_down()
    }

    fn outages(&self) -> Vec<SavedOutage> {
        self.queue.outage().into_iter().collect()
    }

    fn wait_for_background(&self) -> Boxed<'_, ()> {
        // Commands are done in their order, so one more is the last.
        let last = CounterRequest {
            key: KeyText::from_slice(b"connshaper"),
            command: CounterCommand::Read,
            exptime: 0,
            is_known: false,
        };
        all_received(self.queue.submit(smallvec![last], false, unix_ms(Now::read())))
    }
}

impl Sqlite {
    async fn ask<T>(&self, job: Job, answer: oneshot::Receiver<io::Result<T>>) -> io::Result<T> {
        let down = || io::Error::other("the file cannot be used");
        if !self.queue.submit_value(job) {
            return Err(down());
        }
        match timeout(VALUE_TIMEOUT, answer).await {
            Ok(answer) => answer.unwrap_or_else(|_| Err(down())),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

fn unix_ms(now: Now) -> i64 {
    i64::try_from(now.unix_ms).unwrap_or(i64::MAX)
}

impl Drop for Sqlite {
    fn drop(&mut self) {
        self.queue.stop();
    }
}
