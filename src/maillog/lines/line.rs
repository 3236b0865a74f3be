//! One line of a log: its time, which process wrote it, and what it says.
//!
//! Two families of lines: a time, a host and a program, as syslog, postlogd and
//! `journalctl -o short` write them with times of many forms, and RFC 5424. Other
//! programs put something before such a line; it is found behind that. Lines of
//! JSON are taken apart by [`json`](super::json).

use memchr::memchr;

use super::find::find;
use super::stamp::Stamp;

/// A line that has a time and a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// When it was written.
    pub stamp: Stamp,
    /// The host that wrote it.
    pub host: &'a [u8],
    /// The program, as `postfix/smtpd` or `postfix-in/submission/smtpd`.
    pub program: &'a [u8],
    /// Its process number; may be empty.
    pub process: &'a [u8],
    /// What it said.
    pub message: &'a [u8],
}

/// What a line begins with: its time and its host. The next line often begins with the same.
#[derive(Clone, Copy, Debug)]
pub struct LineHead<'a> {
    text: &'a [u8],
    stamp: Stamp,
    host: &'a [u8],
}

/// Bytes that other programs may put before a line.
const MAX_PREFIX: usize = 200;

/// Words between the time and the program: a host, a facility, a level, a stream.
const MAX_WORDS: usize = 6;

impl<'a> Line<'a> {
    /// Takes a line apart, which must not end in a line break. `None`: this is no line of a log.
    pub fn parse(line: &'a [u8]) -> Option<Self> {
        Self::parse_after(&mut None, line)
    }

    /// The same for a line that follows one with this head, and leaves its own there.
    #[inline]
    pub fn parse_after(head: &mut Option<LineHead<'a>>, line: &'a [u8]) -> Option<Self> {
        if let Some(LineHead { text, stamp, host }) = *head
            && let Some(rest) = line.strip_prefix(text)
            && let Some(line) = Self::program(stamp, host, rest)
        {
            return Some(line);
        }
        Self::parse_anew(head, line)
    }

    #[inline(never)]
    fn parse_anew(head: &mut Option<LineHead<'a>>, line: &'a [u8]) -> Option<Self> {
        let parsed = Self::syslog(line).or_else(|| {
            // Behind the name of a file or a container: `mail.log:`, `postfix-1  | `.
            let starts = 1..line.len().min(MAX_PREFIX);
            let is_start = |at: &usize| matches!(line[at - 1], b' ' | b'\t' | b':' | b'-' | b'|' | b']' | b'"' | 0);
            let mut starts = starts.filter(is_start);
            if has_time_of_day(line) {
                return starts.find_map(|at| Self::syslog(&line[at..]));
            }
            // Only seconds since the epoch are a time without one.
            let is_number = |at: &usize| matches!(line[*at], b'0'..=b'9' | b'[' | b'<' | 0xef);
            starts.filter(is_number).find_map(|at| Self::syslog(&line[at..]))
        })?;
        // The head ends where the program begins, if the host stands before it.
        let text = &line[..offset_of(line, parsed.program)];
        if text.ends_with(b" ") {
            *head = Some(LineHead { text, stamp: parsed.stamp, host: parsed.host });
        }
        Some(parsed)
    }

    /// Reads a text that begins with the time of a line, or with what syslog puts before that.
    fn syslog(line: &'a [u8]) -> Option<Self> {
        let (line, is_rfc5424) = without_priority(line);
        if is_rfc5424 {
            return Self::rfc5424(line);
        }
        let (stamp, rest) = Stamp::parse(line)?;
        Self::after_stamp(stamp, rest)
    }

    fn after_stamp(stamp: Stamp, rest: &'a [u8]) -> Option<Self> {
        let rest = rest.strip_prefix(b":").unwrap_or(rest);
        let start = rest.strip_prefix(b" ").or_else(|| rest.strip_prefix(b"\t"))?;
        // A host that looks like a time belongs to a second one, behind that of another program.
        if let Some((host, rest)) = word(start)
            && !matches!(host, [] | [b'0'..=b'9' | b'<' | b'[', ..])
            && !host.ends_with(b":")
            && !is_level(host)
            && let Some(line) = Self::program(stamp, host, rest)
        {
            return Some(line);
        }
        let (mut rest, mut host) = (start, &start[..0]);
        for _ in 0..MAX_WORDS {
            rest = rest.trim_ascii_start();
            if matches!(rest.first()?, b'0'..=b'9' | b'<' | b'A'..=b'Z' | b'[')
                && let Some(line) = Self::syslog(rest)
            {
                return Some(if line.host.is_empty() { Self { host, ..line } } else { line });
            }
            if let Some(line) = Self::program(stamp, host, rest) {
                return Some(line);
            }
            let repeated = b"last message repeated ";
            if rest.starts_with(repeated) {
                return Some(Self { stamp, host, program: &rest[..0], process: &rest[..0], message: rest });
            }
            let (next, after) = word(rest)?;
            if host.is_empty() && !is_level(next) && next != b"-" {
                host = next;
            }
            rest = after;
        }
        None
    }

    /// Reads `program[process]: message`, `program: message`, or `[program] message`, as metalog writes it.
    #[inline]
    fn program(stamp: Stamp, host: &'a [u8], rest: &'a [u8]) -> Option<Self> {
        if rest.first()? == &b'[' {
            return Self::metalog(stamp, host, &rest[1..]);
        }
        let end = find([b'[', b':', b' ', b'\t'], rest)?;
        let (program, rest) = rest.split_at(end);
        let (process, rest) = match rest.first()? {
            b'[' => {
                let end = find([b']'], rest)?;
                (&rest[1..end], &rest[end + 1..])
            }
            _ => (&rest[..0], rest),
        };
        let message = text(rest.strip_prefix(b":")?);
        (!program.is_empty()).then_some(Self { stamp, host, program, process, message })
    }

    /// Reads `[program] message` behind the first bracket.
    fn metalog(stamp: Stamp, host: &'a [u8], text: &'a [u8]) -> Option<Self> {
        let (program, rest) = text.split_at(find([b']', b' '], text)?);
        let message = self::text(rest.strip_prefix(b"] ")?);
        program.contains(&b'/').then_some(Self { stamp, host, program, process: &rest[..0], message })
    }

    /// Reads `program[process]: message` of Postfix, in what another program wrote at this time.
    pub fn within(stamp: Stamp, host: &'a [u8], message: &'a [u8]) -> Option<Self> {
        // The programs of Postfix have a slash in their names; nearly no message has one in its first word.
        let end = find([b'/', b' '], message)?;
        let line = if message[end] == b'/' { Self::program(stamp, host, message)? } else { return None };
        line.program.contains(&b'/').then_some(line)
    }

    /// Reads what follows the version: `TIMESTAMP HOST PROGRAM PROCESS MSGID STRUCTURED-DATA MESSAGE`.
    fn rfc5424(line: &'a [u8]) -> Option<Self> {
        let (stamp, rest) = Stamp::iso(line)?;
        let (host, rest) = word(rest.strip_prefix(b" ")?)?;
        let (program, rest) = word(rest)?;
        let (process, rest) = word(rest)?;
        let (_, rest) = word(rest)?;
        let rest = match rest.first()? {
            b'[' => after_structured_data(rest)?,
            _ => rest.strip_prefix(b"-")?,
        };
        let message = rest.strip_prefix(b" ").unwrap_or(rest);
        let message = message.strip_prefix(b"\xef\xbb\xbf").unwrap_or(message);
        Some(Self { stamp, host, program, process, message: text(message) })
    }
}

/// Where a part of a text begins in it.
fn offset_of(text: &[u8], part: &[u8]) -> usize {
    (part.as_ptr() as usize).saturating_sub(text.as_ptr() as usize).min(text.len())
}

/// Whether `09:05:07` stands in a line. Most messages have none.
fn has_time_of_day(line: &[u8]) -> bool {
    let is_digits = |text: &[u8]| text.iter().all(u8::is_ascii_digit);
    memchr::memchr_iter(b':', line).any(|at| match line.get(at.saturating_sub(2)..at + 6) {
        Some([hour @ .., b':', m, n, b':', s, t]) => hour.len() == 2 && is_digits(hour) && is_digits(&[*m, *n, *s, *t]),
        _ => false,
    })
}

/// What stands between a time and a program, and is no host.
fn is_level(word: &[u8]) -> bool {
    let word = word.trim_ascii();
    let is_facility = |word: &[u8]| memchr(b'.', word).is_some_and(|dot| matches!(&word[..dot], b"mail" | b"<mail"));
    let words: [&[u8]; 14] = [
        b"stdout", b"stderr", b"F", b"P", b"INFO", b"WARN", b"WARNING", b"ERROR", b"DEBUG", b"NOTICE", b"info",
        b"warn", b"warning", b"error",
    ];
    words.contains(&word) || is_facility(word)
}

/// A message without blanks and `[ID 197553 mail.info]` before it.
#[inline]
fn text(message: &[u8]) -> &[u8] {
    let message = message.strip_prefix(b" ").unwrap_or(message);
    // The usual message begins here.
    if !matches!(message.first(), Some(b' ' | b'\t' | b'[')) {
        return message;
    }
    let message = message.trim_ascii_start();
    match message.strip_prefix(b"[ID ").and_then(|id| Some(&id[memchr(b']', id)? + 1..])) {
        Some(rest) => rest.trim_ascii_start(),
        None => message,
    }
}

/// Cuts off a byte order mark, the count of octets (RFC 6587), `<22>`, and `1 ` after it, which says
/// that the line is of RFC 5424.
fn without_priority(line: &[u8]) -> (&[u8], bool) {
    let mut line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
    if let Some(b'0'..=b'9') = line.first() {
        let digits = line.iter().take(6).take_while(|byte| byte.is_ascii_digit()).count();
        if line[digits..].starts_with(b" <") {
            line = &line[digits + 1..];
        }
    }
    let end = match line.first() {
        Some(b'<') => memchr(b'>', &line[..line.len().min(5)]).map_or(0, |end| end + 1),
        _ => 0,
    };
    match line[end..].strip_prefix(b"1 ") {
        Some(rest) => (rest, true),
        None => (&line[end..], false),
    }
}

fn word(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = find([b' ', b'\t'], text)?;
    Some((&text[..end], &text[end + 1..]))
}

/// A value in quotes may hold brackets, and quotes after a backslash.
fn after_structured_data(text: &[u8]) -> Option<&[u8]> {
    let mut at = 0;
    let mut is_quoted = false;
    while at < text.len() {
        match text[at] {
            b'\\' if is_quoted => at += 1,
            b'"' => is_quoted = !is_quoted,
            b']' if !is_quoted && text.get(at + 1) != Some(&b'[') => return Some(&text[at + 1..]),
            _ => {}
        }
        at += 1;
    }
    None
}

/// `name[address]` or `name[address]:port` at the beginning of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientText<'a> {
    /// The host name, `unknown` when the address has none that leads back to it.
    pub name: &'a [u8],
    /// The address, as Postfix writes it; `unknown` when there is none.
    pub address: &'a [u8],
    /// What follows the closing bracket.
    pub rest: &'a [u8],
}

impl<'a> ClientText<'a> {
    /// Reads one.
    pub fn parse(text: &'a [u8]) -> Option<Self> {
        let open = find([b'[', b' '], text)?;
        let close = open + find([b']'], &text[open..])?;
        (text[open] == b'[').then(|| Self {
            name: &text[..open],
            address: &text[open + 1..close],
            rest: &text[close + 1..],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(line: &str) -> Option<[String; 4]> {
        let line = Line::parse(line.as_bytes())?;
        let text = |part: &[u8]| String::from_utf8_lossy(part).into_owned();
        Some([text(line.host), text(line.program), text(line.process), text(line.message)])
    }

    #[test]
    fn every_family_of_lines_has_the_same_parts() {
        let said = "connect from mail.example.net[198.51.100.7]";
        for line in [
            format!("Nov 21 09:05:07 mx postfix/smtpd[411]: {said}"),
            format!("<22>Nov 21 09:05:07 mx postfix/smtpd[411]: {said}"),
            format!("Nov 21 09:05:07 mx mail.info postfix/smtpd[411]: {said}"),
            format!("2026-11-21T09:05:07.000123+01:00 mx postfix/smtpd[411]: {said}"),
            format!("2026-11-21T09:05:07+0100 mx postfix/smtpd[411]: {said}"),
            format!("<22>1 2026-11-21T09:05:07.1Z mx postfix/smtpd 411 - - {said}"),
            format!("1 2026-11-21T09:05:07Z mx postfix/smtpd 411 id [a@1 b=\"]\\\"\"][c@1] \u{feff}{said}"),
            format!("2026-11-21T09:05:07.123456789Z 2026-11-21T09:05:07.5+00:00 mx postfix/smtpd[411]: {said}"),
            format!("postfix-1  | 1795251907.5 mx postfix/smtpd[411]: {said}"),
            format!("postfix-1  | [1795251907] mx postfix/smtpd[411]: {said}"),
        ] {
            assert_eq!(parts(&line), Some(["mx", "postfix/smtpd", "411", said].map(str::to_owned)), "{line}");
        }
    }

    #[test]
    fn a_line_after_one_of_the_same_second_is_read_like_any_other() {
        let mut head = None;
        for second in ["07", "07", "08", "07"] {
            let line = format!("Nov 21 09:05:{second} mx postfix/smtpd[411]: x");
            let line = line.leak().as_bytes();
            assert_eq!(Line::parse_after(&mut head, line), Line::parse(line));
            assert_eq!(
                Line::parse_after(&mut head, b"Nov 21 09:05:07 mx2 sshd: y"),
                Line::parse(b"Nov 21 09:05:07 mx2 sshd: y")
            );
        }
    }

    #[test]
    fn what_is_no_line_of_a_log_is_refused() {
        for line in ["", "-- Boot 1234 --", "Nov 21 09:05:07", "Nov 21 09:05:07 mx", "hello world", "<22>", "1 x"] {
            assert_eq!(parts(line), None, "{line:?}");
        }
    }

    #[test]
    fn clients_have_a_name_and_an_address() {
        let client = ClientText::parse(b"unknown[2001:db8::1]:4711 ehlo=1").unwrap();
        assert_eq!(
            (client.name, client.address, client.rest),
            (&b"unknown"[..], &b"2001:db8::1"[..], &b":4711 ehlo=1"[..])
        );
        assert_eq!(ClientText::parse(b"unknown"), None);
        assert_eq!(ClientText::parse(b"a b[192.0.2.1]"), None);
    }
}
