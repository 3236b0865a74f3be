//! Copies what was committed from the write-ahead log (WAL) into the file, and both to the disk.
//!
//! That waits for the disk, so a thread of its own does it, on a connection of its own: nothing that is counted waits
//! for it. It begins with the first commit, so a process that only reads has no such thread.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::wal::CheckpointMode;
use rusqlite::{Connection, DEFAULT_NAME};

use super::file;
use super::settings::Synchronous;
use crate::net::lock;
use crate::net::signals::block_signals;

/// What was committed is brought to the disk after this time at the latest. The manual says 30 seconds, with the time
/// that the disk takes.
const INTERVAL: Duration = Duration::from_secs(25);

/// Pages in the WAL from which on it is done sooner; some 4 MB.
const SOON: i32 = 1000;

/// Pages in the WAL from which on writers wait for it: else it would grow as long as they write without a pause.
const LONGEST_WAL: i32 = 8 * SOON;

/// The checkpoints of one connection's commits.
pub struct Checkpoints {
    path: PathBuf,
    /// Pages in the WAL after the last commit.
    pages: Arc<AtomicI32>,
    /// What the thread is to do; `None`: it has not begun.
    thread: Option<Arc<Wanted>>,
}

#[derive(Default)]
struct Wanted {
    state: Mutex<CheckpointState>,
    changed: Condvar,
}

#[derive(Default)]
struct CheckpointState {
    /// Since when something is only in the WAL.
    since: Option<Instant>,
    soon: bool,
    ended: bool,
}

impl Checkpoints {
    /// Notes what this connection commits.
    pub fn watch(connection: &mut Connection, path: &Path) -> rusqlite::Result<Self> {
        let pages = Arc::new(AtomicI32::new(0));
        let committed = Arc::clone(&pages);
        connection.wal_hook(Some(move |_: &mut rusqlite::hooks::Wal, number| {
            committed.store(number, Ordering::Relaxed);
            Ok(())
        }))?;
        Ok(Self { path: path.to_owned(), pages, thread: None })
    }

    /// Something was committed.
    pub fn after_commit(&mut self) {
        let wanted = match &self.thread {
            Some(wanted) => wanted,
            None => match begin(&self.path) {
                Some(wanted) => self.thread.insert(wanted),
                // There are too many threads. The next commit tries again.
                None => return,
            },
        };
        let soon = self.pages.load(Ordering::Relaxed) >= SOON;
        let mut state = lock(&wanted.state);
        let has_changed = state.since.is_none() || soon && !state.soon;
        state.since.get_or_insert_with(Instant::now);
        state.soon |= soon;
        drop(state);
        if has_changed {
            wanted.changed.notify_one();
        }
    }
}

impl Drop for Checkpoints {
    fn drop(&mut self) {
        if let Some(wanted) = &self.thread {
            lock(&wanted.state).ended = true;
            wanted.changed.notify_one();
        }
    }
}

fn begin(path: &Path) -> Option<Arc<Wanted>> {
    let wanted = Arc::new(Wanted::default());
    let (theirs, path) = (Arc::clone(&wanted), path.to_owned());
    let begun = thread::Builder::new().name("checkpoint".to_owned()).spawn(move || {
        block_signals();
        let mut connection = None;
        while theirs.wait() {
            // Errors are ignored: a commit fails then as well, and is reported. Until then the WAL has the data.
            if connection.is_none() {
                connection = file::open(&path, Synchronous::Normal).ok();
            }
            if let Some((connection, _)) = &connection {
                checkpoint(connection);
            }
        }
    });
    begun.ok().map(|_| wanted)
}

impl Wanted {
    /// Waits until it is time. Returns false at the end.
    fn wait(&self) -> bool {
        let mut state = lock(&self.state);
        loop {
            if state.ended {
                return false;
            }
            let left = state.since.map(|since| INTERVAL.saturating_sub(since.elapsed()));
            match left {
                Some(left) if state.soon || left.is_zero() => {
                    // What is committed from now on may miss this one.
                    *state = CheckpointState::default();
                    return true;
                }
                Some(left) => state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0,
                None => state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

fn checkpoint(connection: &Connection) {
    let done = connection.wal_checkpoint_v2(DEFAULT_NAME, CheckpointMode::PASSIVE);
    if done.is_ok_and(|(pages, _)| pages >= LONGEST_WAL) {
        // All but the last pages are on the disk now, so this is short.
        let _ = connection.wal_checkpoint_v2(DEFAULT_NAME, CheckpointMode::RESTART);
    }
}
