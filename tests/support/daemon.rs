//! connshaper itself, as a process.

use std::fmt::Display;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::lines::show_if_panicking;
use super::{Dir, Lines, Port, Process, until};

/// The program under test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_connshaper");

/// A running daemon. It can be stopped and started again at the same address.
pub struct Daemon {
    process: Process,
    reader: Option<JoinHandle<()>>,
    lines: Lines,
    endpoint: String,
    dir: Dir,
    _port: Option<Port>,
}

impl Daemon {
    /// Starts one on a free port and waits until it is ready.
    pub fn start(config: &str) -> Self {
        let port = Port::new();
        Self::launch(port.endpoint(), Some(port), config)
    }

    /// Starts one that listens where `endpoint` says: `inet:HOST:PORT` or `unix:/PATH`.
    pub fn start_at(endpoint: impl Display, config: &str) -> Self {
        Self::launch(endpoint.to_string(), None, config)
    }

    fn launch(endpoint: String, port: Option<Port>, config: &str) -> Self {
        let (dir, lines) = (Dir::new(), Lines::default());
        dir.write(CONFIG, config);
        let (process, reader) = run(&dir, &endpoint, &lines);
        Self { process, reader: Some(reader), lines, endpoint, dir, _port: port }
    }

    /// Where it answers, as main.cf writes it.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// What it logs, over all its starts.
    pub fn lines(&self) -> &Lines {
        &self.lines
    }

    /// Replaces its configuration, has it reload, and returns the line that tells how that went.
    pub fn reload(&self, config: &str) -> String {
        let seen = self.lines.with("RELOAD").len();
        self.dir.write(CONFIG, config);
        self.signal(Signal::SIGHUP);
        self.lines.wait_for_more("RELOAD", seen)
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Ends it in order; `lines` has then all it ever said.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        let status = self.process.wait();
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        status
    }

    /// Starts it anew after `stop`, at the same address.
    pub fn start_again(&mut self) {
        let (process, reader) = run(&self.dir, &self.endpoint, &self.lines);
        (self.process, self.reader) = (process, Some(reader));
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        show_if_panicking("connshaper", &self.lines);
    }
}

const CONFIG: &str = "connshaper.toml";

/// A command that runs the program as a service manager would, without what the test inherited from its own.
pub fn command() -> Command {
    let mut command = Command::new(PROGRAM);
    for name in ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_USEC", "WATCHDOG_PID", "JOURNAL_STREAM"] {
        command.env_remove(name);
    }
    command
}

/// Puts a copy of the program where any user can run it; where it was built may be closed to them.
pub fn install(dir: &Dir) -> PathBuf {
    let path = dir.join("connshaper");
    fs::copy(PROGRAM, &path).unwrap();
    path
}

fn run(dir: &Dir, endpoint: &str, lines: &Lines) -> (Process, JoinHandle<()>) {
    let (notifications, path) = notify_socket(dir);
    let mut command = command();
    command.args(["serve", "--listen", endpoint, "-c"]).arg(dir.join(CONFIG));
    command.env("NOTIFY_SOCKET", path).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut process = Process::start(&mut command, Signal::SIGKILL);
    let reader = lines.add_all(process.pipes().stderr.take().unwrap());
    wait_until_ready(&notifications, &mut process, lines);
    (process, reader)
}

fn notify_socket(dir: &Dir) -> (UnixDatagram, PathBuf) {
    let path = dir.join("notify");
    remove_if_there(&path);
    (UnixDatagram::bind(&path).unwrap(), path)
}

fn remove_if_there(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            panic!("cannot remove {}: {error}", path.display())
        }
        _ => {}
    }
}

fn wait_until_ready(notifications: &UnixDatagram, process: &mut Process, lines: &Lines) {
    // The read gives up now and then, for a look whether there is still someone to wait for.
    notifications.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let mut buffer = [0; 1024];
    until(format_args!("READY=1 from connshaper, which said:\n{lines}"), || {
        if let Some(status) = process.ended() {
            panic!("connshaper ended with {status} instead of serving:\n{lines}");
        }
        let length = notifications.recv(&mut buffer).ok()?;
        buffer[..length].split(|&byte| byte == b'\n').any(|line| line == b"READY=1").then_some(())
    });
}
