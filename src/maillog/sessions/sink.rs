//! Sessions and messages of a log, and the interface of what counts them.

use std::net::IpAddr;

use serde::Serialize;

/// When Postfix asks: what `smtpd_delay_reject` decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Seen {
    /// At RCPT TO, as with `smtpd_delay_reject = yes`
    Rcpt,
    /// When the client connects, as with `smtpd_delay_reject = no`
    Connect,
}

/// Takes the sessions and messages of a log, in the order of their times.
pub trait SessionSink {
    /// The daemon would be asked about a session, for the first time.
    fn asked(&mut self, session: &LoggedSession<'_>);

    /// It would be asked again, about a further message of the session.
    fn asked_again(&mut self, session: &LoggedSession<'_>);

    /// A message was accepted by any service: from a stranger, from `$mynetworks`, or after a login.
    fn accepted(&mut self, _message: &AcceptedMessage<'_>) {}

    /// A client's message was delivered, or is in the queue when the log ends. `accepted` is the time
    /// of its first recipient, in milliseconds since the epoch.
    fn delivered(&mut self, client: IpAddr, accepted: i64);

    /// A client's message was accepted, and then discarded, returned by a filter, or kept in quarantine.
    fn discarded(&mut self, _client: IpAddr) {}

    /// Whether reading may stop.
    fn has_enough(&self) -> bool {
        false
    }
}

/// A session that is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoggedSession<'a> {
    /// When, in milliseconds since the epoch.
    pub time: i64,
    /// Whether the log tells fractions of a second; if not, `time` stands for the whole second.
    pub has_fraction: bool,
    /// The client.
    pub client: IpAddr,
    /// Its verified host name; empty when it has none.
    pub name: &'a [u8],
    /// The smtpd process.
    pub process: u64,
    /// Tells it from all other sessions.
    pub number: u64,
    /// Messages of it before this one.
    pub message: u32,
}

/// A message in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcceptedMessage<'a> {
    /// When it was complete, in milliseconds since the epoch.
    pub time: i64,
    /// Whether the log tells fractions of a second; if not, `time` stands for the whole second.
    pub has_fraction: bool,
    /// The client; `None` when Postfix does not know its address.
    pub client: Option<IpAddr>,
    /// The SASL login; empty without one.
    pub login: &'a [u8],
    /// The envelope sender without brackets; empty for bounces.
    pub sender: &'a [u8],
    /// How many recipients it has.
    pub recipients: u32,
    /// Whether a submission service took it.
    pub is_submission: bool,
}
