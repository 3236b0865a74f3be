//! The logs that were named: opened, decompressed, and in the order of their times.
//!
//! The compression is told by the content, never by the name. Only the beginning
//! of a file is read until its turn comes, so a year of rotated logs holds one
//! decompressor at a time.

use std::fs::File;
use std::io::{self, BufRead, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use indicatif::ProgressBar;
use jiff::tz::TimeZone;

use super::blocks::parse;
use super::calendar::Calendar;
use super::decompress::decompress;
use super::records::{Failed, as_lines};
use super::servers;
use super::services::{SAMPLE, Services};
use super::stamp::Stamp;
use crate::maillog::text::plain;

/// Bytes of text that are looked at for a time at once.
const HEAD: usize = 256 * 1024;

/// Bytes of text whose lines tell their order.
const MIN_HEAD: usize = 64 * 1024;

/// Bytes of text among which a line must have a time.
const MAX_HEAD: usize = 64 * 1024 * 1024;

/// Bytes of a log whose newest line is the first, which has to be turned around in memory.
const MAX_REVERSED: usize = 256 * 1024 * 1024;

/// One log, not read yet.
pub struct LogSource {
    /// What to call it.
    pub name: String,
    /// Fills in what its times leave open.
    pub calendar: Calendar,
    /// The moment of its first line, in milliseconds since the epoch.
    pub first: i64,
    /// That of its last line, where it can be looked up.
    pub last: Option<i64>,
    /// Bytes of a line, on average at its beginning.
    pub line_length: usize,
    origin: LogOrigin,
}

enum LogOrigin {
    /// A file, to be opened again when its turn comes.
    File(PathBuf),
    /// What can be read but once is open already.
    Open(LogInput),
}

/// What a look into a log finds.
pub enum Looked {
    Source(LogSource),
    /// No line has a time. The first line, if there is one, why it has none, as far as one can tell, and how many
    /// there are.
    Strange(Option<(String, Option<String>, u64)>),
}

/// The text of a log.
pub type LogInput = Box<dyn Read + Send>;

impl LogSource {
    /// Looks into a log; `-` is standard input. `progress` counts bytes as they lie on the disk.
    pub fn open(path: &Path, zone: &TimeZone, progress: &ProgressBar, services: &mut Services) -> io::Result<Looked> {
        let (name, now) = (name_of(path), SystemTime::now());
        let (mut input, mut again, written) = if path == Path::new("-") {
            (text(progress.wrap_read(io::stdin()))?, None, now)
        } else {
            let file = File::open(path)?;
            let metadata = file.metadata()?;
            if metadata.is_dir() {
                return Err(io::Error::other(format!("it is a directory; name the files in it{}", logs_in(path))));
            }
            let written = metadata.modified().unwrap_or(now);
            if metadata.is_file() {
                // It is read again when its turn comes, and counted then.
                progress.inc_length(metadata.len());
                (text(file)?, Some(path.to_owned()), written)
            } else {
                (text(progress.wrap_read(file))?, None, written)
            }
        };
        let mut head = head(&mut input)?;
        if is_newest_first(&head) {
            let (text, error) = reversed(io::Cursor::new(head).chain(input))?;
            (head, input, again) = (text, Box::new(Failed(error)), None);
        }
        let Some(first) = first_stamp(&head) else {
            let lines = count_lines(io::Cursor::new(&head).chain(input))?;
            let why = |line| servers::of_line(line).map(servers::is_of).or_else(|| without_date(line));
            let why = head.split(|byte| *byte == b'\n').take(1000).find_map(why);
            return Ok(Looked::Strange(first_line(&head).map(|line| (line, why, lines))));
        };
        match again.is_some() {
            true if !services.is_full() => {
                // A log that is damaged is named when its turn comes.
                let mut sample = head.clone();
                let _ = input.by_ref().take(SAMPLE).read_to_end(&mut sample);
                services.sample(&sample);
            }
            _ => services.sample(&head),
        }
        let last = again.as_deref().and_then(last_stamp);
        let written = written.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs() as i64);
        let calendar = Calendar::new(zone.clone(), first, last, written);
        let mut times = calendar.clone();
        let (first, last) = (times.time(first), last.map(|last| times.time(last)));
        let line_length = head.len() / memchr::memchr_iter(b'\n', &head).count().max(1);
        let origin = match again {
            Some(path) => LogOrigin::File(path),
            None => LogOrigin::Open(Box::new(io::Cursor::new(head).chain(input))),
        };
        Ok(Looked::Source(Self { name, calendar, first, last, line_length, origin }))
    }

    /// Its text from the beginning.
    pub fn read(self, progress: &ProgressBar) -> io::Result<LogInput> {
        match self.origin {
            LogOrigin::File(path) => text(progress.wrap_read(File::open(path)?)),
            LogOrigin::Open(input) => Ok(input),
        }
    }
}

/// What messages call a log.
pub fn name_of(path: &Path) -> String {
    if path == Path::new("-") { "standard input".to_owned() } else { path.display().to_string() }
}

/// The lines in what may be compressed, and may have no lines.
fn text(reader: impl Read + Send + 'static) -> io::Result<LogInput> {
    decompress(reader).map(as_lines)
}

/// The first bytes, `MIN_HEAD` or, where no time is among them, to the first line that has one.
fn head(input: &mut LogInput) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    let mut chunk = [0; 16 * 1024];
    let is_enough = |head: &[u8]| {
        head.len() >= MAX_HEAD
            || head.len() >= MIN_HEAD && first_stamp(&head[head.len().saturating_sub(HEAD)..]).is_some()
    };
    while !is_enough(&head) {
        match input.read(&mut chunk) {
            Ok(0) => break,
            Ok(length) => head.extend_from_slice(&chunk[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if head.is_empty() => return Err(error),
            Err(error) => {
                // What was read before it counts.
                *input = Box::new(Failed(Some(error)));
                break;
            }
        }
    }
    Ok(head)
}

/// The time of the first line that has one.
fn first_stamp(head: &[u8]) -> Option<Stamp> {
    let end = memchr::memrchr(b'\n', head).unwrap_or(head.len());
    head[..end].split(|byte| *byte == b'\n').find_map(|line| parse(line, |line| line.stamp))
}

/// Lines that are not empty.
fn count_lines(input: impl Read) -> io::Result<u64> {
    let (mut lines, mut is_in_line) = (0, false);
    let mut input = io::BufReader::with_capacity(HEAD, input);
    loop {
        let chunk = input.fill_buf()?;
        let length = chunk.len();
        if length == 0 {
            return Ok(lines);
        }
        for byte in chunk {
            lines += u64::from(!is_in_line && *byte != b'\n');
            is_in_line = *byte != b'\n';
        }
        input.consume(length);
    }
}

fn first_line(head: &[u8]) -> Option<String> {
    let line = head.split(|byte| *byte == b'\n').find(|line| !line.trim_ascii().is_empty())?;
    Some(plain(&String::from_utf8_lossy(&line[..line.len().min(200)])))
}

/// What to say of a line that journalctl wrote without a date, or Windows in an encoding of its own.
fn without_date(line: &[u8]) -> Option<String> {
    let (form, has) = match line {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => {
            return Some("a text in UTF-16; convert it first, as with iconv -f UTF-16 -t UTF-8".to_owned());
        }
        [b'[', inner @ ..] => {
            let end = inner.iter().position(|byte| !matches!(byte, b' ' | b'0'..=b'9' | b'.'))?;
            let is_time = inner[..end].trim_ascii().split(|byte| *byte == b'.').map(<[u8]>::len).nth(1) == Some(6);
            let form = match inner[end..].first()? {
                _ if !is_time => return None,
                b']' if !inner[..end].ends_with(b" ") => "short-monotonic",
                b']' | b'<' => "short-delta",
                _ => return None,
            };
            (form, "have the time since the machine was started, and no date")
        }
        _ if line.starts_with(b"connect from ") || line.starts_with(b"disconnect from ") => ("cat", "have no time"),
        _ => return None,
    };
    Some(format!(
        "lines of journalctl -o {form} {has}; write them anew with journalctl -o short-iso-precise, or any other -o \
         that has the date"
    ))
}

/// The time of the last line of a file that is not compressed.
fn last_stamp(path: &Path) -> Option<Stamp> {
    let mut file = File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(HEAD as u64))).ok()?;
    let mut tail = Vec::new();
    file.take(HEAD as u64).read_to_end(&mut tail).ok()?;
    tail.rsplit(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .take(100)
        .find_map(|line| parse(line, |line| line.stamp))
}

/// Whether times go down from line to line, as `journalctl -r` writes them.
fn is_newest_first(head: &[u8]) -> bool {
    let end = memchr::memrchr(b'\n', head).unwrap_or(head.len());
    let lines = head[..end].split(|byte| *byte == b'\n').take(2_000);
    let stamps: Vec<Stamp> = lines.filter_map(|line| parse(line, |line| line.stamp)).collect();
    let moment = |stamp: &Stamp| stamp.seconds * 1000 + i64::from(stamp.milliseconds);
    let steps = |is_step: fn(i64) -> bool| {
        stamps.windows(2).filter(|pair| is_step(moment(&pair[1]) - moment(&pair[0]))).count()
    };
    let (down, up) = (steps(|step| step < 0), steps(|step| step > 0));
    down >= 2 && up * 8 <= down
}

/// The lines in the opposite order, and why nothing comes after them.
fn reversed(mut input: impl Read) -> io::Result<(Vec<u8>, Option<io::Error>)> {
    let mut text = Vec::new();
    let error = input.by_ref().take(MAX_REVERSED as u64 + 1).read_to_end(&mut text).err();
    if text.len() > MAX_REVERSED {
        return Err(io::Error::other(
            "its newest line is the first, and it is too long to be turned around: use tac(1)",
        ));
    }
    let mut reversed = Vec::with_capacity(text.len() + 1);
    for line in text.rsplit(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        reversed.extend_from_slice(line);
        reversed.push(b'\n');
    }
    Ok((reversed, error))
}

/// The mail logs in a directory, as an addition to a message.
fn logs_in(directory: &Path) -> String {
    let names = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| name.starts_with("mail") && name.contains("log")).collect();
    names.sort();
    names.truncate(20);
    if names.is_empty() { String::new() } else { format!(", as in {}", plain(&names.join(" "))) }
}
