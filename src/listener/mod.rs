//! Listening sockets for Postfix and others, and the connections they accept.
//!
//! Binds the configured addresses, or takes the sockets that systemd passed, and
//! accepts connections. An error never ends accepting.

mod accept_errors;
mod listen_error;
mod peers;
mod systemd;
mod tcp;
pub(crate) mod unix;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};

use crate::net::address::Address;
use crate::net::clock::Now;
use crate::net::secret;
use crate::net::stream::Stream;
use crate::observe::log::{Log, Severity};

use accept_errors::AcceptErrors;

pub use listen_error::{ListenError, ListenProblem};
pub use peers::Peers;
pub use unix::SocketFile;

/// Connections the kernel holds until we accept them. It clips this to
/// net.core.somaxconn, 4096 by default; all of Postfix may reconnect at once.
const BACKLOG: i32 = 4096;

/// Rights of a unix socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketConfig {
    /// Permission bits.
    pub mode: u32,
    /// User name; `None`: the daemon's own.
    pub owner: Option<String>,
    /// Group name; `None`: the daemon's own.
    pub group: Option<String>,
}

/// A socket that accepts connections.
///
/// Dropping it removes the file of a unix socket it made.
#[derive(Debug)]
pub struct Listener {
    socket: ListenerSocket,
    address: Address,
    trouble: AcceptErrors,
    /// Removes the file of a unix socket with us, if we made it.
    file: Option<SocketFile>,
}

#[derive(Debug)]
enum ListenerSocket {
    Tcp(tokio::net::TcpListener),
    Unix(tokio::net::UnixListener),
}

impl Listener {
    /// Listens at an address: at each one its host name stands for. Waits for
    /// the resolver, and must run inside the runtime.
    pub fn bind(address: &Address, rights: &SocketConfig) -> Result<Vec<Self>, ListenError> {
        let at = |problem| ListenError { place: address.to_string(), problem };
        match address {
            Address::Inet { host, port } => {
                let sockets = tcp::bind(host, *port).map_err(at)?;
                let listeners = sockets.into_iter().map(|socket| Self::tcp(socket.into()));
                listeners.collect::<Result<_, _>>().map_err(at)
            }
            Address::Unix(path) => {
                let (socket, file) = unix::bind(path, rights).map_err(at)?;
                let listener = Self::unix(socket.into(), address.clone(), Some(file)).map_err(at)?;
                Ok(vec![listener])
            }
        }
    }

    /// The sockets systemd passed, with the names it gives them; none if it passed none. Only the first call
    /// finds them. Must run inside the runtime.
    pub fn from_systemd() -> Result<Vec<(Option<String>, Self)>, ListenError> {
        systemd::listeners()
    }

    /// A socket of the old program, and the file that is to go with it. Must run inside the runtime.
    pub fn inherited(socket: socket2::Socket, file: Option<SocketFile>) -> Result<Self, ListenError> {
        systemd::listener(socket, file).map_err(|problem| ListenError { place: "an inherited socket".into(), problem })
    }

    /// Its socket, which no runtime waits for any more.
    pub fn detach(self) -> std::io::Result<DetachedListener> {
        let socket = match self.socket {
            ListenerSocket::Tcp(listener) => listener.into_std()?.into(),
            ListenerSocket::Unix(listener) => listener.into_std()?.into(),
        };
        Ok(DetachedListener { socket, file: self.file })
    }

    /// The file of a unix socket, if we made it.
    pub fn file(&self) -> Option<&SocketFile> {
        self.file.as_ref()
    }

    /// The address, with the port that the kernel chose if it was 0.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Waits for the next connection, through whatever goes wrong meanwhile.
    /// Nothing is lost when it is cancelled.
    pub async fn accept(&mut self, log: &Log) -> (Stream, Peer) {
        loop {
            match self.try_accept().await {
                Ok(accepted) => {
                    self.trouble.clear(&self.address, log, Now::read());
                    return accepted;
                }
                Err(error) => {
                    if let Some(pause) = self.trouble.record(&error, &self.address, log, Now::read()) {
                        tokio::time::sleep(pause).await;
                    }
                }
            }
        }
    }

    async fn try_accept(&self) -> std::io::Result<(Stream, Peer)> {
        match &self.socket {
            ListenerSocket::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                Ok((stream.try_into()?, Peer::inet(peer)))
            }
            ListenerSocket::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok((stream.try_into()?, Peer::Unix))
            }
        }
    }

    fn tcp(listener: std::net::TcpListener) -> Result<Self, ListenProblem> {
        let local = listener.local_addr().map_err(ListenProblem::Other)?;
        let listener = tokio::net::TcpListener::from_std(listener).map_err(ListenProblem::Other)?;
        let address = Address::Inet { host: local.ip().to_string(), port: local.port() };
        Ok(Self { socket: ListenerSocket::Tcp(listener), address, trouble: AcceptErrors::default(), file: None })
    }

    fn unix(
        listener: std::os::unix::net::UnixListener,
        address: Address,
        file: Option<SocketFile>,
    ) -> Result<Self, ListenProblem> {
        let listener = tokio::net::UnixListener::from_std(listener).map_err(ListenProblem::Other)?;
        Ok(Self { socket: ListenerSocket::Unix(listener), address, trouble: AcceptErrors::default(), file })
    }
}

/// A listening socket that another thread's runtime accepts from, or another process will.
///
/// Dropping it removes the file of a unix socket it made.
#[derive(Debug)]
pub struct DetachedListener {
    socket: socket2::Socket,
    file: Option<SocketFile>,
}

impl DetachedListener {
    /// The same socket once more, to accept from. The file stays with this one.
    pub fn try_clone(&self) -> std::io::Result<socket2::Socket> {
        self.socket.try_clone()
    }

    /// The file of a unix socket, if we made it.
    pub fn file(&self) -> Option<&SocketFile> {
        self.file.as_ref()
    }
}

impl AsFd for DetachedListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Logs a peer that may not ask: the first time, then once per `log_interval`.
pub fn refused_peer(log: &Log, peer: &Peer, now: Now) {
    let subject = secret::hash(("REFUSED_PEER", peer.ip()));
    log.per_subject(Severity::Notice, "REFUSED_PEER", subject, 0, now, |line, suppressed| {
        line.field("peer", peer).field("suppressed", suppressed);
    });
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            ListenerSocket::Tcp(listener) => listener.as_fd(),
            ListenerSocket::Unix(listener) => listener.as_fd(),
        }
    }
}

/// The peer of a connection: a Postfix, as a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Over TCP, from here.
    Inet(SocketAddr),
    /// Over a unix socket.
    Unix,
}

impl Peer {
    /// IPv4 through an IPv6 socket is IPv4.
    pub(crate) fn inet(address: SocketAddr) -> Self {
        Self::Inet(SocketAddr::new(address.ip().to_canonical(), address.port()))
    }

    /// Its address, if it has one.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Inet(address) => Some(address.ip()),
            Self::Unix => None,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet(address) => write!(f, "inet:{address}"),
            Self::Unix => f.write_str("unix"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv4_peer_of_an_ipv6_socket_is_an_ipv4_peer() {
        let peer = Peer::inet("[::ffff:192.0.2.1]:25".parse().unwrap());
        assert_eq!(peer.to_string(), "inet:192.0.2.1:25");
        assert_eq!(Peer::inet("[2001:db8::1]:25".parse().unwrap()).to_string(), "inet:[2001:db8::1]:25");
    }
}
