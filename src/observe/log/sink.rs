//! The queue of lines to be written, which is bounded, and the thread that empties it.
//!
//! To log is only to push: when the queue is full the line is dropped and
//! counted, and once there is room again one line says how many were.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::Severity;
use super::encode;
use super::record::LogRecord;
use super::writer::LogWriter;
use crate::net::lock;
use crate::net::signals::block_signals;
use crate::observe::log::LogTarget;

/// Records that wait at once: 40 s at the default rate, and 2 MB as they usually are.
pub const MAX_QUEUED: usize = 4096;

/// The writing thread formats into short buffers and calls nothing deep.
const STACK: usize = 128 * 1024;

/// Where a log's lines go.
pub enum Sink {
    /// To a thread that writes them.
    Thread(Thread),
    /// Nowhere: they are kept.
    Memory(Mutex<Vec<String>>),
}

impl Sink {
    /// A sink for the configured target.
    pub fn open(target: &LogTarget) -> io::Result<Self> {
        Thread::start(LogWriter::new(target)).map(Self::Thread)
    }

    /// A sink that keeps its lines.
    pub fn memory() -> Self {
        Self::Memory(Mutex::new(Vec::new()))
    }

    /// Takes one record. Never waits for the reader of the log.
    pub fn push(&self, severity: Severity, record: LogRecord) {
        match self {
            Self::Thread(thread) => thread.queue.push(QueuedLine { severity, record, since: Instant::now() }),
            Self::Memory(lines) => lock(lines).push(encode::text(&record)),
        }
    }

    /// Lines lost so far.
    pub fn dropped(&self) -> u64 {
        match self {
            Self::Thread(thread) => lock(&thread.queue.state).dropped,
            Self::Memory(_) => 0,
        }
    }

    /// Waits until the queue is empty. Returns whether it is.
    pub fn flush(&self, patience: Duration) -> bool {
        match self {
            Self::Thread(thread) => thread.queue.flush(patience),
            Self::Memory(_) => true,
        }
    }

    /// The lines kept so far.
    pub fn lines(&self) -> Vec<String> {
        match self {
            Self::Thread(_) => Vec::new(),
            Self::Memory(lines) => lock(lines).clone(),
        }
    }
}

/// The handle of the writing thread, which ends some time after this is dropped.
pub struct Thread {
    queue: Arc<LineQueue>,
}

impl Thread {
    fn start(mut writer: LogWriter) -> io::Result<Self> {
        let queue = Arc::new(LineQueue::default());
        let entries = Arc::clone(&queue);
        thread::Builder::new().name("log".to_owned()).stack_size(STACK).spawn(move || {
            block_signals();
            write_all(&entries, &mut writer);
        })?;
        Ok(Self { queue })
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        lock(&self.queue.state).closed = true;
        self.queue.changed.notify_all();
    }
}

fn write_all(queue: &LineQueue, writer: &mut LogWriter) {
    while let Some(entry) = queue.next() {
        let written = writer.write(&entry);
        if let Some(lost) = queue.to_report(written) {
            let mut record = LogRecord::new("DROPPED");
            record.field("lines", lost);
            let report = QueuedLine { severity: Severity::Warning, record, since: Instant::now() };
            // When it is lost too, the next report tells the sum.
            if !writer.write(&report) {
                lock(&queue.state).unreported += lost;
            }
        }
    }
}

/// A record that waits.
pub(super) struct QueuedLine {
    pub severity: Severity,
    pub record: LogRecord,
    pub since: Instant,
}

#[derive(Default)]
struct LineQueue {
    state: Mutex<LineQueueState>,
    changed: Condvar,
}

#[derive(Default)]
struct LineQueueState {
    waiting: VecDeque<QueuedLine>,
    /// Whether the thread has a line in hand.
    writing: bool,
    closed: bool,
    dropped: u64,
    unreported: u64,
}

impl LineQueueState {
    fn lose(&mut self) {
        self.dropped += 1;
        self.unreported += 1;
    }
}

impl LineQueue {
    fn push(&self, entry: QueuedLine) {
        let mut state = lock(&self.state);
        if state.waiting.len() >= MAX_QUEUED {
            state.lose();
            return;
        }
        state.waiting.push_back(entry);
        // A busy thread looks for the next line by itself.
        if !state.writing {
            drop(state);
            self.changed.notify_all();
        }
    }

    /// Waits for the next line; `None` when there will be none.
    fn next(&self) -> Option<QueuedLine> {
        let mut state = lock(&self.state);
        state.writing = false;
        if state.waiting.is_empty() {
            self.changed.notify_all();
        }
        let idle = |state: &mut LineQueueState| state.waiting.is_empty() && !state.closed;
        let mut state = self.changed.wait_while(state, idle).unwrap_or_else(PoisonError::into_inner);
        let entry = state.waiting.pop_front();
        state.writing = entry.is_some();
        entry
    }

    /// Counts a line that was lost; after one that was not: the losses to report.
    fn to_report(&self, written: bool) -> Option<u64> {
        let mut state = lock(&self.state);
        if !written {
            state.lose();
            return None;
        }
        (state.unreported > 0).then(|| std::mem::take(&mut state.unreported))
    }

    fn flush(&self, patience: Duration) -> bool {
        let state = lock(&self.state);
        let busy = |state: &mut LineQueueState| state.writing || !state.waiting.is_empty();
        let waited = self.changed.wait_timeout_while(state, patience, busy);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }
}
