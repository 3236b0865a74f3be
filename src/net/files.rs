//! Which files may be trusted, by their owner, and the owner of our own files.

use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt, fchown};
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

/// A file is one of ours: regular, and of our own user or root. To root the owner of the directory is no stranger
/// either, for a daemon that root runs by hand may share it with the service.
pub fn require_trusted(found: &Metadata, path: &Path) -> io::Result<()> {
    if !found.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let own = geteuid().as_raw();
    let is_trusted =
        |uid| uid == own || uid == 0 || own == 0 && owner_of_directory(path).is_ok_and(|owner| uid == owner);
    match is_trusted(found.uid()) {
        true => Ok(()),
        false => Err(io::Error::other(format!("it belongs to another user, number {}", found.uid()))),
    }
}

/// What root makes in the directory of another user is for that user to read at the next start.
pub fn leave_to_owner_of_directory(file: &File, path: &Path) -> io::Result<()> {
    if geteuid().is_root() {
        fchown(file, Some(owner_of_directory(path)?), None)?;
    }
    Ok(())
}

/// The directory that a file is in.
pub fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|directory| !directory.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The path of a file in the same directory, whose name ends with a suffix more.
pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

fn owner_of_directory(path: &Path) -> io::Result<u32> {
    Ok(fs::metadata(directory_of(path))?.uid())
}
