//! memcached's text protocol, as far as counting needs it. No I/O.
//!
//! A hit is one `ma` command if the server has meta commands (1.6.0 and later): it
//! creates the key with its expiry, or increments it, and answers
//! with the value and the seconds left, in one step. Older servers and some
//! proxies get `add` and `incr` in one write. Classic commands are used
//! everywhere for all that they can do: servers before 1.6.10 spell the other
//! meta commands in another way.

pub mod response;
pub mod stats;

use bytes::{Bytes, BytesMut};

use crate::store::shared::backend::{CounterCommand, KeyText};

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

/// Whether a server knows a protocol, by its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probed {
    Knows,
    Lacks,
    /// It says nothing before a login.
    WantsLogin,
}

/// What a server that was started with `-Y` says to everything but a login.
const UNAUTHENTICATED: &[u8] = b"CLIENT_ERROR unauthenticated";

/// What a server is told to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Something with the counter of the key.
    Counter(CounterCommand),
    /// Return the value of the key with its version.
    ReadValue,
    /// Write the value of the key if it still has this version; `None`: if there is none.
    WriteValue { value: Bytes, replaces: Option<u64> },
    /// Return the server's statistics, which are of no key.
    Statistics,
}

/// One command to a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemcachedCommand {
    /// At most 250 bytes, without blanks and control characters.
    pub key: KeyText,
    pub verb: Verb,
    /// In how many seconds the key expires, where the command sets that.
    pub exptime: u32,
    /// The same in the form that memcached wants, see [`expiry`].
    pub expiry: u64,
}

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
    /// Asks a server whether it knows this protocol. Creates nothing.
    pub fn write_probe(self, output: &mut BytesMut) {
        let verb = match self {
            Self::Meta => "ma",
            Self::Classic => "get",
        };
        output.extend_from_slice(format!("{verb} {PROBE}\r\n").as_bytes());
    }

    /// The answer to the probe, once it is there.
    pub fn read_probe(self, input: &mut BytesMut) -> Result<Option<Probed>, ProtocolError> {
        let Some(line) = take_line(input)? else {
            return Ok(None);
        };
        match (self, line.as_ref()) {
            (Self::Meta, b"NF" | b"HD") | (Self::Classic, b"END") => Ok(Some(Probed::Knows)),
            (_, line) if line.starts_with(UNAUTHENTICATED) => Ok(Some(Probed::WantsLogin)),
            (_, line) if is_error(line) => Ok(Some(Probed::Lacks)),
            (_, line) => Err(nonsense(line)),
        }
    }
}

/// Logs in: to a server with `-Y` the first value that is set is a user and its password. Its key means nothing.
pub fn write_login(username: &str, password: &str, output: &mut BytesMut) {
    let length = username.len() + 1 + password.len();
    output.extend_from_slice(format!("set {PROBE} 0 0 {length}\r\n{username} {password}\r\n").as_bytes());
}

/// Whether the login was right, once the answer is there.
pub fn read_login(input: &mut BytesMut) -> Result<Option<bool>, ProtocolError> {
    let Some(line) = take_line(input)? else {
        return Ok(None);
    };
    match line.as_ref() {
        b"STORED" => Ok(Some(true)),
        line if is_error(line) => Ok(Some(false)),
        line => Err(nonsense(line)),
    }
}

impl MemcachedCommand {
    /// A command for a value that hosts share.
    pub(crate) fn value(key: &str, verb: Verb, expiry: u64) -> Self {
        Self { key: KeyText::from_slice(key.as_bytes()), verb, exptime: 0, expiry }
    }

    /// Appends the command, and the data that belongs to it.
    pub fn write(&self, protocol: Protocol, output: &mut BytesMut) {
        let key = self.key.as_slice();
        let [mut number, mut length, mut expiry, mut version] = [[0; MAX_NUMBER]; 4];
        let number: &[u8] = match &self.verb {
            Verb::Counter(
                CounterCommand::Hit(value)
                | CounterCommand::TakeBack(value)
                | CounterCommand::Add(value)
                | CounterCommand::Replace(value),
            ) => decimal((*value).into(), &mut number),
            Verb::WriteValue { value, .. } => value,
            _ => &[],
        };
        let length = decimal(number.len() as u64, &mut length);
        let expiry = decimal(self.expiry, &mut expiry);
        use CounterCommand::{Add, Delete, Hit, Read, Replace, Slide, SlideBack, TakeBack, Touch};
        let parts: &[&[u8]] = match (&self.verb, protocol) {
            (Verb::Counter(Hit(_)), Protocol::Meta) => {
                &[b"ma ", key, b" N", expiry, b" J", number, b" D", number, b" v t"]
            }
            (Verb::Counter(Hit(_)), Protocol::Classic) => {
                &[b"add ", key, b" 0 ", expiry, b" 1\r\n0\r\nincr ", key, b" ", number]
            }
            (Verb::Counter(Read), Protocol::Meta) => &[b"mg ", key, b" v t"],
            (Verb::Counter(Read), Protocol::Classic) => &[b"get ", key],
            (Verb::Counter(TakeBack(_)), _) => &[b"decr ", key, b" ", number],
            (Verb::Counter(Add(_)) | Verb::WriteValue { replaces: None, .. }, _) => {
                &[b"add ", key, b" 0 ", expiry, b" ", length, b"\r\n", number]
            }
            (Verb::Counter(Replace(_)), _) => &[b"replace ", key, b" 0 ", expiry, b" ", length, b"\r\n", number],
            (Verb::Counter(Touch), _) => &[b"touch ", key, b" ", expiry],
            (Verb::Counter(Delete), _) => &[b"delete ", key],
            (Verb::ReadValue, _) => &[b"gets ", key],
            (Verb::WriteValue { replaces: Some(unique), .. }, _) => {
                let unique = decimal(*unique, &mut version);
                &[b"cas ", key, b" 0 ", expiry, b" ", length, b" ", unique, b"\r\n", number]
            }
            (Verb::Statistics, _) => &[b"stats"],
            (Verb::Counter(Slide(_) | SlideBack(_)), _) => unreachable!("not submitted to memcached"),
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
