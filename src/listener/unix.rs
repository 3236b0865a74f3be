//! Listening on a unix socket.
//!
//! The socket is made under another name beside its path, gets its owner, group
//! and mode, and only then takes its place by a rename. So it never has wrong
//! rights at its path, and a client that connects finds the old one or the new one.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, Flock, FlockArg, OFlag};
use nix::unistd::{Gid, Group, Uid, User, fchownat, geteuid};
use socket2::{Domain, SockAddr, Socket, Type};

use super::SocketConfig;
use super::{BACKLOG, ListenProblem};

/// How long another process may keep the directory locked: as long as a bind takes, unless it means harm.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// Between two tries to lock the directory.
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// Listens at `path`, in place of a socket that nothing listens at any more.
pub fn bind(path: &Path, rights: &SocketConfig) -> Result<(Socket, SocketFile), ListenProblem> {
    let owner = rights.owner.as_deref().map(user).transpose()?;
    let group = rights.group.as_deref().map(self::group).transpose()?;
    // Of two daemons that start at once the second meets the socket of the first, not the same free path.
    let _locked = lock_directory(path);
    check_free(path)?;

    let trial = trial_path(path);
    if fs::symlink_metadata(&trial).is_ok_and(|found| found.file_type().is_socket()) {
        // Left behind by a process that ended between bind and rename and had our number.
        let _ = fs::remove_file(&trial);
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(ListenProblem::Other)?;
    let address = SockAddr::unix(&trial).map_err(|_| ListenProblem::PathLong)?;
    socket.bind(&address).map_err(|error| creation(error, path))?;
    // The rights go to this very file: another user may own the directory, and put a link in its place.
    let made = open_itself(&trial).map_err(ListenProblem::Other)?;
    let metadata = made.metadata().map_err(ListenProblem::Other)?;
    if !metadata.file_type().is_socket() || metadata.uid() != geteuid().as_raw() {
        return Err(ListenProblem::Replaced);
    }
    let mut file = SocketFile { path: trial, device: metadata.dev(), inode: metadata.ino() };

    // A sandbox may forbid even a change to what is.
    if owner.is_some() || group.is_some() {
        let (owner, gid) = (owner.map(Uid::from_raw), group.map(Gid::from_raw));
        fchownat(&made, "", owner, gid, AtFlags::AT_EMPTY_PATH).map_err(|errno| ownership(errno, rights))?;
    }
    let itself = format!("/proc/self/fd/{}", made.as_raw_fd());
    fs::set_permissions(itself, Permissions::from_mode(rights.mode)).map_err(ListenProblem::Other)?;
    socket.set_nonblocking(true).map_err(ListenProblem::Other)?;
    socket.listen(BACKLOG).map_err(ListenProblem::Other)?;
    fs::rename(&file.path, path).map_err(|error| creation(error, path))?;
    file.path = path.to_owned();
    Ok((socket, file))
}

/// Opens what is at a path, no link followed and nothing read.
fn open_itself(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags((OFlag::O_PATH | OFlag::O_NOFOLLOW).bits()).open(path)
}

/// Locks the directory of a socket until the value is dropped. Without read permission, or where another process does
/// not let go of it, there is no lock: that is no reason not to serve.
fn lock_directory(path: &Path) -> Option<Flock<File>> {
    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut directory = File::open(directory).ok()?;
    let begun = Instant::now();
    loop {
        match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
            Ok(locked) => return Some(locked),
            Err((back, Errno::EWOULDBLOCK)) if begun.elapsed() < LOCK_PATIENCE => directory = back,
            Err(_) => return None,
        }
        thread::sleep(LOCK_PAUSE);
    }
}

/// A socket file that we made. Dropping it removes the file, unless another has taken its place.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    /// One that the old program made.
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
            // A stale socket remains, which the next start replaces.
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

fn ownership(errno: Errno, rights: &SocketConfig) -> ListenProblem {
    let group = || rights.group.clone().unwrap_or_default();
    match errno {
        Errno::EPERM if rights.owner.is_none() => ListenProblem::GroupForbidden(group()),
        Errno::EPERM => ListenProblem::OwnershipForbidden,
        // A user namespace, as of PrivateUsers=, in which they do not exist.
        Errno::EINVAL => ListenProblem::OwnershipUnmapped,
        _ => ListenProblem::Other(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

    use super::*;

    fn rights(mode: u32) -> SocketConfig {
        SocketConfig { mode, owner: None, group: None }
    }

    #[test]
    fn rights_are_never_given_to_what_is_put_in_the_place_of_the_socket() {
        let directory = tempfile::tempdir().unwrap();
        let victim = tempfile::NamedTempFile::new().unwrap();
        fs::set_permissions(victim.path(), Permissions::from_mode(0o600)).unwrap();
        let path = directory.path().join("policy");
        let (over, replaced) = (AtomicBool::new(false), AtomicU32::new(0));
        thread::scope(|scope| {
            scope.spawn(|| {
                let (trial, link) = (trial_path(&path), directory.path().join("link"));
                while !over.load(Ordering::Relaxed) {
                    let _ = symlink(victim.path(), &link);
                    if trial.exists() && fs::rename(&link, &trial).is_ok() {
                        replaced.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
            for _ in 0..2000 {
                let _ = bind(&path, &rights(0o666));
                let _ = fs::remove_file(&path);
                let _ = fs::remove_file(trial_path(&path));
            }
            over.store(true, Ordering::Relaxed);
        });
        assert!(replaced.into_inner() > 0, "there was no race");
        assert_eq!(victim.path().metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
}
