//! One policy connection: read, decide, log, count, reply, until Postfix closes it.

use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::BytesMut;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::yield_now;
use tokio::time::{Instant, timeout_at};
use tokio_util::codec::Decoder;

use crate::engine::decide::{decide, decide_at_once};
use crate::engine::delays::{DelayPermit, DelayedReplies};
use crate::engine::service::Service;
use crate::engine::unsent::take_back_all;
use crate::listener::Peer;
use crate::net::clock::Now;
use crate::net::shutdown::Shutdown;
use crate::observe::statistics::add;
use crate::policy::Verdict;
use crate::policy::request::Request;
use crate::postfix::decoder::REQUEST_TIME;
use crate::postfix::decoder::RequestDecoder;
use crate::postfix::error::RequestError;
use crate::postfix::io::{self, Input, Reply, ReplyBytes, ShutdownListener, read, write};
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
    let mut connection = PolicyConnection { service, stream, session, state };
    match connection.run(&stop).await {
        Ok(End::Stopped) if stop.hands_over() => {
            let PolicyConnection { stream, session, state, .. } = connection;
            return Some(SuspendedConnection { stream, peer, session, state });
        }
        Ok(_) => {}
        Err(error) => {
            connection.state.answered = false;
            add(&service.statistics.bad_requests, 1);
            error.log(&service.log, &peer, Now::read());
        }
    }
    let now = Now::read();
    connection.session.close(connection.state.answered, now);
    take_back_all(service, now);
    None
}

struct PolicyConnection<'s, S> {
    service: &'s Service,
    stream: S,
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
    Waits(Box<Request>),
    /// There is none, or not all of it has come.
    Incomplete,
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
        let mut decoder = RequestDecoder::default();
        let triggered = pin!(stop.wait());
        let mut shutdown = ShutdownListener::new(stop, triggered);
        if !self.state.output.rest().is_empty()
            && let Some(end) = self.send(&mut shutdown).await
        {
            return Ok(end);
        }
        loop {
            loop {
                match self.answer_next(&mut decoder)? {
                    NextRequest::Answered => {}
                    // Boxed: keeps the wait for the store out of every idle connection.
                    NextRequest::Waits(request) => Box::pin(self.answer_later(*request)).await,
                    NextRequest::Incomplete => break,
                }
                if let Some(end) = self.send(&mut shutdown).await {
                    return Ok(end);
                }
                // Postfix asks one thing at a time. A peer that asks more does not keep the others waiting.
                if !self.state.input.is_empty() {
                    yield_now().await;
                }
            }
            let ConnectionState { input, begun, .. } = &mut self.state;
            let came = if input.is_empty() {
                read(&mut self.stream, input, &mut shutdown).await
            } else {
                let begun = *begun.get_or_insert_with(Instant::now);
                let rest = timeout_at(begun + REQUEST_TIME, read(&mut self.stream, input, &mut shutdown));
                rest.await.map_err(|_| RequestError::unfinished())?
            };
            match came {
                Ok(Input::More) => {}
                // Not waited: Postfix had given up before it could see our answer, and will ask again.
                Ok(Input::Closed { waited }) => {
                    self.state.answered &= waited;
                    return decoder.decode_eof(&mut self.state.input).map(|_| End::Closed);
                }
                Ok(Input::Stop) => return Ok(End::Stopped),
                // A connection that was reset was closed, in a way.
                Err(_) => return Ok(End::Closed),
            }
        }
    }

    /// Sends the answer when it is due. Says what ends the connection, if that does.
    async fn send(&mut self, shutdown: &mut ShutdownListener<'_, '_>) -> Option<End> {
        if let Some((end, permit)) = self.state.due.take() {
            match self.wait(end, shutdown).await {
                DelayEnd::Elapsed => drop(permit),
                DelayEnd::PeerClosed => {
                    self.state.answered = false;
                    return Some(End::Closed);
                }
                DelayEnd::HandOver => {
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

    /// Waits before an answer is sent.
    async fn wait(&mut self, end: Instant, shutdown: &mut ShutdownListener<'_, '_>) -> DelayEnd {
        let stopped = |shutdown: &ShutdownListener<'_, '_>| {
            if shutdown.hands_over() { DelayEnd::HandOver } else { DelayEnd::Elapsed }
        };
        match timeout_at(end, read(&mut self.stream, &mut self.state.input, shutdown)).await {
            Err(_) => DelayEnd::Elapsed,
            // At shutdown no answer is delayed any longer.
            Ok(Ok(Input::Stop)) => stopped(shutdown),
            // Postfix asks one thing at a time. What others send meanwhile is read later.
            Ok(Ok(Input::More)) => match timeout_at(end, shutdown.wait()).await {
                Err(_) => DelayEnd::Elapsed,
                Ok(()) => stopped(shutdown),
            },
            Ok(Ok(Input::Closed { .. }) | Err(_)) => DelayEnd::PeerClosed,
        }
    }

    /// Answers the next request, if all of it has come and there is nothing to wait for.
    fn answer_next(&mut self, decoder: &mut RequestDecoder) -> Result<NextRequest, RequestError> {
        if self.state.input.is_empty() {
            return Ok(NextRequest::Incomplete);
        }
        let Some(request) = decoder.decode(&mut self.state.input)? else {
            return Ok(NextRequest::Incomplete);
        };
        self.state.begun = None;
        if !self.answer_at_once(&request) {
            return Ok(NextRequest::Waits(Box::new(request)));
        }
        // The request took the buffer with it, unless there was more in it.
        if self.state.input.capacity() == 0 {
            io::keep_spare(&mut request.into_buffer());
        }
        Ok(NextRequest::Answered)
    }

    /// Answers where the store counts in this process. Says whether it has.
    fn answer_at_once(&mut self, request: &Request) -> bool {
        add(&self.service.statistics.queries, 1);
        let rules = self.service.rules.load();
        if rules.store.waits() {
            return false;
        }
        let now = Now::read();
        match decide_at_once(self.service, &rules, &mut self.session, request, now) {
            Poll::Ready((verdict, permit)) => {
                self.state.answer(&verdict, permit, request, now);
                true
            }
            Poll::Pending => false,
        }
    }

    async fn answer_later(&mut self, request: Request) {
        // A request keeps the rules it began with; between requests nothing keeps old ones alive.
        let rules = self.service.rules.load_full();
        let now = Now::read();
        let (verdict, permit) = decide(self.service, &rules, &mut self.session, &request, now).await;
        self.state.answer(&verdict, permit, &request, now);
    }
}

impl ConnectionState {
    /// Has an answer ready, and notes how long to wait before it is sent.
    fn answer(&mut self, verdict: &Verdict<'_>, permit: Option<DelayPermit>, request: &Request, now: Now) {
        let reply = match verdict {
            Verdict::Pass(_) | Verdict::Delay(_) => Reply::Dunno,
            Verdict::Defer => Reply::Defer,
            Verdict::Refuse(refusal) => Reply::Refuse(refusal.action, refusal.values(request, now)),
        };
        self.output = ReplyBytes::new(reply);
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

impl ConnectionState {
    /// All of it, for the process that takes this one's place.
    pub fn save(&self) -> SavedConnection {
        let milliseconds = |time: Duration| time.as_millis() as u64;
        let due = self
            .due
            .as_ref()
            .map(|(end, permit)| (milliseconds(end.saturating_duration_since(Instant::now())), permit.key()));
        SavedConnection {
            answered: self.answered,
            input: self.input.to_vec(),
            output: self.output.rest().to_vec(),
            due,
            begun: self.begun.map(|begun| milliseconds(begun.elapsed())),
        }
    }

    /// Takes that over; a place among the delayed replies is kept.
    pub fn restore(saved: &SavedConnection, delayed: &Arc<DelayedReplies>) -> Self {
        let now = Instant::now();
        let begun = saved.begun.map(|ago| Duration::from_millis(ago).min(REQUEST_TIME));
        Self {
            answered: saved.answered,
            input: saved.input[..].into(),
            output: ReplyBytes::Made(saved.output[..].into()),
            due: saved.due.map(|(left, key)| (now + Duration::from_millis(left), delayed.restore(key))),
            begun: begun.map(|ago| now.checked_sub(ago).unwrap_or(now)),
        }
    }
}

/// The state of a connection in the form in which it is handed over.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedConnection {
    answered: bool,
    input: Vec<u8>,
    output: Vec<u8>,
    /// Milliseconds until the answer is sent, and the key of its delay.
    due: Option<(u64, u64)>,
    /// Milliseconds since the request began.
    begun: Option<u64>,
}
