//! Why we cannot listen somewhere, and what the administrator can do.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// A place where we cannot listen.
#[derive(Debug, Error)]
#[error("cannot listen at {place}: {problem}")]
pub struct ListenError {
    /// The address, or the descriptor that was passed.
    pub place: String,
    /// The cause.
    pub problem: ListenProblem,
}

/// Why it is not possible to listen.
#[derive(Debug, Error)]
pub enum ListenProblem {
    #[error("{0}; write an address instead of the name")]
    NoSuchHost(String),
    #[error("no interface of this host has the address; `ip address` shows which it has")]
    NotLocal,
    #[error("another program listens there; stop it (`ss -ltnp` names it) or set `listen` to another port")]
    PortInUse,
    /// A port that takes a privilege.
    #[error("no permission; set `listen` to a port above 1023, or let systemd open the socket")]
    PortForbidden,
    #[error("another program listens there; stop it (`ss -lxp` names it) or set `listen` to another path")]
    SocketInUse,
    /// There is a unix socket, and we cannot find out whether a program uses it.
    #[error(
        "a socket exists there, and we have no permission to connect to it; remove it if no program uses it, or set \
         `listen` to another path"
    )]
    NotOurs,
    #[error("a file is there that is not a socket; move it away or set `listen` to another path")]
    NotASocket,
    /// The name under which a unix socket is made does not fit into its address.
    #[error("the path is too long; keep its directory under 97 bytes")]
    PathLong,
    #[error("there is no directory {}; create it first", .0.display())]
    NoDirectory(PathBuf),
    /// The directory of a unix socket is not open to us.
    #[error(
        "no permission to create a file in {}; let the daemon's user write there, or let systemd open the socket",
        .0.display()
    )]
    DirectoryForbidden(PathBuf),
    #[error("there is no user `{0}`; set `socket_owner` to one of this host")]
    UnknownUser(String),
    #[error("there is no group `{0}`; set `socket_group` to one of this host")]
    UnknownGroup(String),
    #[error("no permission to set `socket_owner` or `socket_group`; start as root, or let systemd open the socket")]
    OwnershipForbidden,
    /// We may not give the socket to this group, which we are not in.
    #[error(
        "no permission to give the socket to the group `{0}`; put the daemon's user into it (under systemd \
         SupplementaryGroups={0} does so), or start as root"
    )]
    GroupForbidden(String),
    #[error(
        "the owner or group of the socket does not exist in our user namespace; under systemd set PrivateUsers=no for \
         the service"
    )]
    OwnershipUnmapped,
    #[error("another file took the place of the socket; let only root and the daemon's user write in its directory")]
    Replaced,
    /// systemd passed something we cannot listen on.
    #[error("{0}; the socket unit needs ListenStream= and Accept=no")]
    Passed(String),
    /// Anything else.
    #[error("{0}")]
    Other(io::Error),
}
