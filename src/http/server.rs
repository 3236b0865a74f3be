//! Accepts HTTP connections, in a thread of its own, and bounds what they can hold: so many connections, so long a
//! head, so much time.

use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service as _;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::runtime::Builder;
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::HttpContext;
use crate::listener::{DetachedListener, Listener, Peer, refused_peer};
use crate::net::clock::Now;
use crate::net::lock;
use crate::net::shutdown::Shutdown;
use crate::net::signals::block_signals;
use crate::net::stream::Stream;
use crate::observe::log::Severity;
use crate::observe::statistics::add;

/// Connections held at once by a listener. A further one takes the place of the one that has waited longest without a
/// request, so that no number of idle ones keeps anybody out.
const MAX_CONNECTIONS: usize = 512;

/// The longest head of a request.
const MAX_HEAD: usize = 16 * 1024;

/// The most lines of a head.
const MAX_HEADERS: usize = 100;

/// How long the head of a request may take, and a connection wait for the next one.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a connection that is to close may take for the request under way.
const LAST_ANSWER: Duration = Duration::from_secs(2);

/// The services of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serves {
    Doors,
    MetricsAlone,
}

/// The sockets, and the thread that serves at them.
#[derive(Debug)]
pub struct HttpServer {
    context: Arc<HttpContext>,
    sockets: Vec<(Serves, DetachedListener)>,
    running: Option<(Shutdown, oneshot::Receiver<()>)>,
}

impl HttpServer {
    /// Starts to serve; nothing where there are no sockets.
    ///
    /// # Errors
    ///
    /// When there can be no thread.
    pub fn start(context: Arc<HttpContext>, sockets: Vec<(Serves, DetachedListener)>) -> io::Result<Self> {
        let mut server = Self { context, sockets, running: None };
        server.resume()?;
        Ok(server)
    }

    /// The state that answers are made of.
    pub fn context(&self) -> &HttpContext {
        &self.context
    }

    /// The sockets of the doors, for the new program of an upgrade.
    pub fn doors(&self) -> impl Iterator<Item = &DetachedListener> {
        self.sockets.iter().filter(|(serves, _)| *serves == Serves::Doors).map(|(_, socket)| socket)
    }

    /// Answers pending requests, and closes the connections. The sockets stay open, so new connections wait.
    pub async fn pause(&mut self) {
        if let Some((stop, ended)) = self.running.take() {
            stop.trigger();
            let _ = timeout(2 * LAST_ANSWER, ended).await;
        }
    }

    /// Serves again.
    ///
    /// # Errors
    ///
    /// When there can be no thread.
    pub fn resume(&mut self) -> io::Result<()> {
        if self.sockets.is_empty() {
            return Ok(());
        }
        let sockets: Vec<_> = self
            .sockets
            .iter()
            .map(|(serves, socket)| Ok((*serves, socket.try_clone()?)))
            .collect::<io::Result<_>>()?;
        let (context, stop, (ended, has_ended)) = (Arc::clone(&self.context), Shutdown::default(), oneshot::channel());
        let heard = stop.clone();
        thread::Builder::new().name("http".to_owned()).spawn(move || {
            block_signals();
            run(&context, sockets, &heard);
            let _ = ended.send(());
        })?;
        self.running = Some((stop, has_ended));
        Ok(())
    }
}

fn run(context: &Arc<HttpContext>, sockets: Vec<(Serves, socket2::Socket)>, stop: &Shutdown) {
    let log = &context.control.service.log;
    let failed = |error: &dyn std::fmt::Display| {
        log.line(Severity::Err, "HTTP_FAILED", |line| {
            line.field("error", error);
        });
    };
    let runtime = match Builder::new_current_thread().enable_all().on_thread_start(block_signals).build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error),
    };
    runtime.block_on(async {
        let accepting = TaskTracker::new();
        for (serves, socket) in sockets {
            let router = match serves {
                Serves::Doors => super::doors(Arc::clone(context)),
                Serves::MetricsAlone => super::metrics_alone(Arc::clone(context)),
            };
            match Listener::inherited(socket, None) {
                Ok(listener) => drop(accepting.spawn(accept(listener, router, Arc::clone(context), stop.clone()))),
                Err(error) => failed(&error),
            }
        }
        accepting.close();
        accepting.wait().await;
    });
    runtime.shutdown_background();
}

/// Accepts until the stop, and waits for the last answers.
async fn accept(mut listener: Listener, router: Router, context: Arc<HttpContext>, stop: Shutdown) {
    let service = &context.control.service;
    let (connections, tasks) = (Arc::new(HttpConnections::default()), TaskTracker::new());
    loop {
        let (stream, peer) = tokio::select! {
            accepted = listener.accept(&service.log) => accepted,
            () = stop.wait() => break,
        };
        if !service.rules.load().peers.admit(&peer) {
            add(&service.statistics.refused_peers, 1);
            refused_peer(&service.log, &peer, Now::read());
            continue;
        }
        let Some(slot) = connections.admit() else {
            service.log.limited(Severity::Warning, "TOO_MANY_CONNECTIONS", Now::read(), |line| {
                line.field("peer", &peer).field("max_connections", MAX_CONNECTIONS);
            });
            continue;
        };
        tasks.spawn(serve(stream, peer, router.clone(), slot, stop.clone()));
    }
    tasks.close();
    let _ = timeout(LAST_ANSWER, tasks.wait()).await;
}

async fn serve(stream: Stream, peer: Peer, router: Router, slot: ConnectionSlot, stop: Shutdown) {
    let (slot, inner) = (Arc::new(slot), TowerToHyperService::new(router));
    let counted = Arc::clone(&slot);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer);
        let busy = Busy::begin(&counted);
        let answer = inner.call(request);
        async move {
            let answer: Result<Response<Body>, Infallible> = answer.await;
            drop(busy);
            answer
        }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    builder.max_buf_size(MAX_HEAD).max_headers(MAX_HEADERS);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        // An error needs no answer from us: the peer has hung up, or hyper has answered what is not HTTP.
        _ = connection.as_mut() => {}
        () = async { tokio::select! { () = slot.state.close.notified() => {}, () = stop.wait() => {} } } => {
            connection.as_mut().graceful_shutdown();
            let _ = timeout(LAST_ANSWER, connection).await;
        }
    }
}

/// The connections of a listener.
#[derive(Debug, Default)]
struct HttpConnections {
    slots: std::sync::Mutex<Vec<Arc<ConnectionActivity>>>,
    /// Counts events. The smaller the number of one, the longer ago it was.
    time: AtomicU64,
}

#[derive(Debug, Default)]
struct ConnectionActivity {
    busy: AtomicBool,
    /// When its last request ended, or it was accepted.
    last: AtomicU64,
    /// The connection must close.
    close: Notify,
}

/// A connection's place among the others, which it gives back.
#[derive(Debug)]
struct ConnectionSlot {
    state: Arc<ConnectionActivity>,
    among: Arc<HttpConnections>,
}

/// A request is being answered.
struct Busy(Arc<ConnectionSlot>);

impl HttpConnections {
    /// A place for another connection; `None`: all of them are being answered.
    fn admit(self: &Arc<Self>) -> Option<ConnectionSlot> {
        let state = Arc::new(ConnectionActivity { last: self.tick().into(), ..ConnectionActivity::default() });
        let mut slots = lock(&self.slots);
        if slots.len() >= MAX_CONNECTIONS {
            let idle = slots.iter().enumerate().filter(|(_, slot)| !slot.busy.load(Relaxed));
            let (place, _) = idle.min_by_key(|(_, slot)| slot.last.load(Relaxed))?;
            slots.swap_remove(place).close.notify_one();
        }
        slots.push(Arc::clone(&state));
        Some(ConnectionSlot { state, among: Arc::clone(self) })
    }

    fn tick(&self) -> u64 {
        self.time.fetch_add(1, Relaxed)
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        lock(&self.among.slots).retain(|other| !Arc::ptr_eq(other, &self.state));
    }
}

impl Busy {
    fn begin(slot: &Arc<ConnectionSlot>) -> Self {
        slot.state.busy.store(true, Relaxed);
        Self(Arc::clone(slot))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.state.last.store(self.0.among.tick(), Relaxed);
        self.0.state.busy.store(false, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_connection_that_was_idle_longest_gives_way() {
        let connections = Arc::new(HttpConnections::default());
        let mut slots: Vec<_> = (0..MAX_CONNECTIONS).map(|_| Arc::new(connections.admit().unwrap())).collect();
        let busy: Vec<_> = slots[1..].iter().map(Busy::begin).collect();
        let closes =
            |slot: &ConnectionSlot| !lock(&connections.slots).iter().any(|known| Arc::ptr_eq(known, &slot.state));
        let newest = Arc::new(connections.admit().unwrap());
        assert!(closes(&slots[0]) && !closes(&slots[1]));
        let _newest_busy = Busy::begin(&newest);
        assert!(connections.admit().is_none(), "nothing that is being answered gives way");
        drop(busy);
        slots.remove(5);
        assert!(connections.admit().is_some());
        assert!(slots[1..].iter().all(|slot| !closes(slot)), "there was room");
    }
}
