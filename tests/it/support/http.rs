//! A daemon that serves over HTTP, and a client of that.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::PathBuf;

use serde_json::Value;
use socket2::{Domain, Socket, Type};

use super::{Daemon, Dir, PATIENCE, Port, say, until};

/// A daemon with `http_listen` and a control socket.
pub struct HttpHost {
    pub daemon: Daemon,
    port: Port,
    socket: PathBuf,
    dir: Dir,
}

/// An answer in HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpAnswer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl HttpHost {
    pub fn start(config: &str) -> Self {
        let (port, dir) = (Port::new(), Dir::new());
        let socket = dir.join("control");
        let keys = format!("http_listen = \"{}\"\ncontrol_socket = {socket:?}\n{config}", port.endpoint());
        Self { daemon: Daemon::start(&keys), port, socket, dir }
    }

    /// One that takes this token only.
    pub fn with_token(token: &str, config: &str) -> Self {
        let dir = Dir::new();
        let file = dir.write("token", &format!("{token}\n"));
        let mut host = Self::start(&format!("http_token_file = {file:?}\n{config}"));
        host.dir = dir;
        host
    }

    /// The configuration with which it was started, and these keys instead of the others.
    pub fn keys(&self, config: &str) -> String {
        format!("http_listen = \"{}\"\ncontrol_socket = {:?}\n{config}", self.port.endpoint(), self.socket)
    }

    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Sends a request, without its last empty line and what closes the connection.
    pub fn ask(&self, head: &str, body: &str) -> HttpAnswer {
        fetch(self.address(), None, head, body)
    }

    /// Sends a request that is too long to be read to its end.
    pub fn ask_at_length(&self, head: &str, body: &str) -> HttpAnswer {
        fetch_of_one_that_does_not_read(self.address(), head, body)
    }

    /// What Dovecot asks or reports, with `$client` and further members of the object.
    pub fn dovecot(&self, command: &str, client: &str, members: &str) -> Value {
        let object = format!(
            r#"{{"device_id":"","login":"joe@example.org","protocol":"imap","remote":"{client}","session_id":"s","tls":false{members}}}"#
        );
        let answer =
            self.ask(&format!("POST /dovecot?command={command} HTTP/1.1\r\nContent-Type: application/json"), &object);
        assert_eq!(answer.status, 200, "{answer:?}");
        serde_json::from_str(&answer.body).unwrap()
    }

    /// Runs a command of the program, and returns what it says.
    pub fn say(&self, words: &str) -> String {
        say(&self.socket, words.split(' ')).0
    }
}

impl HttpAnswer {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (its, value) = line.split_once(": ")?;
            its.eq_ignore_ascii_case(name).then_some(value)
        })
    }
}

/// Sends a request, over a connection of its own, from an address if one is given.
pub fn fetch(server: SocketAddr, from: Option<IpAddr>, head: &str, body: &str) -> HttpAnswer {
    try_fetch(server, from, head, body).unwrap_or_else(|error| panic!("no answer of {server}: {error}"))
}

/// The same, again where the connection is reset: a server that does not read all of a request closes it that way, and
/// its answer may be lost.
fn fetch_of_one_that_does_not_read(server: SocketAddr, head: &str, body: &str) -> HttpAnswer {
    until("an answer that is not lost", || match try_fetch(server, None, head, body) {
        Err(error) if [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe].contains(&error.kind()) => None,
        answer => Some(answer.unwrap()),
    })
}

fn try_fetch(server: SocketAddr, from: Option<IpAddr>, head: &str, body: &str) -> io::Result<HttpAnswer> {
    let socket = Socket::new(Domain::for_address(server), Type::STREAM, None)?;
    if let Some(from) = from {
        socket.bind(&SocketAddr::new(from, 0).into())?;
    }
    socket.connect(&server.into())?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    write!(stream, "{head}\r\nHost: {server}\r\n{length}Connection: close\r\n\r\n{body}")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(parse(&answer))
}

fn parse(answer: &str) -> HttpAnswer {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    HttpAnswer { status: status.unwrap_or_else(|| panic!("{head}")), head: head.to_owned(), body: body.to_owned() }
}
