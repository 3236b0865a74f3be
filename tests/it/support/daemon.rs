//! The daemon under test, as a process.

use std::ffi::OsStr;
use std::fmt::Display;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

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
    site: Site,
    _port: Option<Port>,
}

impl Daemon {
    /// Starts one on a free port and waits until it is ready.
    pub fn start(config: &str) -> Self {
        Self::start_after(":", config)
    }

    /// The same, started by a shell after this command, which may set limits and variables.
    pub fn start_after(preparation: &str, config: &str) -> Self {
        let port = Port::new();
        let endpoint = port.endpoint();
        let site = Site { preparation: preparation.to_owned(), ..Site::new(config, Some(&endpoint)) };
        Self::launch(site, endpoint, Some(port))
    }

    /// Starts one that listens where `endpoint` says: `inet:HOST:PORT` or `unix:/PATH`.
    pub fn start_at(endpoint: impl Display, config: &str) -> Self {
        let endpoint = endpoint.to_string();
        Self::launch(Site::new(config, Some(&endpoint)), endpoint, None)
    }

    /// The same, started by a shell after this command.
    pub fn start_at_after(endpoint: impl Display, preparation: &str, config: &str) -> Self {
        let endpoint = endpoint.to_string();
        let site = Site { preparation: preparation.to_owned(), ..Site::new(config, Some(&endpoint)) };
        Self::launch(site, endpoint, None)
    }

    /// Starts one without `--listen`: its configuration must contain `endpoint`.
    pub fn start_unled(endpoint: impl Display, config: &str) -> Self {
        Self::launch(Site::new(config, None), endpoint.to_string(), None)
    }

    /// Starts one that inherits a listening socket, bound to `endpoint`, as from systemd; also when it is restarted.
    pub fn start_at_socket(socket: impl Into<OwnedFd>, endpoint: impl Display, config: &str) -> Self {
        // The daemon will have the process id of the shell.
        let preparation = "exec 3<&0 </dev/null && export LISTEN_PID=$$ LISTEN_FDS=1".to_owned();
        let site = Site { preparation, socket: Some(socket.into()), ..Site::new(config, None) };
        Self::launch(site, endpoint.to_string(), None)
    }

    fn launch(site: Site, endpoint: String, port: Option<Port>) -> Self {
        let lines = Lines::default();
        let (process, reader) = site.run(&lines);
        Self { process, reader: Some(reader), lines, endpoint, site, _port: port }
    }

    /// Its address, as written in main.cf.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Its log lines, of all its starts.
    pub fn lines(&self) -> &Lines {
        &self.lines
    }

    /// Its notifications to systemd, of all its starts: a message is a line.
    pub fn told(&self) -> &Lines {
        &self.site.told
    }

    /// The file it is configured by.
    pub fn config(&self) -> PathBuf {
        self.site.dir.join(CONFIG)
    }

    /// Replaces its configuration, reloads it, and returns the log line with the result.
    pub fn reload(&self, config: &str) -> String {
        let seen = self.lines.with("RELOAD").len();
        self.site.dir.write(CONFIG, config);
        self.signal(Signal::SIGHUP);
        self.lines.wait_for_more("RELOAD", seen)
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Upgrades it to the present program file, and returns the log line with the result.
    pub fn upgrade(&self) -> String {
        let seen = self.lines.with("UPGRADE").len();
        self.signal(Signal::SIGUSR2);
        self.lines.wait_for_more("UPGRADE", seen)
    }

    /// The path of its program file, a link to the program under test.
    pub fn program(&self) -> PathBuf {
        self.site.dir.join(LINK)
    }

    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Stops it with SIGTERM; afterwards `lines` is complete.
    pub fn stop(&mut self) -> ExitStatus {
        self.stop_by(Signal::SIGTERM)
    }

    /// The same with another signal.
    pub fn stop_by(&mut self, signal: Signal) -> ExitStatus {
        self.signal(signal);
        let status = self.process.wait();
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        status
    }

    /// Starts it again after `stop`, at the same address.
    pub fn start_again(&mut self) {
        let (process, reader) = self.site.run(&self.lines);
        (self.process, self.reader) = (process, Some(reader));
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        show_if_panicking("connshaper", &self.lines);
    }
}

const CONFIG: &str = "connshaper.toml";

/// The link by which a daemon is started, so that a test can replace the program.
const LINK: &str = "connshaper";

/// A command that runs the program without the variables of systemd that the test itself may have.
pub fn command() -> Command {
    sheltered(Command::new(PROGRAM))
}

/// Has a daemon do a command by its control socket; returns what the program says, and its exit code.
pub fn say(socket: &Path, words: impl IntoIterator<Item = impl AsRef<OsStr>>) -> (String, i32) {
    let output = command().args(words).arg("--socket").arg(socket).output().unwrap();
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
    (text, output.status.code().unwrap())
}

/// The same with `--json`, which must succeed: the answer.
#[track_caller]
pub fn ask(socket: &Path, words: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Value {
    let words: Vec<_> = words.into_iter().map(|word| word.as_ref().to_owned()).chain(["--json".into()]).collect();
    let (text, _) = say(socket, &words);
    let answer: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{words:?}: {error}: {text}"));
    assert_eq!((&answer["ok"], &answer["v"]), (&json!(true), &json!(1)), "{words:?}: {answer:#}");
    answer
}

fn sheltered(mut command: Command) -> Command {
    for name in ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_USEC", "WATCHDOG_PID", "JOURNAL_STREAM"] {
        command.env_remove(name);
    }
    command
}

/// Copies the program to where any user can run it; the build directory may be closed.
pub fn install(dir: &Dir) -> PathBuf {
    let path = dir.join("connshaper");
    fs::copy(PROGRAM, &path).unwrap();
    path
}

/// The environment of a daemon.
struct Site {
    dir: Dir,
    preparation: String,
    arguments: Vec<String>,
    /// The socket that it inherits.
    socket: Option<OwnedFd>,
    told: Lines,
}

impl Site {
    fn new(config: &str, listen: Option<&str>) -> Self {
        let dir = Dir::new();
        dir.write(CONFIG, config);
        symlink(PROGRAM, dir.join(LINK)).unwrap();
        let told = Lines::of_log_socket(&dir.join(NOTIFY));
        let arguments = listen.into_iter().flat_map(|endpoint| ["--listen".to_owned(), endpoint.to_owned()]).collect();
        Self { dir, preparation: ":".to_owned(), arguments, socket: None, told }
    }

    /// Starts the program and waits until it says that it is ready.
    fn run(&self, lines: &Lines) -> (Process, JoinHandle<()>) {
        let readied = self.told.with(READY).len();
        let mut command = sheltered(Command::new("sh"));
        command.args(["-c", &format!("{} && exec \"$0\" \"$@\"", self.preparation)]);
        command.arg(self.dir.join(LINK)).arg("serve");
        command.args(&self.arguments).arg("-c").arg(self.dir.join(CONFIG)).env("NOTIFY_SOCKET", self.dir.join(NOTIFY));
        let socket = self.socket.as_ref().map(|socket| socket.try_clone().unwrap());
        command.stdin(socket.map_or_else(Stdio::null, Stdio::from)).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = Process::start(&mut command, Signal::SIGKILL);
        let reader = lines.add_all(process.pipes().stderr.take().unwrap());
        until(format_args!("{READY} from connshaper, which said:\n{lines}"), || {
            if let Some(status) = process.ended() {
                panic!("connshaper ended with {status} instead of serving:\n{lines}");
            }
            // A short wait, so that the end of the process is noticed.
            self.told.wait_within(Duration::from_millis(100), READY, readied)
        });
        (process, reader)
    }
}

const NOTIFY: &str = "notify";

const READY: &str = "READY=1";
