//! memcached's text protocol, as far as counting needs it. No I/O.
//!
//! A hit is one `ma` command where the server has meta commands (1.6.0 and
//! later): it creates the key with its expiry, or increments it, and answers
//! with the value and the seconds left, in one step. Older servers and some
//! proxies get `add` and `incr` in one write.

mod answer;

use bytes::BytesMut;

pub use answer::{Answer, Counted, Nonsense};
use answer::{is_error, nonsense, read_classic, read_meta, take_line};

/// Which commands a server knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// `ma`: memcached 1.6.0 and later.
    Meta,
    /// `add` and `incr`.
    Classic,
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

impl Dialect {
    /// Asks a server whether it knows this dialect, creating nothing.
    pub fn write_probe(self, output: &mut BytesMut) {
        let verb = match self {
            Self::Meta => "ma",
            Self::Classic => "get",
        };
        output.extend_from_slice(format!("{verb} {PROBE}\r\n").as_bytes());
    }

    /// The answer to the probe, once it is there.
    pub fn read_probe(self, input: &mut BytesMut) -> Result<Option<bool>, Nonsense> {
        let Some(line) = take_line(input)? else {
            return Ok(None);
        };
        match (self, line.as_ref()) {
            (Self::Meta, b"NF" | b"HD") | (Self::Classic, b"END") => Ok(Some(true)),
            (_, line) if is_error(line) => Ok(Some(false)),
            (_, line) => Err(nonsense(line)),
        }
    }

    /// Asks a server to count one hit.
    pub fn write_hit(self, key: &[u8], expiry: u64, output: &mut BytesMut) {
        let mut number = [0; MAX_NUMBER];
        let expiry = decimal(expiry, &mut number);
        let parts: &[&[u8]] = match self {
            Self::Meta => &[b"ma ", key, b" N", expiry, b" J1 v t\r\n"],
            Self::Classic => &[b"add ", key, b" 0 ", expiry, b" 1\r\n0\r\nincr ", key, b" 1\r\n"],
        };
        for part in parts {
            output.extend_from_slice(part);
        }
    }

    /// The answer to one hit, once all of it is there. `exptime` is what was asked for.
    pub fn read_hit(self, exptime: u32, input: &mut BytesMut) -> Result<Option<Answer>, Nonsense> {
        match self {
            Self::Meta => read_meta(input),
            Self::Classic => read_classic(exptime, input),
        }
    }
}

/// Gives a key that has none an expiry; `read_touched` reads the answer.
pub fn write_touch(key: &[u8], expiry: u64, output: &mut BytesMut) {
    let mut number = [0; MAX_NUMBER];
    for part in [b"touch ".as_slice(), key, b" ", decimal(expiry, &mut number), b"\r\n"] {
        output.extend_from_slice(part);
    }
}

/// The answer to a touch, once it is there.
pub fn read_touched(input: &mut BytesMut) -> Result<Option<()>, Nonsense> {
    match take_line(input)?.as_deref() {
        None => Ok(None),
        Some(b"TOUCHED" | b"NOT_FOUND") => Ok(Some(())),
        Some(line) if is_error(line) => Ok(Some(())),
        Some(line) => Err(nonsense(line)),
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
