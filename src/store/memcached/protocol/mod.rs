//! memcached's text protocol, as far as counting needs it. No I/O.
//!
//! A hit is one `ma` command where the server has meta commands (1.6.0 and
//! later): it creates the key with its expiry, or increments it, and answers
//! with the value and the seconds left, in one step. Older servers and some
//! proxies get `add` and `incr` in one write. What the classic commands do as
//! well is said in them everywhere: servers before 1.6.10 spell the rest of the
//! meta commands in another way.

pub mod response;
pub mod stats;

use bytes::BytesMut;
use smallvec::SmallVec;

pub use response::{Counted, ProtocolError, Response};
use response::{is_error, nonsense, take_line};
pub use stats::ServerStats;

/// Which commands a server knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// `ma` and `mg`: memcached 1.6.0 and later.
    Meta,
    /// `add` and `incr`.
    Classic,
}

/// What is to be done with one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Add so much to its number, or begin with as much. The expiry is that of a new key.
    Hit(u32),
    /// Say its number.
    Read,
    /// Subtract so much, at most down to 0; never creates the key.
    TakeBack(u32),
    /// Create it with this number, unless it is there.
    Add(u32),
    /// Set its number and its expiry, if it is there.
    Replace(u32),
    /// Set its expiry, if it is there.
    Touch,
    /// Remove it.
    Delete,
    /// Of the server, not of a key: how it is.
    Statistics,
}

/// All that a server is told for one command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// At most 250 bytes, without blanks and control characters.
    pub key: KeyText,
    /// What to do.
    pub command: Command,
    /// In how many seconds the key expires, where the command sets that.
    pub exptime: u32,
    /// The same as memcached wants to be told, see [`expiry`].
    pub expiry: u64,
}

/// The text of a key; most fit without an allocation.
pub type KeyText = SmallVec<[u8; 64]>;

/// Up to 30 days memcached takes an expiry as seconds from now; beyond, as Unix time.
const LONGEST_RELATIVE: u64 = 60 * 60 * 24 * 30;

/// A key that is never created: asking for it tells which commands a server knows.
const PROBE: &str = "connshaper-probe";

/// The most digits of a 64-bit counter, which `decr` may pad with blanks.
const MAX_NUMBER: usize = 20;

/// How memcached wants to be told an expiry.
pub fn expiry(exptime: u32, unix_now: u64) -> u64 {
    let exptime = u64::from(exptime);
    if exptime > LONGEST_RELATIVE { unix_now + exptime } else { exptime }
}

impl Protocol {
    /// Asks a server whether it knows this dialect, creating nothing.
    pub fn write_probe(self, output: &mut BytesMut) {
        let verb = match self {
            Self::Meta => "ma",
            Self::Classic => "get",
        };
        output.extend_from_slice(format!("{verb} {PROBE}\r\n").as_bytes());
    }

    /// The answer to the probe, once it is there.
    pub fn read_probe(self, input: &mut BytesMut) -> Result<Option<bool>, ProtocolError> {
        let Some(line) = take_line(input)? else {
            return Ok(None);
        };
        match (self, line.as_ref()) {
            (Self::Meta, b"NF" | b"HD") | (Self::Classic, b"END") => Ok(Some(true)),
            (_, line) if is_error(line) => Ok(Some(false)),
            (_, line) => Err(nonsense(line)),
        }
    }
}

impl Question {
    /// Appends the command, and the data that belongs to it.
    pub fn write(&self, dialect: Protocol, output: &mut BytesMut) {
        let key = self.key.as_slice();
        let [mut number, mut length, mut expiry] = [[0; MAX_NUMBER]; 3];
        let number = match self.command {
            Command::Hit(value) | Command::TakeBack(value) | Command::Add(value) | Command::Replace(value) => {
                decimal(value.into(), &mut number)
            }
            Command::Read | Command::Touch | Command::Delete | Command::Statistics => &[],
        };
        let length = decimal(number.len() as u64, &mut length);
        let expiry = decimal(self.expiry, &mut expiry);
        let parts: &[&[u8]] = match (self.command, dialect) {
            (Command::Hit(_), Protocol::Meta) => &[b"ma ", key, b" N", expiry, b" J", number, b" D", number, b" v t"],
            (Command::Hit(_), Protocol::Classic) => {
                &[b"add ", key, b" 0 ", expiry, b" 1\r\n0\r\nincr ", key, b" ", number]
            }
            (Command::Read, Protocol::Meta) => &[b"mg ", key, b" v t"],
            (Command::Read, Protocol::Classic) => &[b"get ", key],
            (Command::TakeBack(_), _) => &[b"decr ", key, b" ", number],
            (Command::Add(_), _) => &[b"add ", key, b" 0 ", expiry, b" ", length, b"\r\n", number],
            (Command::Replace(_), _) => &[b"replace ", key, b" 0 ", expiry, b" ", length, b"\r\n", number],
            (Command::Touch, _) => &[b"touch ", key, b" ", expiry],
            (Command::Delete, _) => &[b"delete ", key],
            (Command::Statistics, _) => &[b"stats"],
        };
        for part in parts.iter().chain(&[b"\r\n".as_slice()]) {
            output.extend_from_slice(part);
        }
    }
}

fn decimal(number: u64, digits: &mut [u8; MAX_NUMBER]) -> &[u8] {
    let (mut rest, mut start) = (number, MAX_NUMBER);
    loop {
        start -= 1;
        digits[start] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            return &digits[start..];
        }
    }
}

#[cfg(test)]
mod tests;
