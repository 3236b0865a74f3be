//! An SMTP client that sends the commands of a test.

use std::fmt::Display;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use socket2::{Domain, Socket, Type};

use super::dovecot::PASSWORD;
use super::{PATIENCE, until};

/// An SMTP session, from the client's side.
pub struct Smtp {
    stream: BufReader<TcpStream>,
    greeting: Reply,
}

/// A reply of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The first three digits.
    pub code: u16,
    /// All of it, lines separated by `\n`.
    pub text: String,
}

impl Smtp {
    /// Connects to `server` from the given address, and port if that is not 0, and reads the greeting.
    pub fn connect(server: SocketAddr, from: SocketAddr) -> Self {
        // The kernel may still hold an earlier connection from the same port.
        let busy = [ErrorKind::AddrInUse, ErrorKind::AddrNotAvailable, ErrorKind::ConnectionReset];
        let stream = until(format_args!("a connection from {from}"), || match dial(server, from) {
            Err(error) if busy.contains(&error.kind()) => None,
            dialled => Some(dialled.unwrap_or_else(|error| panic!("cannot connect from {from}: {error}"))),
        });
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut stream = BufReader::new(stream);
        let greeting = read_reply(&mut stream);
        Self { stream, greeting }
    }

    /// The banner.
    pub fn greeting(&self) -> &Reply {
        &self.greeting
    }

    /// Sends one line and returns the reply.
    #[track_caller]
    pub fn command(&mut self, line: impl Display) -> Reply {
        self.send(line);
        self.reply()
    }

    /// Sends one line; `reply` reads what comes of it.
    pub fn send(&mut self, line: impl Display) {
        write!(self.stream.get_mut(), "{line}\r\n").unwrap();
    }

    /// Reads the next reply.
    #[track_caller]
    pub fn reply(&mut self) -> Reply {
        read_reply(&mut self.stream)
    }

    /// Says EHLO.
    #[track_caller]
    pub fn ehlo(&mut self) -> Reply {
        self.command("EHLO client.example.net")
    }

    /// Says EHLO and logs in. The password is that of the tests' Dovecot.
    #[track_caller]
    pub fn login(&mut self, user: &str) {
        self.ehlo().expect(250);
        let response = STANDARD.encode(format!("\0{user}\0{PASSWORD}"));
        self.command(format!("AUTH PLAIN {response}")).expect(235);
    }

    /// Begins a message.
    #[track_caller]
    pub fn mail(&mut self) -> Reply {
        self.command("MAIL FROM:<sender@example.net>")
    }

    /// Names a recipient.
    #[track_caller]
    pub fn rcpt(&mut self) -> Reply {
        self.command("RCPT TO:<recipient@example.org>")
    }

    /// Names many recipients and returns the codes of the replies.
    #[track_caller]
    pub fn rcpts(&mut self, count: usize) -> Vec<u16> {
        (1..=count).map(|n| self.command(format!("RCPT TO:<recipient{n}@example.org>")).code).collect()
    }

    /// Sends the message's text.
    #[track_caller]
    pub fn data(&mut self) -> Reply {
        self.command("DATA").expect(354);
        self.command("Subject: test\r\n\r\ntext\r\n.")
    }

    /// Sends a whole message to many recipients; all of it must be accepted.
    #[track_caller]
    pub fn deliver(&mut self, recipients: usize) {
        self.mail().expect(250);
        assert_eq!(self.rcpts(recipients), vec![250; recipients]);
        self.data().expect(250);
    }

    /// Ends the session.
    #[track_caller]
    pub fn quit(mut self) {
        self.command("QUIT").expect(221);
    }

    /// Whether the server closes the connection without a further reply.
    pub fn is_closed(&mut self) -> bool {
        match self.stream.read(&mut [0; 1]) {
            Ok(length) => length == 0,
            Err(error) => error.kind() == ErrorKind::ConnectionReset,
        }
    }
}

impl Reply {
    /// Checks the code.
    #[track_caller]
    pub fn expect(self, code: u16) -> Self {
        assert_eq!(self.code, code, "{}", self.text);
        self
    }
}

/// The address a client connects from: `127.0.0.2`, or `127.0.0.2:4025` for a certain port.
pub fn source(text: &str) -> SocketAddr {
    let any_port = |_| text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 0));
    text.parse::<SocketAddr>().or_else(any_port).unwrap_or_else(|_| panic!("{text} is no address"))
}

#[track_caller]
fn dial(server: SocketAddr, from: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(server), Type::STREAM, None)?;
    // The port can be used again at once: an old connection does not prevent the bind,
    // and dropping this one resets it, so it leaves no TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.set_linger(Some(Duration::ZERO))?;
    socket.bind(&from.into())?;
    socket.connect_timeout(&server.into(), PATIENCE)?;
    Ok(socket.into())
}

fn read_reply(stream: &mut impl BufRead) -> Reply {
    let mut text = String::new();
    loop {
        let begin = text.len();
        match stream.read_line(&mut text) {
            Ok(1..) => {}
            Ok(0) => panic!("hung up after {text:?}"),
            Err(error) => panic!("no reply: {error} after {text:?}"),
        }
        text.truncate(text.trim_end().len());
        if text.as_bytes().get(begin + 3) != Some(&b'-') {
            break;
        }
        text.push('\n');
    }
    match text.get(..3).map(str::parse) {
        Some(Ok(code)) => Reply { code, text },
        _ => panic!("no code in {text:?}"),
    }
}
