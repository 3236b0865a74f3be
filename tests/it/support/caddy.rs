//! Caddy before an application, with what the manual has it ask about each request.

use std::fs;
use std::net::TcpStream;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;

use super::nginx::manual;
use super::{Dir, HttpAnswer, HttpHost, Port, Process, fetch, until};

/// A running Caddy.
pub struct Caddy {
    // Ended first when this is dropped, and only then is its directory removed.
    _process: Process,
    port: Port,
    _application: Port,
    _dir: Dir,
}

impl Caddy {
    /// Starts one that asks this host.
    pub fn before(host: &HttpHost) -> Self {
        let (dir, port, application) = (Dir::new(), Port::new(), Port::new());
        let site = manual("forward_auth ")
            .replace("127.0.0.1:10041", &host.address().to_string())
            .replace("127.0.0.1:8080", &application.address().to_string());
        let (port_number, application_number) = (port.address().port(), application.address().port());
        let text = format!(
            "{{\nadmin off\nauto_https off\n}}\n:{port_number} {{\nbind 127.0.0.1\n{site}}}\n\
             :{application_number} {{\nbind 127.0.0.1\nrespond \"the page\n\"\n}}\n"
        );
        let (file, log) = (dir.write("Caddyfile", &text), dir.join("log"));
        let mut command = Command::new("caddy");
        command.args(["run", "--adapter", "caddyfile", "--config"]).arg(file);
        command.env("HOME", dir.path()).env("XDG_DATA_HOME", dir.path()).env("XDG_CONFIG_HOME", dir.path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(&log).unwrap());
        let mut process = Process::start(&mut command, Signal::SIGKILL);
        until("a Caddy that listens", || {
            if let Some(status) = process.ended() {
                panic!("Caddy ended with {status}: {}\n{text}", fs::read_to_string(&log).unwrap_or_default());
            }
            TcpStream::connect(port.address()).and(TcpStream::connect(application.address())).ok()
        });
        Self { _process: process, port, _application: application, _dir: dir }
    }

    /// Asks for a page, from this address.
    pub fn get_from(&self, client: &str, path: &str, headers: &str) -> HttpAnswer {
        fetch(self.port.address(), Some(client.parse().unwrap()), &format!("GET {path} HTTP/1.1{headers}"), "")
    }
}
