//! Listening over TCP.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

use nix::errno::Errno;
use socket2::{Domain, Protocol, Socket, Type};

use super::{BACKLOG, ListenProblem};

/// A socket at each address of `host`. A name may have addresses that this
/// host lacks (`localhost` without IPv6); one that can be had is enough.
pub fn bind(host: &str, port: u16) -> Result<Vec<Socket>, ListenProblem> {
    let mut sockets = Vec::new();
    let mut lacking = None;
    for address in resolve(host, port)? {
        match listen(address) {
            Ok(socket) => sockets.push(socket),
            Err(error) if is_lacking(&error) => lacking = Some(error),
            Err(error) => return Err(problem(error)),
        }
    }
    match lacking {
        Some(error) if sockets.is_empty() => Err(problem(error)),
        _ => Ok(sockets),
    }
}

fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, ListenProblem> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    let found = (host, port).to_socket_addrs().map_err(|error| ListenProblem::NoSuchHost(error.to_string()))?;
    let mut addresses = Vec::new();
    // A hosts file may name an address twice.
    for address in found {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if addresses.is_empty() {
        return Err(ListenProblem::NoSuchHost("it has no address".to_owned()));
    }
    Ok(addresses)
}

fn listen(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // So that 0.0.0.0 and [::] can both be given, whatever the host's default.
        socket.set_only_v6(true)?;
    }
    // Connections of an earlier daemon may still linger on the port.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

fn is_lacking(error: &io::Error) -> bool {
    error.kind() == ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(Errno::EAFNOSUPPORT as i32)
}

fn problem(error: io::Error) -> ListenProblem {
    match error.kind() {
        ErrorKind::AddrInUse => ListenProblem::PortInUse,
        ErrorKind::PermissionDenied => ListenProblem::PortForbidden,
        _ if is_lacking(&error) => ListenProblem::NotLocal,
        _ => ListenProblem::Other(error),
    }
}
