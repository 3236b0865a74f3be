//! What a line of Postfix says about SMTP sessions and their messages.
//!
//! Only the process that wrote a line tells which session it is about, and only
//! the queue id which message: both are kept as hashes, so an event has a fixed
//! size. Bytes that strangers chose (names, addresses, HELO) are looked at
//! only where Postfix puts a client in brackets.

use std::hash::Hasher;
use std::net::IpAddr;

use memchr::memmem;
use siphasher::sip::SipHasher13;

use super::line::{Client, Line};
use super::stamp::Stamp;

/// Something that happened, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// When.
    pub stamp: Stamp,
    /// What.
    pub what: What,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// smtpd greets a client.
    Connect {
        /// The smtpd process.
        process: u64,
        /// Who came.
        who: Who,
    },
    /// smtpd asked about a recipient, for it accepted or refused one.
    Recipient {
        /// The smtpd process.
        process: u64,
        /// The client.
        who: Who,
        /// It has logged in.
        authenticated: bool,
        /// The queue id of a message that begins here.
        message: Option<u64>,
    },
    /// smtpd is done with a client.
    Disconnect {
        /// The smtpd process.
        process: u64,
        /// The client.
        who: Who,
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
pub struct Who {
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
pub enum Sense {
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
    /// Hash values never leave the process, and nobody gains from making them meet: a fixed key will do.
    hasher: SipHasher13,
}

/// Services whose clients log in; their smtpd is not the one that strangers reach.
const SUBMISSION: [&[u8]; 3] = [b"/submission/", b"/submissions/", b"/smtps/"];

impl Reader {
    /// A reader.
    pub fn new() -> Self {
        Self { hasher: SipHasher13::new() }
    }

    /// What a line says. Names of clients are appended to `names`.
    pub fn read(&self, line: &Line<'_>, names: &mut Vec<u8>) -> Sense {
        let Some((instance, service)) = service(line.program) else {
            return Sense::Foreign;
        };
        let what = match service {
            b"smtpd" => self.smtpd(line, instance, names),
            b"qmgr" | b"oqmgr" => self.qmgr(line, instance),
            b"postscreen" => postscreen(line.message),
            b"smtp" | b"lmtp" | b"local" | b"virtual" | b"pipe" | b"discard" => self.delivery(line, instance),
            _ => None,
        };
        what.map_or(Sense::Idle, |what| Sense::Event(Event { stamp: line.stamp, what }))
    }

    fn smtpd(&self, line: &Line<'_>, instance: &[u8], names: &mut Vec<u8>) -> Option<What> {
        let message = line.message;
        let is_submission = || SUBMISSION.iter().any(|name| memmem::find(line.program, name).is_some());
        if let Some(client) = message.strip_prefix(b"connect from ") {
            let client = Client::parse(client)?;
            return Some(match is_submission() {
                true => What::Submission,
                false => What::Connect { process: self.process(line), who: who(&client, names) },
            });
        }
        if is_submission() {
            return None;
        }
        if let Some(client) = message.strip_prefix(b"disconnect from ") {
            let client = Client::parse(client)?;
            let asked =
                [&b" rcpt="[..], b" vrfy=", b" etrn="].iter().any(|name| memmem::find(client.rest, name).is_some());
            let authenticated = logged_in(client.rest);
            return Some(What::Disconnect {
                process: self.process(line),
                who: who(&client, names),
                asked,
                authenticated,
            });
        }
        let (id, rest) = queue_id(message)?;
        let process = self.process(line);
        if let Some(client) = rest.strip_prefix(b"client=") {
            let client = Client::parse(client)?;
            let authenticated = memmem::find(client.rest, b", sasl_username=").is_some();
            let message = Some(self.message(line, instance, id));
            return Some(What::Recipient { process, who: who(&client, names), authenticated, message });
        }
        let client = Client::parse(recipient_check(rest)?)?;
        Some(What::Recipient { process, who: who(&client, names), authenticated: false, message: None })
    }

    fn qmgr(&self, line: &Line<'_>, instance: &[u8]) -> Option<What> {
        let (id, rest) = queue_id(line.message)?;
        let message = || self.message(line, instance, id);
        match rest {
            b"removed" => Some(What::Removed(message())),
            _ if rest.starts_with(b"from=") && rest.ends_with(b" (queue active)") => Some(What::Queued(message())),
            _ => None,
        }
    }

    fn delivery(&self, line: &Line<'_>, instance: &[u8]) -> Option<What> {
        let (id, rest) = queue_id(line.message)?;
        // The recipient stands before it and may look like anything.
        let (_, status) = rest.split_at(memmem::rfind(rest, b", status=")?);
        status.starts_with(b", status=sent ").then(|| What::Sent(self.message(line, instance, id)))
    }

    fn process(&self, line: &Line<'_>) -> u64 {
        self.hash([line.host, line.program, line.process])
    }

    fn message(&self, line: &Line<'_>, instance: &[u8], id: &[u8]) -> u64 {
        self.hash([line.host, instance, id])
    }

    fn hash(&self, parts: [&[u8]; 3]) -> u64 {
        let mut hasher = self.hasher;
        for part in parts {
            hasher.write(part);
            hasher.write_u8(0);
        }
        hasher.finish()
    }
}

impl Default for Reader {
    fn default() -> Self {
        Self::new()
    }
}

/// `postfix/smtpd` is the service `smtpd` of the instance `postfix`; `None` for another program's name.
fn service(program: &[u8]) -> Option<(&[u8], &[u8])> {
    let first = memchr::memchr(b'/', program)?;
    let last = memchr::memrchr(b'/', program)?;
    // syslog_name is the site's choice; what Postfix adds to it is the name of the daemon.
    Some((&program[..first], &program[last + 1..]))
}

fn postscreen(message: &[u8]) -> Option<What> {
    let passes = [&b"PASS "[..], b"ALLOWLISTED ", b"WHITELISTED "];
    if message.starts_with(b"CONNECT from ") {
        return Some(What::ScreenConnect);
    }
    passes.iter().any(|word| message.starts_with(word)).then_some(What::ScreenPass)
}

fn who(client: &Client<'_>, names: &mut Vec<u8>) -> Who {
    let address = address(client.address);
    let is_name = address.is_some() && client.name != b"unknown" && client.name.len() <= 255;
    let name = match (is_name, u32::try_from(names.len())) {
        (true, Ok(start)) => {
            names.extend_from_slice(client.name);
            Place { start, length: client.name.len() as u8 }
        }
        _ => Place::default(),
    };
    Who { address, name }
}

fn address(text: &[u8]) -> Option<IpAddr> {
    str::from_utf8(text).ok()?.parse::<IpAddr>().ok().map(|address| address.to_canonical())
}

/// `4Bcd5: rest`, or `NOQUEUE: rest`.
fn queue_id(message: &[u8]) -> Option<(&[u8], &[u8])> {
    // The longest one of Postfix has less than 20 characters.
    let end = memchr::memchr(b':', &message[..message.len().min(32)])?;
    let (id, rest) = message.split_at(end);
    let is_id = !id.is_empty() && id.iter().all(u8::is_ascii_alphanumeric);
    is_id.then_some((id, rest.strip_prefix(b": ")?))
}

/// The client in `reject: RCPT from client: 450 ...`, whatever was done instead of rejecting.
fn recipient_check(text: &[u8]) -> Option<&[u8]> {
    let end = memchr::memchr(b':', &text[..text.len().min(32)])?;
    let rest = text[end + 1..].strip_prefix(b" ")?;
    // The stages at which Postfix has asked, of those that get into the log.
    let stages = [&b"RCPT from "[..], b"DATA from ", b"END-OF-MESSAGE from ", b"VRFY from ", b"ETRN from "];
    stages.iter().find_map(|stage| rest.strip_prefix(*stage))
}

/// Whether `auth=1` or `auth=1/2` is among the counters; `auth=0/2` is two failures.
fn logged_in(counters: &[u8]) -> bool {
    let value = memmem::find(counters, b" auth=").map(|at| &counters[at + 6..]);
    value.is_some_and(|value| value.first().is_some_and(|digit| digit.is_ascii_digit() && *digit != b'0'))
}

#[cfg(test)]
mod tests;
