//! What a log has to tell of sessions, and who wants to know.

use std::net::IpAddr;

/// When Postfix asks: what `smtpd_delay_reject` decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Seen {
    /// At RCPT TO, as with `smtpd_delay_reject = yes`
    Rcpt,
    /// When the client connects, as with `smtpd_delay_reject = no`
    Connect,
}

/// Who wants to know.
pub trait SessionSink {
    /// The daemon would be asked about a session, for the first time.
    fn asked(&mut self, session: &Session<'_>);

    /// It would be asked again, about a further message of the session.
    fn asked_again(&mut self, session: &Session<'_>);

    /// A client's message was delivered, or is in the queue when the log ends.
    fn delivered(&mut self, client: IpAddr);

    /// It needs to hear no more.
    fn has_enough(&self) -> bool {
        false
    }
}

/// A session that is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session<'a> {
    /// When, in milliseconds since the epoch.
    pub time: i64,
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
