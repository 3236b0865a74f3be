//! Why we cannot listen somewhere, and what the administrator can do.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// A place where we cannot listen.
#[derive(Debug)]
pub struct ListenError {
    /// The address, or the descriptor that was passed.
    pub place: String,
    /// The cause.
    pub problem: ListenProblem,
}

/// Why it is not possible to listen.
#[derive(Debug)]
pub enum ListenProblem {
    /// A host name that cannot be resolved, with the resolver's words.
    NoSuchHost(String),
    /// An address that no interface has.
    NotLocal,
    /// Another program listens at this address.
    PortInUse,
    /// A port that takes a privilege.
    PortForbidden,
    /// Another program listens on this unix socket.
    SocketInUse,
    /// A unix socket is there that we may not even try.
    NotOurs,
    /// A file of another kind is there.
    NotASocket,
    /// The name under which a unix socket is made does not fit into its address.
    PathLong,
    /// The directory of a unix socket is missing.
    NoDirectory(PathBuf),
    /// The directory of a unix socket is not open to us.
    DirectoryForbidden(PathBuf),
    /// The socket's owner.
    UnknownUser(String),
    /// The socket's group.
    UnknownGroup(String),
    /// We may not give the socket to this owner or group.
    OwnershipForbidden,
    /// We may not give the socket to this group, which we are not in.
    GroupForbidden(String),
    /// Owner or group do not exist in our user namespace.
    OwnershipUnmapped,
    /// Another file took the place of the socket before it was ready.
    Replaced,
    /// systemd passed something we cannot listen on.
    Passed(String),
    /// Anything else.
    Other(io::Error),
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot listen at {}: {}", self.place, self.problem)
    }
}

impl fmt::Display for ListenProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchHost(cause) => write!(f, "{cause}; write an address instead of the name"),
            Self::NotLocal => f.write_str("no interface of this host has the address; `ip address` shows which it has"),
            Self::PortInUse => f.write_str(
                "another program listens there; stop it (`ss -ltnp` names it) or set `listen` to another port",
            ),
            Self::PortForbidden => f.write_str(
                "no permission; set `listen` to a port above 1023, or let systemd open the socket",
            ),
            Self::SocketInUse => f.write_str(
                "another program listens there; stop it (`ss -lxp` names it) or set `listen` to another path",
            ),
            Self::NotOurs => f.write_str(
                "a socket is there that we may not connect to; remove it if no program uses it, or set `listen` to another path",
            ),
            Self::NotASocket => f.write_str(
                "a file is there that is not a socket; move it away or set `listen` to another path",
            ),
            Self::PathLong => f.write_str("the path is too long; keep its directory under 97 bytes"),
            Self::NoDirectory(path) => write!(f, "there is no directory {}; create it first", path.display()),
            Self::DirectoryForbidden(path) => write!(
                f,
                "no permission to create a file in {}; give it to our user, or let systemd open the socket",
                path.display()
            ),
            Self::UnknownUser(name) => write!(f, "there is no user `{name}`; set `socket_owner` to one of this host"),
            Self::UnknownGroup(name) => {
                write!(f, "there is no group `{name}`; set `socket_group` to one of this host")
            }
            Self::OwnershipForbidden => f.write_str(
                "no permission to set `socket_owner` or `socket_group`; start as root, or let systemd open the socket",
            ),
            Self::GroupForbidden(name) => write!(
                f,
                "no permission to give the socket to the group `{name}`; put our user into it (under systemd \
                 SupplementaryGroups={name} does so), or start as root"
            ),
            Self::OwnershipUnmapped => f.write_str(
                "the owner or group of the socket does not exist in our user namespace; under systemd set \
                 PrivateUsers=no for the service",
            ),
            Self::Replaced => f.write_str(
                "another file took the place of the socket; let only root and our user write in its directory",
            ),
            Self::Passed(cause) => {
                write!(f, "{cause}; ListenStream= is what the socket unit must have, and Accept=no")
            }
            Self::Other(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ListenError {}
