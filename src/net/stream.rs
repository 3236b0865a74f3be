//! A stream socket of either kind, as one type: from Postfix, or to a server.
//!
//! tokio's own streams ask the kernel about both directions. Then every answer
//! that the other end takes off the socket costs an event that says we may
//! write, which we nearly always may: on a policy connection, one per request,
//! and both sides pay for it. These streams ask about reading only, and about
//! writing not before a write had no room.

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use std::{net, os};

use socket2::{SockRef, TcpKeepalive};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// The most that is read at once.
const READ: usize = 16 * 1024;

/// A dead other end is found out within two minutes.
const KEEPALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(15)).with_retries(4);

thread_local! {
    /// Where a read goes first whose buffer is not initialised.
    static SCRATCH: RefCell<[u8; READ]> = const { RefCell::new([0; READ]) };
}

/// A connection.
#[derive(Debug)]
pub struct Stream {
    socket: AsyncFd<Socket>,
    /// Asks about writing; since a write had no room.
    writing: Option<AsyncFd<OwnedFd>>,
}

#[derive(Debug)]
enum Socket {
    Tcp(net::TcpStream),
    Unix(os::unix::net::UnixStream),
}

impl TryFrom<TcpStream> for Stream {
    type Error = io::Error;

    fn try_from(stream: TcpStream) -> io::Result<Self> {
        // Answers and hits are single small writes. And a host that died, or a firewall that forgot,
        // must not hold a connection for ever. Both fail only if the other end has gone, which reading will tell.
        let _ = stream.set_nodelay(true);
        let _ = SockRef::from(&stream).set_tcp_keepalive(&KEEPALIVE);
        Self::new(Socket::Tcp(stream.into_std()?))
    }
}

impl TryFrom<UnixStream> for Stream {
    type Error = io::Error;

    fn try_from(stream: UnixStream) -> io::Result<Self> {
        Self::new(Socket::Unix(stream.into_std()?))
    }
}

impl Stream {
    /// A connection of the old program, with the address of its other end if that has one.
    pub fn inherited(socket: socket2::Socket) -> io::Result<(Self, Option<net::SocketAddr>)> {
        let peer = socket.peer_addr()?.as_socket();
        socket.set_nonblocking(true)?;
        let socket = match peer {
            Some(_) => Socket::Tcp(socket.into()),
            None => Socket::Unix(socket.into()),
        };
        Ok((Self::new(socket)?, peer))
    }

    /// The process at the other end of a unix socket, if it is one of ours to see: in another PID namespace it has no
    /// number here.
    pub fn process(&self) -> Option<u32> {
        match self.socket.get_ref() {
            Socket::Tcp(_) => None,
            Socket::Unix(stream) => {
                let process = rustix::net::sockopt::socket_peercred(stream).ok()?.pid;
                u32::try_from(process.as_raw_nonzero().get()).ok()
            }
        }
    }

    fn new(socket: Socket) -> io::Result<Self> {
        Ok(Self { socket: watch(socket, Interest::READABLE)?, writing: None })
    }
}

#[expect(deprecated, reason = "its successor is unsafe to call, for sockets that could be another later; ours cannot")]
fn watch<T: AsFd + AsRawFd>(socket: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(socket, interest)
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let room = buffer.remaining().min(READ);
        loop {
            let mut ready = ready!(self.socket.poll_read_ready(context))?;
            let read = self.socket.get_ref().read_into(buffer, room);
            match read {
                // With room left, nothing is there any more: the kernel will tell of what comes next.
                // (What came since the read is not forgotten, for `ready` is about the time before it.)
                Ok(length @ 1..) if length < room => ready.clear_ready(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready.clear_ready();
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                _ => {}
            }
            return Poll::Ready(read.map(drop));
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        loop {
            match this.socket.get_ref().write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(this.poll_writable(context))?,
                written => return Poll::Ready(written),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(match self.socket.get_ref() {
            Socket::Tcp(stream) => stream.shutdown(net::Shutdown::Write),
            Socket::Unix(stream) => stream.shutdown(net::Shutdown::Write),
        })
    }
}

impl Stream {
    /// Waits until there may be room for a write that had none.
    fn poll_writable(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let writing = match &self.writing {
            Some(writing) => writing,
            None => {
                let socket = self.socket.get_ref().as_fd().try_clone_to_owned()?;
                self.writing.insert(watch(socket, Interest::WRITABLE)?)
            }
        };
        let mut ready = ready!(writing.poll_write_ready(context))?;
        ready.clear_ready();
        Poll::Ready(Ok(()))
    }
}

impl Socket {
    /// Reads at most `room` bytes.
    fn read_into(&self, buffer: &mut ReadBuf<'_>, room: usize) -> io::Result<usize> {
        if buffer.initialized().len() == buffer.capacity() {
            let length = self.read(&mut buffer.initialize_unfilled()[..room])?;
            buffer.advance(length);
            return Ok(length);
        }
        SCRATCH.with_borrow_mut(|scratch| {
            let length = self.read(&mut scratch[..room])?;
            buffer.put_slice(&scratch[..length]);
            Ok(length)
        })
    }

    fn read(&self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => (&*stream).read(bytes),
            Self::Unix(stream) => (&*stream).read(bytes),
        }
    }

    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => (&*stream).write(bytes),
            Self::Unix(stream) => (&*stream).write(bytes),
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> os::fd::BorrowedFd<'_> {
        self.socket.get_ref().as_fd()
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> os::fd::BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn what_one_end_writes_the_other_reads_however_much_it_is() {
        let (one, other) = UnixStream::pair().unwrap();
        let (mut one, mut other) = (Stream::try_from(one).unwrap(), Stream::try_from(other).unwrap());
        // More than any socket buffer holds: the writer must wait for the reader, again and again.
        let sent: Vec<u8> = (0..3_000_000_u32).map(|number| (number / 7) as u8).collect();
        let writing = async {
            one.write_all(&sent).await.unwrap();
            one.shutdown().await.unwrap();
        };
        let mut received = Vec::new();
        let (_, length) = tokio::join!(writing, other.read_to_end(&mut received));
        assert_eq!(length.unwrap(), sent.len());
        assert!(received == sent);
    }

    #[tokio::test]
    async fn a_read_waits_for_what_comes_after_a_short_one() {
        let (mut one, other) = UnixStream::pair().unwrap();
        let mut other = Stream::try_from(other).unwrap();
        let mut buffer = [0; 64];
        for round in 0..100_u8 {
            let bytes = [round; 10];
            let (read, written) = tokio::join!(other.read(&mut buffer), one.write(&bytes));
            assert_eq!((read.unwrap(), written.unwrap()), (10, 10));
            assert_eq!(buffer[..10], [round; 10]);
        }
        drop(one);
        assert_eq!(other.read(&mut buffer).await.unwrap(), 0);
    }
}
