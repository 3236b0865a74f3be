//! Sends every socket and the state to the new program.

use std::fs::File;
use std::io::{self, BufWriter};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sys::memfd::{MFdFlags, memfd_create};

use super::{HandoverOrigin, SavedSocketFile, kind};
use crate::daemon::counts;
use crate::daemon::handover::transport;
use crate::engine::service::Service;
use crate::listener::{DetachedListener, Listener, SocketFile};
use crate::net::address::Address;
use crate::net::clock::Now;
use crate::net::secret;
use crate::net::stream::Stream;
use crate::postfix::connection::PolicyConnection;
use crate::snapshot::section::SectionWriter;

/// Written in pieces of this size.
const PIECE: usize = 256 * 1024;

/// The sockets of `listeners` are there because of `listen`; those of `http` are the doors over HTTP. Nobody has been answered since `begun`. The result becomes standard
/// input of the other program.
pub fn load(
    service: &Service,
    listen: &[Address],
    listeners: &[Listener],
    http: &[&DetachedListener],
    suspended: &[PolicyConnection<Stream>],
    begun: Now,
) -> io::Result<OwnedFd> {
    let known = memfd_create(c"connshaper", MFdFlags::MFD_CLOEXEC)?;
    let mut writer = SectionWriter::begin(BufWriter::with_capacity(PIECE, File::from(known)))?;
    let version = env!("CARGO_PKG_VERSION").to_owned();
    writer.add_value(kind::ORIGIN, &HandoverOrigin { version, begun: begun.monotonic, secret: secret::get() })?;
    let rules = service.rules.load();
    let now = Now::read();
    counts::write(&mut writer, &rules.policy, rules.store.table(), &service.daily.save(now), now)?;
    writer.add_value(kind::COALESCE, &rules.store.coalesce().save())?;
    writer.add_value(kind::OUTAGES, &rules.store.outages())?;
    let files = listeners.iter().map(Listener::file).chain(http.iter().map(|listener| listener.file()));
    let files: Vec<_> = files.map(|file| file.map(SavedSocketFile::of)).collect();
    writer.add_value(kind::LISTENERS, &files)?;
    writer.add_value(kind::HTTP, &http.len())?;
    let listen: Vec<_> = listen.iter().map(Address::to_string).collect();
    writer.add_value(kind::LISTEN, &listen)?;
    writer.add_value(kind::SESSIONS, &service.sessions.save())?;
    let connections: Vec<_> =
        suspended.iter().map(|suspended| (suspended.session.save(), suspended.state.save())).collect();
    writer.add_value(kind::CONNECTIONS, &connections)?;
    let numbers = service.statistics.counters().map(|counter| (counter.name, counter.get()));
    writer.add_value(kind::STATISTICS, &numbers[..])?;
    writer.add_value(kind::LOG, &service.log.save())?;
    writer.add_value(kind::LINK, &service.overrides.save(service, Now::read()))?;
    writer.add_value(kind::COMMANDS, &service.log.save_commands())?;
    let known = writer.finish()?.into_inner()?;

    let sockets = listeners.iter().map(AsFd::as_fd).chain(http.iter().map(|listener| listener.as_fd()));
    let sockets = sockets.chain(suspended.iter().map(|suspended| suspended.stream.as_fd()));
    let descriptors: Vec<BorrowedFd<'_>> = [known.as_fd()].into_iter().chain(sockets).collect();
    transport::load(&descriptors)
}

impl SavedSocketFile {
    fn of(file: &SocketFile) -> Self {
        let (path, device, inode) = file.identity();
        Self { path: path.into(), device, inode }
    }
}
