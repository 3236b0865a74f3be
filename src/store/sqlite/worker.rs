//! The thread that owns the file: takes what waits, does it in one transaction, and says what came of it.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rusqlite::{Connection, Error, OptionalExtension, params};

use super::checkpoint::Checkpoints;
use super::counters;
use super::file::{self, FileError, FileIdentity};
use super::queue::{Job, JobQueue, Work, WrittenValue};
use super::settings::SqliteConfig;
use crate::net::signals::block_signals;
use crate::observe::log::Severity;
use crate::store::shared::backend::{CounterReply, CounterRequest, Outcome, StoreError, VersionedValue};
use crate::store::shared::losses::LossLog;
use crate::store::shared::server::{PROBE_INTERVAL, ProbePause};

/// Between two looks at whether the file is still in its place.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Expired counters that a transaction deletes beyond two for each of its commands.
const PURGED: usize = 16;

/// What a probe writes, as much as a busy moment does: a disk may have room for less.
const PROBE_SIZE: i64 = 32 * 1024;

/// The thread.
pub struct Worker {
    pub queue: Arc<JobQueue>,
    pub config: SqliteConfig,
}

/// Why the file is no longer used as it was.
enum Ended {
    Stopped,
    /// The breaker has opened.
    Down,
    /// Another file is in its place, or none.
    Replaced,
    Failed(FileError),
}

impl From<Error> for Ended {
    fn from(error: Error) -> Self {
        Self::Failed(file::explain(&error))
    }
}

impl Worker {
    /// Starts it.
    pub fn start(self) -> io::Result<JoinHandle<()>> {
        thread::Builder::new().name("sqlite".to_owned()).spawn(move || {
            block_signals();
            self.run();
        })
    }

    fn run(&self) {
        let queue = &*self.queue;
        let mut pause = ProbePause::default();
        loop {
            let found = FileIdentity::of(&queue.path);
            let mut open = match self.open() {
                Ok(open) => open,
                Err(FileError::Damaged(problem)) if self.set_aside(found, &problem) => continue,
                Err(error) => {
                    queue.mark_down(&error.to_string());
                    if queue.pause(PROBE_INTERVAL) {
                        return;
                    }
                    continue;
                }
            };
            queue.mark_up();
            let begun = Instant::now();
            let (ended, used) = (open.serve(), open.identity);
            drop(open);
            match ended {
                Ended::Stopped => return,
                Ended::Replaced => {
                    queue.server.flushed("the file was removed or replaced", 0);
                    continue;
                }
                Ended::Failed(FileError::Damaged(problem)) if self.set_aside(Some(used), &problem) => continue,
                Ended::Failed(error) => queue.mark_down(&error.to_string()),
                Ended::Down => {}
            }
            pause.was_used(begun.elapsed());
            if queue.pause(pause.take()) {
                return;
            }
        }
    }

    /// Opens the file. One that was down has to show that it can be written, and as fast as requests need it.
    fn open(&self) -> Result<OpenFile<'_>, FileError> {
        let queue = &*self.queue;
        queue.probe();
        let (mut connection, identity) = file::open(&queue.path, self.config.synchronous)?;
        if queue.is_down() {
            let taken = probe(&connection).map_err(|error| match file::is_busy(&error) {
                true => FileError::Refused("another process has locked it".to_owned()),
                false => file::explain(&error),
            })?;
            let longest = queue.server.timeout;
            if taken > longest {
                let problem = format!("a write takes longer than {} ms: the disk is slow", longest.as_millis());
                return Err(FileError::Refused(problem));
            }
        }
        let page = connection.pragma_query_value(None, "page_size", |row| row.get::<_, i64>(0));
        let page = page.map_err(|error| file::explain(&error))?.max(512);
        let max_pages = i64::try_from(self.config.largest()).unwrap_or(i64::MAX) / page;
        let checkpoints = Checkpoints::watch(&mut connection, &queue.path).map_err(|error| file::explain(&error))?;
        let looked = Instant::now();
        Ok(OpenFile { queue, connection, identity, checkpoints, max_pages, looked, losses: LossLog::default() })
    }

    /// Renames a damaged file. Returns whether a new one can be made.
    fn set_aside(&self, damaged: Option<FileIdentity>, problem: &str) -> bool {
        let JobQueue { path, server, .. } = &*self.queue;
        let Some(damaged) = damaged else { return true };
        let moved = file::set_aside(path, damaged);
        server.log.line(Severity::Err, "STORE_DAMAGED", |line| {
            line.field("server", &server.name).field("problem", problem);
            match &moved {
                Ok(Some(aside)) => line.field("set_aside", aside.display()),
                Ok(None) => line.field("set_aside", "by another process"),
                Err(error) => line.field("error", error),
            };
        });
        moved.is_ok()
    }
}

/// The file while it is used.
struct OpenFile<'w> {
    queue: &'w JobQueue,
    connection: Connection,
    identity: FileIdentity,
    checkpoints: Checkpoints,
    max_pages: i64,
    looked: Instant,
    losses: LossLog,
}

impl OpenFile<'_> {
    fn serve(&mut self) -> Ended {
        loop {
            let reads = match self.queue.wait() {
                Work::Stop => return Ended::Stopped,
                Work::Down => return Ended::Down,
                work => work == Work::Reads,
            };
            if let Err(ended) = self.transaction(reads) {
                return ended;
            }
        }
    }

    /// All that waits, in one transaction.
    fn transaction(&mut self, reads: bool) -> Result<(), Ended> {
        if self.looked.elapsed() >= LOOK_INTERVAL {
            self.looked = Instant::now();
            if FileIdentity::of(&self.queue.path) != Some(self.identity) {
                return Err(Ended::Replaced);
            }
        }
        // Nothing is taken before that can be done: what waits for too long is given up, and was not done.
        while let Err(error) = self.begin(reads) {
            if !file::is_busy(&error) {
                return Err(error.into());
            }
            if !self.queue.wait_for_lock() {
                return Ok(());
            }
        }
        let jobs = self.queue.take(reads);
        let mut replies = Vec::new();
        let mut outcomes = Vec::with_capacity(jobs.len());
        let (number, mut latest) = (jobs.len(), 0);
        for job in jobs {
            match job {
                Job::Counter { request, now } => {
                    latest = latest.max(now);
                    outcomes.push(self.count(&request, now)?);
                }
                Job::ReadValue { key, reply } => {
                    let read = read_value(&self.connection, &key)?;
                    replies.push(ValueReply::Read(reply, read));
                    outcomes.push(Ok(CounterReply::Done));
                }
                Job::WriteValue { key, value, reply } => {
                    let written = write_value(&self.connection, &key, &value)?;
                    replies.push(ValueReply::Written(reply, written));
                    outcomes.push(Ok(CounterReply::Done));
                }
            }
        }
        if !reads {
            self.purge(2 * number + PURGED, latest)?;
        }
        self.execute("COMMIT")?;
        self.queue.finish(outcomes);
        replies.into_iter().for_each(ValueReply::send);
        if !reads {
            self.checkpoints.after_commit();
        }
        Ok(())
    }

    /// Begins a transaction, with the lock that it needs.
    fn begin(&self, reads: bool) -> rusqlite::Result<()> {
        if !reads {
            return self.execute("BEGIN IMMEDIATE");
        }
        self.execute("BEGIN")?;
        let locked =
            self.connection.prepare_cached("SELECT count(*) FROM value WHERE key = ''")?.query_row([], |_| Ok(()));
        locked.inspect_err(|_| drop(self.execute("ROLLBACK")))
    }

    fn execute(&self, statement: &str) -> rusqlite::Result<()> {
        self.connection.prepare_cached(statement)?.execute([]).map(|_| ())
    }

    /// What came of a command for a counter. `Err`: the transaction is lost.
    fn count(&mut self, request: &CounterRequest, now: i64) -> Result<Outcome, Ended> {
        let CounterRequest { key, command, exptime, .. } = request;
        let key = str::from_utf8(key).unwrap_or_default();
        match counters::execute(&self.connection, key, *command, *exptime, now) {
            Ok(reply) => Ok(Ok(reply)),
            Err(
                Error::InvalidColumnType(..) | Error::FromSqlConversionFailure(..) | Error::IntegralValueOutOfRange(..),
            ) => {
                let problem = "a value that is not a number is under one of our keys; delete it";
                self.queue.server.log_error(problem, key.as_bytes());
                Ok(Err(StoreError::NotANumber))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Deletes some of what has expired, and where the file has grown too large some of what will first.
    fn purge(&mut self, most: usize, now: i64) -> Result<(), Ended> {
        let pages = |pragma: &str| -> rusqlite::Result<i64> {
            self.connection.prepare_cached(pragma)?.query_row([], |row| row.get(0))
        };
        counters::purge(&self.connection, most, now)?;
        if pages("PRAGMA page_count")? <= self.max_pages {
            return Ok(());
        }
        if pages("PRAGMA page_count")? - pages("PRAGMA freelist_count")? > self.max_pages {
            let evictions = counters::purge(&self.connection, most, i64::MAX)? as u64;
            self.losses.add(&self.queue.server, None, 0, evictions);
        }
        Ok(())
    }
}

/// What is answered once the transaction is done.
enum ValueReply {
    Read(tokio::sync::oneshot::Sender<io::Result<Option<VersionedValue>>>, Option<VersionedValue>),
    Written(tokio::sync::oneshot::Sender<io::Result<bool>>, bool),
}

impl ValueReply {
    fn send(self) {
        // Who asked may have gone.
        match self {
            Self::Read(reply, read) => drop(reply.send(Ok(read))),
            Self::Written(reply, written) => drop(reply.send(Ok(written))),
        }
    }
}

fn read_value(connection: &Connection, key: &str) -> rusqlite::Result<Option<VersionedValue>> {
    let mut reads = connection.prepare_cached("SELECT bytes, version FROM value WHERE key = ?1")?;
    reads
        .query_row([key], |row| Ok(VersionedValue { bytes: row.get(0)?, version: row.get::<_, i64>(1)? as u64 }))
        .optional()
}

fn write_value(connection: &Connection, key: &str, value: &WrittenValue) -> rusqlite::Result<bool> {
    let WrittenValue { bytes, ends, replaces, now } = value;
    connection.prepare_cached("DELETE FROM value WHERE ends <= ?1")?.execute([now])?;
    let written = match replaces {
        Some(version) => connection
            .prepare_cached(
                "UPDATE value SET bytes = ?2, ends = ?3, version = version + 1 WHERE key = ?1 AND version = ?4",
            )?
            .execute(params![key, bytes, ends, *version as i64])?,
        // A version that no value of this key had before.
        None => connection
            .prepare_cached("INSERT OR IGNORE INTO value (key, bytes, ends, version) VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![key, bytes, ends, now])?,
    };
    Ok(written > 0)
}

/// Whether the file can be written, and how long that takes. On a full disk truncating the WAL may give room first.
fn probe(connection: &Connection) -> rusqlite::Result<Duration> {
    let _ = connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)");
    let begun = Instant::now();
    connection.execute_batch("BEGIN IMMEDIATE")?;
    let written = connection
        .execute(
            "INSERT OR REPLACE INTO value (key, bytes, version, ends) VALUES ('!probe', zeroblob(?1), 0, 0)",
            [PROBE_SIZE],
        )
        .and_then(|_| connection.execute_batch("COMMIT"));
    if written.is_err() {
        let _ = connection.execute_batch("ROLLBACK");
    }
    written?;
    let taken = begun.elapsed();
    connection.execute("DELETE FROM value WHERE key = '!probe'", [])?;
    Ok(taken)
}
