//! What waits for the thread that owns the file, and whether the file can be used.
//!
//! Requests put their commands here and never wait for the disk. The thread takes all of them at once. Those whose
//! time is over before they are done are given up here, by a task that the thread cannot hold up.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use smallvec::SmallVec;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep_until};

use super::counters::only_reads;
use crate::net::lock;
use crate::store::shared::backend::{
    BackendContext, CounterRequest, CounterRequests, Outcome, SavedOutage, Sent, StoreError, VersionedValue,
};
use crate::store::shared::breaker::{Breaker, ServerHealth};
use crate::store::shared::server::{FAILURES, StoreServer};

/// Commands that wait at once; a further one is not asked.
pub const MAX_WAITING: usize = 16_384;

/// Commands of one transaction.
const MAX_BATCH: usize = 2048;

/// The queue, for the requests, the thread and the task.
#[derive(Debug)]
pub struct JobQueue {
    pub path: PathBuf,
    /// The file, as log lines name it.
    pub server: StoreServer,
    state: Mutex<JobQueueState>,
    /// Something waits, or the end has come.
    work: Condvar,
    /// A command waits that has to be given up in time.
    alarm: Notify,
    stop: AtomicBool,
}

#[derive(Debug, Default)]
struct JobQueueState {
    /// Empty while the breaker is open.
    waiting: VecDeque<(Job, Waiting)>,
    /// What the thread does at present, in its order.
    running: Vec<Waiting>,
    breaker: Breaker,
    /// Requests in a row that were not answered in time.
    failures: u32,
    /// The thread cannot begin, for another process writes.
    locked: bool,
    /// The thread waits for work.
    idle: bool,
    /// The task knows that there is something to give up.
    armed: bool,
}

impl JobQueueState {
    /// Returns whether there was room.
    fn push(&mut self, job: Job, waiting: Waiting) -> bool {
        let has_room = self.waiting.len() < MAX_WAITING;
        if has_room {
            self.waiting.push_back((job, waiting));
        }
        has_room
    }
}

/// What the thread is to do.
#[derive(Debug)]
pub enum Job {
    Counter { request: CounterRequest, now: i64 },
    ReadValue { key: String, reply: oneshot::Sender<io::Result<Option<VersionedValue>>> },
    WriteValue { key: String, value: WrittenValue, reply: oneshot::Sender<io::Result<bool>> },
}

/// A value to be written.
#[derive(Debug)]
pub struct WrittenValue {
    pub bytes: Vec<u8>,
    pub ends: i64,
    /// The version that it replaces; `None`: there is none.
    pub replaces: Option<u64>,
    pub now: i64,
}

/// Who waits for a job, and until when. A value has its own.
#[derive(Debug)]
struct Waiting {
    deadline: Instant,
    /// First command of its request; only this one counts in per-request statistics.
    is_first: bool,
    reply: Option<oneshot::Sender<Outcome>>,
}

impl Waiting {
    fn finish(&mut self, outcome: Outcome) {
        if let Some(reply) = self.reply.take() {
            // No one receives it when the request's connection has gone, or when no request waits for it.
            let _ = reply.send(outcome);
        }
    }
}

impl Job {
    pub fn only_reads(&self) -> bool {
        match self {
            Self::Counter { request, .. } => only_reads(request.command),
            Self::ReadValue { .. } => true,
            Self::WriteValue { .. } => false,
        }
    }
}

/// What the thread finds when it looks for work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// All that waits only reads.
    Reads,
    Writes,
    /// The breaker is open.
    Down,
    Stop,
}

impl JobQueue {
    pub fn new(path: &Path, context: &BackendContext) -> Self {
        let server = StoreServer::new(path.display().to_string(), context);
        let state = JobQueueState { breaker: server.breaker(context), ..JobQueueState::default() };
        Self {
            path: path.to_owned(),
            server,
            state: Mutex::new(state),
            work: Condvar::new(),
            alarm: Notify::new(),
            stop: AtomicBool::new(false),
        }
    }

    /// Queues commands, which are done together. The outcomes come within the time-out.
    pub fn submit(&self, requests: CounterRequests, waited_for: bool, now: i64) -> SmallVec<[Sent; 2]> {
        let mut state = self.state();
        let deadline = Instant::now() + self.server.timeout;
        let mut sent = SmallVec::new();
        for (index, request) in requests.into_iter().enumerate() {
            // The first of them stands for the request.
            let is_first = waited_for && index == 0;
            sent.push(state.breaker.admit(is_first).and_then(|()| {
                let (reply, outcome) = oneshot::channel();
                let waiting = Waiting { deadline, is_first, reply: Some(reply) };
                state.push(Job::Counter { request, now }, waiting).then_some(outcome).ok_or(StoreError::Unavailable)
            }));
        }
        self.wake(state);
        sent
    }

    /// Queues a job for a value. Its reply is dropped if it is not done.
    pub fn submit_value(&self, job: Job) -> bool {
        let mut state = self.state();
        if state.breaker.admit(false).is_err() {
            return false;
        }
        let waiting = Waiting { deadline: Instant::now() + self.server.timeout, is_first: false, reply: None };
        let is_queued = state.push(job, waiting);
        self.wake(state);
        is_queued
    }

    /// Has what was queued noticed.
    fn wake(&self, mut state: MutexGuard<'_, JobQueueState>) {
        let idle = state.idle && !state.waiting.is_empty();
        state.idle &= !idle;
        let unarmed = !state.armed && state.waiting.iter().any(|(_, waiting)| waiting.reply.is_some());
        state.armed |= unarmed;
        drop(state);
        if idle {
            self.work.notify_one();
        }
        if unarmed {
            self.alarm.notify_one();
        }
    }

    /// Waits until there is something to do.
    pub fn wait(&self) -> Work {
        let mut state = self.state();
        loop {
            if self.stop.load(Ordering::Relaxed) && state.waiting.is_empty() {
                return Work::Stop;
            }
            if state.breaker.is_open() {
                return Work::Down;
            }
            if !state.waiting.is_empty() {
                let reads = state.waiting.iter().all(|(job, _)| job.only_reads());
                return if reads { Work::Reads } else { Work::Writes };
            }
            state.idle = true;
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// What waits now, in its order; with `reads`, only what changes nothing and comes before anything that does.
    pub fn take(&self, reads: bool) -> Vec<Job> {
        let mut state = self.state();
        state.locked = false;
        let until = state.waiting.iter().take(MAX_BATCH).take_while(|(job, _)| !reads || job.only_reads()).count();
        let JobQueueState { waiting, running, .. } = &mut *state;
        let (jobs, who): (Vec<_>, Vec<_>) = waiting.drain(..until).unzip();
        *running = who;
        jobs
    }

    /// The outcomes of what was taken, in its order.
    pub fn finish(&self, outcomes: impl IntoIterator<Item = Outcome>) {
        let mut state = self.state();
        let running = std::mem::take(&mut state.running);
        // An answer that comes too late does not end the run of failures.
        if running.iter().any(|waiting| waiting.reply.is_some()) {
            state.failures = 0;
        }
        drop(state);
        let now = Instant::now();
        for (mut waiting, outcome) in running.into_iter().zip(outcomes) {
            if waiting.is_first && waiting.reply.is_some() {
                self.server.answered(waiting.deadline, now);
            }
            waiting.finish(outcome);
        }
    }

    /// The thread is kept from beginning by another process. Returns whether it should go on to try.
    pub fn wait_for_lock(&self) -> bool {
        let mut state = self.state();
        state.locked = true;
        !state.waiting.is_empty() && !state.breaker.is_open()
    }

    /// Commands go to the file again.
    pub fn mark_up(&self) {
        let outage = self.state().breaker.close();
        self.server.came_up(outage);
    }

    /// The file is being tried.
    pub fn probe(&self) {
        self.state().breaker.probe();
    }

    /// Opens the breaker: ends the commands that wait or were rolled back, and refuses new ones.
    pub fn mark_down(&self, cause: &str) {
        self.open_breaker(self.state(), cause, 0);
    }

    fn open_breaker(&self, mut state: MutexGuard<'_, JobQueueState>, cause: &str, unanswered: u64) {
        // When the thread calls this, its transaction was rolled back. When the time-out task does, with requests
        // unanswered, it may still be committed.
        let begun = if unanswered > 0 { StoreError::NoAnswer } else { StoreError::Unavailable };
        let running = std::mem::take(&mut state.running).into_iter().map(|running| (running, begun));
        let waiting = std::mem::take(&mut state.waiting).into_iter();
        let waiting = waiting.map(|(_, waiting)| (waiting, StoreError::Unavailable));
        let stranded: Vec<_> = running.chain(waiting).filter(|(waiting, _)| waiting.reply.is_some()).collect();
        let decisions = unanswered + stranded.iter().filter(|(waiting, _)| waiting.is_first).count() as u64;
        state.failures = 0;
        let logged = state.breaker.open(cause, decisions, Instant::now());
        drop(state);
        self.work.notify_all();
        for (mut waiting, error) in stranded {
            waiting.finish(Err(error));
        }
        self.server.went_down(logged, cause);
    }

    /// Gives up what is not done in time, for ever.
    pub async fn give_up_in_time(self: Arc<Self>) {
        loop {
            self.alarm.notified().await;
            while let Some(deadline) = self.expire() {
                sleep_until(deadline).await;
            }
        }
    }

    /// Gives up what is late, and returns when the next one will be; `None`: nothing waits.
    fn expire(&self) -> Option<Instant> {
        let mut state = self.state();
        let now = Instant::now();
        let is_late = |waiting: &Waiting| waiting.reply.is_some() && waiting.deadline <= now;
        let mut late = Vec::new();
        for waiting in state.running.iter_mut().filter(|waiting| is_late(waiting)) {
            // Its place is kept, for the outcomes come in the order of the commands.
            late.push(Waiting { reply: waiting.reply.take(), ..*waiting });
        }
        let stuck = !late.is_empty();
        state.waiting.retain_mut(|(_, waiting)| {
            let is_late = is_late(waiting);
            if is_late {
                late.push(Waiting { reply: waiting.reply.take(), ..*waiting });
            }
            !is_late
        });
        let failures = late.iter().filter(|late| late.is_first).count() as u32;
        state.failures += failures;
        let open = state.running.iter().chain(state.waiting.iter().map(|(_, waiting)| waiting));
        let next = open.filter(|waiting| waiting.reply.is_some()).map(|waiting| waiting.deadline).min();
        state.armed = next.is_some();
        if state.failures >= FAILURES {
            let why = match (state.locked, stuck) {
                (true, false) => "another process has locked it",
                _ => "the disk is slow",
            };
            let cause = format!("{}: {why}", self.server.unanswered_cause(state.failures));
            let unanswered = state.failures.into();
            self.open_breaker(state, &cause, unanswered);
        } else {
            drop(state);
        }
        for mut waiting in late {
            if waiting.is_first {
                self.server.gave_up();
            }
            waiting.finish(Err(StoreError::NoAnswer));
        }
        next
    }

    /// Has the thread end when all that waits is done.
    pub fn stop(&self) {
        // With the lock held: without it the thread might have looked already and not wait yet, and would miss this.
        let _state = self.state();
        self.stop.store(true, Ordering::Relaxed);
        self.work.notify_all();
    }

    /// Waits, at most so long. Returns whether the end has come.
    pub fn pause(&self, time: Duration) -> bool {
        let until = std::time::Instant::now() + time;
        let mut state = self.state();
        loop {
            let left = until.saturating_duration_since(std::time::Instant::now());
            if self.stop.load(Ordering::Relaxed) || left.is_zero() {
                return self.stop.load(Ordering::Relaxed);
            }
            state = self.work.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

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

    fn state(&self) -> MutexGuard<'_, JobQueueState> {
        lock(&self.state)
    }
}
