//! Commands that are run when something happens: a firewall is told of bans, somebody of an outage.
//!
//! One after the other, on a thread of its own. What a stranger causes runs them at most as often as bans
//! begin, and what waits is bounded; a command that hangs is ended.

use std::collections::{HashMap, VecDeque};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::structured::fields;

/// Runs that wait at once.
const MAX_WAITING: usize = 256;

/// How long a command may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Between two looks whether it has ended.
const PAUSE: Duration = Duration::from_millis(20);

/// What is run, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// The keywords of the lines it is run for.
    pub keywords: &'static [&'static str],
    /// For each keyword it is run at most once per this; what comes in between is counted.
    pub interval: Duration,
}

/// Keywords that a firewall has to know of.
pub const BANS: &[&str] = &["BANNED", "UNBANNED"];

/// Keywords that somebody has to know of.
pub const ALERTS: &[&str] = &["BANNED", "STORE_DOWN", "STORE_UP"];

/// All hooks, and the thread that runs them.
#[derive(Debug)]
pub struct Hooks {
    queue: Arc<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    hooks: Vec<Hook>,
    waiting: VecDeque<Run>,
    /// When each hook was run for each keyword, and how often it was not since.
    past: HashMap<(usize, &'static str), (Instant, u64)>,
    started: bool,
    closed: bool,
}

#[derive(Debug)]
struct Run {
    command: Vec<String>,
    line: String,
    suppressed: u64,
}

/// Why a command was not run, or did not do what it should.
pub type Complaint = Box<dyn Fn(&str, &str) + Send>;

impl Hooks {
    /// Hooks that are yet to be set.
    pub fn new() -> Self {
        Self { queue: Arc::default() }
    }

    /// Sets what is run from now on. The thread starts with the first hook; `complain` tells of program and problem.
    pub fn set(&self, hooks: Vec<Hook>, complain: Complaint) {
        let mut state = self.queue.lock();
        let first = !hooks.is_empty() && !state.started;
        state.hooks = hooks;
        state.started |= first;
        drop(state);
        if first {
            let queue = Arc::clone(&self.queue);
            let started = thread::Builder::new().name("hooks".to_owned()).spawn(move || run_all(&queue, &complain));
            if started.is_err() {
                self.queue.lock().hooks.clear();
            }
        }
    }

    /// Whether any hook is run for this keyword.
    pub fn wants(&self, keyword: &str) -> bool {
        self.queue.lock().hooks.iter().any(|hook| hook.keywords.contains(&keyword))
    }

    /// A line of this keyword was made.
    pub fn happened(&self, keyword: &'static str, line: &str) {
        let mut state = self.queue.lock();
        let now = Instant::now();
        for at in 0..state.hooks.len() {
            let Hook { command, keywords, interval } = state.hooks[at].clone();
            if !keywords.contains(&keyword) {
                continue;
            }
            let past = state.past.get(&(at, keyword)).copied();
            let due = past.is_none_or(|(then, _)| now.duration_since(then) >= interval);
            if !due || state.waiting.len() >= MAX_WAITING {
                state.past.entry((at, keyword)).or_insert((now, 0)).1 += 1;
                continue;
            }
            let suppressed = past.map_or(0, |(_, suppressed)| suppressed);
            state.past.insert((at, keyword), (now, 0));
            state.waiting.push_back(Run { command, line: line.to_owned(), suppressed });
        }
        drop(state);
        self.queue.changed.notify_all();
    }
}

impl Default for Hooks {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Hooks {
    fn drop(&mut self) {
        self.queue.lock().closed = true;
        self.queue.changed.notify_all();
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        // What it guards is whole after any panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> Option<Run> {
        let idle = |state: &mut State| state.waiting.is_empty() && !state.closed;
        let state = self.changed.wait_while(self.lock(), idle);
        state.unwrap_or_else(PoisonError::into_inner).waiting.pop_front()
    }
}

fn run_all(queue: &Queue, complain: &Complaint) {
    while let Some(run) = queue.next() {
        if let Err(problem) = execute(&run) {
            complain(&run.command[0], &problem);
        }
    }
}

/// Runs a command with the line's fields in its environment.
fn execute(run: &Run) -> Result<(), String> {
    let (keyword, fields) = fields(&run.line);
    let mut command = Command::new(&run.command[0]);
    command.args(&run.command[1..]).stdin(Stdio::null()).stdout(Stdio::null());
    command.env("CONNSHAPER_EVENT", keyword).env("CONNSHAPER_SUPPRESSED", run.suppressed.to_string());
    for (key, value) in fields {
        // No environment holds a NUL.
        command.env(format!("CONNSHAPER_{}", key.to_uppercase()), value.replace('\0', ""));
    }
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    let status = wait(&mut child)?;
    if status.success() { Ok(()) } else { Err(status.to_string()) }
}

fn wait(child: &mut Child) -> Result<std::process::ExitStatus, String> {
    let start = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Ok(status),
            Ok(None) if start.elapsed() < PATIENCE => thread::sleep(PAUSE),
            Ok(None) => {
                // It may have ended in this moment; either way it is gone.
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("not done within {} seconds", PATIENCE.as_secs()));
            }
            Err(error) => return Err(error.to_string()),
        }
    }
}
