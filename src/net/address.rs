//! Addresses as Postfix writes them: `inet:HOST:PORT` and `unix:PATH`.
//!
//! The configuration speaks of three kinds of places with them: where we
//! listen, where a memcached is, and where `connshaper query` asks.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use smallvec::SmallVec;
use thiserror::Error;

/// Where a stream socket is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// A host name or address (without brackets), and a TCP port.
    Inet {
        /// Name, IPv4 or IPv6 address.
        host: String,
        /// TCP port, never 0 for a place to connect to.
        port: u16,
    },
    /// The absolute path of a Unix-domain socket.
    Unix(PathBuf),
}

/// The text of an address, at most 15 bytes. `Display` makes the same with a thousand instructions.
pub fn ipv4_text(address: Ipv4Addr) -> SmallVec<[u8; 16]> {
    let mut text = SmallVec::new();
    for octet in address.octets() {
        text.extend_from_slice(itoa::Buffer::new().format(octet).as_bytes());
        text.push(b'.');
    }
    text.pop();
    text
}

/// Something to read from and write to.
pub trait Duplex: Read + Write {}

impl<S: Read + Write> Duplex for S {}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Self::unix(path);
        }
        let Some(rest) = text.strip_prefix("inet:") else {
            return Err(AddressError::Scheme);
        };
        let (host, port) = split_port(rest)?;
        let port = port.ok_or(AddressError::PortMissing)?;
        Self::inet(host, port)
    }
}

impl Address {
    /// The address of a memcached: `HOST`, `HOST:PORT`, `[V6]:PORT`, a bare
    /// IPv6 address, `unix:PATH` or an absolute path.
    pub fn of_server(text: &str, default_port: u16) -> Result<Self, AddressError> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Self::unix(path);
        }
        if text.starts_with('/') {
            return Self::unix(text);
        }
        if text.parse::<Ipv6Addr>().is_ok() {
            return Self::inet(text, default_port);
        }
        let (host, port) = split_port(text.strip_prefix("inet:").unwrap_or(text))?;
        Self::inet(host, port.unwrap_or(default_port))
    }

    /// A connection to it, for programs that wait. Neither connecting nor reading takes longer than `patience`
    /// for each of the addresses a name has.
    pub fn dial(&self, patience: Duration) -> io::Result<Box<dyn Duplex>> {
        match self {
            Self::Inet { host, port } => {
                let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
                for address in (host.as_str(), *port).to_socket_addrs()? {
                    match TcpStream::connect_timeout(&address, patience) {
                        Ok(stream) => {
                            stream.set_nodelay(true)?;
                            stream.set_read_timeout(Some(patience))?;
                            return Ok(Box::new(stream));
                        }
                        Err(error) => last = error,
                    }
                }
                Err(last)
            }
            Self::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(patience))?;
                Ok(Box::new(stream))
            }
        }
    }

    /// Whether it is, or may be, more than a loopback address of this host.
    pub fn is_beyond_loopback(&self) -> bool {
        match self {
            Self::Inet { host, .. } => match host.parse::<IpAddr>() {
                Ok(ip) => !ip.to_canonical().is_loopback(),
                Err(_) => !host.eq_ignore_ascii_case("localhost"),
            },
            Self::Unix(_) => false,
        }
    }

    fn unix(path: &str) -> Result<Self, AddressError> {
        // The address structure of a Unix-domain socket holds 108 bytes with the final NUL.
        const LONGEST_PATH: usize = 107;
        if !path.starts_with('/') {
            return Err(AddressError::PathRelative);
        }
        if path.len() > LONGEST_PATH {
            return Err(AddressError::PathLong);
        }
        Ok(Self::Unix(PathBuf::from(path)))
    }

    fn inet(host: &str, port: u16) -> Result<Self, AddressError> {
        let odd = |c: char| c.is_whitespace() || c.is_control() || c == '/' || c == '[' || c == ']';
        if host == "*" {
            return Err(AddressError::Wildcard);
        }
        if host.is_empty() || host.contains(odd) {
            return Err(AddressError::Host);
        }
        Ok(Self::Inet { host: host.to_owned(), port })
    }
}

fn split_port(text: &str) -> Result<(&str, Option<u16>), AddressError> {
    let port = |text: &str| text.parse::<u16>().map(Some).map_err(|_| AddressError::Port);
    if let Some(rest) = text.strip_prefix('[') {
        let (host, after) = rest.split_once(']').ok_or(AddressError::Host)?;
        return match after.strip_prefix(':') {
            Some(number) => Ok((host, port(number)?)),
            None if after.is_empty() => Ok((host, None)),
            None => Err(AddressError::Port),
        };
    }
    match text.split_once(':') {
        Some((_, rest)) if rest.contains(':') => Err(AddressError::Brackets),
        Some((host, number)) => Ok((host, port(number)?)),
        None => Ok((text, None)),
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet { host, port } if host.contains(':') => write!(f, "inet:[{host}]:{port}"),
            Self::Inet { host, port } => write!(f, "inet:{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// What is wrong with the text of an address, and how to write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AddressError {
    /// Neither `inet:` nor `unix:`.
    #[error("write inet:HOST:PORT or unix:/PATH")]
    Scheme,
    /// `unix:` without an absolute path.
    #[error("the path of a unix socket must be absolute, as in unix:/run/connshaper/policy")]
    PathRelative,
    /// A path that no Unix-domain socket address can hold.
    #[error("the path of a unix socket has at most 107 bytes")]
    PathLong,
    /// No host, or one with impossible characters.
    #[error("write a host name or an address before the port")]
    Host,
    /// `*` for a host.
    #[error("write 0.0.0.0 for all IPv4 addresses of this host, or [::] for all of IPv6, in place of *")]
    Wildcard,
    /// An IPv6 address with a port, but without brackets.
    #[error("write an IPv6 address with a port in brackets, as in [2001:db8::1]:11211")]
    Brackets,
    /// The port is not a number from 0 to 65535.
    #[error("the port is a number from 0 to 65535")]
    Port,
    /// `inet:` without a port.
    #[error("write the port too, as in inet:127.0.0.1:10040")]
    PortMissing,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_back_as_they_are_written() {
        for text in ["inet:127.0.0.1:10040", "inet:[::1]:25", "inet:mx.example.org:1", "unix:/run/x"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn the_text_of_an_address_is_what_display_makes() {
        for address in [[0, 0, 0, 0], [192, 0, 2, 1], [10, 99, 100, 9], [255, 255, 255, 255]].map(Ipv4Addr::from) {
            assert_eq!(ipv4_text(address), SmallVec::<[u8; 16]>::from_slice(address.to_string().as_bytes()));
        }
    }

    #[test]
    fn wrong_addresses_say_what_to_write() {
        let wrong = [
            ("127.0.0.1:10040", AddressError::Scheme),
            ("unix:run/x", AddressError::PathRelative),
            ("inet:::1:25", AddressError::Brackets),
            ("inet::25", AddressError::Host),
            ("inet:*:10040", AddressError::Wildcard),
            ("inet:localhost", AddressError::PortMissing),
            ("inet:localhost:70000", AddressError::Port),
        ];
        for (text, error) in wrong {
            assert_eq!(text.parse::<Address>(), Err(error), "{text}");
        }
    }

    #[test]
    fn a_server_may_leave_out_its_port() {
        let written = |text| Address::of_server(text, 11211).unwrap().to_string();
        assert_eq!(written("localhost"), "inet:localhost:11211");
        assert_eq!(written("mc1.example.org:11300"), "inet:mc1.example.org:11300");
        assert_eq!(written("2001:db8::1"), "inet:[2001:db8::1]:11211");
        assert_eq!(written("[2001:db8::1]:1"), "inet:[2001:db8::1]:1");
        assert_eq!(written("/run/memcached.sock"), "unix:/run/memcached.sock");
    }
}
