//! Sockets that systemd opened for us (LISTEN_FDS), by the rules of sd_listen_fds(3).
//!
//! Two crates share this: `sd_notify` checks that the sockets are meant for this
//! process and keeps them from its children, `sd_listen_fds` turns the numbers
//! into owned descriptors, which safe code cannot do by itself.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use socket2::{Domain, SockAddr, Socket, Type};

use crate::net::address::Address;

use super::unix::SocketFile;
use super::{ListenError, ListenProblem, Listener};

/// All passed sockets with their names, in the order of the socket units' directives.
pub fn listeners() -> Result<Vec<(Option<String>, Listener)>, ListenError> {
    // A second owner of the same descriptors would close them under the first.
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Ok(Vec::new());
    }
    let broken = |cause: String| ListenError { place: "LISTEN_FDS".to_owned(), problem: ListenProblem::Passed(cause) };
    let numbers = sd_notify::listen_fds().map_err(|error| broken(error.to_string()))?;
    let passed = sd_listen_fds::get().map_err(|error| broken(error.to_string()))?;
    let named = numbers.zip(passed).map(|(number, (name, descriptor))| {
        let place = match &name {
            Some(name) => format!("descriptor {number} ({name})"),
            None => format!("descriptor {number}"),
        };
        let listener = listener(descriptor.into_std().into(), None);
        listener.map(|listener| (name, listener)).map_err(|problem| ListenError { place, problem })
    });
    named.collect()
}

/// Listens on a socket that another process opened. `file` is that of a unix socket which is ours to remove.
pub fn listener(socket: Socket, file: Option<SocketFile>) -> Result<Listener, ListenProblem> {
    let kind = socket.r#type().map_err(|_| ListenProblem::Passed("it is not a socket".to_owned()))?;
    if kind != Type::STREAM {
        return Err(ListenProblem::Passed("it is not a stream socket".to_owned()));
    }
    if !socket.is_listener().map_err(ListenProblem::Other)? {
        return Err(ListenProblem::Passed("it is a connection".to_owned()));
    }
    socket.set_nonblocking(true).map_err(ListenProblem::Other)?;
    let domain = socket.domain().map_err(ListenProblem::Other)?;
    if domain == Domain::IPV4 || domain == Domain::IPV6 {
        return Listener::tcp(socket.into());
    }
    if domain == Domain::UNIX {
        let local = socket.local_addr().map_err(ListenProblem::Other)?;
        // The address of a socket of ours is the name that it was made under.
        let path = file.as_ref().map_or_else(|| path(&local), |file| file.identity().0.to_owned());
        let address = Address::Unix(path);
        // That of systemd is not ours: it goes on listening when we are gone.
        return Listener::unix(socket.into(), address, file);
    }
    Err(ListenProblem::Passed("it is neither an internet nor a unix socket".to_owned()))
}

/// The path of a unix socket; an @ stands for the abstract namespace.
fn path(address: &SockAddr) -> PathBuf {
    match (address.as_pathname(), address.as_abstract_namespace()) {
        (Some(path), _) => path.to_owned(),
        (None, Some(name)) => format!("@{}", name.escape_ascii()).into(),
        (None, None) => PathBuf::new(),
    }
}
