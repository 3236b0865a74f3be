//! What a line of Postfix says about SMTP sessions and their messages.
//!
//! The process that wrote a line tells which session it is about, the queue id
//! which message. Both are kept as hashes, so an event has a fixed size. A queue
//! id belongs to a host: the programs that handle one message may log under
//! different names. Bytes that strangers chose (names, addresses, HELO) are
//! looked at only where Postfix puts a client in brackets.

use std::net::IpAddr;

use memchr::memmem::{self, Finder};

use super::line::{ClientText, Line};
use super::stamp::Stamp;
use crate::policy::request::address;

/// Something that happened, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Event {
    pub stamp: Stamp,
    /// Whose clock the stamp is of: the hash of a program of a host. Its zone may be its own.
    pub clock: u64,
    pub kind: EventKind,
}

/// What happened. A `u64` is the hash of an smtpd process or of a queue id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// smtpd greets a client.
    Connect { process: u64, who: Client },
    /// smtpd asked about a recipient: it accepted or refused one.
    Recipient {
        process: u64,
        who: Client,
        /// The SASL login; empty without one.
        login: NameSpan,
        /// Whether a message begins here.
        begins_message: bool,
        /// Its queue id. With `smtpd_proxy_filter` it has none yet.
        message: Option<u64>,
    },
    /// A content filter hands a message to smtpd and names where it came from (XFORWARD).
    FromFilter {
        process: u64,
        /// The filter.
        who: Client,
        message: u64,
        /// The queue id before the filter.
        original: Option<u64>,
        /// The address of the client that sent the message.
        client: Option<IpAddr>,
    },
    /// smtpd is done with a client.
    Disconnect {
        process: u64,
        name: NameSpan,
        /// It got to RCPT TO, VRFY or ETRN.
        asked: bool,
        /// It has logged in.
        authenticated: bool,
    },
    /// smtpd of a submission service greets a client.
    Submission,
    /// smtpd of a submission service takes a message.
    Submitted { who: Client, login: NameSpan, message: u64 },
    /// A message is complete and in the queue.
    Queued { message: u64, sender: NameSpan, recipients: u32 },
    /// A message left for a recipient.
    Delivery {
        message: u64,
        outcome: DeliveryOutcome,
        /// The queue id that the next program gave it, if the reply has one.
        next: Option<u64>,
    },
    /// A message has a new queue id.
    Renamed { old: u64, new: u64 },
    /// A message has left the queue, one way or another.
    Removed(u64),
    /// postscreen greets a client.
    ScreenConnect,
    /// postscreen hands a client to smtpd.
    ScreenPass,
}

/// What became of a message that was handed over without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeliveryOutcome {
    Sent,
    /// A filter or a transport threw it away, returned it, or keeps it in quarantine.
    Discarded,
}

/// A client as Postfix names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Client {
    /// Its address, IPv4-mapped IPv6 folded to IPv4; `None` when Postfix does not know it.
    pub address: Option<IpAddr>,
    /// Its verified name; empty when it has none.
    pub name: NameSpan,
}

/// A text in the names of the batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NameSpan {
    pub start: u32,
    pub length: u16,
}

/// Bytes of a host name, a login or a sender that are kept. RFC 5321 allows fewer.
pub const MAX_NAME: usize = 512;

/// Where a text lies differs from batch to batch; what else an event has tells it from others.
impl std::hash::Hash for NameSpan {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.length.hash(state);
    }
}

impl NameSpan {
    /// Appends a text to the names.
    fn append(text: &[u8], names: &mut Vec<u8>) -> Self {
        let text = &text[..text.len().min(MAX_NAME)];
        match u32::try_from(names.len()) {
            Ok(start) => {
                names.extend_from_slice(text);
                Self { start, length: text.len() as u16 }
            }
            Err(_) => Self::default(),
        }
    }

    /// The text.
    pub fn text(self, names: &[u8]) -> &[u8] {
        let start = self.start as usize;
        &names[start..start + usize::from(self.length)]
    }
}

/// What a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineKind {
    Event(Event),
    /// Postfix wrote it, and it says nothing about sessions.
    Idle,
    /// Another program wrote it.
    Foreign,
}

/// Reads the lines of one log.
#[derive(Clone, Debug)]
pub struct Reader {
    /// The `syslog_name`s of submission services, beside those whose name says so.
    submission: Vec<Box<[u8]>>,
    // A `Finder` is made once: that takes longer than to find something in a line.
    status: Finder<'static>,
    queued_as: Finder<'static>,
    discarded: [Finder<'static>; 3],
}

impl Reader {
    /// `submission` are the `syslog_name`s of submission services, as in `postfix-users`.
    pub fn new(submission: &[String]) -> Self {
        Self {
            submission: submission.iter().map(|name| name.as_bytes().into()).collect(),
            status: Finder::new(", status="),
            queued_as: Finder::new("queued as "),
            discarded: [Finder::new("iscarded"), Finder::new("uarantine"), Finder::new("BOUNCE")],
        }
    }

    /// What a line says. Names, logins and senders are appended to `names`.
    pub fn read(&self, line: &Line<'_>, names: &mut Vec<u8>) -> LineKind {
        let Some((syslog_name, daemon)) = daemon(line.program) else {
            return match line.program {
                program if program.starts_with(b"postfix") && program.ends_with(b".service") => self.unit(line, names),
                b"MailScanner" => mailscanner(line).map_or(LineKind::Foreign, |kind| event(line, kind)),
                _ => LineKind::Foreign,
            };
        };
        let kind = match daemon {
            b"smtpd" if self.is_submission(syslog_name) => submission(line, names),
            b"smtpd" => smtpd(line, names),
            b"qmgr" | b"oqmgr" => qmgr(line, names),
            b"postscreen" => postscreen(line.message),
            b"smtp" | b"lmtp" | b"local" | b"virtual" | b"pipe" => self.delivery(line),
            b"discard" => self.delivery(line).map(discarded),
            b"pickup" => pickup(line),
            _ => None,
        };
        kind.map_or(LineKind::Idle, |kind| event(line, kind))
    }

    /// A line that names the unit instead of the program, as `journalctl -o with-unit` writes it.
    fn unit(&self, line: &Line<'_>, names: &mut Vec<u8>) -> LineKind {
        let kind = smtpd(line, names).or_else(|| qmgr(line, names)).or_else(|| self.delivery(line));
        kind.map_or(LineKind::Idle, |kind| event(line, kind))
    }

    /// Whether clients of this smtpd log in, as those of `postfix/submission/smtpd`.
    fn is_submission(&self, syslog_name: &[u8]) -> bool {
        // The name of nearly every smtpd, decided at once.
        syslog_name != b"postfix"
            && (says_submission(syslog_name) || self.submission.iter().any(|name| **name == *syslog_name))
    }

    fn delivery(&self, line: &Line<'_>) -> Option<EventKind> {
        let (id, rest) = queue_id(line.message)?;
        let status = &rest[self.status.find(rest)?..];
        let reply = status.strip_prefix(b", status=sent ")?;
        // The recipient before it and the reply behind it may look like anything: then it is not believed.
        if self.status.find(reply).is_some() {
            return None;
        }
        let is_discarded = reply.starts_with(b"(delivered to file: /dev/null)")
            || self.discarded.iter().any(|word| word.find(reply).is_some());
        let outcome = if is_discarded { DeliveryOutcome::Discarded } else { DeliveryOutcome::Sent };
        let next = self.queued_as.find(reply).and_then(|at| id_in(&reply[at + "queued as ".len()..]));
        let next = next.map(|id| message_id(line, id));
        Some(EventKind::Delivery { message: message_id(line, id), outcome, next })
    }
}

fn event(line: &Line<'_>, kind: EventKind) -> LineKind {
    LineKind::Event(Event { stamp: line.stamp, clock: clock(line), kind })
}

fn discarded(kind: EventKind) -> EventKind {
    match kind {
        EventKind::Delivery { message, .. } => {
            EventKind::Delivery { message, outcome: DeliveryOutcome::Discarded, next: None }
        }
        kind => kind,
    }
}

/// `postfix/submission/smtpd` is the daemon `smtpd`, with the `syslog_name` `postfix/submission`.
/// `None` for the name of another program.
pub fn daemon(program: &[u8]) -> Option<(&[u8], &[u8])> {
    // syslog_name is the site's choice; Postfix appends the name of the daemon.
    let last = memchr::memrchr(b'/', program)?;
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

/// The program of a host, whose clock the times of its lines are of.
fn clock(line: &Line<'_>) -> u64 {
    hash(hash(0, line.host), line.program)
}

/// The session of a line. A logger that leaves out the process number leaves the client to tell sessions apart.
fn process(line: &Line<'_>, client: &ClientText<'_>) -> u64 {
    match line.process {
        b"" => hash(!clock(line), client.address),
        process => hash(clock(line), process),
    }
}

fn message_id(line: &Line<'_>, id: &[u8]) -> u64 {
    hash(!hash(0, line.host), id)
}

/// A fast hash of a text within another: its values never leave the process, and no stranger gains from a collision.
fn hash(within: u64, text: &[u8]) -> u64 {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let mix = |hash: u64, word: u64| {
        let product = u128::from(hash ^ word) * u128::from(ODD);
        (product as u64) ^ (product >> 64) as u64
    };
    // The length keeps apart what would run together.
    let mut hash = within.rotate_left(29) ^ text.len() as u64;
    let mut rest = text;
    while let Some((word, after)) = rest.split_first_chunk::<8>().filter(|_| rest.len() > 8) {
        hash = mix(hash, u64::from_le_bytes(*word));
        rest = after;
    }
    // The last bytes, of which some may have been part of the word before.
    let last = match (text.last_chunk::<8>(), text.first_chunk::<4>(), text.last_chunk::<4>()) {
        (Some(word), ..) => u64::from_le_bytes(*word),
        (_, Some(first), Some(last)) => {
            u64::from(u32::from_le_bytes(*first)) | u64::from(u32::from_le_bytes(*last)) << 32
        }
        _ => text.iter().fold(0, |word, byte| word << 8 | u64::from(*byte)),
    };
    mix(hash, last)
}

fn smtpd(line: &Line<'_>, names: &mut Vec<u8>) -> Option<EventKind> {
    let message = line.message;
    if let Some(client) = message.strip_prefix(b"connect from ") {
        let client = ClientText::parse(client)?;
        return Some(EventKind::Connect { process: process(line, &client), who: who(&client, names) });
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
        let process = process(line, &client);
        return Some(EventKind::Disconnect { process, name: name(&client, names), asked, authenticated });
    }
    let (id, rest) = queue_id(message)?;
    if let Some(client) = rest.strip_prefix(b"client=") {
        let client = ClientText::parse(client)?;
        let process = process(line, &client);
        let message = (id != b"NOQUEUE").then(|| message_id(line, id));
        let original = attribute(client.rest, b", orig_client=").and_then(ClientText::parse);
        let original_id = attribute(client.rest, b", orig_queue_id=").map(|id| message_id(line, id));
        let who = who(&client, names);
        if let (Some(message), true) = (message, original.is_some() || original_id.is_some()) {
            let client = original.and_then(|client| address(client.address));
            return Some(EventKind::FromFilter { process, who, message, original: original_id, client });
        }
        let login = login(&client, names);
        return Some(EventKind::Recipient { process, who, login, begins_message: true, message });
    }
    let client = ClientText::parse(recipient_check(rest)?)?;
    let (process, who) = (process(line, &client), who(&client, names));
    Some(EventKind::Recipient { process, who, login: NameSpan::default(), begins_message: false, message: None })
}

fn submission(line: &Line<'_>, names: &mut Vec<u8>) -> Option<EventKind> {
    if line.message.starts_with(b"connect from ") {
        return Some(EventKind::Submission);
    }
    let (id, rest) = queue_id(line.message)?;
    let client = ClientText::parse(rest.strip_prefix(b"client=")?)?;
    let (who, login) = (who(&client, names), login(&client, names));
    (id != b"NOQUEUE").then(|| EventKind::Submitted { who, login, message: message_id(line, id) })
}

fn login(client: &ClientText<'_>, names: &mut Vec<u8>) -> NameSpan {
    match attribute(client.rest, b", sasl_username=") {
        Some(login) => NameSpan::append(login, names),
        None => NameSpan::default(),
    }
}

/// A value in what follows the client: `, NAME=value, ...`.
fn attribute<'a>(rest: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    // Nearly always nothing follows.
    if rest.is_empty() {
        return None;
    }
    let value = &rest[memmem::find(rest, name)? + name.len()..];
    Some(&value[..memmem::find(value, b", ").unwrap_or(value.len())])
}

fn qmgr(line: &Line<'_>, names: &mut Vec<u8>) -> Option<EventKind> {
    let (id, rest) = queue_id(line.message)?;
    if rest == b"removed" {
        return Some(EventKind::Removed(message_id(line, id)));
    }
    // From the end: the sender may look like anything.
    let rest = rest.strip_prefix(b"from=<")?.strip_suffix(b" (queue active)")?;
    let (rest, recipients) = rest.split_at(memmem::rfind(rest, b", nrcpt=")?);
    let recipients = str::from_utf8(&recipients[", nrcpt=".len()..]).ok()?.parse().ok()?;
    let sender = &rest[..memmem::rfind(rest, b">, size=")?];
    let sender = NameSpan::append(sender, names);
    Some(EventKind::Queued { message: message_id(line, id), sender, recipients })
}

/// `4Bcd5: uid=0 from=<x> orig_id=3Abc4`: what `postsuper -r` put back comes again.
fn pickup(line: &Line<'_>) -> Option<EventKind> {
    let (id, rest) = queue_id(line.message)?;
    let original = rest.strip_prefix(b"uid=")?;
    let original = id_in(&original[memmem::rfind(original, b"> orig_id=")? + "> orig_id=".len()..])?;
    Some(EventKind::Renamed { old: message_id(line, original), new: message_id(line, id) })
}

/// `Requeue: 3Abc4.A2F51 to 4Bcd5`.
fn mailscanner(line: &Line<'_>) -> Option<EventKind> {
    let rest = line.message.strip_prefix(b"Requeue: ")?;
    let (old, new) = (id_in(rest)?, memmem::find(rest, b" to ")?);
    let new = id_in(&rest[new + " to ".len()..])?;
    Some(EventKind::Renamed { old: message_id(line, old), new: message_id(line, new) })
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

fn name(client: &ClientText<'_>, names: &mut Vec<u8>) -> NameSpan {
    // A longer one is not the name of a host.
    match client.name != b"unknown" && client.name.len() <= 255 {
        true => NameSpan::append(client.name, names),
        false => NameSpan::default(),
    }
}

/// `4Bcd5: rest`, or `NOQUEUE: rest`.
fn queue_id(message: &[u8]) -> Option<(&[u8], &[u8])> {
    // The longest one of Postfix has less than 20 characters.
    let end = memchr::memchr(b':', &message[..message.len().min(32)])?;
    let (id, rest) = message.split_at(end);
    Some((id, rest.strip_prefix(b": ")?))
}

/// The queue id that a text begins with.
fn id_in(text: &[u8]) -> Option<&[u8]> {
    let end = text.iter().position(|byte| !byte.is_ascii_alphanumeric()).unwrap_or(text.len());
    (1..=20).contains(&end).then(|| &text[..end])
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
