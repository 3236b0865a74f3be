//! The load generator: policy connections with one request under way on each.
//!
//! One thread, level-triggered epoll, one write and one read per request; the
//! next request of a connection is sent as soon as its reply is read. It is the
//! same for every server.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};

use socket2::Socket;

use crate::histogram::Histogram;
use crate::population::Draw;
use crate::request::{Client, DUNNO, Requests};

/// A server that does not answer for this long, in milliseconds, is not waited for any longer.
const PATIENCE: u16 = 10_000;

/// Requests written at once when a store is filled.
const FILL: usize = 16;

/// Where a server listens.
#[derive(Clone, Debug)]
pub enum Address {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

impl Address {
    pub fn connect(&self) -> io::Result<Socket> {
        match self {
            Self::Unix(path) => Ok(UnixStream::connect(path)?.into()),
            Self::Tcp(address) => {
                let stream = TcpStream::connect(address)?;
                stream.set_nodelay(true)?;
                Ok(stream.into())
            }
        }
    }

    /// Asks once over a connection of its own.
    pub fn ask(&self, requests: &mut Requests) -> io::Result<()> {
        let mut connection = self.connect()?;
        connection.write_all(requests.next(Client::V4(0), 0))?;
        let mut reply = [0; 1024];
        let length = connection.read(&mut reply)?;
        if reply[..length].starts_with(b"action=") { Ok(()) } else { Err(io::Error::other("no policy reply")) }
    }
}

/// Connections to one server.
pub struct Load<'r> {
    epoll: Epoll,
    connections: Vec<Connection>,
    requests: &'r mut Requests,
}

struct Connection {
    socket: Socket,
    sent: Instant,
    /// A reply that came in pieces, so far.
    piece: Vec<u8>,
}

/// What came of some requests.
pub struct Outcome {
    pub replies: u64,
    /// Replies other than `DUNNO`.
    pub refusals: u64,
    pub elapsed: Duration,
    pub latency: Histogram,
}

impl<'r> Load<'r> {
    pub fn connect(address: &Address, connections: usize, requests: &'r mut Requests) -> anyhow::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let connect = |number| -> anyhow::Result<Connection> {
            let socket = address.connect().with_context(|| format!("cannot connect to {address:?}"))?;
            epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, number))?;
            Ok(Connection { socket, sent: Instant::now(), piece: Vec::new() })
        };
        let connections = (0..connections as u64).map(connect).collect::<anyhow::Result<_>>()?;
        Ok(Self { epoll, connections, requests })
    }

    /// Asks for that long, and returns when every request has its reply.
    pub fn drive(&mut self, clients: &mut Draw, duration: Duration) -> anyhow::Result<Outcome> {
        let mut outcome = Outcome { replies: 0, refusals: 0, elapsed: duration, latency: Histogram::new() };
        let (mut events, mut buffer) = ([EpollEvent::empty(); 512], [0; 1024]);
        let begin = Instant::now();
        for number in 0..self.connections.len() {
            self.ask(number, clients.next(), Instant::now())?;
        }
        let mut waiting = self.connections.len();
        while waiting > 0 {
            let ready = self.epoll.wait(&mut events, PATIENCE)?;
            ensure!(ready > 0, "no reply in {PATIENCE} ms");
            for event in &events[..ready] {
                let number = event.data() as usize;
                let Some(refused) = self.connections[number].reply(&mut buffer)? else {
                    continue;
                };
                let now = Instant::now();
                outcome.replies += 1;
                outcome.refusals += u64::from(refused);
                outcome.latency.record(now - self.connections[number].sent);
                if now - begin < duration {
                    self.ask(number, clients.next(), now)?;
                } else {
                    waiting -= 1;
                }
            }
        }
        outcome.elapsed = begin.elapsed();
        Ok(outcome)
    }

    /// Asks once for each of these clients, many requests at a time on each connection.
    pub fn fill(&mut self, mut clients: impl Iterator<Item = Client>) -> anyhow::Result<()> {
        let mut batch = Vec::new();
        let mut reply = [0; FILL * DUNNO.len()];
        loop {
            let mut asked = vec![0; self.connections.len()];
            for (number, connection) in self.connections.iter_mut().enumerate() {
                batch.clear();
                for client in clients.by_ref().take(FILL) {
                    batch.extend_from_slice(self.requests.next(client, number));
                    asked[number] += 1;
                }
                connection.socket.write_all(&batch)?;
            }
            for (connection, asked) in self.connections.iter_mut().zip(&asked) {
                let replies = &mut reply[..asked * DUNNO.len()];
                connection.socket.read_exact(replies)?;
                ensure!(replies.chunks_exact(DUNNO.len()).all(|reply| reply == DUNNO), "a client was not let pass");
            }
            if asked.contains(&0) {
                return Ok(());
            }
        }
    }

    fn ask(&mut self, number: usize, client: Client, now: Instant) -> anyhow::Result<()> {
        let connection = &mut self.connections[number];
        let request = self.requests.next(client, number);
        connection.sent = now;
        let written = connection.socket.write(request)?;
        ensure!(written == request.len(), "a request did not fit into the socket");
        Ok(())
    }
}

impl Connection {
    /// Whether the reply is a refusal; `None` if it is not complete.
    fn reply(&mut self, buffer: &mut [u8]) -> anyhow::Result<Option<bool>> {
        let length = self.socket.read(buffer)?;
        ensure!(length > 0, "the server closed a connection");
        let mut reply = &buffer[..length];
        if reply == DUNNO && self.piece.is_empty() {
            return Ok(Some(false));
        }
        if !reply.ends_with(b"\n\n") || !self.piece.is_empty() {
            self.piece.extend_from_slice(reply);
            reply = &self.piece;
        }
        if !reply.ends_with(b"\n\n") {
            return Ok(None);
        }
        let action = reply.strip_prefix(b"action=").map(<[u8]>::to_ascii_uppercase);
        let refused = match action {
            Some(action) if action.starts_with(b"DUNNO") => false,
            Some(action) if action.starts_with(b"DEFER_IF_PERMIT ") => true,
            _ => bail!("not a reply: {:?}", String::from_utf8_lossy(reply)),
        };
        self.piece.clear();
        Ok(Some(refused))
    }
}
