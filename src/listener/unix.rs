//! Listening on a unix socket.
//!
//! The socket is made under another name beside its path, gets its owner, group
//! and mode, and only then takes its place by a rename. So nobody ever meets it
//! with wrong rights, and whoever connects meets the old one or the new one.

use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::{Group, User};
use socket2::{Domain, SockAddr, Socket, Type};

use super::SocketConfig;
use super::{BACKLOG, ListenProblem};

/// Listens at `path`, in place of a socket that nobody listens at any more.
pub fn bind(path: &Path, rights: &SocketConfig) -> Result<(Socket, SocketFile), ListenProblem> {
    let owner = rights.owner.as_deref().map(user).transpose()?;
    let group = rights.group.as_deref().map(self::group).transpose()?;
    check_free(path)?;

    let trial = trial_path(path);
    if fs::symlink_metadata(&trial).is_ok_and(|found| found.file_type().is_socket()) {
        // Left behind by a process that ended between bind and rename and had our number.
        let _ = fs::remove_file(&trial);
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(ListenProblem::Other)?;
    let address = SockAddr::unix(&trial).map_err(|_| ListenProblem::PathLong)?;
    socket.bind(&address).map_err(|error| creation(error, path))?;
    let mut file = SocketFile::made(trial).map_err(ListenProblem::Other)?;

    // A sandbox may forbid even a change to what is.
    if owner.is_some() || group.is_some() {
        lchown(&file.path, owner, group).map_err(ownership)?;
    }
    fs::set_permissions(&file.path, Permissions::from_mode(rights.mode)).map_err(ListenProblem::Other)?;
    socket.set_nonblocking(true).map_err(ListenProblem::Other)?;
    socket.listen(BACKLOG).map_err(ListenProblem::Other)?;
    fs::rename(&file.path, path).map_err(|error| creation(error, path))?;
    file.path = path.to_owned();
    Ok((socket, file))
}

/// A socket file that we made. Dropping it removes the file, unless another has taken its place.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    fn made(path: PathBuf) -> io::Result<Self> {
        let metadata = fs::symlink_metadata(&path)?;
        Ok(Self { path, device: metadata.dev(), inode: metadata.ino() })
    }

    /// The one that a process before us made.
    pub fn inherited(path: PathBuf, device: u64, inode: u64) -> Self {
        Self { path, device, inode }
    }

    /// Path, device and inode, for `inherited`.
    pub fn identity(&self) -> (&Path, u64, u64) {
        (&self.path, self.device, self.inode)
    }

    fn is_ours(&self) -> bool {
        let found = fs::symlink_metadata(&self.path);
        found.is_ok_and(|found| found.dev() == self.device && found.ino() == self.inode)
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.is_ours() {
            // What remains is a stale socket, which the next start replaces.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Whether `path` may be taken: nothing is there, or a socket without a listener.
fn check_free(path: &Path) -> Result<(), ListenProblem> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(creation(error, path)),
        Ok(found) if !found.file_type().is_socket() => Err(ListenProblem::NotASocket),
        Ok(_) => match connect(path) {
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound) => Ok(()),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => Err(ListenProblem::NotOurs),
            // A full backlog or another type of socket: somebody is there all the same.
            Err(_) | Ok(()) => Err(ListenProblem::SocketInUse),
        },
    }
}

fn connect(path: &Path) -> io::Result<()> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // A listener whose backlog is full would make us wait.
    socket.set_nonblocking(true)?;
    socket.connect(&SockAddr::unix(path)?)
}

/// A name beside `path` for the time until the rename; short, because socket addresses are.
fn trial_path(path: &Path) -> PathBuf {
    let mut name = OsString::from(".cs");
    name.push(std::process::id().to_string());
    path.with_file_name(name)
}

fn user(name: &str) -> Result<u32, ListenProblem> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    let found = User::from_name(name).map_err(|errno| ListenProblem::Other(errno.into()))?;
    found.map(|user| user.uid.as_raw()).ok_or_else(|| ListenProblem::UnknownUser(name.to_owned()))
}

fn group(name: &str) -> Result<u32, ListenProblem> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    let found = Group::from_name(name).map_err(|errno| ListenProblem::Other(errno.into()))?;
    found.map(|group| group.gid.as_raw()).ok_or_else(|| ListenProblem::UnknownGroup(name.to_owned()))
}

fn creation(error: io::Error, path: &Path) -> ListenProblem {
    let directory = || path.parent().unwrap_or(Path::new("/")).to_owned();
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => ListenProblem::NoDirectory(directory()),
        ErrorKind::PermissionDenied => ListenProblem::DirectoryForbidden(directory()),
        _ => ListenProblem::Other(error),
    }
}

fn ownership(error: io::Error) -> ListenProblem {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EPERM) => ListenProblem::OwnershipForbidden,
        _ => ListenProblem::Other(error),
    }
}
