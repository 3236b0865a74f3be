//! A process of a test, ended with its value.

use std::process::{Child, Command, ExitStatus};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::until;

/// A running program that we started.
pub struct Process {
    child: Child,
    last_word: Signal,
}

impl Process {
    /// Starts it. `last_word` is the signal that ends it, and all it started, when the value is dropped.
    pub fn start(command: &mut Command, last_word: Signal) -> Self {
        let child = command.spawn();
        let child = child.unwrap_or_else(|error| panic!("cannot start {:?}: {error}", command.get_program()));
        Self { child, last_word }
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The other ends of its pipes are here, once.
    pub fn pipes(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    /// Stops it in its tracks: it keeps its sockets and answers nobody.
    pub fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
        until("a stopped process", || (self.state() == 'T').then_some(()));
    }

    /// Lets it go on after `freeze`.
    pub fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        until("the end of a process", || self.ended())
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().try_into().unwrap())
    }

    fn state(&self) -> char {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        // The name before it, in parentheses, may hold anything.
        let (_, rest) = stat.rsplit_once(") ").unwrap();
        rest.chars().next().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // A panic here would hide the one that made the test fail.
            let _ = kill(self.pid(), self.last_word);
            let _ = self.child.wait();
        }
    }
}
