//! A machine of its own: a container that boots the Debian that `tests/run` unpacks into target/tools.
//!
//! It has no network. Its changes are lost when it stops.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::{Dir, Lines, PATIENCE, Process, until};

/// A Debian with Postfix, without connshaper.
const DEBIAN: &str = "target/tools/debian";

/// A booted container.
pub struct Machine {
    /// The process id of its init on this host.
    pub init: String,
    /// Mounted in the container as /test.
    pub shared: Dir,
    nspawn: Process,
}

impl Machine {
    pub fn boot() -> Self {
        let debian = root().join(DEBIAN);
        assert!(debian.join("etc/debian_version").exists(), "there is no Debian in {DEBIAN}: tests/run makes it");
        let shared = Dir::new();
        super::install(&shared);
        let mut command = Command::new("systemd-nspawn");
        command.args(["--quiet", "--boot", "--register=no", "--keep-unit", "--private-network", "--console=pipe"]);
        // All changes go to memory, so the next container starts from the same root.
        command.args(["--volatile=overlay", &format!("--machine=connshaper-{}", std::process::id())]);
        command.arg(format!("--directory={}", debian.display()));
        command.arg(format!("--bind-ro={}:/source", root().display()));
        command.arg(format!("--bind-ro={}:/test", shared.path().display()));
        command.arg("--bind-ro=/usr:/host/usr");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut nspawn = Process::start(&mut command, Signal::SIGKILL);
        let said = Lines::of(nspawn.pipes().stderr.take().unwrap());
        let mut machine = Self { init: String::new(), shared, nspawn };
        until(format_args!("the end of a container's start; systemd-nspawn said:\n{said}"), || {
            if let Some(status) = machine.nspawn.ended() {
                panic!("systemd-nspawn ended with {status}:\n{said}");
            }
            // The direct child of systemd-nspawn is the init of the container.
            let pid = machine.nspawn.pipes().id();
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
            machine.init = children.split_whitespace().next()?.to_owned();
            let state = text(&machine.run("systemctl is-system-running"));
            assert!(!state.contains("degraded"), "{}", text(&machine.run("systemctl --failed --no-pager")));
            state.contains("running").then_some(())
        });
        machine
    }

    /// Runs commands in it, which must succeed, and returns what they print.
    #[track_caller]
    pub fn sh(&self, commands: &str) -> String {
        let output = self.run(&format!("set -e\n{commands}"));
        assert!(
            output.status.success(),
            "{commands}\n{}\n{}",
            text(&output),
            text(&self.run("journalctl --no-pager -n 50"))
        );
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn run(&self, commands: &str) -> Output {
        let mut command = Command::new("nsenter");
        command.args(["--all", "--target", &self.init, "bash", "-c", commands]);
        command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.stdin(Stdio::null()).output().unwrap()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if self.nspawn.ended().is_some() {
            return;
        }
        // An orderly shutdown leaves no mounts behind; a second signal would interrupt it.
        self.nspawn.signal(Signal::SIGTERM);
        let begun = Instant::now();
        // A panic here would hide the panic of the test. A container that does not stop is killed.
        while self.nspawn.ended().is_none() && begun.elapsed() < PATIENCE {
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Status and output of a command.
pub fn text(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    format!("{}\n{out}{err}", output.status)
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
