//! What a memcached server says, taken apart.
//!
//! Nothing is taken from the input before an answer is there whole, and every
//! line is bounded: the other end may be anything.

use std::fmt;

use bytes::{Buf, BytesMut};
use memchr::memmem;

use super::MAX_NUMBER;

/// What a server says of a key after a hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    /// Its value.
    pub count: u32,
    /// Seconds until it expires; `None` where the dialect does not tell.
    pub left: Option<u32>,
    /// It has no expiry, so it must be given one.
    pub endless: bool,
}

/// A server's answer to one hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Counted.
    Counted(Counted),
    /// The key went away between `add` and `incr`: nothing was counted.
    Gone,
    /// The value under the key is no number.
    Foreign,
    /// The server could not: out of memory, for one.
    Failed,
}

/// An answer that is no answer to what was asked. Nothing on this connection can be trusted any more.
#[derive(Debug, PartialEq, Eq)]
pub struct Nonsense(pub String);

impl fmt::Display for Nonsense {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unexpected answer {:?}", self.0)
    }
}

/// The longest line a server sends us honestly; errors carry a text.
const MAX_LINE: usize = 1024;

/// `VA <bytes> t<seconds>`, then the value on a line of its own.
pub(super) fn read_meta(input: &mut BytesMut) -> Result<Option<Answer>, Nonsense> {
    let Some(end) = line_end(input, 0)? else {
        return Ok(None);
    };
    let Some(header) = input[..end].strip_prefix(b"VA ") else {
        return take_line(input)?.map(|line| of_error(&line)).transpose();
    };
    let mut words = header.split(|byte| *byte == b' ');
    let length = words.next().and_then(number).ok_or_else(|| nonsense(&input[..end]))?;
    let endless = words.clone().any(|word| word == b"t-1");
    let left = words.find_map(|word| word.strip_prefix(b"t").and_then(number));
    if length > MAX_NUMBER as u64 {
        return Err(nonsense(&input[..end]));
    }
    let (start, stop) = (end + 2, end + 2 + length as usize);
    if input.len() < stop + 2 {
        return Ok(None);
    }
    let count = number(&input[start..stop]).filter(|_| input[stop..].starts_with(b"\r\n"));
    let count = count.ok_or_else(|| nonsense(&input[..stop]))?;
    input.advance(stop + 2);
    let left = left.map(|left| u32::try_from(left).unwrap_or(u32::MAX));
    Ok(Some(Answer::Counted(Counted { count: saturated(count), left, endless })))
}

/// `STORED` or `NOT_STORED`, then the value or `NOT_FOUND`.
pub(super) fn read_classic(exptime: u32, input: &mut BytesMut) -> Result<Option<Answer>, Nonsense> {
    let Some(first) = line_end(input, 0)? else {
        return Ok(None);
    };
    let Some(second) = line_end(input, first + 2)? else {
        return Ok(None);
    };
    let added = match &input[..first] {
        b"STORED" => Some(true),
        b"NOT_STORED" => Some(false),
        line if is_error(line) => None,
        line => return Err(nonsense(line)),
    };
    let line = &input[first + 2..second];
    let answer = match (added, number(line)) {
        (Some(added), Some(count)) => {
            Answer::Counted(Counted { count: saturated(count), left: added.then_some(exptime), endless: false })
        }
        (None, Some(_)) => Answer::Failed,
        (Some(_), None) if line == b"NOT_FOUND" => Answer::Gone,
        (None, None) if line == b"NOT_FOUND" => Answer::Failed,
        (_, None) => of_error(line)?,
    };
    input.advance(second + 2);
    Ok(Some(answer))
}

fn of_error(line: &[u8]) -> Result<Answer, Nonsense> {
    match line {
        _ if memmem::find(line, b"non-numeric").is_some() => Ok(Answer::Foreign),
        b"NS" | b"EX" | b"NF" => Ok(Answer::Gone),
        _ if is_error(line) => Ok(Answer::Failed),
        _ => Err(nonsense(line)),
    }
}

pub(super) fn is_error(line: &[u8]) -> bool {
    line == b"ERROR" || line.starts_with(b"CLIENT_ERROR") || line.starts_with(b"SERVER_ERROR")
}

/// Where the line that begins at `start` ends, without its CR LF.
fn line_end(input: &[u8], start: usize) -> Result<Option<usize>, Nonsense> {
    let rest = &input[start..];
    match memmem::find(&rest[..rest.len().min(MAX_LINE)], b"\r\n") {
        Some(length) => Ok(Some(start + length)),
        None if rest.len() >= MAX_LINE => Err(nonsense(rest)),
        None => Ok(None),
    }
}

pub(super) fn take_line(input: &mut BytesMut) -> Result<Option<BytesMut>, Nonsense> {
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

pub(super) fn nonsense(line: &[u8]) -> Nonsense {
    // Enough to recognise it by in the log.
    Nonsense(String::from_utf8_lossy(&line[..line.len().min(64)]).into_owned())
}
