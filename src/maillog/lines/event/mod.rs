//! What a line of Postfix says about SMTP sessions and their messages.
//!
//! Only the process that wrote a line tells which session it is about, and only
//! the queue id which message: both are kept as hashes, so an event has a fixed
//! size. Bytes that strangers chose (names, addresses, HELO) are looked at
//! only where Postfix puts a client in brackets.

use std::net::IpAddr;

use memchr::memmem::{self, Finder};

use super::line::{ClientText, Line};
use super::stamp::Stamp;
use crate::policy::request::address;

/// Something that happened, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// When.
    pub stamp: Stamp,
    /// What.
    pub kind: EventKind,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// smtpd greets a client.
    Connect {
        /// The smtpd process.
        process: u64,
        /// Who came.
        who: Client,
    },
    /// smtpd asked about a recipient, for it accepted or refused one.
    Recipient {
        /// The smtpd process.
        process: u64,
        /// The client.
        who: Client,
        /// It has logged in.
        authenticated: bool,
        /// The queue id of a message that begins here.
        message: Option<u64>,
    },
    /// smtpd is done with a client.
    Disconnect {
        /// The smtpd process.
        process: u64,
        /// The client's name, as in `Client`.
        name: Place,
        /// It got to RCPT TO, VRFY or ETRN.
        asked: bool,
        /// It has logged in.
        authenticated: bool,
    },
    /// A message is complete and in the queue.
    Queued(u64),
    /// A message was delivered to a recipient.
    Sent(u64),
    /// A message has left the queue, one way or another.
    Removed(u64),
    /// postscreen greets a client.
    ScreenConnect,
    /// postscreen hands a client to smtpd.
    ScreenPass,
    /// smtpd of a submission service greets a client.
    Submission,
}

/// A client as Postfix names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// Its address, IPv4-mapped IPv6 folded to IPv4; `None` when Postfix does not know it.
    pub address: Option<IpAddr>,
    /// Where its verified name lies in the names of the batch; empty when it has none.
    pub name: Place,
}

/// A stretch of the names of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Where it begins.
    pub start: u32,
    /// How long it is. No host name is longer than 255 bytes.
    pub length: u8,
}

/// What became of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineKind {
    /// It told something.
    Event(Event),
    /// It is Postfix's, and of no interest here.
    Idle,
    /// Another program wrote it.
    Foreign,
}

/// Reads the lines of one log.
#[derive(Clone, Debug)]
pub struct Reader {
    /// Made once: that takes longer than to find something in a line.
    status: Finder<'static>,
}

/// Services whose clients log in; their smtpd is not the one that strangers reach.
const SUBMISSION: [&[u8]; 3] = [b"submission", b"submissions", b"smtps"];

impl Reader {
    /// A reader.
    pub fn new() -> Self {
        Self { status: Finder::new(", status=") }
    }

    /// What a line says. Names of clients are appended to `names`.
    pub fn read(&self, line: &Line<'_>, names: &mut Vec<u8>) -> LineKind {
        let Some((instance, service)) = service(line.program) else {
            return LineKind::Foreign;
        };
        let kind = match service {
            b"smtpd" => smtpd(line, instance, names),
            b"qmgr" | b"oqmgr" => qmgr(line, instance),
            b"postscreen" => postscreen(line.message),
            b"smtp" | b"lmtp" | b"local" | b"virtual" | b"pipe" | b"discard" => self.delivery(line, instance),
            _ => None,
        };
        kind.map_or(LineKind::Idle, |kind| LineKind::Event(Event { stamp: line.stamp, kind }))
    }

    fn delivery(&self, line: &Line<'_>, instance: &[u8]) -> Option<EventKind> {
        let (id, rest) = queue_id(line.message)?;
        let status = &rest[self.status.find(rest)?..];
        // The recipient before it and the reply behind it may look like anything: then it is not believed.
        let is_sent = status.starts_with(b", status=sent ") && self.status.find(&status[1..]).is_none();
        is_sent.then(|| EventKind::Sent(message_id(line, instance, id)))
    }
}

impl Default for Reader {
    fn default() -> Self {
        Self::new()
    }
}

fn process(line: &Line<'_>) -> u64 {
    hash([line.host, line.program, line.process])
}

fn message_id(line: &Line<'_>, instance: &[u8], id: &[u8]) -> u64 {
    hash([line.host, instance, id])
}

/// Values never leave the process, and nobody gains from making them meet: speed is all that is asked for.
fn hash(parts: [&[u8]; 3]) -> u64 {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let mix = |hash: u64, word: u64| {
        let product = u128::from(hash ^ word) * u128::from(ODD);
        (product as u64) ^ (product >> 64) as u64
    };
    parts.iter().fold(ODD, |hash, part| {
        let (words, rest) = part.as_chunks::<8>();
        let hash = words.iter().fold(hash, |hash, word| mix(hash, u64::from_le_bytes(*word)));
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        // The length keeps apart what would run together.
        mix(hash.rotate_left(29) ^ part.len() as u64, u64::from_le_bytes(last))
    })
}

/// Whether this is `postfix/submission/smtpd`, or another service whose clients log in.
fn is_submission(program: &[u8]) -> bool {
    let mut parts = program.rsplit(|byte| *byte == b'/').skip(1);
    parts.next().is_some_and(|service| SUBMISSION.contains(&service))
}

/// `postfix/smtpd` is the service `smtpd` of the instance `postfix`; `None` for another program's name.
fn service(program: &[u8]) -> Option<(&[u8], &[u8])> {
    let first = memchr::memchr(b'/', program)?;
    let last = memchr::memrchr(b'/', program)?;
    // syslog_name is the site's choice; what Postfix adds to it is the name of the daemon.
    Some((&program[..first], &program[last + 1..]))
}

fn smtpd(line: &Line<'_>, instance: &[u8], names: &mut Vec<u8>) -> Option<EventKind> {
    let message = line.message;
    let is_submission = is_submission(line.program);
    if let Some(client) = message.strip_prefix(b"connect from ") {
        let client = ClientText::parse(client)?;
        return Some(match is_submission {
            true => EventKind::Submission,
            false => EventKind::Connect { process: process(line), who: who(&client, names) },
        });
    }
    if is_submission {
        return None;
    }
    if let Some(client) = message.strip_prefix(b"disconnect from ") {
        let client = ClientText::parse(client)?;
        let (mut asked, mut authenticated) = (false, false);
        for blank in memchr::memchr_iter(b' ', client.rest) {
            match client.rest.get(blank + 1..blank + 7) {
                Some([b'r', b'c', b'p', b't', b'=', _]) => asked = true,
                Some([b'v', b'r', b'f', b'y', b'=', _] | [b'e', b't', b'r', b'n', b'=', _]) => asked = true,
                // auth=1 or auth=1/2; auth=0/2 is two failures.
                Some([b'a', b'u', b't', b'h', b'=', b'1'..=b'9']) => authenticated = true,
                _ => {}
            }
        }
        let name = name(&client, names);
        return Some(EventKind::Disconnect { process: process(line), name, asked, authenticated });
    }
    let (id, rest) = queue_id(message)?;
    let process = process(line);
    if let Some(client) = rest.strip_prefix(b"client=") {
        let client = ClientText::parse(client)?;
        let authenticated = !client.rest.is_empty() && memmem::find(client.rest, b", sasl_username=").is_some();
        let message = Some(message_id(line, instance, id));
        return Some(EventKind::Recipient { process, who: who(&client, names), authenticated, message });
    }
    let client = ClientText::parse(recipient_check(rest)?)?;
    Some(EventKind::Recipient { process, who: who(&client, names), authenticated: false, message: None })
}

fn qmgr(line: &Line<'_>, instance: &[u8]) -> Option<EventKind> {
    let (id, rest) = queue_id(line.message)?;
    let message = || message_id(line, instance, id);
    match rest {
        b"removed" => Some(EventKind::Removed(message())),
        _ if rest.starts_with(b"from=") && rest.ends_with(b" (queue active)") => Some(EventKind::Queued(message())),
        _ => None,
    }
}

fn postscreen(message: &[u8]) -> Option<EventKind> {
    let passes = [&b"PASS "[..], b"ALLOWLISTED ", b"WHITELISTED "];
    if message.starts_with(b"CONNECT from ") {
        return Some(EventKind::ScreenConnect);
    }
    passes.iter().any(|word| message.starts_with(word)).then_some(EventKind::ScreenPass)
}

fn who(client: &ClientText<'_>, names: &mut Vec<u8>) -> Client {
    Client { address: address(client.address), name: name(client, names) }
}

fn name(client: &ClientText<'_>, names: &mut Vec<u8>) -> Place {
    let is_name = client.name != b"unknown" && client.name.len() <= 255;
    match (is_name, u32::try_from(names.len())) {
        (true, Ok(start)) => {
            names.extend_from_slice(client.name);
            Place { start, length: client.name.len() as u8 }
        }
        _ => Place::default(),
    }
}

/// `4Bcd5: rest`, or `NOQUEUE: rest`.
fn queue_id(message: &[u8]) -> Option<(&[u8], &[u8])> {
    // The longest one of Postfix has less than 20 characters.
    let end = memchr::memchr(b':', &message[..message.len().min(32)])?;
    let (id, rest) = message.split_at(end);
    Some((id, rest.strip_prefix(b": ")?))
}

/// The client in `reject: RCPT from client: 450 ...`, whatever was done instead of rejecting.
fn recipient_check(text: &[u8]) -> Option<&[u8]> {
    let end = memchr::memchr(b':', &text[..text.len().min(32)])?;
    let rest = text[end + 1..].strip_prefix(b" ")?;
    // The stages at which Postfix has asked, of those that get into the log.
    let stages = [&b"RCPT from "[..], b"DATA from ", b"END-OF-MESSAGE from ", b"VRFY from ", b"ETRN from "];
    stages.iter().find_map(|stage| rest.strip_prefix(*stage))
}

#[cfg(test)]
mod tests;
