//! The daemon's end of the control socket: accepts, reads a line, answers a line.
//!
//! Whoever may open the socket may do everything; the rights of its file are the gate. All the same nobody
//! there can hold more than a bounded part of the daemon: so many connections, so long a line, so much time.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::commands::{ControlRequest, ControlResponse, RequestLine, VERSION};
use super::{Control, Problem};
use crate::config::{ControlConfig, SocketConfig};
use crate::listener::unix::{self, SocketFile};
use crate::listener::{ListenError, ListenProblem};
use crate::net::clock::Now;
use crate::net::shutdown::Shutdown;
use crate::net::users;
use crate::observe::log::Severity;

/// Connections held at once; a further one waits.
const MAX_CONNECTIONS: usize = 16;

/// The longest request; a client with every attribute of Postfix fits in many times.
const MAX_LINE: u64 = 64 * 1024;

/// How long a connection may say nothing, or not take its answer. `top` asks every second.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a command may take: a store's time-outs add up when it is down.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(20);

/// After an accept that failed: descriptors come back.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// The socket, before anything is accepted.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    /// Removes the file with us.
    _file: SocketFile,
}

impl ControlSocket {
    /// Makes the socket, open to the daemon's user and, if there is one, its group.
    ///
    /// # Errors
    ///
    /// When that cannot be done there, with the way out.
    pub fn bind(config: &ControlConfig) -> Result<Self, ListenError> {
        let mode = if config.group.is_some() { 0o660 } else { 0o600 };
        let rights = SocketConfig { mode, owner: None, group: config.group.clone() };
        let at = |problem| ListenError { place: format!("unix:{}", config.path.display()), problem };
        let (socket, file) = unix::bind(&config.path, &rights).map_err(at)?;
        let other = |error| at(ListenProblem::Other(error));
        let listener = UnixListener::from_std(socket.into()).map_err(other)?;
        Ok(Self { listener, _file: file })
    }

    /// Answers until the stop.
    pub async fn serve(self, control: Arc<Control>, stop: Shutdown) {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let accepted = tokio::select! {
                accepted = self.accept(&places) => accepted,
                () = stop.wait() => return,
            };
            let Ok((stream, place)) = accepted else {
                control.service.log.limited(Severity::Warning, "CONTROL_FAILED", Now::read(), |line| {
                    line.field("error", "connections cannot be accepted");
                });
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let control = Arc::clone(&control);
            // A client that hangs up needs no answer.
            tokio::spawn(async move { converse(stream, &control, &Arc::new(place)).await });
        }
    }

    async fn accept(&self, places: &Arc<Semaphore>) -> io::Result<(UnixStream, OwnedSemaphorePermit)> {
        let place = Arc::clone(places).acquire_owned().await.map_err(io::Error::other)?;
        Ok((self.listener.accept().await?.0, place))
    }
}

/// Answers the requests of a connection. `place` is held by each command as well, so that those which go on without a
/// client are bounded too.
async fn converse(stream: UnixStream, control: &Arc<Control>, place: &Arc<OwnedSemaphorePermit>) -> io::Result<()> {
    // Who is at the other end, as the kernel knows.
    let user = users::name(stream.peer_cred()?.uid()).await;
    let mut stream = BufReader::new(stream);
    loop {
        let mut line = Vec::new();
        timeout(IDLE_TIMEOUT, (&mut stream).take(MAX_LINE).read_until(b'\n', &mut line)).await??;
        let whole = line.ends_with(b"\n");
        if line.is_empty() {
            return Ok(());
        }
        let mut answer = match read(&line) {
            _ if !whole => refuse(Problem::usage(format!("a request is one line of at most {MAX_LINE} bytes"))),
            Ok(request) => {
                let (control, user, place) = (Arc::clone(control), user.clone(), Arc::clone(place));
                finish(async move {
                    let answer = request.run(&control, &user).await;
                    drop(place);
                    answer
                })
                .await
            }
            Err(problem) => refuse(problem),
        };
        answer.push('\n');
        timeout(IDLE_TIMEOUT, stream.get_mut().write_all(answer.as_bytes())).await??;
        if !whole {
            return Ok(());
        }
    }
}

/// Waits for a command. One that takes too long goes on without the client: half of a change would be worse.
async fn finish(command: impl Future<Output = String> + Send + 'static) -> String {
    match timeout(COMMAND_TIMEOUT, tokio::spawn(command)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => refuse(Problem::unavailable(format!("the command failed: {error}"))),
        Err(_) => refuse(Problem::unavailable(format!(
            "it is not done after {} seconds, and goes on; when a change is done, a CONTROL line in the log says so",
            COMMAND_TIMEOUT.as_secs()
        ))),
    }
}

fn refuse(problem: Problem) -> String {
    ControlResponse::<()>::from(Err(problem)).line()
}

/// The request of a line.
fn read(line: &[u8]) -> Result<ControlRequest, Problem> {
    // Read on its own, for a request of another version may have other arguments.
    #[derive(Deserialize)]
    struct ProtocolVersion {
        v: u64,
    }
    let wrong = |error| Problem::usage(format!("not a valid request: {error}"));
    match serde_json::from_slice(line).map_err(wrong)? {
        ProtocolVersion { v: VERSION } => {}
        ProtocolVersion { v } => {
            return Err(Problem::usage(format!(
                "version {v} of the protocol is not known, only {VERSION}: is the daemon of another version than this \
                 program?"
            )));
        }
    }
    serde_json::from_slice::<RequestLine>(line).map(|line| line.request).map_err(wrong)
}

/// Where the socket is, unless it is configured: where systemd made a directory for it.
pub fn usual() -> Option<ControlConfig> {
    let directories = std::env::var("RUNTIME_DIRECTORY").ok()?;
    let first = directories.split(':').next().filter(|first| !first.is_empty())?;
    Some(ControlConfig { path: Path::new(first).join("control"), group: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_command_that_takes_long_is_done_although_its_client_is_told_that_it_is_not_yet() {
        let (sender, done) = tokio::sync::oneshot::channel();
        let command = async move {
            tokio::time::sleep(COMMAND_TIMEOUT + COMMAND_TIMEOUT).await;
            sender.send(()).unwrap();
            String::new()
        };
        let answer = finish(command).await;
        assert!(answer.contains("not done after 20 seconds, and goes on"), "{answer}");
        done.await.unwrap();
    }

    #[test]
    fn a_request_is_an_object_of_this_version_with_a_command() {
        let request = read(b"{\"v\":1,\"command\":\"show\",\"target\":\"192.0.2.1\"}\n").unwrap();
        assert!(matches!(&request, ControlRequest::Show(show) if show.target.to_string() == "192.0.2.1"));
        let show = "\"command\":\"show\"";
        let wrong =
            ["", "[]", "{}", "{\"v\":2,\"command\":\"status\"}", "{\"v\":1}", "{\"v\":1,\"command\":1}", "\u{0}"];
        let wrong = wrong.into_iter().map(str::to_owned);
        for wrong in wrong.chain([format!("{{\"v\":1,{show}}}"), format!("{{\"v\":1,{show},\"target\":1}}")]) {
            let problem = read(wrong.as_bytes()).unwrap_err();
            assert_eq!(problem.code, 64, "{wrong}");
        }
    }
}
