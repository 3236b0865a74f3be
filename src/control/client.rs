//! The client of the control socket, for the commands of the program.

use std::io::{self, BufRead, BufReader, ErrorKind, IsTerminal, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Problem;
use super::commands::{ControlCommand, ControlRequest, ControlResponse, RequestLine, VERSION};
use super::on_file;
use crate::config::{Config, ConfigError};
use crate::observe::terminal::{self, Paint, escape, json, print};
use crate::sysexits;

/// The socket of the systemd unit: the default if neither the command line nor the configuration names one.
pub const DEFAULT_SOCKET: &str = "/run/connshaper/control";

/// Longer than the daemon ever takes.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// The longest answer; a list of a thousand clients takes a hundredth of it.
const MAX_ANSWER: u64 = 16 << 20;

/// The option that names a configuration file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub struct ConfigArgs {
    /// The configuration file, which must exist; without this option
    /// /etc/connshaper/connshaper.toml, which need not
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// How to reach the daemon, and how to print its answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub struct DaemonArgs {
    /// The configuration file, which tells where the control socket is.
    #[command(flatten)]
    pub file: ConfigArgs,
    /// The daemon's control socket, instead of the one the configuration names
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

impl DaemonArgs {
    /// The path of the control socket.
    ///
    /// # Errors
    ///
    /// When the configuration is needed for that and is wrong.
    pub fn path(&self) -> Result<PathBuf, ConfigError> {
        self.place().map(|(path, _)| path)
    }

    /// The same, with the configuration where that was needed.
    fn place(&self) -> Result<(PathBuf, Option<Config>), ConfigError> {
        if let Some(path) = &self.socket {
            return Ok((path.clone(), None));
        }
        let config = Config::load(self.file.config.as_deref())?;
        let path = config.control.as_ref().map_or(Path::new(DEFAULT_SOCKET), |control| &control.path).to_owned();
        Ok((path, Some(config)))
    }
}

// A command to the daemon on the command line. Its help text is that of the command, which a doc comment would replace.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct ClientCommand<C: Args> {
    #[command(flatten)]
    pub daemon: DaemonArgs,
    #[command(flatten)]
    pub command: C,
}

impl<C: ControlCommand + Into<ControlRequest>> ClientCommand<C> {
    /// Has the daemon do the command, and prints the answer.
    pub fn run(self) -> ExitCode {
        let client = match self.daemon.place() {
            Ok((path, config)) => ControlClient::reach::<C>(&path, config),
            Err(error) => return terminal::fail(sysexits::CONFIG, &error),
        };
        if self.daemon.json {
            return report_json::<C>(client.and_then(|mut client| client.ask_exactly(self.command)));
        }
        match client.and_then(|mut client| client.ask(self.command.clone())) {
            Ok(answer) => print(&self.command.show(&answer, Paint::of(&io::stdout())), C::exit_code(&answer)),
            Err(problem) => fail(&problem),
        }
    }
}

/// Prints an answer, or why there is none, as one object.
pub fn report_json<C: ControlCommand>(result: Result<C::Answer, Problem>) -> ExitCode {
    let code = match &result {
        Ok(answer) => C::exit_code(answer),
        Err(problem) if io::stderr().is_terminal() => {
            fail(problem);
            problem.code
        }
        Err(problem) => problem.code,
    };
    print(&json(&ControlResponse::from(result)), code)
}

/// Prints why a command was not done.
pub fn fail(problem: &Problem) -> ExitCode {
    terminal::fail(problem.code, &problem.error)
}

/// A connection that executes commands: to the daemon, or on the file of counts.
#[derive(Debug)]
pub struct ControlClient {
    answerer: Answerer,
    /// The socket, or the file.
    path: PathBuf,
}

#[derive(Debug)]
enum Answerer {
    Daemon(BufReader<UnixStream>),
    /// This process, on the file of counts.
    Here(Box<Config>),
}

impl ControlClient {
    /// Connects.
    ///
    /// # Errors
    ///
    /// When no daemon listens there or the socket is closed to this user; the error says what to do.
    pub fn connect(path: &Path) -> Result<Self, Problem> {
        Self::connect_to(path).map_err(|error| unreachable(path, &error))
    }

    /// Connects; where no daemon runs and the counts are in a file, commands but those about the daemon are done on
    /// that.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect).
    fn reach<C: ControlCommand>(path: &Path, config: Option<Config>) -> Result<Self, Problem> {
        let is_absent = |error: &io::Error| matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused);
        let error = match Self::connect_to(path) {
            Err(error) if is_absent(&error) => error,
            other => return other.map_err(|error| unreachable(path, &error)),
        };
        if let Some(config) = config.filter(|_| !C::needs_daemon())
            && let Some(file) = config.store.shared.as_ref().and_then(|store| store.file()).map(Path::to_owned)
        {
            return Ok(Self { answerer: Answerer::Here(Box::new(config)), path: file });
        }
        Err(unreachable(path, &error))
    }

    fn connect_to(path: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
        Ok(Self { answerer: Answerer::Daemon(BufReader::new(stream)), path: path.to_owned() })
    }

    /// Has a command done, and returns the answer for people: every string in it is escaped, whatever its origin,
    /// so that a terminal shows it and does not obey it.
    ///
    /// # Errors
    ///
    /// When the daemon did not do it, or does not answer.
    pub fn ask<C>(&mut self, command: C) -> Result<C::Answer, Problem>
    where
        C: ControlCommand + Into<ControlRequest>,
    {
        let answer = self.exchange(command.into()).and_then(|mut answer| {
            escape_strings(&mut answer);
            read(answer)
        });
        self.result(answer)
    }

    /// The same with every string as the daemon sent it, for programs.
    ///
    /// # Errors
    ///
    /// As [`ask`](Self::ask).
    pub fn ask_exactly<C>(&mut self, command: C) -> Result<C::Answer, Problem>
    where
        C: ControlCommand + Into<ControlRequest>,
    {
        let answer = self.exchange(command.into()).and_then(read);
        self.result(answer)
    }

    fn exchange(&mut self, request: ControlRequest) -> io::Result<Value> {
        let stream = match &mut self.answerer {
            Answerer::Daemon(stream) => stream,
            Answerer::Here(config) => return Ok(serde_json::from_str(&on_file::run(config, &request)?)?),
        };
        let mut line = serde_json::to_vec(&RequestLine { v: VERSION, request })?;
        line.push(b'\n');
        stream.get_mut().write_all(&line)?;
        line.clear();
        stream.take(MAX_ANSWER).read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Err(io::Error::other("it closed the connection without an answer; see its log"));
        }
        Ok(serde_json::from_slice(&line)?)
    }

    fn result<T>(&self, answer: io::Result<Result<T, Problem>>) -> Result<T, Problem> {
        answer.unwrap_or_else(|error| Err(Problem::unavailable(format!("{}: {error}", self.path.display()))))
    }
}

/// Why there is no connection to the daemon, and what to do.
fn unreachable(path: &Path, error: &io::Error) -> Problem {
    let remedy = match error.kind() {
        ErrorKind::NotFound => "; is the daemon running, and is control_socket set?",
        ErrorKind::ConnectionRefused => "; the daemon is not running",
        ErrorKind::PermissionDenied => "; run this as root, or as a member of control_group",
        _ => "",
    };
    Problem::unavailable(format!("{}: {error}{remedy}", path.display()))
}

/// The answer of a line, or why there is none.
fn read<T: DeserializeOwned>(line: Value) -> io::Result<Result<T, Problem>> {
    #[derive(Deserialize)]
    struct AnswerHead {
        ok: bool,
    }
    let answer = match AnswerHead::deserialize(&line)?.ok {
        true => serde_json::from_value(line).map(Ok),
        false => serde_json::from_value(line).map(Err),
    };
    answer.map_err(|error| io::Error::other(format!("{error}: is the daemon of another version than this program?")))
}

fn escape_strings(value: &mut Value) {
    match value {
        Value::String(text) => *text = escape(text),
        Value::Array(values) => values.iter_mut().for_each(escape_strings),
        Value::Object(fields) => fields.values_mut().for_each(escape_strings),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
