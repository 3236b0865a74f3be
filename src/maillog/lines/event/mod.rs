//! What a line of Postfix says about SMTP sessions and their messages.
//!
//! The process that wrote a line tells which session it is about, the queue id
//! which message. Both are kept as hashes, so an event has a fixed size. A queue
//! id belongs to a host: the programs that handle one message may log under
//! different names. Bytes that strangers chose (names, addresses, HELO) are
//! looked at only where Postfix puts a client in brackets.

use std::net::IpAddr;

use super::stamp::Stamp;
pub use origin::{daemon, says_submission};
pub use reader::Reader;

mod origin;
mod reader;

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
    /// It told an event.
    Event,
    /// Postfix wrote it, and it says nothing about sessions.
    Idle,
    /// Another program wrote it.
    Foreign,
}

#[cfg(test)]
mod tests;
