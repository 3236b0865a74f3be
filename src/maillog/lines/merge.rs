//! Several logs as one: their events in the order of their times.
//!
//! Logs that follow each other, as rotated ones do, are read one after the
//! other; logs of several hosts that cover the same time are read side by
//! side. A log is opened when the time has come to its first line.

use std::io;
use std::ops::ControlFlow;

use indicatif::ProgressBar;

use super::blocks::{Batch, Blocks, Lines};
use super::clocks::Clocks;
use super::event::{Event, Reader};
use super::repeats::Repeats;
use super::servers;
use super::source::LogSource;

/// All logs.
pub struct Merge {
    /// Not opened yet, the first to come last.
    waiting: Vec<LogSource>,
    open: Vec<OpenLog>,
    reader: Reader,
    progress: ProgressBar,
    repeats: Repeats,
    /// What has been read so far.
    pub stats: ReadStats,
}

/// What was read.
#[derive(Debug, Default)]
pub struct ReadStats {
    /// Names of the logs in the order of their times.
    pub logs: Vec<String>,
    /// Their lines.
    pub lines: Lines,
    /// The first line that was not understood.
    pub strange: Option<Box<[u8]>>,
    /// How often a clock was set back.
    pub set_back: u64,
    /// Whether a log could not be opened, and whether one is damaged or out of order.
    pub is_missing: bool,
    pub is_damaged: bool,
    pub is_not_understood: bool,
    /// What could not be read, and why.
    pub troubles: Vec<String>,
}

/// A log that is being read.
struct OpenLog {
    name: String,
    clocks: Clocks,
    blocks: Blocks,
    batch: Batch,
    /// Its lines before the batch, how they were understood, and another mail server that wrote some.
    before: u64,
    lines: Lines,
    other_server: Option<&'static str>,
    /// Its place among all logs, and its events that another log has, too.
    number: usize,
    repeated: u64,
    /// The next event of the batch, and its time.
    next: usize,
    time: i64,
}

impl Merge {
    /// All of these. `stats` has what looking into them and others found.
    pub fn new(mut sources: Vec<LogSource>, reader: Reader, progress: ProgressBar, mut stats: ReadStats) -> Self {
        // Of logs that begin in the same second, the one that ends first is the first.
        sources.sort_by_key(|source| (source.first, source.last));
        stats.logs.splice(0..0, sources.iter().map(|source| source.name.clone()));
        sources.reverse();
        Self { waiting: sources, open: Vec::new(), reader, progress, repeats: Repeats::default(), stats }
    }

    /// Shows every event in order, with its time in milliseconds since the epoch, which never goes
    /// back, and the names its batch has, until `show` says that it has seen enough.
    pub fn for_each(&mut self, mut show: impl FnMut(i64, &Event, &[u8]) -> ControlFlow<()>) {
        let mut last = i64::MIN;
        let is_one = self.waiting.len() < 2;
        while let Some(at) = self.earliest() {
            let open = &mut self.open[at];
            last = last.max(open.time);
            let event = &open.batch.events[open.next];
            if !is_one && self.repeats.is_repeated(open.time, event, open.number) {
                open.repeated += 1;
            } else if show(last, event, &open.batch.names).is_break() {
                return;
            }
            if !open.advance(&mut self.stats) {
                self.open.remove(at);
            }
        }
    }

    /// Which open log has the next event. Opens those that may have it.
    fn earliest(&mut self) -> Option<usize> {
        loop {
            let earliest = (0..self.open.len()).min_by_key(|at| self.open[*at].time);
            let is_due = |source: &LogSource| earliest.is_none_or(|at| source.first <= self.open[at].time);
            let Some(source) = self.waiting.pop_if(|source| is_due(source)) else {
                return earliest;
            };
            let (name, calendar, line_length) = (source.name.clone(), source.calendar.clone(), source.line_length);
            match source.read(&self.progress) {
                Ok(input) => {
                    let blocks = Blocks::read(input, line_length, &self.reader);
                    let mut open = OpenLog {
                        name,
                        clocks: Clocks::new(calendar),
                        blocks,
                        batch: Batch::default(),
                        before: 0,
                        lines: Lines::default(),
                        other_server: None,
                        number: self.waiting.len(),
                        repeated: 0,
                        next: 0,
                        time: 0,
                    };
                    if open.load(&mut self.stats) {
                        self.open.push(open);
                    }
                }
                Err(error) => self.stats.trouble(&name, &error),
            }
        }
    }
}

impl OpenLog {
    /// Goes to the next event; `false` at the end.
    fn advance(&mut self, stats: &mut ReadStats) -> bool {
        self.next += 1;
        self.arrive(stats)
    }

    /// Finds the time of the event it stands before, in this batch or a later one.
    fn arrive(&mut self, stats: &mut ReadStats) -> bool {
        match self.batch.events.get(self.next) {
            Some(event) => {
                let line = self.before + u64::from(self.batch.numbers[self.next]);
                self.time = self.clocks.time(event, line, &self.batch.events[self.next + 1..]);
                true
            }
            None => self.load(stats),
        }
    }

    fn load(&mut self, stats: &mut ReadStats) -> bool {
        loop {
            self.before += self.batch.length;
            self.blocks.recycle(std::mem::take(&mut self.batch));
            let Some(batch) = self.blocks.next() else {
                self.report(stats);
                return false;
            };
            self.batch = batch;
            stats.lines.add(&self.batch.lines);
            self.lines.add(&self.batch.lines);
            self.other_server = self.other_server.or(self.batch.other_server);
            if stats.strange.is_none() {
                stats.strange = self.batch.strange.take();
            }
            if let Some(error) = &self.batch.error {
                stats.trouble(&self.name, error);
            }
            self.next = 0;
            if !self.batch.events.is_empty() {
                return self.arrive(stats);
            }
        }
    }
}

impl OpenLog {
    /// Says at the end what is doubtful about it.
    fn report(&self, stats: &mut ReadStats) {
        self.clocks.report(&self.name, stats);
        if self.repeated > 0 {
            stats
                .troubles
                .push(format!("{}: {} lines of it are in another log, too; they count once", self.name, self.repeated));
        }
        if let Some(server) = self.other_server.filter(|_| self.lines.told + self.lines.idle == 0) {
            stats.is_not_understood = true;
            stats.troubles.push(format!("{}: {}", self.name, servers::is_of(server)));
        }
    }
}

impl ReadStats {
    /// Notes what could not be read.
    pub fn trouble(&mut self, name: &str, error: &io::Error) {
        self.is_damaged = true;
        self.troubles.push(format!("{name}: {error}"));
    }
}
