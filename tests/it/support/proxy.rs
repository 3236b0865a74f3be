//! twemproxy before a memcached: it closes the connection on meta commands.

use std::process::{Command, Stdio};

use nix::sys::signal::Signal;

use super::{Dir, Memcached, Port, Process, connect, until};

/// A running nutcracker.
pub struct Proxy {
    _process: Process,
    port: Port,
    _dir: Dir,
}

impl Proxy {
    /// Starts one and waits until it listens.
    pub fn before(memcached: &Memcached) -> Self {
        let (dir, port, statistics) = (Dir::new(), Port::new(), Port::new());
        let config = format!(
            "pool:\n  listen: {}\n  timeout: 1000\n  servers:\n   - {}:1\n",
            port.address(),
            memcached.server()
        );
        let config = dir.write("nutcracker.yml", &config);
        let mut command = Command::new("nutcracker");
        // The port is free at that address only.
        command.arg("-a").arg(statistics.address().ip().to_string());
        command.arg("-c").arg(config).arg("-s").arg(statistics.address().port().to_string());
        command.arg("-o").arg(dir.join("log")).stdout(Stdio::null()).stderr(Stdio::null());
        let process = Process::start(&mut command, Signal::SIGKILL);
        until("a proxy that listens", || connect(&port.endpoint()).ok());
        Self { _process: process, port, _dir: dir }
    }

    /// The value of `memcached_server`.
    pub fn server(&self) -> String {
        self.port.address().to_string()
    }
}
