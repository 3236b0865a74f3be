//! One policy connection: read, decide, log, count, reply, until Postfix closes it.

use std::pin::pin;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::yield_now;
use tokio::time::{Instant, timeout_at};
use tokio_util::codec::Decoder;

use crate::engine::decide::{decide, decide_at_once};
use crate::engine::delays::DelayPermit;
use crate::engine::service::Service;
use crate::engine::unsent::take_back_all;
use crate::listener::Peer;
use crate::net::clock::Now;
use crate::net::shutdown::{Shutdown, ShutdownListener};
use crate::observe::statistics::add;
use crate::policy::Verdict;
use crate::policy::request::Request;
use crate::postfix::decoder::REQUEST_TIME;
use crate::postfix::decoder::RequestDecoder;
use crate::postfix::error::RequestError;
use crate::postfix::io::{Input, ReplyBytes, read, write};
use crate::postfix::suspended::SuspendedConnection;
use crate::session::SessionHandle;

/// Answers a policy connection until Postfix closes it, or until a shutdown, once all requests are answered.
/// Returns a connection that another process is to take over.
pub async fn serve<S>(stream: S, peer: Peer, service: &Service, stop: Shutdown) -> Option<SuspendedConnection<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (session, state) = (service.sessions.attach(peer.ip()), ConnectionState::default());
    resume(SuspendedConnection { stream, peer, session, state }, service, stop).await
}

/// The same for a connection that was served before.
pub async fn resume<S>(
    suspended: SuspendedConnection<S>,
    service: &Service,
    stop: Shutdown,
) -> Option<SuspendedConnection<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let SuspendedConnection { stream, peer, session, state } = suspended;
    let dialogue = Dialogue { service, decoder: RequestDecoder::default(), session, state };
    let mut connection = PolicyConnection { stream, dialogue };
    let end = connection.run(&stop).await;
    let PolicyConnection { stream, dialogue: Dialogue { session, mut state, .. } } = connection;
    match end {
        Ok(End::Stopped) if stop.hands_over() => return Some(SuspendedConnection { stream, peer, session, state }),
        Ok(_) => {}
        Err(error) => {
            state.answered = false;
            add(&service.statistics.bad_requests, 1);
            error.log(&service.log, &peer, Now::read());
        }
    }
    let now = Now::read();
    session.close(state.answered, now);
    take_back_all(service, now);
    None
}

struct PolicyConnection<'s, S> {
    stream: S,
    dialogue: Dialogue<'s>,
}

/// The requests of a policy connection and their answers, apart from the stream that both go over.
struct Dialogue<'s> {
    service: &'s Service,
    decoder: RequestDecoder,
    session: SessionHandle,
    state: ConnectionState,
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

/// What came of waiting with an answer.
enum DelayEnd {
    /// It is due.
    Elapsed,
    /// The other end has closed.
    PeerClosed,
    /// Another process is to go on waiting.
    HandOver,
}

impl<S> PolicyConnection<'_, S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    async fn run(&mut self, stop: &Shutdown) -> Result<End, RequestError> {
        let triggered = pin!(stop.wait());
        let mut shutdown = ShutdownListener::new(stop, triggered);
        if !self.dialogue.state.output.rest().is_empty()
            && let Some(end) = self.send(&mut shutdown).await
        {
            return Ok(end);
        }
        let mut next = self.dialogue.answer_kept()?;
        loop {
            match next {
                NextRequest::Answered => {}
                // Boxed: keeps the wait for the store out of every idle connection.
                NextRequest::Waits(request) => Box::pin(self.dialogue.answer_later(&request)).await,
                NextRequest::Incomplete => {
                    next = self.receive(&mut shutdown).await?;
                    continue;
                }
                NextRequest::Ended(end) => return Ok(end),
            }
            if let Some(end) = self.send(&mut shutdown).await {
                return Ok(end);
            }
            next = if self.dialogue.state.input.is_empty() {
                NextRequest::Incomplete
            } else {
                // Postfix asks one thing at a time. A peer that asks more does not keep the others waiting.
                yield_now().await;
                self.dialogue.answer_kept()?
            };
        }
    }

    /// Waits for a request, or for the rest of one.
    async fn receive(&mut self, shutdown: &mut ShutdownListener<'_, '_>) -> Result<NextRequest, RequestError> {
        let Self { stream, dialogue } = self;
        let deadline = match dialogue.state.input.is_empty() {
            true => None,
            false => Some(*dialogue.state.begun.get_or_insert_with(Instant::now) + REQUEST_TIME),
        };
        let reading = read(stream, shutdown, |came| dialogue.take(came));
        let came = match deadline {
            None => reading.await,
            Some(deadline) => timeout_at(deadline, reading).await.map_err(|_| RequestError::unfinished())?,
        };
        match came {
            Ok(Input::Taken(next)) => next,
            // Not waited: Postfix had given up before it could see our answer, and will ask again.
            Ok(Input::Closed { waited }) => {
                let Dialogue { decoder, state, .. } = dialogue;
                state.answered &= waited;
                decoder.decode_eof(&mut state.input).map(|_| NextRequest::Ended(End::Closed))
            }
            Ok(Input::Stop) => Ok(NextRequest::Ended(End::Stopped)),
            // A connection that was reset was closed, in a way.
            Err(_) => Ok(NextRequest::Ended(End::Closed)),
        }
    }

    /// Sends the answer when it is due. Says what ends the connection, if that does.
    async fn send(&mut self, shutdown: &mut ShutdownListener<'_, '_>) -> Option<End> {
        if let Some((end, permit)) = self.dialogue.state.due.take() {
            match self.wait(end, shutdown).await {
                DelayEnd::Elapsed => drop(permit),
                DelayEnd::PeerClosed => {
                    self.dialogue.state.answered = false;
                    return Some(End::Closed);
                }
                DelayEnd::HandOver => {
                    self.dialogue.state.due = Some((end, permit));
                    return Some(End::Stopped);
                }
            }
        }
        match write(&mut self.stream, &mut self.dialogue.state.output, shutdown).await {
            Ok(true) => {
                self.dialogue.state.answered = true;
                self.dialogue.session.answered(Now::read);
                None
            }
            Ok(false) => Some(End::Stopped),
            Err(_) => {
                self.dialogue.state.answered = false;
                Some(End::Closed)
            }
        }
    }

    /// Waits before an answer is sent.
    async fn wait(&mut self, end: Instant, shutdown: &mut ShutdownListener<'_, '_>) -> DelayEnd {
        let stopped = |shutdown: &ShutdownListener<'_, '_>| {
            if shutdown.hands_over() { DelayEnd::HandOver } else { DelayEnd::Elapsed }
        };
        let Self { stream, dialogue } = self;
        // Postfix asks one thing at a time. What others send meanwhile is read later.
        let keep = |came: &[u8]| dialogue.state.input.extend_from_slice(came);
        match timeout_at(end, read(stream, shutdown, keep)).await {
            Err(_) => DelayEnd::Elapsed,
            // At shutdown no answer is delayed any longer.
            Ok(Ok(Input::Stop)) => stopped(shutdown),
            Ok(Ok(Input::Taken(()))) => match timeout_at(end, shutdown.wait()).await {
                Err(_) => DelayEnd::Elapsed,
                Ok(()) => stopped(shutdown),
            },
            Ok(Ok(Input::Closed { .. }) | Err(_)) => DelayEnd::PeerClosed,
        }
    }
}

impl Dialogue<'_> {
    /// Answers the request that came, if all of it has, and keeps what is not answered.
    #[inline]
    fn take(&mut self, came: &[u8]) -> Result<NextRequest, RequestError> {
        if !self.state.input.is_empty() {
            self.state.input.extend_from_slice(came);
            return self.answer_kept();
        }
        let (next, length) = self.answer(came)?;
        if length < came.len() {
            self.state.input.extend_from_slice(&came[length..]);
        }
        Ok(next)
    }

    /// Answers the next request of what was kept, if all of it has come.
    fn answer_kept(&mut self) -> Result<NextRequest, RequestError> {
        let mut input = std::mem::take(&mut self.state.input);
        let (next, length) = self.answer(&input)?;
        if length < input.len() {
            input.advance(length);
            self.state.input = input;
        }
        Ok(next)
    }

    /// Answers the request that `input` begins with, if all of it has come, and there is nothing to wait for. Says how
    /// long it is.
    fn answer(&mut self, input: &[u8]) -> Result<(NextRequest, usize), RequestError> {
        let Self { service, decoder, session, state } = self;
        let next = decoder.read(input, |request, length| {
            state.begun = None;
            match answer_at_once(service, session, state, request) {
                true => (NextRequest::Answered, length),
                false => (NextRequest::Waits(Box::new(request.to_owned())), length),
            }
        });
        Ok(next?.unwrap_or((NextRequest::Incomplete, 0)))
    }

    async fn answer_later(&mut self, request: &Request<'_>) {
        // A request keeps the rules it began with; between requests nothing keeps old ones alive.
        let rules = self.service.rules.load_full();
        let now = Now::read();
        let (verdict, permit) = decide(self.service, &rules, &mut self.session, request, now).await;
        self.state.answer(&verdict, permit, request, now);
    }
}

/// Answers where the store counts in this process. Says whether it has.
fn answer_at_once(
    service: &Service,
    session: &mut SessionHandle,
    state: &mut ConnectionState,
    request: &Request<'_>,
) -> bool {
    add(&service.statistics.queries, 1);
    let rules = service.rules.load();
    if rules.store.waits() {
        return false;
    }
    let now = Now::read();
    match decide_at_once(service, &rules, session, request, now) {
        Some((verdict, permit)) => {
            state.answer(&verdict, permit, request, now);
            true
        }
        None => false,
    }
}

impl ConnectionState {
    /// Has an answer ready, and notes how long to wait before it is sent.
    fn answer(&mut self, verdict: &Verdict<'_>, permit: Option<DelayPermit>, request: &Request, now: Now) {
        self.output = ReplyBytes::new(verdict, request, now);
        if let Verdict::Delay(wait) = verdict {
            self.due = permit.map(|permit| (Instant::now() + wait.time, permit));
        }
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
}

impl Default for ConnectionState {
    fn default() -> Self {
        Self { answered: true, input: BytesMut::new(), output: ReplyBytes::NONE, due: None, begun: None }
    }
}
