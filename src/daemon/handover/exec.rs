//! The program file that this process was started from, and execve(2) of the file that is there now.

use std::convert::Infallible;
use std::env;
use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::unistd::{dup2_stdin, execve};

use crate::daemon::handover::transport::VARIABLE;

/// Variables that service managers set for the process they started, and for no other. The sockets of systemd are
/// handed over like all others.
const OF_THIS_START: [&str; 3] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];

/// The path by which this process was called. Links in it are not followed: another program may stand behind
/// them later. To be asked before anything changes the working directory.
pub fn path() -> io::Result<PathBuf> {
    let name = env::args_os().next().unwrap_or_default();
    if name.as_bytes().contains(&b'/') {
        return std::path::absolute(name);
    }
    let directories = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&directories).map(|directory| directory.join(&name)).find(|path| is_program(path));
    found.map_or_else(env::current_exe, std::path::absolute)
}

fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

/// Calls the program at `path` in place of this one, with the same arguments and with `carrier` as standard
/// input. Returns only if that fails; then nothing has changed.
///
/// Not by the standard library, which lifts the block on signals: one that comes before the other program
/// handles it would end the process.
pub fn call(path: &Path, carrier: &OwnedFd) -> io::Result<Infallible> {
    let text = |text: &OsStr| CString::new(text.as_bytes()).map_err(io::Error::from);
    let arguments = env::args_os().map(|argument| text(&argument)).collect::<io::Result<Vec<_>>>()?;
    let mut variables = Vec::new();
    for (name, value) in env::vars_os() {
        if name != VARIABLE && OF_THIS_START.iter().all(|other| name != *other) {
            variables.push(text(&assignment(name, value))?);
        }
    }
    variables.push(text(&assignment(VARIABLE.into(), std::process::id().to_string().into()))?);
    let path = text(path.as_os_str())?;
    let before = io::stdin().as_fd().try_clone_to_owned()?;
    dup2_stdin(carrier)?;
    let failed = execve(&path, &arguments, &variables);
    dup2_stdin(before)?;
    failed.map_err(io::Error::from)
}

fn assignment(name: OsString, value: OsString) -> OsString {
    let mut bytes = name.into_vec();
    bytes.push(b'=');
    bytes.extend(value.into_vec());
    OsString::from_vec(bytes)
}
