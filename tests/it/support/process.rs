//! A process that ends when its value is dropped.

use std::process::{Child, Command, ExitStatus};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::until;

/// A running child process.
pub struct Process {
    child: Child,
    last_word: Signal,
}

impl Process {
    /// Starts it. `last_word` is the signal that ends it, and its children, when the value is dropped.
    pub fn start(command: &mut Command, last_word: Signal) -> Self {
        let child = command.spawn();
        let child = child.unwrap_or_else(|error| panic!("cannot start {:?}: {error}", command.get_program()));
        Self { child, last_word }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The child, for its pipes.
    pub fn pipes(&mut self) -> &mut Child {
        &mut self.child
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    /// Stops it with SIGSTOP: its sockets stay open and it does not answer.
    pub fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
        until("a stopped process", || (self.state() == 'T').then_some(()));
    }

    /// Continues it after `freeze`.
    pub fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// Its exit status, if it has ended.
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
        // The name before it, in parentheses, may contain any character.
        let (_, rest) = stat.rsplit_once(") ").unwrap();
        rest.chars().next().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // A panic here would hide the panic of the test.
            let _ = kill(self.pid(), self.last_word);
            let _ = self.child.wait();
        }
    }
}
