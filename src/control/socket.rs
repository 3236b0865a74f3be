//! The server of the control socket, in the daemon: accepts, reads a line, answers a line.
//!
//! Access control: the mode of the socket's file decides who may connect, which is the daemon's user, root, and the
//! members of `control_group`. A peer that may connect may give every command. The number of connections, the length of
//! a line and the time of a command are bounded all the same.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::commands::{ControlRequest, ControlResponse, RequestLine, VERSION};
use super::{Control, Problem};
use crate::config::{ControlConfig, SocketConfig};
use crate::listener::unix::{self, SocketFile};
use crate::listener::{ListenError, ListenProblem};
use crate::net::clock::Now;
use crate::net::lock;
use crate::net::shutdown::Shutdown;
use crate::net::users;
use crate::observe::log::Severity;

/// Connections held at once. A further one takes the place of the one that has waited longest for a command, so that
/// no number of idle ones keeps an administrator out.
const MAX_CONNECTIONS: usize = 16;

/// Commands that run at once, those among them that go on without a client; a further one waits.
const MAX_COMMANDS: usize = 16;

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
    /// Removes the socket's file when it is dropped.
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
        let mut connections = ControlConnections::default();
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = stop.wait() => return,
            };
            let Ok((stream, _)) = accepted else {
                control.service.log.limited(Severity::Warning, "CONTROL_FAILED", Now::read(), |line| {
                    line.field("error", "connections cannot be accepted");
                });
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            tokio::select! {
                () = connections.make_room() => {}
                () = stop.wait() => return,
            }
            connections.open(stream, &control);
        }
    }
}

/// The connections there are.
#[derive(Default)]
struct ControlConnections {
    open: Vec<(JoinHandle<()>, Arc<Activity>)>,
    shared: Arc<Shared>,
}

/// State that all connections share.
struct Shared {
    commands: Arc<Semaphore>,
    /// A connection has ended or become idle.
    change: Notify,
}

impl Default for Shared {
    fn default() -> Self {
        Self { commands: Arc::new(Semaphore::new(MAX_COMMANDS)), change: Notify::new() }
    }
}

/// Since when a connection waits for its client; `None`: a command of it is run.
struct Activity(Mutex<Option<Instant>>);

impl Activity {
    fn idle_since(&self) -> Option<Instant> {
        *lock(&self.0)
    }
}

impl ControlConnections {
    /// Closes the connection that has been idle for longest if there are too many. Where all are busy, waits.
    async fn make_room(&mut self) {
        loop {
            self.open.retain(|(task, _)| !task.is_finished());
            if self.open.len() < MAX_CONNECTIONS {
                return;
            }
            let idle =
                self.open.iter().enumerate().filter_map(|(at, (_, activity))| Some((activity.idle_since()?, at)));
            match idle.min() {
                Some((_, at)) => self.open.swap_remove(at).0.abort(),
                None => self.shared.change.notified().await,
            }
        }
    }

    fn open(&mut self, stream: UnixStream, control: &Arc<Control>) {
        let activity = Arc::new(Activity(Mutex::new(Some(Instant::now()))));
        let (control, own, shared) = (Arc::clone(control), Arc::clone(&activity), Arc::clone(&self.shared));
        let task = tokio::spawn(async move {
            // A client that hangs up needs no answer.
            let _ = converse(stream, &control, &own, &shared).await;
            shared.change.notify_one();
        });
        self.open.push((task, activity));
    }
}

/// Answers the requests of a connection.
async fn converse(stream: UnixStream, control: &Arc<Control>, activity: &Activity, shared: &Shared) -> io::Result<()> {
    // The user of the peer, from the kernel.
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
                *lock(&activity.0) = None;
                let (control, user) = (Arc::clone(control), user.clone());
                let answer = finish(&shared.commands, async move { request.run(&control, &user).await }).await;
                *lock(&activity.0) = Some(Instant::now());
                shared.change.notify_one();
                answer
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
async fn finish(commands: &Arc<Semaphore>, command: impl Future<Output = String> + Send + 'static) -> String {
    let Ok(Ok(permit)) = timeout(COMMAND_TIMEOUT, Arc::clone(commands).acquire_owned()).await else {
        return refuse(Problem::unavailable(format!("{MAX_COMMANDS} commands are not done yet; try again")));
    };
    let command = async move {
        let answer = command.await;
        drop(permit);
        answer
    };
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

/// The socket if none is configured: in the directory that systemd made for it.
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
        let commands = Arc::new(Semaphore::new(1));
        let answer = finish(&commands, command).await;
        assert!(answer.contains("not done after 20 seconds, and goes on"), "{answer}");
        // The command keeps its permit until it ends.
        let answer = finish(&commands, async { String::new() }).await;
        assert!(answer.contains("commands are not done yet"), "{answer}");
        done.await.unwrap();
        tokio::task::yield_now().await;
        assert_eq!(finish(&commands, async { "done".to_owned() }).await, "done");
    }

    #[test]
    fn a_request_is_an_object_of_this_version_with_a_command() {
        let request = read(b"{\"v\":1,\"command\":\"show\",\"target\":\"192.0.2.1\"}\n").unwrap();
        assert!(matches!(&request, ControlRequest::Show(show) if show.target == "192.0.2.1".parse().ok()));
        let show = "\"command\":\"show\"";
        let wrong =
            ["", "[]", "{}", "{\"v\":2,\"command\":\"status\"}", "{\"v\":1}", "{\"v\":1,\"command\":1}", "\u{0}"];
        let wrong = wrong.into_iter().map(str::to_owned);
        for wrong in wrong.chain([format!("{{\"v\":1,{show},\"target\":1}}")]) {
            let problem = read(wrong.as_bytes()).unwrap_err();
            assert_eq!(problem.code, 64, "{wrong}");
        }
    }
}
