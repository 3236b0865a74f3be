//! A private Postfix with its own configuration, queue, log and port.
//!
//! master(8) is started directly, not by `postfix start`, whose checks take
//! seconds and concern the instance of the system. Works with Postfix 3.7 and newer.

use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::{geteuid, mkfifo};

use super::lines::show_if_panicking;
use super::smtp::source;
use super::spool::{Spool, built_in};
use super::{Dir, Lines, Port, Process, Smtp, until};

/// A running Postfix that accepts mail for example.org and discards it.
pub struct Postfix {
    // Ended first when this is dropped, and only then are its directories removed.
    _process: Process,
    lines: Lines,
    smtpd: Port,
    _dir: Dir,
    // Keeps the log open until the reader has seen its last line.
    _log: File,
}

/// A Postfix about to start.
pub struct Setup {
    main_cf: String,
    master_cf: String,
    smtpd: Port,
    processes: &'static str,
    chroot: &'static str,
    spool: Spool,
    dir: Dir,
}

impl Postfix {
    /// Starts one with these lines added to main.cf.
    pub fn start(main_cf: &str) -> Self {
        Self::setup().main_cf(main_cf).start()
    }

    /// Prepares one with the default configuration. Its queue directory exists already.
    pub fn setup() -> Setup {
        assert!(geteuid().is_root(), "tests with a real Postfix must be run as root: its master(8) needs that");
        let dir = Dir::new();
        Setup {
            main_cf: String::new(),
            master_cf: String::new(),
            smtpd: Port::new(),
            processes: "-",
            chroot: "n",
            spool: Spool::new(dir.path().to_owned()).unwrap(),
            dir,
        }
    }

    /// Where its smtpd listens.
    pub fn address(&self) -> SocketAddr {
        self.smtpd.address()
    }

    /// Begins an SMTP session from `127.0.0.2`, or from `127.0.0.2:4025` for a certain source port.
    pub fn client(&self, from: &str) -> Smtp {
        Smtp::connect(self.address(), source(from))
    }

    /// Its mail log.
    pub fn lines(&self) -> &Lines {
        &self.lines
    }
}

impl Drop for Postfix {
    fn drop(&mut self) {
        show_if_panicking("Postfix", &self.lines);
    }
}

impl Setup {
    /// Adds lines to main.cf, indented as the first of them; a parameter given twice has its last value.
    pub fn main_cf(mut self, lines: &str) -> Self {
        self.main_cf += &unindented(lines);
        self
    }

    /// Adds services to master.cf.
    pub fn master_cf(mut self, lines: &str) -> Self {
        self.master_cf += &unindented(lines);
        self
    }

    /// Has one smtpd process serve all sessions, one after the other.
    pub fn one_smtpd(mut self) -> Self {
        self.processes = "1";
        self
    }

    /// Locks smtpd into the queue directory.
    pub fn chroot(mut self) -> Self {
        self.chroot = "y";
        self
    }

    /// Listens on another loopback address than 127.0.0.1.
    pub fn on(mut self, host: impl Into<IpAddr>) -> Self {
        self.smtpd = Port::of(host);
        self
    }

    /// A path in the queue directory.
    pub fn in_queue_directory(&self, name: &str) -> PathBuf {
        self.spool.path("queue").join(name)
    }

    /// Starts it and waits until it listens.
    pub fn start(self) -> Postfix {
        let Self { main_cf, master_cf, smtpd, processes, chroot, spool, dir } = self;
        let at = smtpd.address();
        let service = format!("{at} inet n - {chroot} - {processes} smtpd");
        let (lines, log) = read_log(&spool);
        spool.configure(&main_cf, &format!("{service}\n{master_cf}")).unwrap();

        let mut command = Command::new(built_in("daemon_directory").unwrap() + "/master");
        // master(8) leaves the process group, so ^C does not reach it: it exits by itself after half an hour.
        command.arg("-c").arg(spool.path("etc")).args(["-e", "1800"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut process = Process::start(&mut command, Signal::SIGTERM);
        // Its sockets listen when this is logged. A connection to try them would be a further SMTP session.
        wait_for_start(&lines, &mut process);
        Postfix { _process: process, lines, smtpd, _dir: dir, _log: log }
    }
}

/// Postfix reads a line that begins with a blank as part of the one before.
fn unindented(lines: &str) -> String {
    let first = lines.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    let indentation = &first[..first.len() - first.trim_start().len()];
    lines.lines().map(|line| format!("{}\n", line.strip_prefix(indentation).unwrap_or(line))).collect()
}

fn wait_for_start(lines: &Lines, process: &mut Process) {
    until(format_args!("a Postfix that listens; its log:\n{lines}"), || {
        if let Some(status) = process.ended() {
            panic!("Postfix ended with {status} instead of starting:\n{lines}");
        }
        lines.wait_within(Duration::from_millis(100), "daemon started", 0)
    });
}

/// Postfix' log is a named pipe, so that its lines are events. The file returned keeps it open.
fn read_log(spool: &Spool) -> (Lines, File) {
    let path = spool.path("log");
    mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    let both_ends = File::options().read(true).write(true).open(&path).unwrap();
    let lines = Lines::of(File::open(&path).unwrap());
    (lines, both_ends)
}
