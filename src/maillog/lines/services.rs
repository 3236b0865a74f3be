//! Services whose clients log in, told by what they log.

use hashbrown::HashMap;
use memchr::{memchr_iter, memmem, memrchr};

use super::blocks::parse;
use super::event::daemon;

/// Bytes of the beginnings of all logs that are looked at.
const MAX_SAMPLE: u64 = 8 * 1024 * 1024;

/// Bytes of one log.
pub const SAMPLE: u64 = 1024 * 1024;

/// Names that are told apart.
const MAX_NAMES: usize = 64;

/// Messages of a service that must have come with a login, and none without.
const LOGINS: u32 = 10;

/// How often messages came with a login and without, by the `syslog_name` of smtpd.
#[derive(Debug, Default)]
pub struct Services {
    of: HashMap<Box<[u8]>, (u32, u32)>,
    bytes: u64,
}

impl Services {
    /// Whether enough has been looked at.
    pub fn is_full(&self) -> bool {
        self.bytes >= MAX_SAMPLE
    }

    /// Looks at the beginning of a log.
    pub fn sample(&mut self, text: &[u8]) {
        self.bytes += text.len() as u64;
        // The last line may be cut off.
        let text = &text[..memrchr(b'\n', text).unwrap_or(0)];
        let (mut start, client) = (0, memmem::Finder::new(": client="));
        for end in memchr_iter(b'\n', text).chain([text.len()]) {
            let line = &text[start..end];
            start = end + 1;
            if client.find(line).is_some() {
                parse(line, |line| self.count(line.program, line.message));
            }
        }
    }

    fn count(&mut self, program: &[u8], message: &[u8]) {
        let Some((name, b"smtpd")) = daemon(program) else {
            return;
        };
        // The name of all services that have none of their own.
        if name == b"postfix" || (self.of.len() >= MAX_NAMES && !self.of.contains_key(name)) {
            return;
        }
        let (with, without) = self.of.entry(name.into()).or_default();
        match memmem::find(message, b", sasl_username=") {
            Some(_) => *with += 1,
            None => *without += 1,
        }
    }

    /// The names of services whose clients all logged in.
    pub fn names(&self) -> Vec<String> {
        let all = self.of.iter().filter(|(_, (with, without))| *with >= LOGINS && *without == 0);
        let mut names: Vec<String> = all.map(|(name, _)| String::from_utf8_lossy(name).into_owned()).collect();
        names.sort();
        names
    }
}
