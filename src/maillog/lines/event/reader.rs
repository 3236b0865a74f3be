//! What the lines of each daemon say.

use memchr::memmem::{self, Finder};

use super::origin::{LineOrigin, LineOrigins, LoggedProgram, hash};
use super::{Client, DeliveryOutcome, Event, EventKind, LineKind, NameSpan};
use crate::maillog::lines::find::find;
use crate::maillog::lines::line::{ClientText, Line};
use crate::policy::request::address;

/// Bytes of a queue id and its colon: the longest one of Postfix has less than 20 characters.
const MAX_QUEUE_ID: usize = 32;

/// Reads the lines of one log.
#[derive(Clone, Debug)]
pub struct Reader {
    origins: LineOrigins,
    words: Words,
}

/// What is looked for in lines. A `Finder` is made once: that takes longer than to find something in a line.
#[derive(Clone, Debug)]
struct Words {
    status: Finder<'static>,
    queued_as: Finder<'static>,
    discarded: [Finder<'static>; 3],
}

/// A line, and where to write what it tells.
struct Telling<'a> {
    line: &'a Line<'a>,
    origin: LineOrigin,
    events: &'a mut Vec<Event>,
    names: &'a mut Vec<u8>,
}

impl Reader {
    /// `submission` are the `syslog_name`s of submission services, as in `postfix-users`.
    pub fn new(submission: &[String]) -> Self {
        Self {
            origins: LineOrigins::new(submission),
            words: Words {
                status: Finder::new(", status="),
                queued_as: Finder::new("queued as "),
                discarded: [Finder::new("iscarded"), Finder::new("uarantine"), Finder::new("BOUNCE")],
            },
        }
    }

    /// What a line is. What it tells is appended to the events, the names, logins and senders in it to `names`.
    pub fn read(&mut self, line: &Line<'_>, events: &mut Vec<Event>, names: &mut Vec<u8>) -> LineKind {
        let origin = self.origins.of(line);
        let words = &self.words;
        let mut telling = Telling { line, origin, events, names };
        let told = match origin.daemon {
            LoggedProgram::Smtpd => telling.smtpd(),
            LoggedProgram::Submission => telling.submission(),
            LoggedProgram::Qmgr => telling.qmgr(),
            LoggedProgram::Postscreen => telling.postscreen(),
            LoggedProgram::Delivery | LoggedProgram::Discard => telling.delivery(words),
            LoggedProgram::Pickup => telling.pickup(),
            LoggedProgram::Unit => telling.smtpd().or_else(|| telling.qmgr()).or_else(|| telling.delivery(words)),
            LoggedProgram::MailScanner => telling.mailscanner(),
            LoggedProgram::Other | LoggedProgram::Foreign => None,
        };
        match (told, origin.daemon) {
            (Some(()), _) => LineKind::Event,
            (None, LoggedProgram::MailScanner | LoggedProgram::Foreign) => LineKind::Foreign,
            (None, _) => LineKind::Idle,
        }
    }
}

impl Telling<'_> {
    /// Writes the event where it stays: it is too long to be moved often.
    #[inline]
    fn tell(&mut self, kind: EventKind) -> Option<()> {
        self.events.push(Event { stamp: self.line.stamp, clock: self.origin.clock, kind });
        Some(())
    }

    fn smtpd(&mut self) -> Option<()> {
        let message = self.line.message;
        if let Some(client) = message.strip_prefix(b"connect from ") {
            let client = ClientText::parse(client)?;
            let (process, who) = (self.process(&client), self.who(&client));
            return self.tell(EventKind::Connect { process, who });
        }
        if let Some(client) = message.strip_prefix(b"disconnect from ") {
            let client = ClientText::parse(client)?;
            let (asked, authenticated) = counters(client.rest);
            let (process, name) = (self.process(&client), self.name(&client));
            return self.tell(EventKind::Disconnect { process, name, asked, authenticated });
        }
        let (id, rest) = queue_id(message)?;
        if let Some(client) = rest.strip_prefix(b"client=") {
            let client = ClientText::parse(client)?;
            let process = self.process(&client);
            let message = (id != b"NOQUEUE").then(|| self.message_id(id));
            let original = attribute(client.rest, b", orig_client=").and_then(ClientText::parse);
            let original_id = attribute(client.rest, b", orig_queue_id=").map(|id| self.message_id(id));
            let who = self.who(&client);
            if let (Some(message), true) = (message, original.is_some() || original_id.is_some()) {
                let client = original.and_then(|client| address(client.address));
                return self.tell(EventKind::FromFilter { process, who, message, original: original_id, client });
            }
            let login = self.login(&client);
            return self.tell(EventKind::Recipient { process, who, login, begins_message: true, message });
        }
        let client = ClientText::parse(recipient_check(rest)?)?;
        let (process, who, login) = (self.process(&client), self.who(&client), NameSpan::default());
        self.tell(EventKind::Recipient { process, who, login, begins_message: false, message: None })
    }

    fn submission(&mut self) -> Option<()> {
        if self.line.message.starts_with(b"connect from ") {
            return self.tell(EventKind::Submission);
        }
        let (id, rest) = queue_id(self.line.message)?;
        let client = ClientText::parse(rest.strip_prefix(b"client=")?)?;
        if id == b"NOQUEUE" {
            return None;
        }
        let (who, login, message) = (self.who(&client), self.login(&client), self.message_id(id));
        self.tell(EventKind::Submitted { who, login, message })
    }

    /// `4Bcd5: from=<x>, size=1, nrcpt=1 (queue active)`, or `4Bcd5: removed`.
    fn qmgr(&mut self) -> Option<()> {
        let (id, rest) = queue_id(self.line.message)?;
        let message = self.message_id(id);
        if rest == b"removed" {
            return self.tell(EventKind::Removed(message));
        }
        // From the end: the sender may look like anything.
        let rest = rest.strip_prefix(b"from=<")?.strip_suffix(b" (queue active)")?;
        let (rest, recipients) = number_behind(rest, b", nrcpt=")?;
        let (sender, _) = number_behind(rest, b">, size=")?;
        let sender = NameSpan::append(sender, self.names);
        self.tell(EventKind::Queued { message, sender, recipients })
    }

    /// `4Bcd5: uid=0 from=<x> orig_id=3Abc4`: what `postsuper -r` put back comes again.
    fn pickup(&mut self) -> Option<()> {
        let (id, rest) = queue_id(self.line.message)?;
        let original = rest.strip_prefix(b"uid=")?;
        let original = id_in(&original[memmem::rfind(original, b"> orig_id=")? + "> orig_id=".len()..])?;
        self.tell(EventKind::Renamed { old: self.message_id(original), new: self.message_id(id) })
    }

    /// `Requeue: 3Abc4.A2F51 to 4Bcd5`.
    fn mailscanner(&mut self) -> Option<()> {
        let rest = self.line.message.strip_prefix(b"Requeue: ")?;
        let (old, new) = (id_in(rest)?, memmem::find(rest, b" to ")?);
        let new = id_in(&rest[new + " to ".len()..])?;
        self.tell(EventKind::Renamed { old: self.message_id(old), new: self.message_id(new) })
    }

    fn postscreen(&mut self) -> Option<()> {
        let message = self.line.message;
        if message.starts_with(b"CONNECT from ") {
            return self.tell(EventKind::ScreenConnect);
        }
        let passes = [&b"PASS "[..], b"ALLOWLISTED ", b"WHITELISTED "];
        passes.iter().any(|word| message.starts_with(word)).then_some(())?;
        self.tell(EventKind::ScreenPass)
    }

    fn delivery(&mut self, words: &Words) -> Option<()> {
        let (id, rest) = queue_id(self.line.message)?;
        let status = &rest[words.status.find(rest)?..];
        let reply = status.strip_prefix(b", status=sent ")?;
        // The recipient before it and the reply behind it may look like anything: then it is not believed.
        if words.status.find(reply).is_some() {
            return None;
        }
        let message = self.message_id(id);
        if self.origin.daemon == LoggedProgram::Discard {
            return self.tell(EventKind::Delivery { message, outcome: DeliveryOutcome::Discarded, next: None });
        }
        let is_discarded = reply.starts_with(b"(delivered to file: /dev/null)")
            || words.discarded.iter().any(|word| word.find(reply).is_some());
        let outcome = if is_discarded { DeliveryOutcome::Discarded } else { DeliveryOutcome::Sent };
        let next = words.queued_as.find(reply).and_then(|at| id_in(&reply[at + "queued as ".len()..]));
        let next = next.map(|id| self.message_id(id));
        self.tell(EventKind::Delivery { message, outcome, next })
    }

    /// The session of a line. A logger that leaves out the process number leaves the client to tell sessions apart.
    fn process(&self, client: &ClientText<'_>) -> u64 {
        match self.line.process {
            b"" => hash(!self.origin.clock, client.address),
            process => hash(self.origin.clock, process),
        }
    }

    fn message_id(&self, id: &[u8]) -> u64 {
        hash(self.origin.host, id)
    }

    #[inline]
    fn who(&mut self, client: &ClientText<'_>) -> Client {
        Client { address: address(client.address), name: self.name(client) }
    }

    fn name(&mut self, client: &ClientText<'_>) -> NameSpan {
        // A longer one is not the name of a host.
        match client.name != b"unknown" && client.name.len() <= 255 {
            true => NameSpan::append(client.name, self.names),
            false => NameSpan::default(),
        }
    }

    fn login(&mut self, client: &ClientText<'_>) -> NameSpan {
        match attribute(client.rest, b", sasl_username=") {
            Some(login) => NameSpan::append(login, self.names),
            None => NameSpan::default(),
        }
    }
}

/// Whether the counters of a disconnect tell of a recipient, VRFY or ETRN, and of a login.
fn counters(text: &[u8]) -> (bool, bool) {
    let (mut asked, mut authenticated) = (false, false);
    for blank in memchr::memchr_iter(b' ', text) {
        match text.get(blank + 1..blank + 7) {
            Some([b'r', b'c', b'p', b't', b'=', _]) => asked = true,
            Some([b'v', b'r', b'f', b'y', b'=', _] | [b'e', b't', b'r', b'n', b'=', _]) => asked = true,
            // auth=1 or auth=1/2; auth=0/2 is two failures.
            Some([b'a', b'u', b't', b'h', b'=', b'1'..=b'9']) => authenticated = true,
            _ => {}
        }
    }
    (asked, authenticated)
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

/// The number at the end of a text, behind a word, and what is before both.
fn number_behind<'a>(text: &'a [u8], word: &[u8]) -> Option<(&'a [u8], u32)> {
    let digits = text.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    let (rest, number) = text.split_at(text.len() - digits);
    let digit = |number: u32, byte: &u8| number.checked_mul(10)?.checked_add(u32::from(byte - b'0'));
    let number = number.iter().try_fold(0, digit).filter(|_| digits > 0)?;
    Some((rest.strip_suffix(word)?, number))
}

/// `4Bcd5: rest`, or `NOQUEUE: rest`.
fn queue_id(message: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = find([b':'], &message[..message.len().min(MAX_QUEUE_ID)])?;
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
    let end = find([b':'], &text[..text.len().min(32)])?;
    let rest = text[end + 1..].strip_prefix(b" ")?;
    // The stages at which Postfix has asked, of those that get into the log.
    let stages = [&b"RCPT from "[..], b"DATA from ", b"END-OF-MESSAGE from ", b"VRFY from ", b"ETRN from "];
    stages.iter().find_map(|stage| rest.strip_prefix(*stage))
}
