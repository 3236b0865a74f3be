//! What a memcached server says, taken apart.
//!
//! Nothing is taken from the input before an answer is there whole, and every
//! line is bounded: the other end may be anything.

use std::ops::Range;

use bytes::{Buf, BytesMut};
use memchr::memmem;
use thiserror::Error;

use super::{MemcachedCommand, Protocol, Verb};
use crate::store::memcached::protocol::stats::{ServerStats, server_stats};
use crate::store::shared::backend::{CounterCommand, VersionedValue};

/// The number under a key, as a server answers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    /// The number.
    pub count: u32,
    /// Seconds until the key expires; `None` where the protocol does not tell.
    pub left: Option<u32>,
    /// It has no expiry.
    pub endless: bool,
}

/// A server's answer to one command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// A number, to a hit or a read.
    Counted(Counted),
    /// It is done, whatever else was asked.
    Done,
    /// It is not done: what is to be added is there, anything else is not. A hit is not done when the
    /// key goes away between `add` and `incr`; nothing was counted then.
    NotDone,
    /// The value under the key is no number.
    Foreign,
    /// The value of a key, and its version.
    Value(VersionedValue),
    /// The server's statistics.
    ServerStats(ServerStats),
    /// The server could not: out of memory, for one.
    Failed,
}

/// An answer that is no answer to what was asked. Nothing on this connection can be trusted any more.
#[derive(Debug, PartialEq, Eq, Error)]
#[error("unexpected answer {0:?}")]
pub struct ProtocolError(pub String);

/// The longest line a server sends us honestly; errors carry a text.
const MAX_LINE: usize = 1024;

/// memcached's own bound on a value.
const MAX_VALUE: usize = 1 << 20;

impl MemcachedCommand {
    /// The answer, once all of it is there.
    pub fn read(&self, protocol: Protocol, input: &mut BytesMut) -> Result<Option<Response>, ProtocolError> {
        use CounterCommand::{Add, Delete, Hit, Read, Replace, Slide, SlideBack, TakeBack, Touch};
        match (&self.verb, protocol) {
            (Verb::Counter(Hit(_)), Protocol::Meta) => meta(&[b"NF", b"NS", b"EX"], input),
            (Verb::Counter(Hit(_)), Protocol::Classic) => added_and_increased(self.exptime, input),
            (Verb::Counter(Read), Protocol::Meta) => meta(&[b"EN"], input),
            (Verb::Counter(Read), Protocol::Classic) => got(&self.key, input),
            (Verb::Counter(TakeBack(_)), _) => one_line(|line| number(line).is_some(), &[b"NOT_FOUND"], input),
            (Verb::Counter(Add(_) | Replace(_)), _) => one_line(|line| line == b"STORED", &[b"NOT_STORED"], input),
            (Verb::Counter(Touch), _) => one_line(|line| line == b"TOUCHED", &[b"NOT_FOUND"], input),
            (Verb::Counter(Delete), _) => one_line(|line| line == b"DELETED", &[b"NOT_FOUND"], input),
            (Verb::ReadValue, _) => got_value(&self.key, input),
            (Verb::WriteValue { .. }, _) => {
                one_line(|line| line == b"STORED", &[b"NOT_STORED", b"EXISTS", b"NOT_FOUND"], input)
            }
            (Verb::Statistics, _) => server_stats(input),
            (Verb::Counter(Slide(_) | SlideBack(_)), _) => unreachable!("not submitted to memcached"),
        }
    }
}

/// `VA <bytes> t<seconds>`, then the value on a line of its own; or one of the codes that say there is none.
fn meta(none: &[&[u8]], input: &mut BytesMut) -> Result<Option<Response>, ProtocolError> {
    let Some(end) = line_end(input, 0)? else {
        return Ok(None);
    };
    let Some(header) = input[..end].strip_prefix(b"VA ") else {
        return one_line(|_| false, none, input);
    };
    let mut words = header.split(|byte| *byte == b' ');
    let length = words.next().and_then(number).ok_or_else(|| nonsense(&input[..end]))?;
    let endless = words.clone().any(|word| word == b"t-1");
    let left = words.find_map(|word| word.strip_prefix(b"t").and_then(number)).map(saturated);
    let Some(value) = data(end + 2, length, MAX_LINE, input)? else {
        return Ok(None);
    };
    let (value, stop) = (count(&input[value.clone()]), value.end + 2);
    input.advance(stop);
    Ok(Some(value.map_or(Response::Foreign, |count| Response::Counted(Counted { count, left, endless }))))
}

/// The answer to `get`: a block with a number, or none.
fn got(key: &[u8], input: &mut BytesMut) -> Result<Option<Response>, ProtocolError> {
    block(key, MAX_LINE, input, |value, _| {
        let counted = |count| Response::Counted(Counted { count, left: None, endless: false });
        Some(count(value).map_or(Response::Foreign, counted))
    })
}

/// The answer to `gets`: a block with a version, or none.
fn got_value(key: &[u8], input: &mut BytesMut) -> Result<Option<Response>, ProtocolError> {
    block(key, MAX_VALUE, input, |value, version| {
        Some(Response::Value(VersionedValue { bytes: value.to_vec(), version: version? }))
    })
}

/// `VALUE <key> <flags> <bytes> [<version>]`, then the value on a line of its own; then, or at once, `END`.
fn block(
    key: &[u8],
    most: usize,
    input: &mut BytesMut,
    response: impl FnOnce(&[u8], Option<u64>) -> Option<Response>,
) -> Result<Option<Response>, ProtocolError> {
    let Some(end) = line_end(input, 0)? else {
        return Ok(None);
    };
    let Some(header) = input[..end].strip_prefix(b"VALUE ") else {
        return one_line(|_| false, &[b"END"], input);
    };
    let header = header.strip_prefix(key).and_then(|header| header.strip_prefix(b" "));
    let mut numbers = header.unwrap_or_default().split(|byte| *byte == b' ').skip(1).map(number);
    let (length, version) = (numbers.next().flatten(), numbers.next().flatten());
    let length = length.ok_or_else(|| nonsense(&input[..end]))?;
    let Some(value) = data(end + 2, length, most, input)? else {
        return Ok(None);
    };
    let stop = value.end + 2;
    let Some(last) = line_end(input, stop)? else {
        return Ok(None);
    };
    if &input[stop..last] != b"END" {
        return Err(nonsense(&input[stop..last]));
    }
    let response = response(&input[value], version).ok_or_else(|| nonsense(&input[..end]))?;
    input.advance(last + 2);
    Ok(Some(response))
}

/// `STORED` or `NOT_STORED`, then the value or `NOT_FOUND`.
fn added_and_increased(exptime: u32, input: &mut BytesMut) -> Result<Option<Response>, ProtocolError> {
    let Some(first) = line_end(input, 0)? else {
        return Ok(None);
    };
    let added = match &input[..first] {
        b"STORED" => Some(true),
        b"NOT_STORED" => Some(false),
        line if is_error(line) => None,
        line => return Err(nonsense(line)),
    };
    let Some(second) = line_end(input, first + 2)? else {
        return Ok(None);
    };
    let line = &input[first + 2..second];
    let answer = match (added, number(line)) {
        (Some(added), Some(count)) => {
            let left = added.then_some(exptime);
            Response::Counted(Counted { count: saturated(count), left, endless: false })
        }
        (Some(_), None) if line == b"NOT_FOUND" => Response::NotDone,
        (None, Some(_)) => Response::Failed,
        (None, None) if line == b"NOT_FOUND" => Response::Failed,
        (_, None) => of_error(line)?,
    };
    input.advance(second + 2);
    Ok(Some(answer))
}

/// A line that says whether something is done.
fn one_line(
    is_done: impl FnOnce(&[u8]) -> bool,
    not_done: &[&[u8]],
    input: &mut BytesMut,
) -> Result<Option<Response>, ProtocolError> {
    let Some(line) = take_line(input)? else {
        return Ok(None);
    };
    match line.as_ref() {
        line if is_done(line) => Ok(Some(Response::Done)),
        line if not_done.contains(&line) => Ok(Some(Response::NotDone)),
        line => of_error(line).map(Some),
    }
}

/// Where the data is that begins at `start`, once all of it and its line end are there.
fn data(start: usize, length: u64, most: usize, input: &[u8]) -> Result<Option<Range<usize>>, ProtocolError> {
    // A key of ours never has more than that.
    let length = usize::try_from(length).ok().filter(|length| *length <= most);
    let stop = start + length.ok_or_else(|| nonsense(&input[..start]))?;
    let Some(end) = input.get(stop..stop + 2) else {
        return Ok(None);
    };
    if end != b"\r\n" {
        return Err(nonsense(&input[..stop]));
    }
    Ok(Some(start..stop))
}

/// The count that a value is; `None`: it is not a number.
fn count(value: &[u8]) -> Option<u32> {
    number(value).map(saturated)
}

fn of_error(line: &[u8]) -> Result<Response, ProtocolError> {
    match line {
        _ if !is_error(line) => Err(nonsense(line)),
        _ if memmem::find(line, b"non-numeric").is_some() => Ok(Response::Foreign),
        _ => Ok(Response::Failed),
    }
}

pub(crate) fn is_error(line: &[u8]) -> bool {
    line == b"ERROR" || line.starts_with(b"CLIENT_ERROR") || line.starts_with(b"SERVER_ERROR")
}

/// Where the line that begins at `start` ends, without its CR LF.
fn line_end(input: &[u8], start: usize) -> Result<Option<usize>, ProtocolError> {
    let rest = &input[start..];
    match memmem::find(&rest[..rest.len().min(MAX_LINE)], b"\r\n") {
        Some(length) => Ok(Some(start + length)),
        None if rest.len() >= MAX_LINE => Err(nonsense(rest)),
        None => Ok(None),
    }
}

pub(crate) fn take_line(input: &mut BytesMut) -> Result<Option<BytesMut>, ProtocolError> {
    let Some(end) = line_end(input, 0)? else {
        return Ok(None);
    };
    let line = input.split_to(end);
    input.advance(2);
    Ok(Some(line))
}

fn number(digits: &[u8]) -> Option<u64> {
    str::from_utf8(digits.trim_ascii_end()).ok()?.parse().ok()
}

fn saturated(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

pub(crate) fn nonsense(line: &[u8]) -> ProtocolError {
    // Enough to recognise it by in the log.
    ProtocolError(String::from_utf8_lossy(&line[..line.len().min(64)]).into_owned())
}
