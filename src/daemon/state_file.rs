//! `state_file`: the counts of this process, kept over a restart.
//!
//! Written beside the old one, synced, and put in its place by a rename, so
//! there is always a complete one. A file that cannot be read is renamed, never
//! overwritten, and the counts begin anew: the daemon starts in any case.
//!
//! A lock beside it is held for the life of the process. A second daemon with
//! the same file reads it and writes nothing.

use std::fmt::Display;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, ErrorKind};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};

use super::counts::{self, CountsReading, RestoredCounts, Since};
use crate::config::Config;
use crate::engine::daily::RecentDays;
use crate::net::clock::Now;
use crate::net::files::{beside, leave_to_owner_of_directory, require_trusted};
use crate::net::lock;
use crate::observe::log::LogRecord;
use crate::observe::log::{Log, Severity};
use crate::policy::Policy;
use crate::snapshot::section::{SectionReader, SectionWriter, SnapshotError};
use crate::store::local::Table;

/// Read in pieces of this size.
const PIECE: usize = 64 * 1024;

/// The file that keeps counts, and whether that works.
#[derive(Debug)]
pub struct StateFile {
    path: PathBuf,
    log: Log,
    /// Held until the end of the process; otherwise why nothing is written.
    lock: Result<Flock<File>, String>,
    /// Whether the last attempt failed. Locked while one is made.
    failing: Mutex<bool>,
}

impl StateFile {
    /// That of a configuration, if it has one and counts in this process.
    pub fn of(config: &Config, log: &Log) -> Option<Self> {
        let path = config.state.file.clone().filter(|_| config.store.shared.is_none())?;
        let lock = lock_beside(&path);
        if let Err(problem) = &lock {
            log.line(Severity::Err, "STATE_LOCKED", |line| {
                line.field("file", path.display()).field("problem", problem);
            });
        }
        Some(Self { path, log: log.clone(), lock, failing: Mutex::new(false) })
    }

    /// Why counts are not saved for the life of this process, if so.
    pub fn is_unused(&self) -> Option<String> {
        let problem = self.lock.as_ref().err()?;
        Some(format!("counts are not saved to {}: {problem}", self.path.display()))
    }

    /// The counts of the limits of `policy`, in a table of at most `max_clients`. Blocks.
    pub fn load(&self, policy: &Policy, max_clients: usize, now: Now) -> RestoredCounts {
        match self.read(policy, max_clients, now) {
            Ok(Some((restored, age))) => {
                self.log.line(Severity::Info, "STATE_RESTORED", |line| {
                    line.field("file", self.path.display()).field("counters", restored.table.len()).field("age", age);
                });
                restored
            }
            Ok(None) => RestoredCounts::none(max_clients),
            Err(damage) => {
                self.set_aside(&damage);
                RestoredCounts::none(max_clients)
            }
        }
    }

    /// Writes the counts. Blocks, for as long as the disk takes; of two calls one waits for the other.
    pub fn save(&self, policy: &Policy, table: &Table, days: &RecentDays, now: Now) {
        if self.lock.is_err() {
            return;
        }
        let mut failing = lock(&self.failing);
        let written = self.write(policy, table, days, now);
        let failed_before = std::mem::replace(&mut *failing, written.is_err());
        match written {
            Ok(counters) => {
                let fill = |line: &mut LogRecord| {
                    line.field("file", self.path.display()).field("counters", counters);
                };
                // It is saved every few minutes; only the first success after a failure is worth a line.
                match failed_before {
                    true => self.log.line(Severity::Notice, "STATE_SAVED", fill),
                    false => self.log.line(Severity::Debug, "STATE_SAVED", fill),
                }
            }
            Err(error) if !failed_before => {
                self.log.line(Severity::Warning, "STATE_NOT_SAVED", |line| {
                    line.field("file", self.path.display()).field("error", error);
                });
            }
            Err(_) => {}
        }
    }

    fn read(
        &self,
        policy: &Policy,
        max_clients: usize,
        now: Now,
    ) -> Result<Option<(RestoredCounts, u64)>, SnapshotError> {
        // Were it a pipe, opening it would wait for a writer.
        let flags = OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW;
        let file = match OpenOptions::new().read(true).custom_flags(flags.bits()).open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(SnapshotError::Unreadable(error)),
        };
        file.metadata().and_then(|found| require_trusted(&found, &self.path)).map_err(SnapshotError::Unreadable)?;
        let mut reader = SectionReader::begin(BufReader::with_capacity(PIECE, file))?;
        let mut reading = CountsReading::new(policy, max_clients, Since::Unix, now);
        while let Some(section) = reader.next_section()? {
            reading.take(&section)?;
        }
        let age = reading.age();
        reading.finish().map(|restored| Some((restored, age))).ok_or(SnapshotError::Corrupt)
    }

    fn set_aside(&self, damage: &SnapshotError) {
        let aside = beside(&self.path, ".damaged");
        let moved = match &self.lock {
            Ok(_) => self.require_file().and_then(|()| fs::rename(&self.path, &aside)),
            Err(problem) => Err(io::Error::other(problem.clone())),
        };
        self.log.line(Severity::Warning, "STATE_DAMAGED", |line| {
            line.field("file", self.path.display()).field("problem", damage);
            match moved {
                Ok(()) => line.field("set_aside", aside.display()),
                Err(error) => line.field("error", error),
            };
        });
    }

    fn write(&self, policy: &Policy, table: &Table, days: &RecentDays, now: Now) -> io::Result<u64> {
        self.require_file()?;
        let new = beside(&self.path, ".new");
        let written = write_new(&new, policy, table, days, now).and_then(|counters| {
            fs::rename(&new, &self.path)?;
            Ok(counters)
        });
        if written.is_err() {
            // On a full disk the place is needed.
            let _ = fs::remove_file(&new);
        }
        written
    }

    /// A directory, a device or a link is no state of ours, and not to be moved or replaced.
    fn require_file(&self) -> io::Result<()> {
        match fs::symlink_metadata(&self.path) {
            Ok(found) if !found.is_file() => Err(io::Error::other("it is not a regular file")),
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// Locks the file beside the state file that is there for this alone.
fn lock_beside(state: &Path) -> Result<Flock<File>, String> {
    let path = beside(state, ".lock");
    let wrong = |error: &dyn Display| format!("{}: {error}", path.display());
    let file = open_lock(&path).map_err(|error| wrong(&error))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        Errno::EWOULDBLOCK => "another daemon uses the file".to_owned(),
        errno => wrong(&errno),
    })
}

fn open_lock(path: &Path) -> io::Result<File> {
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(new) => {
            leave_to_owner_of_directory(&new, path)?;
            Ok(new)
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
            let file = OpenOptions::new().write(true).custom_flags(flags.bits()).open(path)?;
            require_trusted(&file.metadata()?, path)?;
            Ok(file)
        }
        Err(error) => Err(error),
    }
}

/// Writes a file that was not there, for our user alone to read, and has the disk keep it.
fn write_new(path: &Path, policy: &Policy, table: &Table, days: &RecentDays, now: Now) -> io::Result<u64> {
    match fs::remove_file(path) {
        // Left behind by a process that was killed while it wrote.
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    leave_to_owner_of_directory(&file, path)?;
    let mut writer = SectionWriter::begin(BufWriter::with_capacity(PIECE, file))?;
    let counters = counts::write(&mut writer, policy, table, days, now)?;
    let file: File = writer.finish()?.into_inner()?;
    file.sync_all()?;
    Ok(counters)
}
