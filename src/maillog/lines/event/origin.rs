//! Which program of which host wrote a line.
//!
//! A log has lines of a few programs, in any order: what their names mean is looked up once.

use std::hash::{BuildHasher, Hasher};

use foldhash::fast::FixedState;
use memchr::{memmem, memrchr};

use crate::maillog::lines::line::Line;

/// Programs that are known at a time. The oldest makes room for a new one.
const MAX_ORIGINS: usize = 32;

/// Where a line comes from.
#[derive(Clone, Copy, Debug)]
pub struct LineOrigin {
    pub daemon: LoggedProgram,
    /// The hash of the program of the host, whose clock the times of its lines are of.
    pub clock: u64,
    /// The hash of the host, within which queue ids differ.
    pub host: u64,
}

/// The programs whose lines are read, each in its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoggedProgram {
    Smtpd,
    /// smtpd of a service whose clients log in.
    Submission,
    Qmgr,
    Postscreen,
    /// Any that hands mail on or delivers it.
    Delivery,
    Discard,
    Pickup,
    /// Another one of Postfix.
    Other,
    /// The unit of Postfix, as `journalctl -o with-unit` writes it instead of the program.
    Unit,
    MailScanner,
    /// None of Postfix.
    Foreign,
}

/// The programs of the last lines.
#[derive(Clone, Debug)]
pub struct LineOrigins {
    /// The `syslog_name`s of submission services, beside those whose name says so.
    submission: Vec<Box<[u8]>>,
    known: Vec<KnownProgram>,
    /// The place of the oldest one.
    oldest: usize,
}

#[derive(Clone, Debug)]
struct KnownProgram {
    host: Box<[u8]>,
    program: Box<[u8]>,
    origin: LineOrigin,
}

impl LineOrigins {
    pub fn new(submission: &[String]) -> Self {
        let submission = submission.iter().map(|name| name.as_bytes().into()).collect();
        Self { submission, known: Vec::new(), oldest: 0 }
    }

    /// Where this line comes from.
    pub fn of(&mut self, line: &Line<'_>) -> LineOrigin {
        let is_same = |it: &&KnownProgram| *it.program == *line.program && *it.host == *line.host;
        match self.known.iter().find(is_same) {
            Some(known) => known.origin,
            None => self.learn(line),
        }
    }

    #[cold]
    fn learn(&mut self, line: &Line<'_>) -> LineOrigin {
        let host = hash(0, line.host);
        let origin = LineOrigin { daemon: self.daemon(line.program), clock: hash(host, line.program), host: !host };
        let known = KnownProgram { host: line.host.into(), program: line.program.into(), origin };
        if self.known.len() < MAX_ORIGINS {
            self.known.push(known);
        } else {
            self.known[self.oldest] = known;
            self.oldest = (self.oldest + 1) % MAX_ORIGINS;
        }
        origin
    }

    fn daemon(&self, program: &[u8]) -> LoggedProgram {
        let Some((syslog_name, daemon)) = daemon(program) else {
            return match program {
                program if program.starts_with(b"postfix") && program.ends_with(b".service") => LoggedProgram::Unit,
                b"MailScanner" => LoggedProgram::MailScanner,
                _ => LoggedProgram::Foreign,
            };
        };
        match daemon {
            b"smtpd" if says_submission(syslog_name) => LoggedProgram::Submission,
            b"smtpd" if self.submission.iter().any(|name| **name == *syslog_name) => LoggedProgram::Submission,
            b"smtpd" => LoggedProgram::Smtpd,
            b"qmgr" | b"oqmgr" => LoggedProgram::Qmgr,
            b"postscreen" => LoggedProgram::Postscreen,
            b"smtp" | b"lmtp" | b"local" | b"virtual" | b"pipe" => LoggedProgram::Delivery,
            b"discard" => LoggedProgram::Discard,
            b"pickup" => LoggedProgram::Pickup,
            _ => LoggedProgram::Other,
        }
    }
}

/// `postfix/submission/smtpd` is the daemon `smtpd`, with the `syslog_name` `postfix/submission`.
/// `None` for the name of another program.
pub fn daemon(program: &[u8]) -> Option<(&[u8], &[u8])> {
    // syslog_name is the site's choice; Postfix appends the name of the daemon.
    let last = memrchr(b'/', program)?;
    Some((&program[..last], &program[last + 1..]))
}

/// `postfix-submission`, `postfix/587`, `postfix/smtps-haproxy`.
pub fn says_submission(syslog_name: &[u8]) -> bool {
    let is_port = |word: &[u8]| matches!(word, b"587" | b"465" | b"10587" | b"10465");
    let mut words = syslog_name.split(|byte| !byte.is_ascii_alphanumeric());
    words.any(is_port)
        || memmem::find(syslog_name, b"submission").is_some()
        || memmem::find(syslog_name, b"smtps").is_some()
}

/// A fast hash of a text within another: its values never leave the process, and no stranger gains from a collision.
pub fn hash(within: u64, text: &[u8]) -> u64 {
    let mut hasher = FixedState::with_seed(within).build_hasher();
    hasher.write(text);
    hasher.finish()
}
