//! memcached's text protocol, as far as counting needs it. No I/O.
//!
//! A hit is one `ma` command where the server has meta commands (1.6.0 and
//! later): it creates the key with its expiry, or increments it, and answers
//! with the value and the seconds left, in one step. Older servers and some
//! proxies get `add` and `incr` in one write.

use std::fmt;

use bytes::{Buf, BytesMut};
use memchr::memmem;

/// Which commands a server knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// `ma`: memcached 1.6.0 and later.
    Meta,
    /// `add` and `incr`.
    Classic,
}

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

/// Up to 30 days memcached takes an expiry as seconds from now; beyond, as Unix time.
const LONGEST_RELATIVE: u64 = 60 * 60 * 24 * 30;

/// A key that is never created: asking for it tells which commands a server knows.
const PROBE: &str = "connshaper-probe";

/// The longest line a server sends us honestly; errors carry a text.
const MAX_LINE: usize = 1024;

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

/// `VA <bytes> t<seconds>`, then the value on a line of its own.
fn read_meta(input: &mut BytesMut) -> Result<Option<Answer>, Nonsense> {
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
fn read_classic(exptime: u32, input: &mut BytesMut) -> Result<Option<Answer>, Nonsense> {
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

fn is_error(line: &[u8]) -> bool {
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

fn take_line(input: &mut BytesMut) -> Result<Option<BytesMut>, Nonsense> {
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

fn saturated(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn nonsense(line: &[u8]) -> Nonsense {
    // Enough to recognise it by in the log.
    Nonsense(String::from_utf8_lossy(&line[..line.len().min(64)]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn answers(dialect: Dialect, text: &str) -> Vec<Answer> {
        let mut input = BytesMut::from(text);
        std::iter::from_fn(|| dialect.read_hit(60, &mut input).unwrap()).collect()
    }

    fn counted(count: u32, left: Option<u32>) -> Answer {
        Answer::Counted(Counted { count, left, endless: false })
    }

    #[test]
    fn hits_are_written_in_both_dialects() {
        let written = |dialect: Dialect| {
            let mut output = BytesMut::new();
            dialect.write_hit(b"c:192.0.2.1", expiry(60, 0), &mut output);
            String::from_utf8(output.to_vec()).unwrap()
        };
        assert_eq!(written(Dialect::Meta), "ma c:192.0.2.1 N60 J1 v t\r\n");
        assert_eq!(written(Dialect::Classic), "add c:192.0.2.1 0 60 1\r\n0\r\nincr c:192.0.2.1 1\r\n");
    }

    #[test]
    fn an_expiry_over_thirty_days_is_told_as_unix_time() {
        assert_eq!(expiry(2_592_000, 1_700_000_000), 2_592_000);
        assert_eq!(expiry(2_592_001, 1_700_000_000), 1_702_592_001);
    }

    #[test]
    fn meta_answers_are_read() {
        let text = "VA 2 t60\r\n11\r\nVA 3 t0\r\n7  \r\nNS\r\nSERVER_ERROR out of memory\r\n\
                    CLIENT_ERROR cannot increment or decrement non-numeric value\r\n";
        let expected = [counted(11, Some(60)), counted(7, Some(0)), Answer::Gone, Answer::Failed, Answer::Foreign];
        assert_eq!(answers(Dialect::Meta, text), expected);
        let endless = Answer::Counted(Counted { count: 5, left: None, endless: true });
        assert_eq!(answers(Dialect::Meta, "VA 1 t-1\r\n5\r\n"), [endless]);
        assert_eq!(answers(Dialect::Meta, "VA 20 t9\r\n18446744073709551615\r\n"), [counted(u32::MAX, Some(9))]);
    }

    #[test]
    fn classic_answers_are_read() {
        let text = "STORED\r\n1\r\nNOT_STORED\r\n12\r\nNOT_STORED\r\nNOT_FOUND\r\nSERVER_ERROR out of memory\r\nNOT_FOUND\r\n\
                    NOT_STORED\r\nCLIENT_ERROR cannot increment or decrement non-numeric value\r\n";
        let expected = [counted(1, Some(60)), counted(12, None), Answer::Gone, Answer::Failed, Answer::Foreign];
        assert_eq!(answers(Dialect::Classic, text), expected);
    }

    #[test]
    fn probes_tell_the_dialect() {
        let probe = |dialect: Dialect, text: &str| dialect.read_probe(&mut BytesMut::from(text)).unwrap();
        assert_eq!(probe(Dialect::Meta, "NF\r\n"), Some(true));
        assert_eq!(probe(Dialect::Meta, "ERROR\r\n"), Some(false));
        assert_eq!(probe(Dialect::Meta, "N"), None);
        assert_eq!(probe(Dialect::Classic, "END\r\n"), Some(true));
    }

    #[test]
    fn answers_to_something_else_are_nonsense() {
        for text in
            ["HTTP/1.1 400 Bad Request\r\n", "VA x t1\r\n", "VA 1 t1\r\nxy\r\n", "VA 99999 t1\r\n", "STORED\r\n"]
        {
            assert!(Dialect::Meta.read_hit(60, &mut BytesMut::from(text)).is_err(), "{text}");
        }
        assert!(Dialect::Classic.read_hit(60, &mut BytesMut::from("VALUE x 0 1\r\n1\r\n")).is_err());
        assert!(Dialect::Meta.read_hit(60, &mut BytesMut::from("x".repeat(2000).as_str())).is_err());
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic_and_half_an_answer_takes_nothing(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for dialect in [Dialect::Meta, Dialect::Classic] {
                let mut input = BytesMut::from(bytes.as_slice());
                if let Ok(None) = dialect.read_hit(60, &mut input) {
                    prop_assert_eq!(&input[..], &bytes[..]);
                }
            }
        }
    }
}
