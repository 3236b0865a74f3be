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
mod tests {
    use super::*;

    fn read(text: impl Into<Vec<u8>>) -> (Lines, Vec<Event>) {
        let mut blocks = Blocks::read(Box::new(io::Cursor::new(text.into())));
        let (mut lines, mut events) = (Lines::default(), Vec::new());
        while let Some(batch) = blocks.next() {
            lines.add(&batch.lines);
            events.extend_from_slice(&batch.events);
            assert!(batch.error.is_none());
            blocks.recycle(batch);
        }
        (lines, events)
    }

    #[test]
    fn lines_come_in_their_order_whatever_the_number_of_blocks() {
        const COUNT: i64 = 60_000;
        let line = |n: i64| {
            let (hour, minute, second) = (n / 3600, n / 60 % 60, n % 60);
            format!("Nov 21 {hour:02}:{minute:02}:{second:02} mx postfix/smtpd[1]: connect from a[192.0.2.1]\n")
        };
        let text: String = (0..COUNT).map(line).collect();
        assert!(text.len() > 5 * BLOCK);
        let (lines, events) = read(text.trim_end());
        assert_eq!((lines.all, lines.told, lines.bytes), (COUNT as u64, COUNT as u64, text.len() as u64 - 1));
        let seconds: Vec<_> = events.iter().map(|event| event.stamp.seconds - events[0].stamp.seconds).collect();
        assert!(seconds.iter().copied().eq(0..COUNT));
    }

    #[test]
    fn a_line_longer_than_a_block_is_one_strange_line() {
        let line = b"Nov 21 09:05:07 mx postfix/smtpd[1]: connect from a[192.0.2.1]\n".to_vec();
        let long = [b"x".repeat(3 * BLOCK + 7), b"\n".to_vec()].concat();
        let (lines, events) = read([line.clone(), long, line.clone()].concat());
        assert_eq!((lines.all, lines.strange, events.len()), (3, 1, 2));
        let (lines, _) = read([line, b"x".repeat(3 * BLOCK)].concat());
        assert_eq!((lines.all, lines.strange), (2, 1));
    }

    #[test]
    fn lines_that_are_not_understood_are_counted() {
        let text = "what?\n\nNov 21 09:05:07 mx sshd[1]: x\r\nNov 21 09:05:07 mx postfix/anvil[1]: x\n\x00\u{fffd}\n";
        let (lines, _) = read(text);
        let expected = Lines { all: 4, told: 0, idle: 1, foreign: 1, strange: 2, bytes: text.len() as u64 };
        assert_eq!(lines, expected);
    }

    #[test]
    fn an_error_of_the_input_comes_after_what_was_read() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("broken"))
            }
        }
        let text = "Nov 21 09:05:07 mx postfix/smtpd[1]: connect from a[192.0.2.1]\n".repeat(20_000);
        let blocks = Blocks::read(Box::new(io::Cursor::new(text.clone().into_bytes()).chain(Broken)));
        let (mut events, mut errors) = (0, 0);
        for batch in blocks {
            events += batch.events.len();
            errors += usize::from(batch.error.is_some());
        }
        assert!(events >= 15_000, "{events}");
        assert_eq!(errors, 1);
    }
}
