//! One policy connection on standard input and output, for inetd, xinetd and Postfix spawn(8).
//!
//! Postfix takes an exit as "no answer", which is a 451 for every mail. So any
//! error is logged, and every client passes.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use socket2::Socket;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, join, stdin, stdout};
use tokio::net::{TcpStream, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;
use tokio_util::codec::Decoder;

use crate::config::Config;
use crate::engine::overrides;
use crate::engine::service::Service;
use crate::listener::Peer;
use crate::net::clock::Now;
use crate::net::shutdown::Shutdown;
use crate::net::stream::Stream;
use crate::observe::log::{Log, Severity};
use crate::policy::Policy;
use crate::postfix::connection::{DUNNO, PolicyConnection};
use crate::postfix::decoder::RequestDecoder;

/// How long the end of the process waits for the log.
const LAST_LINES: Duration = Duration::from_secs(2);

/// How long the end of the process waits for the store.
const LAST_COUNTS: Duration = Duration::from_secs(2);

/// How long the end of the process waits for commands that are run for events.
const LAST_COMMANDS: Duration = Duration::from_secs(5);

/// Serves until the other end closes, or SIGTERM.
pub async fn run(path: Option<&Path>) -> io::Result<()> {
    let loaded = Config::load(path).map_err(|error| error.summary());
    // Standard error is the policy connection too: nothing may be written there.
    let mut logging = loaded.as_ref().map_or_else(|_| Config::default(), Config::clone);
    logging.log.target = logging.inetd_log;
    let log = Log::open(&logging.log)?;
    let config = loaded.and_then(|config| config.for_inetd());
    match standard_stream() {
        Ok((stream, peer)) => converse(stream, peer, config, &log).await?,
        // A pipe or a terminal, for trying it out by hand.
        Err(_) => converse(join(stdin(), stdout()), Peer::Unix, config, &log).await?,
    }
    log.finish_commands(LAST_COMMANDS).await;
    log.flush(LAST_LINES);
    Ok(())
}

/// Standard input, where it is the socket that inetd and spawn(8) make it.
fn standard_stream() -> io::Result<(Stream, Peer)> {
    let socket = Socket::from(io::stdin().as_fd().try_clone_to_owned()?);
    let peer = socket.peer_addr()?;
    socket.set_nonblocking(true)?;
    match peer.as_socket() {
        Some(address) => Ok((TcpStream::from_std(socket.into())?.try_into()?, Peer::Inet(address))),
        None => Ok((UnixStream::from_std(socket.into())?.try_into()?, Peer::Unix)),
    }
}

async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    peer: Peer,
    config: Result<Config, String>,
    log: &Log,
) -> io::Result<()> {
    match config {
        Ok(config) => {
            let service = Arc::new(Service::new(config.engine(), Policy::new(&config.policy, None), log.clone()));
            service.overrides.disable_ban_events();
            // A ban or an allowance holds for the first request too. The store is being connected to meanwhile, so
            // the request does not wait longer for this if the store is down.
            let _ = timeout(config.store.timeout, service.overrides.refresh(&service, Now::read())).await;
            tokio::spawn(overrides::follow(Arc::clone(&service)));
            let session = service.sessions.attach(peer.ip());
            PolicyConnection::new(stream, peer, session).serve(&service, terminated()?).await;
            // Commands that no request waits for are on their way to the store.
            let _ = timeout(LAST_COUNTS, service.rules.load().store.wait_for_background()).await;
            service.overrides.finish(&service, config.store.timeout, Now::read()).await;
            Ok(())
        }
        Err(problem) => {
            log.line(Severity::Err, "CONFIGURATION", |line| {
                line.field("error", &problem).field("answer", "DUNNO to all");
            });
            pass_all(stream).await
        }
    }
}

/// Cancelled at SIGTERM.
fn terminated() -> io::Result<Shutdown> {
    let mut terminate = signal(SignalKind::terminate())?;
    let stop = Shutdown::default();
    let stopper = stop.clone();
    tokio::spawn(async move {
        terminate.recv().await;
        stopper.trigger();
    });
    Ok(stop)
}

/// Answers `DUNNO` to whatever is asked.
async fn pass_all(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    let (mut decoder, mut input) = (RequestDecoder::default(), BytesMut::new());
    loop {
        while decoder.decode(&mut input).map_err(io::Error::other)?.is_some() {
            stream.write_all(DUNNO).await?;
        }
        if stream.read_buf(&mut input).await? == 0 {
            return Ok(());
        }
    }
}
