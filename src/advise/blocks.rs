//! A log read in blocks by all cores: bytes to batches of events, in order.
//!
//! Each worker takes the next block of whole lines from the shared input, lets
//! go of it, and reads the block; the batches are put into the order of their
//! blocks again. Workers wait for an empty batch before they take a block, so
//! the memory in use has a bound whatever the size of the log.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use memchr::{memchr, memrchr};

use super::event::{Event, Reader, Sense};
use super::journal::Entry;
use super::line::Line;
use super::source::Input;

/// Bytes of a block. A longer line is none of Postfix's.
const BLOCK: usize = 512 * 1024;

/// Batches that wait for their turn, beside one for each worker.
const SPARE: usize = 3;

/// What one block told.
#[derive(Debug, Default)]
pub struct Batch {
    /// What happened, in the order of the lines.
    pub events: Vec<Event>,
    /// Names of clients, one after the other.
    pub names: Vec<u8>,
    /// How its lines were understood.
    pub lines: Lines,
    /// Why nothing comes after it, if not because the log ends.
    pub error: Option<io::Error>,
}

/// Numbers of lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lines {
    /// All of them.
    pub all: u64,
    /// Those that told something.
    pub told: u64,
    /// Other lines of Postfix.
    pub idle: u64,
    /// Lines of other programs.
    pub foreign: u64,
    /// What is no line of a log.
    pub strange: u64,
    /// Their length.
    pub bytes: u64,
}

impl Lines {
    /// Adds other lines.
    pub fn add(&mut self, other: &Self) {
        self.all += other.all;
        self.told += other.told;
        self.idle += other.idle;
        self.foreign += other.foreign;
        self.strange += other.strange;
        self.bytes += other.bytes;
    }
}

/// The batches of one log.
pub struct Blocks {
    done: Option<Receiver<(u64, Batch)>>,
    empty: Option<Sender<Batch>>,
    early: BTreeMap<u64, Batch>,
    next: u64,
    workers: Vec<JoinHandle<()>>,
}

impl Blocks {
    /// Begins to read.
    pub fn read(input: Input) -> Self {
        let workers = thread::available_parallelism().map_or(1, usize::from);
        let (give, empty) = channel();
        let (finish, done) = channel();
        for _ in 0..workers + SPARE {
            // The other end is in `feed`, which is not dropped yet.
            let _ = give.send(Batch::default());
        }
        let feed = Arc::new(Mutex::new(Feed {
            input,
            carry: Vec::new(),
            is_in_long_line: false,
            next: 0,
            is_over: false,
            empty,
        }));
        let work = |_| {
            let (feed, finish) = (Arc::clone(&feed), finish.clone());
            thread::spawn(move || work(&feed, &finish))
        };
        let workers = (0..workers).map(work).collect();
        Self { done: Some(done), empty: Some(give), early: BTreeMap::new(), next: 0, workers }
    }

    /// Gives a batch back, to be filled again.
    pub fn recycle(&self, mut batch: Batch) {
        batch.events.clear();
        batch.names.clear();
        batch.lines = Lines::default();
        if let Some(empty) = &self.empty {
            // Nobody needs it when the log is at its end.
            let _ = empty.send(batch);
        }
    }
}

impl Iterator for Blocks {
    type Item = Batch;

    fn next(&mut self) -> Option<Batch> {
        loop {
            if let Some(batch) = self.early.remove(&self.next) {
                self.next += 1;
                return Some(batch);
            }
            let (number, batch) = self.done.as_ref()?.recv().ok()?;
            self.early.insert(number, batch);
        }
    }
}

impl Drop for Blocks {
    fn drop(&mut self) {
        // Workers that wait for a batch, or have one to give, learn that nobody is here.
        (self.done, self.empty) = (None, None);
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}

/// The input, as the workers share it.
struct Feed {
    input: Input,
    /// The beginning of a line whose end is in the next block.
    carry: Vec<u8>,
    /// The next bytes belong to a line that was longer than a block.
    is_in_long_line: bool,
    /// The number of the next block.
    next: u64,
    is_over: bool,
    empty: Receiver<Batch>,
}

fn work(feed: &Mutex<Feed>, finish: &Sender<(u64, Batch)>) {
    let reader = Reader::new();
    let mut block = Vec::with_capacity(BLOCK);
    loop {
        let mut shared: MutexGuard<'_, Feed> = feed.lock().unwrap_or_else(PoisonError::into_inner);
        if shared.is_over {
            return;
        }
        let Ok(mut batch) = shared.empty.recv() else {
            return;
        };
        batch.error = shared.fill(&mut block, &mut batch.lines).err();
        shared.is_over |= batch.error.is_some();
        let number = shared.next;
        shared.next += 1;
        drop(shared);
        batch.read(&block, &reader);
        if finish.send((number, batch)).is_err() {
            return;
        }
    }
}

impl Feed {
    /// Fills a block with whole lines.
    fn fill(&mut self, block: &mut Vec<u8>, lines: &mut Lines) -> io::Result<()> {
        block.clear();
        block.append(&mut self.carry);
        loop {
            let filled = block.len();
            block.resize(BLOCK, 0);
            let (end, read) = fill(&mut self.input, block, filled);
            block.truncate(end);
            // What came before the trouble is as good as any.
            read?;
            if self.is_in_long_line {
                let rest = memchr(b'\n', block);
                self.is_in_long_line = rest.is_none() && end == BLOCK;
                block.drain(..rest.map_or(block.len(), |at| at + 1));
                if end == BLOCK {
                    continue;
                }
            }
            self.is_over = end < BLOCK;
            match memrchr(b'\n', block) {
                _ if self.is_over => {}
                Some(last) => {
                    self.carry.extend_from_slice(&block[last + 1..]);
                    block.truncate(last + 1);
                }
                None => {
                    lines.all += 1;
                    lines.strange += 1;
                    lines.bytes += block.len() as u64;
                    block.clear();
                    self.is_in_long_line = true;
                    continue;
                }
            }
            return Ok(());
        }
    }
}

/// Reads until the buffer is full or the input ends; says up to where there is something.
fn fill(input: &mut Input, buffer: &mut [u8], mut filled: usize) -> (usize, io::Result<()>) {
    while filled < buffer.len() {
        match input.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(length) => filled += length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (filled, Err(error)),
        }
    }
    (filled, Ok(()))
}

impl Batch {
    fn read(&mut self, block: &[u8], reader: &Reader) {
        let Self { events, names, lines, .. } = self;
        lines.bytes += block.len() as u64;
        let mut rest = block;
        while !rest.is_empty() {
            let end = memchr(b'\n', rest).unwrap_or(rest.len());
            let line = &rest[..end];
            rest = rest.get(end + 1..).unwrap_or(&[]);
            if line.is_empty() {
                continue;
            }
            lines.all += 1;
            match parse(line, |line| reader.read(line, names)) {
                Some(Sense::Event(event)) => {
                    lines.told += 1;
                    events.push(event);
                }
                Some(Sense::Idle) => lines.idle += 1,
                Some(Sense::Foreign) => lines.foreign += 1,
                None => lines.strange += 1,
            }
        }
    }
}

/// Takes a line of any format apart, and what `use_it` makes of it.
pub fn parse<T>(line: &[u8], use_it: impl FnOnce(&Line<'_>) -> T) -> Option<T> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    match line.first()? {
        b'{' => Entry::parse(line).map(|entry| use_it(&entry.line())),
        _ => Line::parse(line).as_ref().map(use_it),
    }
}

#[cfg(test)]
mod tests;
