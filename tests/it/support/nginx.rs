//! nginx before pages of its own, with what the manual has it ask about each request.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;

use super::{Dir, HttpAnswer, HttpHost, Port, Process, fetch, until};

/// A running nginx.
pub struct Nginx {
    // Ended first when this is dropped, and only then is its directory removed.
    _process: Process,
    port: Port,
    _dir: Dir,
}

impl Nginx {
    /// Starts one that asks this host.
    pub fn before(host: &HttpHost) -> Self {
        Self::start(&host.address().to_string())
    }

    /// One that asks there.
    pub fn start(connshaper: &str) -> Self {
        let (dir, port) = (Dir::new(), Port::new());
        let snippet = manual("auth_request ").replace("127.0.0.1:10041", connshaper).replace("\\e", "\\");
        let (upstream, locations) = snippet.split_once("location").expect("an upstream, then locations");
        let config = format!(
            "daemon off; master_process off; pid {dir}/pid; error_log {dir}/error;\nevents {{}}\nhttp {{\n\
             access_log off; client_body_temp_path {dir}/a; proxy_temp_path {dir}/b; fastcgi_temp_path {dir}/c;\n\
             uwsgi_temp_path {dir}/d; scgi_temp_path {dir}/e;\n{upstream}\n\
             server {{\nlisten {};\nlocation{}\n}}\n}}\n",
            port.address(),
            locations.replace("proxy_pass http://application;", "return 200 \"the page\\n\";"),
            dir = dir.path().display(),
        );
        // `return` is done before auth_request is: the page comes from elsewhere.
        let config = config
            .replace("return 200 \"the page\\n\";", &format!("root {}; try_files /page =404;", dir.path().display()));
        dir.write("page", "the page\n");
        let file = dir.write("nginx.conf", &config);
        let mut command = Command::new("nginx");
        command.arg("-e").arg(dir.join("error")).arg("-c").arg(file);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut process = Process::start(&mut command, Signal::SIGKILL);
        until("an nginx that listens", || {
            if let Some(status) = process.ended() {
                let said = fs::read_to_string(dir.join("error")).unwrap_or_default();
                panic!("nginx ended with {status}: {said}\n{config}");
            }
            TcpStream::connect(port.address()).ok()
        });
        Self { _process: process, port, _dir: dir }
    }

    /// Asks for a page, from 127.0.0.1, which is another proxy of ours if it says who the client is.
    pub fn get(&self, path: &str, headers: &str) -> HttpAnswer {
        self.ask("GET", path, headers)
    }

    pub fn ask(&self, method: &str, path: &str, headers: &str) -> HttpAnswer {
        fetch(self.port.address(), None, &format!("{method} {path} HTTP/1.1{headers}"), "")
    }

    /// Asks from another address, which is no proxy of ours.
    pub fn get_from(&self, client: &str, path: &str, headers: &str) -> HttpAnswer {
        fetch(self.port.address(), Some(client.parse().unwrap()), &format!("GET {path} HTTP/1.1{headers}"), "")
    }
}

/// The part of the manual that a web server is configured with: the one that has these words.
pub fn manual(words: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("man/connshaper.8");
    let page = fs::read_to_string(path).unwrap();
    let displays = page.split(".Bd -literal -offset indent\n").skip(1);
    let display = displays.map(|rest| rest.split(".Ed\n").next().unwrap()).find(|text| text.contains(words));
    display.unwrap_or_else(|| panic!("the manual has a configuration with {words}")).to_owned()
}

/// Sends bytes as a proxy sends them, and returns the first line and the headers of the answer.
pub fn replay(host: &HttpHost, bytes: &str) -> String {
    let mut stream = TcpStream::connect(host.address()).unwrap();
    stream.set_read_timeout(Some(super::PATIENCE)).unwrap();
    stream.write_all(bytes.as_bytes()).unwrap();
    let mut answer = Vec::new();
    while !answer.windows(4).any(|end| end == b"\r\n\r\n") {
        let mut part = [0; 1024];
        let length = stream.read(&mut part).unwrap();
        assert!(length > 0, "no answer to {bytes}");
        answer.extend_from_slice(&part[..length]);
    }
    String::from_utf8(answer).unwrap()
}
