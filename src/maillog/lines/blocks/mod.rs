//! A log read in blocks by all cores: bytes to batches of events, in order.
//!
//! Each worker takes the next block of whole lines from the shared input, lets
//! go of it, and reads the block; the batches are put into the order of their
//! blocks again. Workers wait for an empty batch before they take a block, so
//! the memory in use has a bound whatever the size of the log. Who takes the
//! batches reads a block too when the next batch is not ready, so no core is
//! without work whether reading lines takes longer or what is done with them.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use memchr::{memchr, memmem, memrchr};
use serde::Serialize;

use super::event::{Event, LineKind, Reader};
use super::find::find;
use super::json::JsonLayouts;
use super::line::{Line, LineHead};
use super::servers;
use super::source::LogInput;
use crate::net::lock;

/// Bytes of a block at least. A longer line is none of Postfix's.
const BLOCK: usize = 512 * 1024;

/// Bytes of a block at most.
const MAX_BLOCK: usize = 2 * 1024 * 1024;

/// Lines of a block, between these bounds. What wakes workers up costs the same for each block, events take memory.
const BLOCK_LINES: usize = 4096;

/// The most that a line may say a message was repeated.
const MAX_REPEATS: usize = 10_000;

/// Bytes that other programs may put before an object of JSON.
const MAX_PREFIX: usize = 200;

/// Bytes that are kept of a line that is not understood.
const MAX_SAMPLE: usize = 200;

/// Batches that wait for their turn, beside one for each worker.
const SPARE: usize = 3;

/// What one block told.
#[derive(Debug, Default)]
pub struct Batch {
    /// What happened, in the order of the lines.
    pub events: Vec<Event>,
    /// The number of the line of each event, within the block.
    pub numbers: Vec<u32>,
    /// Lines of the block, with those that are empty.
    pub length: u64,
    /// Names of clients, one after the other.
    pub names: Vec<u8>,
    /// How its lines were understood.
    pub lines: Lines,
    /// The first line that was not understood.
    pub strange: Option<Box<[u8]>>,
    /// Another mail server that wrote a line of it.
    pub other_server: Option<&'static str>,
    /// Why nothing comes after it, if not because the log ends.
    pub error: Option<io::Error>,
}

/// Numbers of lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Lines {
    /// All of them.
    pub all: u64,
    /// Those that told something.
    pub told: u64,
    /// Other lines of Postfix.
    #[serde(rename = "postfix")]
    pub idle: u64,
    /// Lines of other programs.
    #[serde(rename = "other_programs")]
    pub foreign: u64,
    /// What is no line of a log.
    #[serde(rename = "not_understood")]
    pub strange: u64,
    /// Those of them that name Postfix.
    #[serde(rename = "not_understood_postfix")]
    pub strange_postfix: u64,
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
        self.strange_postfix += other.strange_postfix;
        self.bytes += other.bytes;
    }
}

/// The batches of one log.
pub struct Blocks {
    done: Option<Receiver<(u64, Batch)>>,
    empty: Option<Sender<Batch>>,
    early: BTreeMap<u64, Batch>,
    next: u64,
    here: BlockReader,
    workers: Vec<JoinHandle<()>>,
}

impl Blocks {
    /// Begins to read a log whose lines have mostly this length.
    pub fn read(input: LogInput, line_length: usize, reader: &Reader) -> Self {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        Self::read_with(cores, input, line_length, reader)
    }

    /// The same with one worker less than `cores`.
    fn read_with(cores: usize, input: LogInput, line_length: usize, reader: &Reader) -> Self {
        let size = (line_length * BLOCK_LINES).clamp(BLOCK, MAX_BLOCK);
        let (give, empty) = channel();
        let (finish, done) = channel();
        for _ in 0..cores + SPARE {
            // The other end is here.
            let _ = give.send(Batch::default());
        }
        let feed = Feed { input, carry: Vec::new(), is_in_long_line: false, next: 0, is_over: false };
        let shared = Arc::new(BlockSource { empty: Mutex::new(empty), feed: Mutex::new(feed) });
        let here = BlockReader { shared, block: vec![0; size], reader: reader.clone() };
        let work = |_| {
            let (mut reader, finish) = (here.clone(), finish.clone());
            thread::spawn(move || while reader.next().is_some_and(|batch| finish.send(batch).is_ok()) {})
        };
        let workers = (1..cores).map(work).collect();
        Self { done: Some(done), empty: Some(give), early: BTreeMap::new(), next: 0, here, workers }
    }

    /// Gives a batch back, to be filled again.
    pub fn recycle(&self, mut batch: Batch) {
        batch.events.clear();
        batch.numbers.clear();
        batch.other_server = None;
        batch.names.clear();
        batch.strange = None;
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
            let (done, empty) = self.done.as_ref().zip(self.empty.as_ref())?;
            let read = done.try_recv().ok().or_else(|| self.here.try_next(empty));
            // The workers end with the log. On a host with one core there are none.
            let (number, batch) = read.or_else(|| done.recv().ok()).or_else(|| self.here.next())?;
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

/// The input, of which each reads the next block.
struct Feed {
    input: LogInput,
    /// The beginning of a line whose end is in the next block.
    carry: Vec<u8>,
    /// The next bytes belong to a line that was longer than a block.
    is_in_long_line: bool,
    /// The number of the next block.
    next: u64,
    is_over: bool,
}

/// What all readers of blocks share.
struct BlockSource {
    empty: Mutex<Receiver<Batch>>,
    feed: Mutex<Feed>,
}

/// Reads some of the blocks of an input.
#[derive(Clone)]
struct BlockReader {
    shared: Arc<BlockSource>,
    block: Vec<u8>,
    reader: Reader,
}

impl BlockReader {
    /// Waits for an empty batch, and reads the next block. Returns the number of the block; `None`: there is none, or
    /// nobody takes batches.
    fn next(&mut self) -> Option<(u64, Batch)> {
        let mut batch = lock(&self.shared.empty).recv().ok()?;
        self.read(&mut batch).map(|number| (number, batch))
    }

    /// Reads the next block, if there is one, and an empty batch now. `give` takes a batch that was not needed.
    fn try_next(&mut self, give: &Sender<Batch>) -> Option<(u64, Batch)> {
        let mut batch = self.shared.empty.try_lock().ok()?.try_recv().ok()?;
        let Some(number) = self.read(&mut batch) else {
            // Workers may still wait for one, to find out that nothing is left.
            let _ = give.send(batch);
            return None;
        };
        Some((number, batch))
    }

    /// Reads the next block, and returns its number; `None`: there is none.
    fn read(&mut self, batch: &mut Batch) -> Option<u64> {
        let mut feed = lock(&self.shared.feed);
        if feed.is_over {
            return None;
        }
        let (filled, outcome) = feed.fill(&mut self.block, &mut batch.lines);
        batch.error = outcome.err();
        let number = feed.next;
        feed.next += 1;
        drop(feed);
        batch.read(&self.block[..filled], &mut self.reader);
        Some(number)
    }
}

impl Feed {
    /// Fills a block with whole lines; says up to where, and what went wrong after that.
    fn fill(&mut self, block: &mut [u8], lines: &mut Lines) -> (usize, io::Result<()>) {
        let mut filled = self.carry.len();
        block[..filled].copy_from_slice(&self.carry);
        self.carry.clear();
        loop {
            let (end, read) = fill(&mut self.input, block, filled);
            self.is_over = end < block.len();
            if self.is_in_long_line {
                let newline = memchr(b'\n', &block[..end]);
                self.is_in_long_line = newline.is_none();
                let rest = newline.map_or(end, |newline| newline + 1);
                block.copy_within(rest..end, 0);
                filled = end - rest;
            } else if self.is_over {
                return (end, read);
            } else if let Some(last) = memrchr(b'\n', block) {
                self.carry.extend_from_slice(&block[last + 1..]);
                return (last + 1, read);
            } else {
                lines.all += 1;
                lines.strange += 1;
                lines.bytes += block.len() as u64;
                self.is_in_long_line = true;
                filled = 0;
            }
            if self.is_over {
                return (filled, read);
            }
        }
    }
}

/// Reads until the buffer is full or the input ends; says up to where there is something.
fn fill(input: &mut LogInput, buffer: &mut [u8], mut filled: usize) -> (usize, io::Result<()>) {
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
    fn read(&mut self, block: &[u8], reader: &mut Reader) {
        let Self { events, numbers, names, lines, other_server, .. } = self;
        // A line that was longer than a block is among them already.
        self.length = lines.all;
        lines.bytes += block.len() as u64;
        let (mut rest, mut before, mut is_last_told) = (block, LinesBefore::default(), false);
        while !rest.is_empty() {
            self.length += 1;
            if let Some(next) = rest.strip_prefix(b"\n") {
                rest = next;
                continue;
            }
            lines.all += 1;
            let (kind, line) = before.parse_first(rest, |line| {
                if line.program.is_empty() {
                    // syslogd means the line before.
                    if !is_last_told {
                        return LineKind::Foreign;
                    }
                    repeat(events, repeated(line.message).1);
                    return LineKind::Event;
                }
                let kind;
                // Nearly no line begins so.
                if line.message.starts_with(b"me") {
                    let (message, count) = repeated(line.message);
                    kind = reader.read(&Line { message, ..*line }, events, names);
                    if kind == LineKind::Event {
                        repeat(events, count.saturating_sub(1));
                    }
                } else {
                    kind = reader.read(line, events, names);
                }
                if kind == LineKind::Foreign && other_server.is_none() {
                    *other_server = servers::of_program(line.program, line.message);
                }
                kind
            });
            rest = rest.get(line.len() + 1..).unwrap_or(&[]);
            is_last_told = kind == Some(LineKind::Event);
            match kind {
                Some(LineKind::Event) => {
                    lines.told += 1;
                    numbers.resize(events.len(), self.length as u32);
                }
                Some(LineKind::Idle) => lines.idle += 1,
                Some(LineKind::Foreign) => lines.foreign += 1,
                None => {
                    lines.strange += 1;
                    lines.strange_postfix += u64::from(memmem::find(line, b"postfix").is_some());
                    if other_server.is_none() {
                        *other_server = servers::of_line(line);
                    }
                    if self.strange.is_none() {
                        self.strange = Some(line[..line.len().min(MAX_SAMPLE)].into());
                    }
                }
            }
        }
    }
}

/// What is known of the lines before, with which the next one has much in common.
#[derive(Default)]
struct LinesBefore<'a> {
    head: Option<LineHead<'a>>,
    layouts: JsonLayouts<'a>,
}

/// Takes a line of any format apart, and what `use_it` makes of it.
pub fn parse<T>(line: &[u8], use_it: impl FnOnce(&Line<'_>) -> T) -> Option<T> {
    LinesBefore::default().parse(line, use_it)
}

impl<'a> LinesBefore<'a> {
    /// The same for the first line of a text, which follows these. Returns the line, too.
    fn parse_first<T>(&mut self, text: &'a [u8], use_it: impl FnOnce(&Line<'_>) -> T) -> (Option<T>, &'a [u8]) {
        if text.first() == Some(&b'{')
            && let Some((entry, length)) = self.layouts.read(text)
        {
            // No line break is in the object, and one is mostly behind it.
            let end = length + find([b'\n'], &text[length..]).unwrap_or(text.len() - length);
            return (entry.with_line(&mut self.head, use_it), &text[..end]);
        }
        let line = &text[..memchr(b'\n', text).unwrap_or(text.len())];
        (self.parse(line, use_it), line)
    }

    /// The same for a line that follows these.
    fn parse<T>(&mut self, line: &'a [u8], use_it: impl FnOnce(&Line<'_>) -> T) -> Option<T> {
        let mut line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.first()? == &0 {
            // A file that was not written to its end when the power failed.
            line = &line[line.iter().position(|byte| *byte != 0)?..];
        }
        let mut object = 0;
        if line.first()? != &b'{' {
            if let Some(line) = Line::parse_after(&mut self.head, line) {
                return Some(use_it(&line));
            }
            // An object may stand behind what other programs put before it.
            object = memchr(b'{', &line[..line.len().min(MAX_PREFIX)])?;
        }
        self.layouts.read(&line[object..])?.0.with_line(&mut self.head, use_it)
    }
}

/// The last event so many times more.
fn repeat(events: &mut Vec<Event>, times: usize) {
    if let Some(last) = events.last().copied().filter(|_| times > 0) {
        events.extend(std::iter::repeat_n(last, times));
    }
}

/// What `message repeated 3 times: [ message]`, or `last message repeated 3 times`, says, and how often.
fn repeated(message: &[u8]) -> (&[u8], usize) {
    let rest = message.strip_prefix(b"last ").unwrap_or(message);
    let Some(rest) = rest.strip_prefix(b"message repeated ") else {
        return (message, 1);
    };
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let count = str::from_utf8(&rest[..digits]).ok().and_then(|count| count.parse().ok()).unwrap_or(1);
    let inner = rest[digits..].strip_prefix(b" times: [ ").and_then(|inner| inner.strip_suffix(b"]"));
    (inner.unwrap_or(message), count.min(MAX_REPEATS))
}

#[cfg(test)]
mod tests;
