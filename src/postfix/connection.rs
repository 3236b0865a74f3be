//! One policy connection: read, decide, log, count, reply, until Postfix closes it.
//!
//! All connections of a thread read into one buffer, and nearly always what was
//! read is one request, which is answered from there: a connection holds no
//! memory for it. Nearly all replies are one text, which needs no buffer.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::yield_now;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::codec::Decoder;

use crate::engine::decide::{decide, decide_at_once, take_back_all_unsent};
use crate::engine::delay_permits::DelayPermit;
use crate::engine::service::Service;
use crate::listener::Peer;
use crate::net::clock::Now;
use crate::net::shutdown::{Shutdown, ShutdownListener};
use crate::observe::statistics::add;
use crate::policy::Verdict;
use crate::policy::request::Request;
use crate::postfix::decoder::{REQUEST_TIME, RequestDecoder};
use crate::postfix::error::RequestError;
use crate::session::SessionHandle;

/// A policy connection.
#[derive(Debug)]
pub struct PolicyConnection<S> {
    pub stream: S,
    pub peer: Peer,
    pub session: SessionHandle,
    pub state: ConnectionState,
}

/// Why a connection is no longer served.
enum End {
    /// The other end is gone.
    Closed,
    /// A shutdown was triggered.
    Stopped,
}

/// What came of looking for the next request.
enum NextRequest {
    /// It is answered.
    Answered,
    /// It waits for the store.
    Waits(Box<Request<'static>>),
    /// Not all of it has come.
    Incomplete,
    /// There will be none.
    Ended(End),
}

impl<S> PolicyConnection<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    /// One that has begun just now.
    pub fn new(stream: S, peer: Peer, session: SessionHandle) -> Self {
        Self { stream, peer, session, state: ConnectionState::default() }
    }

    /// Answers it until Postfix closes it, or until a shutdown, once all requests are answered. Returns it if another
    /// process is to take it over.
    pub async fn serve(mut self, service: &Service, stop: Shutdown) -> Option<Self> {
        match self.run(service, &stop).await {
            Ok(End::Stopped) if stop.hands_over() => return Some(self),
            Ok(_) => {}
            Err(error) => {
                self.state.answered = false;
                add(&service.statistics.bad_requests, 1);
                error.log(&service.log, &self.peer, Now::read());
            }
        }
        let now = Now::read();
        self.session.close(self.state.answered, now);
        take_back_all_unsent(service, now);
        None
    }

    async fn run(&mut self, service: &Service, stop: &Shutdown) -> Result<End, RequestError> {
        let triggered = pin!(stop.wait());
        let mut shutdown = ShutdownListener::new(stop, triggered);
        if !self.state.output.rest().is_empty()
            && let Some(end) = self.send(&mut shutdown).await
        {
            return Ok(end);
        }
        let mut next = self.state.answer_kept(service, &mut self.session)?;
        loop {
            match next {
                NextRequest::Answered => {}
                // Boxed: keeps the wait for the store out of every idle connection.
                NextRequest::Waits(request) => Box::pin(self.answer_later(service, &request)).await,
                NextRequest::Incomplete => {
                    next = self.receive(service, &mut shutdown).await?;
                    continue;
                }
                NextRequest::Ended(end) => return Ok(end),
            }
            if let Some(end) = self.send(&mut shutdown).await {
                return Ok(end);
            }
            next = if self.state.input.is_empty() {
                NextRequest::Incomplete
            } else {
                // Postfix asks one thing at a time. A peer that asks more does not keep the others waiting.
                yield_now().await;
                self.state.answer_kept(service, &mut self.session)?
            };
        }
    }

    /// Waits for a request, or for the rest of one.
    async fn receive(
        &mut self,
        service: &Service,
        shutdown: &mut ShutdownListener<'_, '_>,
    ) -> Result<NextRequest, RequestError> {
        let Self { stream, session, state, .. } = self;
        let deadline = match state.input.is_empty() {
            true => None,
            false => Some(*state.begun.get_or_insert_with(Instant::now) + REQUEST_TIME),
        };
        let reading = read(stream, shutdown, |came| state.take(service, session, came));
        let came = match deadline {
            None => reading.await,
            Some(deadline) => timeout_at(deadline, reading).await.map_err(|_| RequestError::unfinished())?,
        };
        match came {
            Ok(Input::Taken(next)) => next,
            // Closed before we waited: Postfix gave up before it could read our answer, and will ask again.
            Ok(Input::Closed { waited }) => {
                state.answered &= waited;
                state.decoder.decode_eof(&mut state.input).map(|_| NextRequest::Ended(End::Closed))
            }
            Ok(Input::Stop) => Ok(NextRequest::Ended(End::Stopped)),
            // A connection that was reset was closed, in a way.
            Err(_) => Ok(NextRequest::Ended(End::Closed)),
        }
    }

    /// Sends the answer when it is due. Says what ends the connection, if that does.
    async fn send(&mut self, shutdown: &mut ShutdownListener<'_, '_>) -> Option<End> {
        if let Some((end, permit)) = self.state.due.take() {
            match self.wait(end, shutdown).await {
                None => drop(permit),
                Some(End::Closed) => {
                    self.state.answered = false;
                    return Some(End::Closed);
                }
                Some(End::Stopped) => {
                    self.state.due = Some((end, permit));
                    return Some(End::Stopped);
                }
            }
        }
        match write(&mut self.stream, &mut self.state.output, shutdown).await {
            Ok(true) => {
                self.state.answered = true;
                self.session.answered(Now::read);
                None
            }
            Ok(false) => Some(End::Stopped),
            Err(_) => {
                self.state.answered = false;
                Some(End::Closed)
            }
        }
    }

    /// Waits before an answer is sent. Says what ends the connection meanwhile, if that does.
    async fn wait(&mut self, end: Instant, shutdown: &mut ShutdownListener<'_, '_>) -> Option<End> {
        // At shutdown no answer is delayed any longer, unless another process is to go on waiting.
        let stopped = |shutdown: &ShutdownListener<'_, '_>| shutdown.hands_over().then_some(End::Stopped);
        let Self { stream, state, .. } = self;
        // Postfix asks one thing at a time. What others send meanwhile is read later.
        let keep = |came: &[u8]| state.input.extend_from_slice(came);
        match timeout_at(end, read(stream, shutdown, keep)).await {
            Err(_) => None,
            Ok(Ok(Input::Stop)) => stopped(shutdown),
            Ok(Ok(Input::Taken(()))) => match timeout_at(end, shutdown.wait()).await {
                Err(_) => None,
                Ok(()) => stopped(shutdown),
            },
            Ok(Ok(Input::Closed { .. }) | Err(_)) => Some(End::Closed),
        }
    }

    /// Answers a request, and waits for the store.
    async fn answer_later(&mut self, service: &Service, request: &Request<'_>) {
        // A request keeps the rules it began with; between requests nothing keeps old ones alive.
        let rules = service.rules.load_full();
        let now = Now::read();
        let (verdict, permit) = decide(service, &rules, &mut self.session, request, now).await;
        self.state.output = ReplyBytes::new(&verdict, request, now);
        self.state.due = due_at(&verdict, permit);
    }
}

/// What is open on a connection.
#[derive(Debug)]
pub struct ConnectionState {
    /// The last answer reached Postfix, as far as we can know.
    pub answered: bool,
    /// What came and is not answered yet: part of a request, as a rule nothing.
    pub input: BytesMut,
    /// What is left to be sent of the answer to the last request.
    pub output: ReplyBytes,
    /// When it is to be sent, if not at once, with the permit for the delay.
    pub due: Option<(Instant, DelayPermit)>,
    /// Since when a request waits for its rest.
    pub begun: Option<Instant>,
    pub decoder: RequestDecoder,
}

impl Default for ConnectionState {
    fn default() -> Self {
        let (input, decoder) = (BytesMut::new(), RequestDecoder::default());
        Self { answered: true, input, output: ReplyBytes::NONE, due: None, begun: None, decoder }
    }
}

impl ConnectionState {
    /// Answers the request that came, if all of it has, and keeps what is not answered.
    #[inline]
    fn take(
        &mut self,
        service: &Service,
        session: &mut SessionHandle,
        came: &[u8],
    ) -> Result<NextRequest, RequestError> {
        if !self.input.is_empty() {
            self.input.extend_from_slice(came);
            return self.answer_kept(service, session);
        }
        let (next, length) = self.answer(service, session, came)?;
        if length < came.len() {
            self.input.extend_from_slice(&came[length..]);
        }
        Ok(next)
    }

    /// Answers the next request of what was kept, if all of it has come.
    fn answer_kept(&mut self, service: &Service, session: &mut SessionHandle) -> Result<NextRequest, RequestError> {
        let mut input = std::mem::take(&mut self.input);
        let (next, length) = self.answer(service, session, &input)?;
        if length < input.len() {
            input.advance(length);
            self.input = input;
        }
        Ok(next)
    }

    /// Answers the request that `input` begins with, if all of it has come, and there is nothing to wait for. Says how
    /// long it is.
    fn answer(
        &mut self,
        service: &Service,
        session: &mut SessionHandle,
        input: &[u8],
    ) -> Result<(NextRequest, usize), RequestError> {
        let Self { output, due, begun, decoder, .. } = self;
        let next = decoder.read(input, |request, length| {
            *begun = None;
            add(&service.statistics.queries, 1);
            let rules = service.rules.load();
            if !rules.store.is_shared() {
                let now = Now::read();
                if let Some((verdict, permit)) = decide_at_once(service, &rules, session, request, now) {
                    *output = ReplyBytes::new(&verdict, request, now);
                    *due = due_at(&verdict, permit);
                    return (NextRequest::Answered, length);
                }
            }
            (NextRequest::Waits(Box::new(request.to_owned())), length)
        });
        Ok(next?.unwrap_or((NextRequest::Incomplete, 0)))
    }
}

/// When an answer is to be sent, if not at once, with the permit for the delay.
fn due_at(verdict: &Verdict<'_>, permit: Option<DelayPermit>) -> Option<(Instant, DelayPermit)> {
    match verdict {
        Verdict::Delay(wait) => permit.map(|permit| (Instant::now() + wait.time, permit)),
        _ => None,
    }
}

/// Postfix reads an answer at once. A peer that does not is not Postfix, or is dead.
const ANSWER_TIME: Duration = Duration::from_secs(30);

/// What came of waiting for input.
enum Input<T> {
    /// There was some, and this came of it.
    Taken(T),
    /// The other end closed. `waited`: it was still there when we began to wait; else it had gone already, perhaps
    /// without reading our answer.
    Closed { waited: bool },
    /// A shutdown was triggered, and there is nothing to answer.
    Stop,
}

/// Waits for input and shows it to `take`; waits for the shutdown signal only while there is none.
async fn read<S, T>(
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
async fn write<S>(stream: &mut S, answer: &mut ReplyBytes, shutdown: &mut ShutdownListener<'_, '_>) -> io::Result<bool>
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
const STORE_DOWN_REPLY: &[u8] =
    b"action=DEFER_IF_PERMIT 4.3.0 Connections cannot be counted at the moment, try again later\n\n";

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
            Verdict::StoreDown => Self::Fixed(STORE_DOWN_REPLY),
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
    use tokio::io::{AsyncReadExt, duplex};

    use super::*;
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
