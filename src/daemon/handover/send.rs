//! What the other program is given: every socket, and what is known beside them.

use std::fs::File;
use std::io::{self, BufWriter};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use bytes::BufMut;
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::kind;
use crate::daemon::counts;
use crate::daemon::handover::transport as carrier;
use crate::engine::service::Service;
use crate::listener::{Listener, SocketFile};
use crate::net::address::Address;
use crate::net::clock::Now;
use crate::net::secret;
use crate::net::stream::Stream;
use crate::postfix::suspended::SuspendedConnection;
use crate::snapshot::fields::put_bytes;
use crate::snapshot::section::Writer;

/// Written in pieces of this size.
const PIECE: usize = 256 * 1024;

/// The sockets are there because of `listen`. Nobody has been answered since `begun`. The result becomes standard
/// input of the other program.
pub fn load(
    service: &Service,
    listen: &[Address],
    listeners: &[Listener],
    parked: &[SuspendedConnection<Stream>],
    begun: Now,
) -> io::Result<OwnedFd> {
    let known = memfd_create(c"connshaper", MFdFlags::MFD_CLOEXEC)?;
    let mut writer = Writer::begin(BufWriter::with_capacity(PIECE, File::from(known)))?;
    let mut content = Vec::new();
    put_bytes(&mut content, env!("CARGO_PKG_VERSION").as_bytes());
    content.put_u64_le(begun.monotonic);
    secret::get().iter().for_each(|half| content.put_u64_le(*half));
    writer.add(kind::ORIGIN.0, kind::ORIGIN.1, &content)?;

    let rules = service.rules.load();
    counts::write(&mut writer, &rules.policy, rules.store.table(), Now::read())?;

    content.clear();
    rules.store.coalesce().put(&mut content);
    writer.add(kind::COALESCE.0, kind::COALESCE.1, &content)?;

    writer.add_value(kind::OUTAGES, &rules.store.outages())?;

    content.clear();
    for (number, listener) in (0_u32..).zip(listeners) {
        if let Some((path, device, inode)) = listener.file().map(SocketFile::identity) {
            content.put_u32_le(number);
            put_bytes(&mut content, path.as_os_str().as_bytes());
            content.put_u64_le(device);
            content.put_u64_le(inode);
        }
    }
    writer.add(kind::LISTENERS.0, kind::LISTENERS.1, &content)?;

    content.clear();
    listen.iter().for_each(|address| put_bytes(&mut content, address.to_string().as_bytes()));
    writer.add(kind::LISTEN.0, kind::LISTEN.1, &content)?;

    content.clear();
    service.sessions.put(&mut content);
    writer.add(kind::SESSIONS.0, kind::SESSIONS.1, &content)?;

    content.clear();
    let mut one = Vec::new();
    for connection in parked {
        one.clear();
        connection.session.put(&mut one);
        connection.state.put(&mut one);
        put_bytes(&mut content, &one);
    }
    writer.add(kind::CONNECTIONS.0, kind::CONNECTIONS.1, &content)?;

    content.clear();
    for counter in service.statistics.counters() {
        put_bytes(&mut content, counter.name.as_bytes());
        content.put_u64_le(counter.get());
    }
    writer.add(kind::STATISTICS.0, kind::STATISTICS.1, &content)?;

    content.clear();
    service.log.put(&mut content);
    writer.add(kind::LOG.0, kind::LOG.1, &content)?;

    content.clear();
    service.log.put_commands(&mut content);
    writer.add(kind::COMMANDS.0, kind::COMMANDS.1, &content)?;
    let known = writer.finish()?.into_inner()?;

    let sockets = listeners.iter().map(AsFd::as_fd).chain(parked.iter().map(|parked| parked.stream.as_fd()));
    let descriptors: Vec<BorrowedFd<'_>> = [known.as_fd()].into_iter().chain(sockets).collect();
    carrier::load(&descriptors)
}
