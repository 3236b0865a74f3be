//! The program's end of the control socket.

use std::io::{self, BufRead, BufReader, ErrorKind, IsTerminal, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Problem, VERSION};
use crate::observe::terminal::Paint;
use crate::sysexits;

/// Where the socket is when neither the command line nor the configuration says: as the systemd unit has it.
pub const USUAL: &str = "/run/connshaper/control";

/// Longer than the daemon ever takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// The longest answer, of which a list of a thousand clients is a hundredth.
const MAX_ANSWER: u64 = 16 << 20;

/// A connection to a daemon.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
    path: PathBuf,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    ///
    /// When nobody listens there, or not to us; says what to do.
    pub fn connect(path: &Path) -> Result<Self, Problem> {
        let failed = |error: io::Error| {
            let place = path.display();
            let remedy = match error.kind() {
                ErrorKind::NotFound => "; is the daemon running, and is control_socket set?",
                ErrorKind::ConnectionRefused => "; the daemon is not running",
                ErrorKind::PermissionDenied => "; ask as root, or as one of control_group",
                _ => "",
            };
            Problem::unavailable(format!("{place}: {error}{remedy}"))
        };
        let stream = UnixStream::connect(path).map_err(failed)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
        stream.set_write_timeout(Some(PATIENCE)).map_err(failed)?;
        Ok(Self { stream: BufReader::new(stream), path: path.to_owned() })
    }

    /// Has a command done.
    ///
    /// # Errors
    ///
    /// When the daemon says that it was not, or says nothing.
    pub fn ask(&mut self, command: &str, arguments: &Value) -> Result<Value, Problem> {
        let mut request = arguments.clone();
        request["v"] = VERSION.into();
        request["command"] = command.into();
        let answer = self
            .exchange(&request.to_string())
            .map_err(|error| Problem::unavailable(format!("{}: {error}", self.path.display())))?;
        if answer["ok"] == true {
            return Ok(answer);
        }
        let error = answer["error"].as_str().unwrap_or("an answer without a reason").to_owned();
        let code = answer["code"].as_u64().and_then(|code| u8::try_from(code).ok());
        Err(Problem { error, code: code.unwrap_or(sysexits::UNAVAILABLE) })
    }

    fn exchange(&mut self, request: &str) -> io::Result<Value> {
        self.stream.get_mut().write_all(format!("{request}\n").as_bytes())?;
        let mut line = Vec::new();
        (&mut self.stream).take(MAX_ANSWER).read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Err(io::Error::other("it closed the connection without an answer; see its log"));
        }
        serde_json::from_slice(&line).map_err(io::Error::other)
    }
}

/// Has a command done and prints what came of it: as JSON, or as `shown` to people. The exit code is that of
/// `code` for the answer.
pub fn run(
    path: &Path,
    json: bool,
    (command, arguments): (&str, Value),
    shown: impl Fn(&Value, Paint) -> String,
    code: impl Fn(&Value) -> u8,
) -> ExitCode {
    let result = Client::connect(path).and_then(|mut client| client.ask(command, &arguments));
    // Nobody is left to tell when standard output is closed.
    match result {
        Ok(answer) => {
            let paint = Paint::of(&io::stdout());
            let text = if json { format!("{answer:#}\n") } else { shown(&answer, paint) };
            let _ = io::stdout().write_all(text.as_bytes());
            ExitCode::from(code(&answer))
        }
        Err(problem) => {
            if json {
                let _ = writeln!(io::stdout(), "{:#}", json!({ "ok": false, "error": problem.error }));
            }
            if !json || io::stderr().is_terminal() {
                eprintln!("connshaper: {}", problem.error);
            }
            ExitCode::from(problem.code)
        }
    }
}

/// What a change did, in one sentence.
pub fn done(answer: &Value, _: Paint) -> String {
    let mut text = format!("{}\n", answer["done"].as_str().unwrap_or("done"));
    for note in answer["notes"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        text += &format!("note: {note}\n");
    }
    text
}
