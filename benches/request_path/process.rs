//! A server's process: started, measured, and ended with the benchmark.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::process::{Child, Command, Stdio, exit};
use std::sync::{Mutex, MutexGuard};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;

/// How long a process may take to end when it is asked to.
const FAREWELL: Duration = Duration::from_secs(5);

/// The processes that run, should the benchmark be ended before it ends them.
static RUNNING: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

/// Ends what runs when the benchmark is told to end. Must be called before there is another thread.
pub fn end_when_told() -> anyhow::Result<()> {
    orders().thread_block()?;
    thread::spawn(|| {
        let signal = orders().wait().expect("there are signals to wait for");
        for pid in running().iter() {
            let _ = kill(*pid, Signal::SIGTERM);
        }
        exit(128 + signal as i32);
    });
    Ok(())
}

fn orders() -> SigSet {
    SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP])
}

fn running() -> MutexGuard<'static, Vec<Pid>> {
    RUNNING.lock().expect("nobody panics with the list in hand")
}

pub struct Process {
    child: Child,
    /// The process that matters, when the one that was started has left it behind.
    daemon: Option<Pid>,
    name: String,
}

impl Process {
    /// Starts one. What it writes goes to a file, and is shown should it end too soon.
    pub fn start(command: &mut Command, log: &Path) -> anyhow::Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let log = File::create(log)?;
        // A process inherits what is blocked here, and is to obey.
        orders().thread_unblock()?;
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn();
        orders().thread_block()?;
        let process = Self { child: child.with_context(|| format!("cannot start {name}"))?, daemon: None, name };
        running().push(process.pid());
        Ok(process)
    }

    /// Follows a server that goes to the background whatever it is told, to the process in its pid file.
    pub fn follow(&mut self, pid_file: &Path) -> anyhow::Result<()> {
        let begin = Instant::now();
        loop {
            let pid = fs::read_to_string(pid_file).ok().and_then(|text| text.trim().parse().ok());
            if let (Some(pid), Some(_)) = (pid, self.child.try_wait()?) {
                let pid = Pid::from_raw(pid);
                self.daemon = Some(pid);
                running().push(pid);
                return Ok(());
            }
            ensure!(begin.elapsed() < FAREWELL, "{} writes no pid file", self.name);
            sleep(Duration::from_millis(1));
        }
    }

    /// Waits until `ready` has something to return. Looks often: start-up is measured with it.
    pub fn wait_until<T>(&mut self, log: &Path, mut ready: impl FnMut() -> Option<T>) -> anyhow::Result<T> {
        let begin = Instant::now();
        loop {
            if let Some(found) = ready() {
                return Ok(found);
            }
            if self.ended() {
                bail!("{} ended\n{}", self.name, fs::read_to_string(log).unwrap_or_default());
            }
            if begin.elapsed() > Duration::from_secs(60) {
                bail!("{} does not become ready\n{}", self.name, fs::read_to_string(log).unwrap_or_default());
            }
            sleep(Duration::from_micros(100));
        }
    }

    /// Time its threads, and those of its descendants that live, have spent on a processor.
    pub fn cpu(&self) -> anyhow::Result<Duration> {
        family(self.pid().as_raw())
            .iter()
            .map(|pid| cpu_of(&format!("/proc/{pid}/task")))
            .sum::<io::Result<Duration>>()
            .context("the kernel does not tell processor time in /proc/PID/task/TID/schedstat")
    }

    /// Memory of its own, as far as it is in use.
    pub fn rss(&self) -> anyhow::Result<u64> {
        self.figure("smaps_rollup", "Rss:").map(|kilobytes| kilobytes * 1024)
    }

    /// read(2) and its relatives so far, whatever came of them.
    pub fn reads(&self) -> anyhow::Result<u64> {
        self.figure("io", "syscr:")
    }

    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        Ok(kill(self.pid(), signal)?)
    }

    fn figure(&self, file: &str, name: &str) -> anyhow::Result<u64> {
        let path = format!("/proc/{}/{file}", self.pid());
        let text = fs::read_to_string(&path).with_context(|| path.clone())?;
        let line =
            text.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("{path}: no {name}"))?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }

    pub fn pid(&self) -> Pid {
        self.daemon.unwrap_or_else(|| Pid::from_raw(self.child.id() as i32))
    }

    fn ended(&mut self) -> bool {
        match self.daemon {
            Some(pid) => kill(pid, None).is_err(),
            None => !matches!(self.child.try_wait(), Ok(None)),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let begin = Instant::now();
        // An error says that it is gone already.
        let _ = kill(self.pid(), Signal::SIGTERM);
        while !self.ended() {
            if begin.elapsed() > FAREWELL {
                let _ = kill(self.pid(), Signal::SIGKILL);
            }
            sleep(Duration::from_millis(1));
        }
        let started = Pid::from_raw(self.child.id() as i32);
        running().retain(|pid| *pid != started && Some(*pid) != self.daemon);
    }
}

/// Time this thread has spent on a processor.
pub fn own_cpu() -> Duration {
    schedstat("/proc/thread-self/schedstat").unwrap_or_default()
}

/// A process and its descendants. Servers that fork do so at their start, so a snapshot will do.
fn family(pid: i32) -> Vec<i32> {
    let mut family = vec![pid];
    let mut next = 0;
    while let Some(pid) = family.get(next).copied() {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        for task in tasks {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            family.extend(children.split_whitespace().filter_map(|pid| pid.parse::<i32>().ok()));
        }
        next += 1;
    }
    family
}

fn cpu_of(tasks: &str) -> io::Result<Duration> {
    fs::read_dir(tasks)?.map(|task| schedstat(&task?.path().join("schedstat").to_string_lossy())).sum()
}

/// The first figure is nanoseconds on a processor, exact while the thread sleeps.
fn schedstat(path: &str) -> io::Result<Duration> {
    let text = fs::read_to_string(path)?;
    let first = text.split(' ').next().and_then(|first| first.parse().ok());
    first.map(Duration::from_nanos).ok_or_else(|| io::Error::other("no figures"))
}
