//! The daemon's end of the control socket: accepts, reads a line, answers a line.
//!
//! Whoever may open the socket may do everything; the rights of its file are the gate. All the same nobody
//! there can hold more than a bounded part of the daemon: so many connections, so long a line, so much time.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::unistd::{Uid, User};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::{Arguments, Control, Problem, VERSION, spell};
use crate::config::{ControlConfig, SocketConfig};
use crate::listener::unix::{self, SocketFile};
use crate::listener::{ListenError, ListenProblem};
use crate::net::clock::Now;
use crate::net::shutdown::Shutdown;
use crate::observe::log::Severity;

/// Connections held at once; a further one waits.
const MAX_CONNECTIONS: usize = 16;

/// The longest request; a client with every attribute of Postfix fits in many times.
const MAX_LINE: u64 = 64 * 1024;

/// How long a connection may say nothing, or not take its answer. `top` asks every second.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a command may take: memcached's time-outs add up when it is away.
const COMMAND_TIME: Duration = Duration::from_secs(20);

/// After an accept that failed: descriptors come back.
const PAUSE: Duration = Duration::from_secs(1);

/// The socket, before anything is accepted.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    /// Removes the file with us.
    _file: SocketFile,
}

impl Socket {
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
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            let control = Arc::clone(&control);
            tokio::spawn(async move {
                // Whoever hangs up has no answer to wait for.
                let _ = converse(stream, &control).await;
                drop(place);
            });
        }
    }

    async fn accept(&self, places: &Arc<Semaphore>) -> io::Result<(UnixStream, tokio::sync::OwnedSemaphorePermit)> {
        let place = Arc::clone(places).acquire_owned().await.map_err(io::Error::other)?;
        Ok((self.listener.accept().await?.0, place))
    }
}

async fn converse(stream: UnixStream, control: &Control) -> io::Result<()> {
    let user = user(&stream)?;
    let mut stream = BufReader::new(stream);
    loop {
        let mut line = Vec::new();
        timeout(PATIENCE, (&mut stream).take(MAX_LINE).read_until(b'\n', &mut line)).await??;
        let whole = line.ends_with(b"\n");
        if line.is_empty() {
            return Ok(());
        }
        let result = match read(&line) {
            _ if !whole => Err(Problem::usage(format!("a request is one line of at most {MAX_LINE} bytes"))),
            Ok((command, arguments)) => {
                let done = timeout(COMMAND_TIME, control.run(&user, &command, &arguments)).await;
                done.unwrap_or_else(|_| Err(Problem::unavailable("it took too long and was given up")))
            }
            Err(problem) => Err(problem),
        };
        let answer = spell(result) + "\n";
        timeout(PATIENCE, stream.get_mut().write_all(answer.as_bytes())).await??;
        if !whole {
            return Ok(());
        }
    }
}

/// A request's command and what it is told.
fn read(line: &[u8]) -> Result<(String, Arguments), Problem> {
    let wrong = |error: &dyn std::fmt::Display| Problem::usage(format!("this is no request: {error}"));
    let Value::Object(mut request) = serde_json::from_slice(line).map_err(|error| wrong(&error))? else {
        return Err(wrong(&"it is no JSON object"));
    };
    match request.remove("v").as_ref().and_then(Value::as_u64) {
        Some(VERSION) => {}
        _ => return Err(Problem::usage(format!("\"v\" is not {VERSION}, the only version of the protocol there is"))),
    }
    match request.remove("command") {
        Some(Value::String(command)) => Ok((command, Arguments(request))),
        _ => Err(wrong(&"\"command\" is missing")),
    }
}

/// Who is at the other end, as the kernel knows.
fn user(stream: &UnixStream) -> io::Result<String> {
    let uid = Uid::from_raw(stream.peer_cred()?.uid());
    let name = User::from_uid(uid).ok().flatten().map(|user| user.name);
    Ok(name.unwrap_or_else(|| uid.to_string()))
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

    #[test]
    fn a_request_is_an_object_of_this_version_with_a_command() {
        let (command, arguments) = read(b"{\"v\":1,\"command\":\"show\",\"target\":\"192.0.2.1\"}\n").unwrap();
        assert_eq!((command.as_str(), arguments.text("target")), ("show", Ok("192.0.2.1")));
        assert!(arguments.text("key").is_err());
        for wrong in ["", "[]", "{}", "{\"v\":2,\"command\":\"show\"}", "{\"v\":1}", "{\"v\":1,\"command\":1}", "\u{0}"]
        {
            let problem = read(wrong.as_bytes()).unwrap_err();
            assert_eq!(problem.code, 64, "{wrong}");
        }
    }
}
