//! A policy connection between two processes, or two turns of one: all there is to know to go on with it.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, BytesMut};
use tokio::time::Instant;

use crate::engine::delays::{DelayPermit, DelayedReplies};
use crate::listener::Peer;
use crate::postfix::decoder::REQUEST_TIME;
use crate::session::SessionHandle;
use crate::snapshot::fields::{put_bytes, put_option, take_bytes, take_option, take_truth};
use crate::snapshot::section::SnapshotError;

/// A connection that nobody serves at the moment.
#[derive(Debug)]
pub struct SuspendedConnection<S> {
    /// To the other end.
    pub stream: S,
    /// Who is there.
    pub peer: Peer,
    /// Its place in the sessions.
    pub session: SessionHandle,
    /// What else is known of it.
    pub state: ConnectionState,
}

/// What is open on a connection.
#[derive(Debug)]
pub struct ConnectionState {
    /// The last answer reached Postfix, as far as we can know.
    pub answered: bool,
    /// What came and is not answered yet: part of a request, as a rule nothing.
    pub input: BytesMut,
    /// What is left to be sent of the answer to the last request.
    pub output: BytesMut,
    /// When it is to be sent, if not at once, and whose turn it is then.
    pub due: Option<(Instant, DelayPermit)>,
    /// Since when a request waits for its rest.
    pub begun: Option<Instant>,
}

impl Default for ConnectionState {
    fn default() -> Self {
        Self { answered: true, input: BytesMut::new(), output: BytesMut::new(), due: None, begun: None }
    }
}

impl ConnectionState {
    /// Adds it, except for the stream and the seat.
    pub fn put(&self, output: &mut Vec<u8>) {
        let milliseconds = |time: Duration| time.as_millis() as u64;
        output.put_u8(self.answered.into());
        put_bytes(output, &self.input);
        put_bytes(output, &self.output);
        put_option(output, self.begun.map(|begun| milliseconds(begun.elapsed())));
        output.put_u8(self.due.is_some().into());
        if let Some((end, place)) = &self.due {
            output.put_u64_le(milliseconds(end.saturating_duration_since(Instant::now())));
            output.put_u64_le(place.key());
        }
    }

    /// Takes it off; a place to wait at is kept.
    pub fn take(input: &mut &[u8], waiting: &Arc<DelayedReplies>) -> Result<Self, SnapshotError> {
        let now = Instant::now();
        let answered = take_truth(input)?;
        let (came, left) = (take_bytes(input)?, take_bytes(input)?);
        let begun = take_option(input)?.map(|ago| Duration::from_millis(ago).min(REQUEST_TIME));
        let due = if take_truth(input)? {
            let (left, key) = (input.try_get_u64_le()?, input.try_get_u64_le()?);
            Some((now + Duration::from_millis(left), waiting.restore(key)))
        } else {
            None
        };
        Ok(Self {
            answered,
            input: came.into(),
            output: left.into(),
            due,
            begun: begun.map(|ago| now.checked_sub(ago).unwrap_or(now)),
        })
    }
}
