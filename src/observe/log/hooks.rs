//! Commands that are run on events: `ban_command` for a firewall, `alert_command` for an administrator.
//!
//! They run one after the other, and no request waits for them. Strangers can cause a run at most as often as bans
//! begin, and the queue is bounded. Each run has a process group of its own, which is ended with it: nothing that a
//! command starts stays behind. An event without a run is logged.

use std::collections::{HashMap, VecDeque};
use std::process::Stdio;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use tokio::process::Command;
use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::record::LogRecord;
use crate::net::{lock, percent};

/// Runs that wait at once. Only runs for UNBANNED may exceed it: a ban that stays in a firewall after its end is worse
/// than one that never came there, and only administrators end bans early.
pub const MAX_WAITING: usize = 256;

/// How long a command may take.
pub const RUN_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the kernel may take to end a process group.
const KILL_TIMEOUT: Duration = Duration::from_secs(1);

/// What is run, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// The keywords of the records it is run for.
    pub keywords: &'static [&'static str],
    /// For each keyword and subject it is run at most once in this time; events in between are counted. For subjects
    /// beyond [`MAX_AT_ONCE`] in that time it is run later, once for all of them.
    pub interval: Duration,
}

/// The event that is never left out.
const UNBANNED: &str = "UNBANNED";

/// Keywords that matter to a firewall.
pub const BANS: &[&str] = &["BANNED", UNBANNED];

/// Keywords that matter to an administrator.
pub const ALERTS: &[&str] = &["BANNED", "OVER_LIMIT", "NEAR_LIMIT", "STORE_DOWN", "STORE_UP"];

/// Subjects that a hook with an interval is run for one by one within it, for each keyword.
pub const MAX_AT_ONCE: usize = 10;

/// Subjects that wait to be told together, by name; of more there is the number.
pub const MAX_HELD: usize = 100;

/// Between the names of those that are told together.
const SEPARATOR: &str = "\n";

/// The commands of a configuration, and the runs that wait.
#[derive(Debug, Default)]
pub struct Hooks {
    state: Mutex<HooksState>,
    /// There may be something to run.
    work: Notify,
    /// A run has ended.
    ended: Notify,
}

#[derive(Debug, Default)]
struct HooksState {
    hooks: Vec<Hook>,
    waiting: VecDeque<Run>,
    running: Option<Run>,
    /// What each hook was run for lately, for each keyword.
    past: HashMap<(usize, &'static str), Past>,
    /// Whether a task runs them.
    started: bool,
    /// No further run is started.
    paused: bool,
    closed: bool,
}

/// What a hook was run for of one keyword.
#[derive(Debug, Default)]
struct Past {
    /// The subjects it was run for within the interval.
    told: HashMap<String, Instant>,
    /// Those that wait, since the first of them came.
    held: Vec<String>,
    held_since: Option<Instant>,
    /// Those that are too many to wait by name.
    more: u64,
    /// How often it was not run.
    suppressed: u64,
}

impl Past {
    /// Whether the hook is run for a subject now. If not, it is counted or waits.
    fn admits(&mut self, subject: &str, interval: Duration, now: Instant) -> bool {
        if interval.is_zero() {
            return true;
        }
        self.told.retain(|_, then| now.duration_since(*then) < interval);
        if self.told.contains_key(subject) {
            self.suppressed += 1;
            return false;
        }
        if self.told.len() < MAX_AT_ONCE && self.held.is_empty() {
            self.told.insert(subject.to_owned(), now);
            return true;
        }
        self.held_since.get_or_insert(now);
        if self.held.iter().any(|held| held == subject) {
            self.suppressed += 1;
        } else if self.held.len() < MAX_HELD {
            self.held.push(subject.to_owned());
        } else {
            self.more += 1;
        }
        false
    }
}

/// A command, and what it is run for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    command: Vec<String>,
    event: String,
    fields: Vec<(String, String)>,
    suppressed: u64,
}

impl Run {
    /// The program.
    pub fn program(&self) -> &str {
        &self.command[0]
    }

    /// The keyword of the record it is run for.
    pub fn event(&self) -> &str {
        &self.event
    }

    /// What the record is about: the key of a ban, or a server.
    pub fn subject(&self) -> &str {
        let field = self.fields.iter().find(|(name, _)| name == "key" || name == "server");
        field.map_or("", |(_, value)| value)
    }
}

impl Hooks {
    /// Sets what is run from now on.
    pub fn set(&self, hooks: Vec<Hook>) {
        self.lock().hooks = hooks;
    }

    /// Whether there is anything to run commands for, and no task yet that does it. Then the caller starts one.
    pub fn needs_start(&self) -> bool {
        let mut state = self.lock();
        let is_idle = state.hooks.is_empty() && state.waiting.is_empty();
        let needed = !(state.started || is_idle);
        state.started |= needed;
        needed
    }

    /// Whether any hook is run for this keyword.
    pub fn wants(&self, keyword: &str) -> bool {
        self.lock().hooks.iter().any(|hook| hook.keywords.contains(&keyword))
    }

    /// An event, whether or not it is logged. Returns the runs that there was no room for.
    #[must_use]
    pub fn happened(&self, record: &LogRecord) -> Vec<Run> {
        let keyword = record.keyword();
        let mut left_out = Vec::new();
        let mut state = self.lock();
        let now = Instant::now();
        for at in 0..state.hooks.len() {
            let Hook { command, keywords, interval } = state.hooks[at].clone();
            if !keywords.contains(&keyword) {
                continue;
            }
            let value = |value| String::from_utf8_lossy(value).into_owned();
            let past = state.past.entry((at, keyword)).or_default();
            if !past.admits(&subject(record), interval, now) {
                continue;
            }
            let suppressed = std::mem::take(&mut past.suppressed);
            let fields = record.fields().map(|field| (field.name.to_owned(), value(field.value))).collect();
            let run = Run { command, event: keyword.to_owned(), fields, suppressed };
            let no_room = state.enqueue(run);
            if no_room.is_some()
                && let Some(past) = state.past.get_mut(&(at, keyword))
            {
                past.suppressed = suppressed + 1;
            }
            left_out.extend(no_room);
        }
        drop(state);
        self.work.notify_one();
        left_out
    }

    /// Has hooks run for what has waited for their interval. Returns the runs that there was no room for.
    #[must_use]
    pub fn tell_held(&self) -> Vec<Run> {
        let left_out = self.lock().tell_held(|interval, since| since.elapsed() >= interval);
        self.work.notify_one();
        left_out
    }

    /// Runs what comes, for ever; `failed` is told of runs that did not do what they should.
    pub async fn run_all(&self, failed: impl Fn(&Run, &str)) {
        while let Some(run) = self.next().await {
            if let Err(problem) = execute(&run).await {
                failed(&run, &problem);
            }
        }
    }

    /// The next run; `None`: there will be none.
    async fn next(&self) -> Option<Run> {
        self.lock().running = None;
        self.ended.notify_waiters();
        loop {
            {
                let mut state = self.lock();
                if state.closed {
                    return None;
                }
                if !state.paused
                    && let Some(run) = state.waiting.pop_front()
                {
                    state.running = Some(run.clone());
                    return Some(run);
                }
            }
            self.work.notified().await;
        }
    }

    /// Starts no further run, and waits for the one that is under way. Returns whether it has ended.
    pub async fn pause(&self) -> bool {
        self.lock().paused = true;
        timeout(RUN_TIMEOUT + KILL_TIMEOUT, self.wait_until(|state| state.running.is_none())).await.is_ok()
    }

    /// Goes on after a pause.
    pub fn resume(&self) {
        self.lock().paused = false;
        self.work.notify_one();
    }

    /// Waits for all runs, at most for `patience`, and ends: returns those that were not done.
    pub async fn finish(&self, patience: Duration) -> Vec<Run> {
        // The stop may have interrupted an upgrade, which had paused the runs.
        self.resume();
        let no_room = self.lock().tell_held(|_, _| true);
        let done = |state: &HooksState| !state.started || state.waiting.is_empty() && state.running.is_none();
        // Those that are not done by then are returned.
        let _ = timeout(patience, self.wait_until(done)).await;
        let mut state = self.lock();
        state.closed = true;
        let running = state.running.take();
        let left_out = running.into_iter().chain(state.waiting.drain(..)).chain(no_room).collect();
        drop(state);
        self.work.notify_one();
        left_out
    }

    async fn wait_until(&self, done: impl Fn(&HooksState) -> bool) {
        loop {
            let ended = self.ended.notified();
            if done(&self.lock()) {
                return;
            }
            ended.await;
        }
    }

    /// The runs that wait, for the new program of an upgrade.
    pub fn save(&self) -> Vec<Run> {
        let mut state = self.lock();
        let no_room = state.tell_held(|_, _| true);
        state.waiting.iter().cloned().chain(no_room).collect()
    }

    /// Takes them over.
    pub fn restore(&self, saved: Vec<Run>) {
        let runs = saved.into_iter().filter(|run| !run.command.is_empty());
        self.lock().waiting.extend(runs);
        self.work.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, HooksState> {
        lock(&self.state)
    }
}

/// What a record is about, for the interval between two runs: a key of a limit, or a kind of event.
fn subject(record: &LogRecord) -> String {
    let field = |name| record.fields().find(|field| field.name == name);
    let value = |name| field(name).map(|field| String::from_utf8_lossy(field.value).into_owned());
    match (value("limit"), value("key")) {
        (Some(limit), Some(key)) => format!("{limit} {key}"),
        _ => String::new(),
    }
}

impl HooksState {
    /// Has hooks run for what waits and is due.
    fn tell_held(&mut self, is_due: impl Fn(Duration, Instant) -> bool) -> Vec<Run> {
        let mut runs = Vec::new();
        for ((at, keyword), past) in &mut self.past {
            let Some(hook) = self.hooks.get(*at) else { continue };
            if !past.held_since.is_some_and(|since| is_due(hook.interval, since)) {
                continue;
            }
            past.held_since = None;
            let held = std::mem::take(&mut past.held);
            let fields = [("keys", held.join(SEPARATOR)), ("number", held.len().to_string())];
            let mut fields = fields.map(|(name, value)| (name.to_owned(), value)).to_vec();
            fields.push(("more".to_owned(), std::mem::take(&mut past.more).to_string()));
            let suppressed = std::mem::take(&mut past.suppressed);
            runs.push(Run { command: hook.command.clone(), event: (*keyword).to_owned(), fields, suppressed });
            past.told.extend(held.into_iter().map(|subject| (subject, Instant::now())));
        }
        runs.into_iter().filter_map(|run| self.enqueue(run)).collect()
    }

    /// Has a run wait; returns the one that there is no room for, which is never one for UNBANNED.
    fn enqueue(&mut self, run: Run) -> Option<Run> {
        if self.waiting.len() < MAX_WAITING {
            self.waiting.push_back(run);
            return None;
        }
        if run.event != UNBANNED {
            return Some(run);
        }
        // One that waits already says the same.
        self.waiting.retain(|other| {
            other.event != UNBANNED || (&other.command, other.subject()) != (&run.command, run.subject())
        });
        let newest = self.waiting.iter().rposition(|other| other.event != UNBANNED);
        let left_out = newest.filter(|_| self.waiting.len() >= MAX_WAITING).and_then(|at| self.waiting.remove(at));
        self.waiting.push_back(run);
        left_out
    }
}

/// A key without its escapes, but for those that are needed.
fn in_clear(key: &str) -> String {
    percent::printable(&percent::decode(key))
}

/// Runs a command with the record's fields in its environment.
async fn execute(run: &Run) -> Result<(), String> {
    let mut command = Command::new(run.program());
    command.args(&run.command[1..]).stdin(Stdio::null()).stdout(Stdio::null());
    command.env("CONNSHAPER_EVENT", &run.event).env("CONNSHAPER_SUPPRESSED", run.suppressed.to_string());
    for (name, value) in &run.fields {
        // No line of what a script prints is to be what a stranger chose.
        let value = match name.as_str() {
            "key" => in_clear(value),
            "keys" => value.split(SEPARATOR).map(in_clear).collect::<Vec<_>>().join(SEPARATOR),
            _ => percent::printable(value.as_bytes()),
        };
        command.env(format!("CONNSHAPER_{}", name.to_uppercase()), value);
    }
    command.process_group(0).kill_on_drop(true);
    // A file system that hangs makes exec wait; until it is back no further run is tried.
    let spawned = spawn_blocking(move || command.spawn()).await.map_err(|error| error.to_string())?;
    let mut child = spawned.map_err(|error| error.to_string())?;
    let group = ProcessGroup::of(child.id());
    let ended = timeout(RUN_TIMEOUT, child.wait()).await;
    drop(group);
    match ended {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(status.to_string()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => {
            // Reaps it. A process that even this signal does not end is reaped later by the runtime.
            let _ = timeout(KILL_TIMEOUT, child.wait()).await;
            Err(format!("not done within {} seconds", RUN_TIMEOUT.as_secs()))
        }
    }
}

/// The processes of a run, which end when this is dropped.
struct ProcessGroup(Option<Pid>);

impl ProcessGroup {
    fn of(leader: Option<u32>) -> Self {
        Self(leader.and_then(|leader| i32::try_from(leader).ok()).map(Pid::from_raw))
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // As a rule nothing of it is left.
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::section::{decode, encode};

    fn hooks() -> Hooks {
        let hooks = Hooks::default();
        let command = vec!["/bin/true".to_owned()];
        hooks.set(vec![Hook { command, keywords: BANS, interval: Duration::ZERO }]);
        hooks
    }

    fn record(keyword: &'static str, key: &str) -> LogRecord {
        let mut record = LogRecord::new(keyword);
        record.field("key", key).field("limit", "a b").field("seconds", 60);
        record
    }

    fn waiting(hooks: &Hooks) -> Vec<String> {
        hooks.lock().waiting.iter().map(|run| format!("{} {}", run.event(), run.subject())).collect()
    }

    #[test]
    fn keys_beyond_those_that_are_told_at_once_are_told_together_by_name() {
        let hooks = Hooks::default();
        let interval = Duration::from_millis(200);
        hooks.set(vec![Hook { command: vec!["/bin/true".to_owned()], keywords: ALERTS, interval }]);
        let all = MAX_AT_ONCE + MAX_HELD + 7;
        for key in (0..all).chain([0, MAX_AT_ONCE]) {
            assert!(hooks.happened(&record("OVER_LIMIT", &key.to_string())).is_empty());
        }
        assert_eq!(hooks.lock().waiting.len(), MAX_AT_ONCE);
        assert!(hooks.happened(&record("BANNED", "0")).is_empty());
        assert_eq!(hooks.lock().waiting.len(), MAX_AT_ONCE + 1, "another event has an interval of its own");
        std::thread::sleep(interval);
        assert!(hooks.tell_held().is_empty());
        let together = hooks.lock().waiting.back().unwrap().clone();
        let field = |name: &str| together.fields.iter().find(|(known, _)| known == name).unwrap().1.clone();
        assert_eq!((field("number"), field("more"), together.suppressed), ("100".into(), "7".into(), 2));
        let keys = field("keys");
        let keys: Vec<&str> = keys.lines().collect();
        assert_eq!((keys[0], keys[99]), ("a b 10", "a b 109"));
        assert!(hooks.tell_held().is_empty());
        assert_eq!(hooks.lock().waiting.len(), MAX_AT_ONCE + 2, "nothing is told twice");
    }

    #[test]
    fn a_run_that_has_no_room_is_returned_and_is_never_one_for_the_end_of_a_ban() {
        let hooks = hooks();
        for number in 0..MAX_WAITING {
            assert!(hooks.happened(&record("BANNED", &number.to_string())).is_empty());
        }
        let left_out = hooks.happened(&record("BANNED", "late"));
        assert_eq!(left_out.iter().map(Run::subject).collect::<Vec<_>>(), ["late"]);
        for number in 0..MAX_WAITING {
            let left_out = hooks.happened(&record(UNBANNED, &number.to_string()));
            let newest = format!("{}", MAX_WAITING - 1 - number);
            assert_eq!(left_out.iter().map(Run::subject).collect::<Vec<_>>(), [newest.as_str()]);
        }
        // All that wait now are for the end of a ban: none of them is left out, and none waits twice.
        assert!(hooks.happened(&record(UNBANNED, "more")).is_empty());
        assert!(hooks.happened(&record(UNBANNED, "7")).is_empty());
        let waiting = waiting(&hooks);
        assert_eq!(waiting.len(), MAX_WAITING + 1);
        assert!(waiting.iter().all(|run| run.starts_with(UNBANNED)) && waiting.last().unwrap() == "UNBANNED 7");
    }

    fn shell(text: &str) -> Run {
        let command = ["/bin/sh", "-c", text].map(str::to_owned).to_vec();
        Run { command, event: "BANNED".to_owned(), fields: Vec::new(), suppressed: 0 }
    }

    /// Whether the process is there and has not ended.
    fn runs(pid: &str) -> bool {
        let status = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
        status.is_ok_and(|status| !status.rsplit(')').next().unwrap().starts_with(" Z"))
    }

    #[tokio::test]
    async fn what_a_command_leaves_behind_ends_with_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let run = shell(&format!("sleep 1000 & echo $! > {}", file.path().display()));
        assert_eq!(execute(&run).await, Ok(()));
        let pid = std::fs::read_to_string(file.path()).unwrap();
        assert!(!pid.is_empty());
        while runs(&pid) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_command_that_hangs_is_ended_and_reaped() {
        assert_eq!(execute(&shell("exec sleep 1000")).await, Err("not done within 10 seconds".to_owned()));
        let is_sleep = |pid: &str| std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|it| it == "sleep\n");
        let sleeps = || {
            // A child is listed with the thread that spawned it.
            let threads = std::fs::read_dir("/proc/self/task").unwrap();
            let children = threads.map(|thread| std::fs::read_to_string(thread.unwrap().path().join("children")));
            children.flatten().any(|children| children.split_whitespace().any(is_sleep))
        };
        // The paused clock does not wait for the kernel: the runtime may have to reap it a little later.
        let start = std::time::Instant::now();
        while sleeps() {
            assert!(start.elapsed() < Duration::from_secs(10), "it is not reaped");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    #[test]
    fn runs_that_wait_come_out_of_a_snapshot_as_they_were() {
        let hooks = hooks();
        assert!(hooks.happened(&record("BANNED", "192.0.2.1")).is_empty());
        assert!(hooks.happened(&record(UNBANNED, "192.0.2.1")).is_empty());
        let (bytes, other) = (encode(&hooks.save()), Hooks::default());
        other.restore(decode(&bytes).unwrap());
        assert_eq!(other.lock().waiting, hooks.lock().waiting);
        assert!(other.needs_start() && !other.needs_start());
        assert!(decode::<Vec<Run>>(&bytes[..bytes.len() - 1]).is_err());
    }
}
