//! Bytes in and out of a policy connection, and a verdict as the bytes of a reply.
//!
//! All connections of a thread read into one buffer, and nearly always what was
//! read is one request, which is answered from there: a connection holds no
//! memory for it. Nearly all replies are one text, which needs no buffer.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::timeout;

use crate::net::clock::Now;
use crate::net::shutdown::ShutdownListener;
use crate::policy::Verdict;
use crate::policy::request::Request;

/// Postfix reads an answer at once. A peer that does not is not Postfix, or is dead.
const ANSWER_TIME: Duration = Duration::from_secs(30);

/// What came of waiting for input.
pub enum Input<T> {
    /// There was some, and this came of it.
    Taken(T),
    /// The other end closed. `waited`: not before our last answer was written.
    Closed { waited: bool },
    /// A shutdown was triggered, and there is nothing to answer.
    Stop,
}

/// Waits for input and shows it to `take`; waits for the shutdown signal only while there is none.
pub async fn read<S, T>(
    stream: &mut S,
    shutdown: &mut ShutdownListener<'_, '_>,
    mut take: impl FnMut(&[u8]) -> T,
) -> io::Result<Input<T>>
where
    S: AsyncRead + Unpin,
{
    let mut waited = false;
    poll_fn(|context| {
        let read = READ.with_borrow_mut(|room| {
            let mut came = ReadBuf::new(room);
            Pin::new(&mut *stream).poll_read(context, &mut came).map_ok(|()| match came.filled() {
                [] => Input::Closed { waited },
                came => Input::Taken(take(came)),
            })
        });
        if read.is_pending() {
            waited = true;
            return shutdown.poll(context).map(|()| Ok(Input::Stop));
        }
        read
    })
    .await
}

/// Writes an answer, nearly always at once. Returns whether it is written; if not, another process writes the rest.
pub async fn write<S>(
    stream: &mut S,
    answer: &mut ReplyBytes,
    shutdown: &mut ShutdownListener<'_, '_>,
) -> io::Result<bool>
where
    S: AsyncWrite + Unpin,
{
    let at_once = poll_fn(|context| Poll::Ready(Pin::new(&mut *stream).poll_write(context, answer.rest()))).await;
    let written = match at_once {
        Poll::Ready(written) => written?,
        Poll::Pending => 0,
    };
    if written == answer.rest().len() {
        answer.end();
        return Ok(true);
    }
    answer.advance(written);
    timeout(ANSWER_TIME, write_rest(stream, answer, shutdown)).await?
}

async fn write_rest<S>(
    stream: &mut S,
    answer: &mut ReplyBytes,
    shutdown: &mut ShutdownListener<'_, '_>,
) -> io::Result<bool>
where
    S: AsyncWrite + Unpin,
{
    poll_fn(|context| {
        while !answer.rest().is_empty() {
            match Pin::new(&mut *stream).poll_write(context, answer.rest()) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(written)) => answer.advance(written),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending if shutdown.poll(context).is_ready() && shutdown.hands_over() => {
                    return Poll::Ready(Ok(false));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
        answer.end();
        Poll::Ready(Ok(true))
    })
    .await
}

/// The most that is read at once; thirty attributes of usual length are about 700 bytes.
const ROOM: usize = 2 * 1024;

/// Spare buffers for replies that are kept, each of at most that many bytes.
const MAX_SPARE: usize = 16;
const MAX_SPARE_LENGTH: usize = 1024;

thread_local! {
    static READ: RefCell<[u8; ROOM]> = const { RefCell::new([0; ROOM]) };
    static SPARE: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// No opinion: the client passes as far as we are concerned. Never `OK`, which would end the site's later checks.
pub const DUNNO: &[u8] = b"action=DUNNO\n\n";

/// The answer while the store is down. 4.3.0 is RFC 3463's "other mail system status".
const DEFER: &[u8] = b"action=DEFER_IF_PERMIT 4.3.0 Connections cannot be counted at the moment, try again later\n\n";

/// A reply as bytes: what is left to be sent of it.
#[derive(Debug)]
pub enum ReplyBytes {
    /// Of one that is always the same.
    Fixed(&'static [u8]),
    /// Of one that was made for a request.
    Made(BytesMut),
}

impl ReplyBytes {
    pub const NONE: Self = Self::Fixed(b"");

    /// The reply to a request.
    pub fn new(verdict: &Verdict<'_>, request: &Request, now: Now) -> Self {
        match verdict {
            Verdict::Pass(_) | Verdict::Delay(_) => Self::Fixed(DUNNO),
            Verdict::Defer => Self::Fixed(DEFER),
            Verdict::Refuse(refusal) => {
                let mut bytes = SPARE.with_borrow_mut(Vec::pop).unwrap_or_default();
                bytes.extend_from_slice(b"action=");
                refusal.action.write(&refusal.values(request, now), &mut bytes);
                bytes.extend_from_slice(b"\n\n");
                Self::Made(bytes)
            }
        }
    }

    pub fn rest(&self) -> &[u8] {
        match self {
            Self::Fixed(bytes) => bytes,
            Self::Made(bytes) => bytes,
        }
    }

    fn advance(&mut self, sent: usize) {
        match self {
            Self::Fixed(bytes) => bytes.advance(sent),
            Self::Made(bytes) => bytes.advance(sent),
        }
    }

    /// All of it is sent.
    fn end(&mut self) {
        if let Self::Made(mut bytes) = std::mem::replace(self, Self::NONE) {
            bytes.clear();
            SPARE.with_borrow_mut(|spare| {
                if spare.len() < MAX_SPARE && bytes.capacity() <= MAX_SPARE_LENGTH {
                    spare.push(bytes);
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use tokio::io::{AsyncReadExt, duplex};

    use super::*;
    use crate::net::shutdown::Shutdown;
    use crate::policy::action::Action;
    use crate::policy::key::KeyPart;
    use crate::policy::{Door, Pass, Reason, Refusal};

    #[tokio::test]
    async fn a_reply_goes_out_in_pieces_where_there_is_little_room() {
        let (mut ours, mut postfix) = duplex(3);
        let stop = Shutdown::default();
        let triggered = pin!(stop.wait());
        let mut shutdown = ShutdownListener::new(&stop, triggered);
        let made = ReplyBytes::Made(DUNNO.into());
        for mut reply in [ReplyBytes::Fixed(DUNNO), made] {
            let mut received = [0; DUNNO.len()];
            let sending = write(&mut ours, &mut reply, &mut shutdown);
            let (sent, read) = tokio::join!(sending, postfix.read_exact(&mut received));
            assert!(sent.unwrap() && read.is_ok());
            assert_eq!((received.as_slice(), reply.rest()), (DUNNO, b"".as_slice()));
        }
    }

    #[test]
    fn neither_large_buffers_nor_too_many_are_kept() {
        let end = |length: usize, number: usize| {
            for _ in 0..number {
                ReplyBytes::Made(BytesMut::from(vec![b'x'; length].as_slice())).end();
            }
            SPARE.with_borrow(Vec::len)
        };
        assert_eq!(end(MAX_SPARE_LENGTH + 1, 1), 0);
        assert_eq!(end(MAX_SPARE_LENGTH, MAX_SPARE + 10), MAX_SPARE);
        assert!(SPARE.with_borrow(|spare| spare.iter().all(BytesMut::is_empty)));
    }

    #[test]
    fn a_pass_is_dunno_and_a_refusal_is_the_action_filled_in() {
        let (client, now) = ([192, 0, 2, 1].into(), Now::simulated(0));
        let request = Request::at(Door::Smtp, Some(client), []);
        let action = Action::new("DEFER_IF_PERMIT", "{client} has {count} of {threshold}", "4.7.0", 429, &[]).unwrap();
        let refusal = Refusal {
            client,
            door: Door::Smtp,
            reason: Reason::Over,
            limit: "connections",
            key: KeyPart::client(client, 32, 64),
            count: 11,
            threshold: 10,
            left: 7,
            action: &action,
            entry: None,
        };
        let reply = |verdict| ReplyBytes::new(&verdict, &request, now).rest().to_vec();
        assert_eq!(reply(Verdict::Pass(Pass::WithinLimits)), b"action=DUNNO\n\n");
        let refused = b"action=DEFER_IF_PERMIT 4.7.0 192.0.2.1 has 11 of 10\n\n";
        assert_eq!(reply(Verdict::Refuse(Box::new(refusal))), refused);
    }
}
