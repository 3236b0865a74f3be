//! One line of a log: its time, which process wrote it, and what it says.
//!
//! Three families of lines: syslog's traditional one (which postlogd and
//! `journalctl -o short` write too), ISO times in the same order, and RFC 5424.
//! Lines of `journalctl -o json` are taken apart by [`journal`](super::journal).

use memchr::{memchr, memchr2};

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
pub struct Head<'a> {
    text: &'a [u8],
    stamp: Stamp,
    host: &'a [u8],
}

impl<'a> Line<'a> {
    /// Takes a line apart, which must not end in a line break. `None`: this is no line of a log.
    #[cfg(test)]
    pub fn parse(line: &'a [u8]) -> Option<Self> {
        Self::parse_after(&mut None, line)
    }

    /// The same for a line that follows one with this head, and leaves its own there.
    pub fn parse_after(head: &mut Option<Head<'a>>, line: &'a [u8]) -> Option<Self> {
        if let Some(Head { text, stamp, host }) = *head
            && let Some(rest) = line.strip_prefix(text)
        {
            return Self::after_host(stamp, host, rest);
        }
        let whole = line;
        let (line, is_rfc5424) = without_priority(line);
        if is_rfc5424 {
            return Self::rfc5424(line);
        }
        let (stamp, rest) = match line.first()? {
            b'0'..=b'9' => Stamp::iso(line)?,
            _ => Stamp::traditional(line)?,
        };
        let (host, rest) = word(rest.strip_prefix(b" ")?)?;
        *head = Some(Head { text: &whole[..whole.len() - rest.len()], stamp, host });
        Self::after_host(stamp, host, rest)
    }

    fn after_host(stamp: Stamp, host: &'a [u8], rest: &'a [u8]) -> Option<Self> {
        Self::program(stamp, host, rest).or_else(|| {
            // Some loggers write facility and severity between host and program.
            let (_, rest) = word(rest)?;
            Self::program(stamp, host, rest)
        })
    }

    /// Reads `program[process]: message` or `program: message`.
    fn program(stamp: Stamp, host: &'a [u8], rest: &'a [u8]) -> Option<Self> {
        let end = rest.iter().position(|byte| matches!(byte, b'[' | b':' | b' '))?;
        let (program, rest) = rest.split_at(end);
        let (process, rest) = match rest.first()? {
            b'[' => {
                let end = memchr(b']', rest)?;
                (&rest[1..end], &rest[end + 1..])
            }
            _ => (&rest[..0], rest),
        };
        let message = rest.strip_prefix(b":")?;
        Some(Self { stamp, host, program, process, message: message.strip_prefix(b" ").unwrap_or(message) })
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
        Some(Self { stamp, host, program, process, message })
    }
}

/// Cuts off `<22>`, and `1 ` after it, which says that the line is of RFC 5424.
fn without_priority(line: &[u8]) -> (&[u8], bool) {
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
    let end = memchr(b' ', text)?;
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
        let open = memchr2(b'[', b' ', text)?;
        let close = open + memchr(b']', &text[open..])?;
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
