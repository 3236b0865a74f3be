//! Private networks: two namespaces with a link between them, which can lose packets.

use std::process::{Command, Stdio};

use nix::sys::signal::Signal;

use super::{Process, until};

/// A network namespace. It exists as long as this value.
pub struct Namespace(Process);

impl Namespace {
    /// A new one, with loopback.
    pub fn new() -> Self {
        let mut keeper = Command::new("unshare");
        keeper.args(["--net", "sleep", "infinity"]).stdin(Stdio::null());
        let namespace = Self(Process::start(&mut keeper, Signal::SIGKILL));
        let of = |id: &str| std::fs::read_link(format!("/proc/{id}/ns/net")).ok();
        until("a network namespace", || (of(&namespace.id()) != of("self")).then_some(()));
        namespace.run("ip link set lo up");
        namespace
    }

    /// Two with a link between them: the first has 10.9.8.1, the second 10.9.8.2.
    pub fn pair() -> [Self; 2] {
        let pair = [Self::new(), Self::new()];
        pair[0].run(&format!("ip link add wire type veth peer name wire netns {}", pair[1].id()));
        for (namespace, host) in pair.iter().zip(1..) {
            namespace.run(&format!("ip addr add 10.9.8.{host}/24 dev wire && ip link set wire up"));
        }
        pair
    }

    /// Runs a shell command in it, which must succeed.
    #[track_caller]
    pub fn run(&self, command: &str) {
        let status = Command::new("nsenter").args(["--net", "--target", &self.id(), "sh", "-c", command]).status();
        assert!(status.expect("nsenter, of util-linux").success(), "{command}");
    }

    /// The shell command that runs "$0" with "$@" in it.
    pub fn enter(&self) -> String {
        format!("exec nsenter --net --target {} \"$0\" \"$@\"", self.id())
    }

    /// The id of the process that keeps it open.
    pub fn id(&self) -> String {
        self.0.id().to_string()
    }
}
