//! Bytes in and out of a policy connection: read, written, or the word to stop heard meanwhile.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_util::io::poll_read_buf;
use tokio_util::sync::WaitForCancellationFuture;

use super::buffer;
use crate::net::shutdown::Shutdown;

/// Postfix takes an answer off at once; whoever does not is no Postfix, or dead.
const ANSWER_TIME: Duration = Duration::from_secs(30);

/// What came of waiting for input.
pub enum Input {
    /// There is more.
    More,
    /// The other end closed. `waited`: not before our last answer was written.
    Closed { waited: bool },
    /// We are to stop, and nothing is there to be answered.
    Stop,
}

/// The word to stop, as one connection waits for it.
pub struct ShutdownListener<'w, 's> {
    stop: &'s Shutdown,
    heard: Pin<&'w mut WaitForCancellationFuture<'s>>,
    registered: bool,
}

impl<'w, 's> ShutdownListener<'w, 's> {
    /// Of this stop; `heard` is where it comes in.
    pub fn new(stop: &'s Shutdown, heard: Pin<&'w mut WaitForCancellationFuture<'s>>) -> Self {
        Self { stop, heard, registered: false }
    }

    /// Whether another process goes on with what is left.
    pub fn hands_over(&self) -> bool {
        self.stop.hands_over()
    }

    /// Waits until it is said.
    pub async fn wait(&mut self) {
        poll_fn(|context| self.poll(context)).await;
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        // The task's waker never changes, so once is enough to be woken.
        if self.registered && !self.stop.is_triggered() {
            return Poll::Pending;
        }
        self.registered = true;
        self.heard.as_mut().poll(context)
    }
}

/// Waits for input; for the word to stop only when there is none.
pub async fn read<S>(stream: &mut S, input: &mut BytesMut, word: &mut ShutdownListener<'_, '_>) -> io::Result<Input>
where
    S: AsyncRead + Unpin,
{
    let mut waited = false;
    poll_fn(|context| {
        buffer::make_room(input);
        let Poll::Ready(read) = poll_read_buf(Pin::new(&mut *stream), context, input) else {
            buffer::give_back(input);
            waited = true;
            return word.poll(context).map(|()| Ok(Input::Stop));
        };
        Poll::Ready(read.map(|length| if length == 0 { Input::Closed { waited } } else { Input::More }))
    })
    .await
}

/// Writes an answer: nearly always at once. Says whether it is written; what is left is another process's.
pub async fn write<S>(stream: &mut S, answer: &mut BytesMut, word: &mut ShutdownListener<'_, '_>) -> io::Result<bool>
where
    S: AsyncWrite + Unpin,
{
    let at_once = poll_fn(|context| Poll::Ready(Pin::new(&mut *stream).poll_write(context, answer))).await;
    let written = match at_once {
        Poll::Ready(written) => written?,
        Poll::Pending => 0,
    };
    if written == answer.len() {
        answer.clear();
        return Ok(true);
    }
    answer.advance(written);
    timeout(ANSWER_TIME, write_rest(stream, answer, word)).await?
}

async fn write_rest<S>(stream: &mut S, answer: &mut BytesMut, word: &mut ShutdownListener<'_, '_>) -> io::Result<bool>
where
    S: AsyncWrite + Unpin,
{
    poll_fn(|context| {
        while !answer.is_empty() {
            match Pin::new(&mut *stream).poll_write(context, answer) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(written)) => answer.advance(written),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending if word.poll(context).is_ready() && word.hands_over() => {
                    return Poll::Ready(Ok(false));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
        answer.clear();
        Poll::Ready(Ok(true))
    })
    .await
}
