//! Bytes in and out of a policy connection, the buffers they go through, and a verdict as the bytes of a reply.
//!
//! A connection has a buffer only while there is something in it: an idle one
//! holds no memory for its next request. As one request is answered after the
//! other, nearly all go through the buffer that was used last, which is in the
//! processor's cache. Nearly all replies are one text, which needs no buffer.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::timeout;
use tokio_util::codec::Encoder;
use tokio_util::sync::WaitForCancellationFuture;

use crate::net::shutdown::Shutdown;
use crate::policy::action::{Action, Values};

/// Postfix reads an answer at once. A peer that does not is not Postfix, or is dead.
const ANSWER_TIME: Duration = Duration::from_secs(30);

/// What came of waiting for input.
pub enum Input {
    /// There is more.
    More,
    /// The other end closed. `waited`: not before our last answer was written.
    Closed { waited: bool },
    /// A shutdown was triggered, and there is nothing to answer.
    Stop,
}

/// The shutdown signal, as one connection waits for it.
pub struct ShutdownListener<'w, 's> {
    stop: &'s Shutdown,
    triggered: Pin<&'w mut WaitForCancellationFuture<'s>>,
    registered: bool,
}

impl<'w, 's> ShutdownListener<'w, 's> {
    /// Of this signal; `triggered` is the wait for it.
    pub fn new(stop: &'s Shutdown, triggered: Pin<&'w mut WaitForCancellationFuture<'s>>) -> Self {
        Self { stop, triggered, registered: false }
    }

    /// Whether another process goes on with what is left.
    pub fn hands_over(&self) -> bool {
        self.stop.hands_over()
    }

    /// Waits until it is triggered.
    pub async fn wait(&mut self) {
        poll_fn(|context| self.poll(context)).await;
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        // The task's waker never changes, so once is enough to be woken.
        if self.registered && !self.stop.is_triggered() {
            return Poll::Pending;
        }
        self.registered = true;
        self.triggered.as_mut().poll(context)
    }
}

/// Waits for input; for the shutdown signal only when there is none.
pub async fn read<S>(stream: &mut S, input: &mut BytesMut, shutdown: &mut ShutdownListener<'_, '_>) -> io::Result<Input>
where
    S: AsyncRead + Unpin,
{
    let mut waited = false;
    poll_fn(|context| {
        let read = READ.with_borrow_mut(|room| {
            let mut came = ReadBuf::new(room);
            Pin::new(&mut *stream).poll_read(context, &mut came).map_ok(|()| {
                let came = came.filled();
                if !came.is_empty() {
                    make_room(input);
                    input.extend_from_slice(came);
                }
                came.is_empty()
            })
        });
        if read.is_pending() {
            waited = true;
            return shutdown.poll(context).map(|()| Ok(Input::Stop));
        }
        read.map_ok(|ended| if ended { Input::Closed { waited } } else { Input::More })
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

/// Room for one more request; thirty attributes of usual length are about 700 bytes.
const ROOM: usize = 2 * 1024;

/// A buffer that has grown to this for one request is not kept for the next.
const LARGE: usize = 16 * 1024;

/// Spare buffers kept; as many requests may wait for the store at once before one has to be made.
const MAX_SPARE: usize = 128;

thread_local! {
    static SPARE: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
    /// Where a read goes before it is known how much came.
    static READ: RefCell<[u8; ROOM]> = const { RefCell::new([0; ROOM]) };
}

/// Makes room for more. What is in the buffer stays.
pub fn make_room(buffer: &mut BytesMut) {
    if buffer.capacity() == 0 {
        *buffer = SPARE.with_borrow_mut(Vec::pop).unwrap_or_default();
    }
    buffer.reserve(ROOM);
}

/// Keeps an empty buffer for a later request.
pub fn keep_spare(buffer: &mut BytesMut) {
    if !buffer.is_empty() || buffer.capacity() == 0 {
        return;
    }
    let mut buffer = std::mem::take(buffer);
    if buffer.try_reclaim(LARGE) {
        return;
    }
    SPARE.with_borrow_mut(|spare| {
        if spare.len() < MAX_SPARE {
            spare.push(buffer);
        }
    });
}

/// A reply to Postfix.
#[derive(Clone, Copy, Debug)]
pub enum Reply<'a> {
    /// No opinion: the client passes as far as we are concerned. Never `OK`, which would end the site's later checks.
    Dunno,
    /// The store is down and `on_store_failure` is `defer`.
    Defer,
    /// The action of the limit or of the blacklist, which `Action::write` writes.
    Refuse(&'a Action, Values<'a>),
}

const DUNNO: &[u8] = b"action=DUNNO\n\n";

/// The answer while the store is down. 4.3.0 is RFC 3463's "other mail system status".
const DEFER: &[u8] = b"action=DEFER_IF_PERMIT 4.3.0 Connections cannot be counted at the moment, try again later\n\n";

/// Writes replies.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReplyEncoder;

impl Encoder<Reply<'_>> for ReplyEncoder {
    type Error = io::Error;

    fn encode(&mut self, reply: Reply<'_>, output: &mut BytesMut) -> io::Result<()> {
        match reply {
            Reply::Dunno => output.extend_from_slice(DUNNO),
            Reply::Defer => output.extend_from_slice(DEFER),
            Reply::Refuse(action, values) => {
                output.extend_from_slice(b"action=");
                action.write(&values, output);
                output.extend_from_slice(b"\n\n");
            }
        }
        Ok(())
    }
}

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

    pub fn new(reply: Reply<'_>) -> Self {
        match reply {
            Reply::Dunno => Self::Fixed(DUNNO),
            Reply::Defer => Self::Fixed(DEFER),
            Reply::Refuse(..) => {
                let mut bytes = BytesMut::new();
                make_room(&mut bytes);
                ReplyEncoder.encode(reply, &mut bytes).expect("a reply is written to memory");
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
            keep_spare(&mut bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use tokio::io::{AsyncReadExt, duplex};

    use super::*;
    use crate::policy::key::KeyPart;

    #[tokio::test]
    async fn a_reply_goes_out_in_pieces_where_there_is_little_room() {
        let (mut ours, mut postfix) = duplex(3);
        let stop = Shutdown::default();
        let triggered = pin!(stop.wait());
        let mut shutdown = ShutdownListener::new(&stop, triggered);
        let made = ReplyBytes::Made(DUNNO.into());
        for mut reply in [ReplyBytes::new(Reply::Dunno), made] {
            let mut received = [0; DUNNO.len()];
            let sending = write(&mut ours, &mut reply, &mut shutdown);
            let (sent, read) = tokio::join!(sending, postfix.read_exact(&mut received));
            assert!(sent.unwrap() && read.is_ok());
            assert_eq!((received.as_slice(), reply.rest()), (DUNNO, b"".as_slice()));
        }
    }

    #[test]
    fn the_buffer_used_last_is_the_next_one() {
        let (mut first, mut second) = (BytesMut::new(), BytesMut::new());
        make_room(&mut first);
        make_room(&mut second);
        let (place, other) = (first.as_ptr(), second.as_ptr());
        assert_ne!(place, other);
        second.extend_from_slice(b"part of a request");
        keep_spare(&mut second);
        assert_eq!(second.as_ptr(), other, "what is in use stays");
        // A request was taken out of it.
        first.extend_from_slice(&[b'x'; 700]);
        drop(first.split_to(700));
        keep_spare(&mut first);
        assert_eq!(first.capacity(), 0);
        let mut third = BytesMut::new();
        make_room(&mut third);
        assert_eq!(third.as_ptr(), place);
        assert!(third.capacity() >= ROOM);
    }

    #[test]
    fn neither_large_buffers_nor_too_many_are_kept() {
        SPARE.with_borrow_mut(Vec::clear);
        let mut large = BytesMut::from(&[b'x'; 2 * LARGE][..]);
        drop(large.split_to(2 * LARGE - 10));
        large.clear();
        keep_spare(&mut large);
        assert_eq!(SPARE.with_borrow(Vec::len), 0);
        let mut many: Vec<_> = (0..MAX_SPARE + 10).map(|_| BytesMut::with_capacity(ROOM)).collect();
        many.iter_mut().for_each(keep_spare);
        assert_eq!(SPARE.with_borrow(Vec::len), MAX_SPARE);
    }

    #[test]
    fn a_pass_is_dunno_and_a_refusal_is_the_action_filled_in() {
        let mut output = BytesMut::new();
        ReplyEncoder.encode(Reply::Dunno, &mut output).unwrap();
        let action = Action::new("DEFER_IF_PERMIT", "{client} has {count} of {threshold}", "4.7.0", 429, &[]).unwrap();
        let (client, key) = ([192, 0, 2, 1].into(), &KeyPart::client([192, 0, 2, 1].into(), 32, 64));
        let (limit, request, note, now) = ("connections", None, None, 0);
        let values = Values { client, limit, count: 11, threshold: 10, left: 7, key, request, note, now };
        ReplyEncoder.encode(Reply::Refuse(&action, values), &mut output).unwrap();
        assert_eq!(output, "action=DUNNO\n\naction=DEFER_IF_PERMIT 4.7.0 192.0.2.1 has 11 of 10\n\n");
    }
}
