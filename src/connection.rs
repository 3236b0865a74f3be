//! One policy connection: read, decide, log, count, reply, until Postfix closes it.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::task::yield_now;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::codec::{Decoder, Encoder};
use tokio_util::io::poll_read_buf;
use tokio_util::sync::WaitForCancellationFuture;

use crate::clock::Now;
use crate::codec::decoder::REQUEST_TIME;
use crate::codec::{Reply, ReplyEncoder, Request, RequestDecoder, RequestError};
use crate::decision::decide;
use crate::listener::Peer;
use crate::policy::Verdict;
use crate::service::Service;
use crate::session::Seat;
use crate::statistics::add;
use crate::stop::Stop;
use crate::waiting::Place;

/// Room for one more request; thirty attributes of usual length are about 700 bytes.
const READ: usize = 2 * 1024;

/// A buffer that has grown beyond this for one request is not kept for the next.
const LARGE: usize = 16 * 1024;

/// Postfix takes an answer off at once; whoever does not is no Postfix, or dead.
const ANSWER_TIME: Duration = Duration::from_secs(30);

/// Answers a policy connection until Postfix closes it, or we are to stop and nothing asked is unanswered.
pub async fn serve<S>(mut stream: S, peer: Peer, service: &Service, stop: Stop)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut connection = Connection { service, seat: service.sessions.seat(peer.ip()), answered: true };
    if let Err(error) = connection.converse(&mut stream, &stop).await {
        connection.answered = false;
        add(&service.statistics.bad_requests, 1);
        let attribute = Some(error.attribute.as_slice()).filter(|attribute| !attribute.is_empty());
        service.log.bad_request(&peer, attribute, &error.to_string(), Now::read());
    }
    connection.seat.leave(connection.answered, Now::read());
}

struct Connection<'s> {
    service: &'s Service,
    seat: Seat,
    /// The last answer reached Postfix, as far as we can know.
    answered: bool,
}

/// What came of waiting for input.
enum Input {
    /// There is more. `waited`: not at once.
    More,
    /// The other end closed. `waited`: not before our last answer was written.
    Closed { waited: bool },
    /// We are to stop, and nothing is there to be answered.
    Stop,
}

impl Connection<'_> {
    async fn converse<S>(&mut self, stream: &mut S, stop: &Stop) -> Result<(), RequestError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let (mut decoder, mut input, mut output) = (RequestDecoder::default(), BytesMut::new(), BytesMut::new());
        let heard = pin!(stop.heard());
        let mut word = Word { stop, heard, registered: false };
        // Since when a request waits for its rest.
        let mut begun = None;
        loop {
            let large = input.capacity() > LARGE;
            while let Some(request) = decoder.decode(&mut input)? {
                output.clear();
                let delayed = self.answer(&request, &mut output).await;
                drop(request);
                if let Some((time, place)) = delayed
                    && !self.wait(time, stream, &mut input, &mut word).await
                {
                    drop(place);
                    self.answered = false;
                    return Ok(());
                }
                self.answered = write(stream, &output).await.is_ok();
                if !self.answered {
                    return Ok(());
                }
                begun = None;
                // Postfix asks one thing at a time. Whoever asks more does not keep it waiting.
                if !input.is_empty() {
                    yield_now().await;
                }
            }
            if large && input.is_empty() {
                input = BytesMut::new();
            }
            let came = if input.is_empty() {
                read(stream, &mut input, &mut word).await
            } else {
                let begun = *begun.get_or_insert_with(Instant::now);
                let rest = timeout_at(begun + REQUEST_TIME, read(stream, &mut input, &mut word));
                rest.await.map_err(|_| RequestError::unfinished())?
            };
            match came {
                Ok(Input::More) => {}
                // Not waited: Postfix had given up before it could see our answer, and will ask again.
                Ok(Input::Closed { waited }) => {
                    self.answered &= waited;
                    return decoder.decode_eof(&mut input).map(drop);
                }
                // A connection that was reset was closed, in a way.
                Ok(Input::Stop) | Err(_) => return Ok(()),
            }
        }
    }

    /// Waits before an answer is sent. Says whether anybody is there to take it.
    async fn wait<S>(&self, time: Duration, stream: &mut S, input: &mut BytesMut, word: &mut Word<'_, '_>) -> bool
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let end = Instant::now() + time;
        match timeout_at(end, read(stream, input, word)).await {
            // Time is up, or nobody has any to lose: the answer is due.
            Err(_) | Ok(Ok(Input::Stop)) => true,
            // Postfix asks one thing at a time. What others send meanwhile is read later.
            Ok(Ok(Input::More)) => {
                let _ = timeout_at(end, poll_fn(|context| word.poll(context))).await;
                true
            }
            Ok(Ok(Input::Closed { .. }) | Err(_)) => false,
        }
    }

    /// Writes the answer to a request, and says how long to wait before it is sent.
    async fn answer(&mut self, request: &Request, output: &mut BytesMut) -> Option<(Duration, Place)> {
        let now = Now::read();
        add(&self.service.statistics.queries, 1);
        // A request keeps the rules it began with; between requests nothing keeps old ones alive.
        let rules = self.service.rules.load_full();
        let (verdict, place) = decide(self.service, &rules, &mut self.seat, request, now).await;
        let reply = match &verdict {
            Verdict::Pass(_) | Verdict::Delay(_) => Reply::Dunno,
            Verdict::Defer => Reply::Defer,
            Verdict::Refuse(refusal) => Reply::Refuse(refusal.action, refusal.values()),
        };
        ReplyEncoder.encode(reply, output).expect("a reply is written to memory");
        match verdict {
            Verdict::Delay(wait) => place.map(|place| (wait.time, place)),
            _ => None,
        }
    }
}

/// The word to stop, as one connection waits for it.
struct Word<'w, 's> {
    stop: &'s Stop,
    heard: Pin<&'w mut WaitForCancellationFuture<'s>>,
    registered: bool,
}

impl Word<'_, '_> {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        // The task's waker never changes, so once is enough to be woken.
        if self.registered && !self.stop.said() {
            return Poll::Pending;
        }
        self.registered = true;
        self.heard.as_mut().poll(context)
    }
}

/// Waits for input; for the word to stop only when there is none.
async fn read<S>(stream: &mut S, input: &mut BytesMut, word: &mut Word<'_, '_>) -> io::Result<Input>
where
    S: AsyncRead + Unpin,
{
    input.reserve(READ);
    let mut waited = false;
    poll_fn(|context| {
        let Poll::Ready(read) = poll_read_buf(Pin::new(&mut *stream), context, input) else {
            waited = true;
            return word.poll(context).map(|()| Ok(Input::Stop));
        };
        Poll::Ready(read.map(|length| if length == 0 { Input::Closed { waited } } else { Input::More }))
    })
    .await
}

/// Writes an answer: nearly always at once.
async fn write<S: AsyncWrite + Unpin>(stream: &mut S, answer: &[u8]) -> io::Result<()> {
    let at_once = poll_fn(|context| Poll::Ready(Pin::new(&mut *stream).poll_write(context, answer))).await;
    let written = match at_once {
        Poll::Ready(written) => written?,
        Poll::Pending => 0,
    };
    if written == answer.len() {
        return Ok(());
    }
    timeout(ANSWER_TIME, stream.write_all(&answer[written..])).await?
}
