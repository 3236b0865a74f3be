//! The file: whose it may be, how it is made and opened, and what is done about one that is damaged.
//!
//! A file is made whole under another name and then given its own, so no process ever sees half of one. What is not
//! ours is refused and left as it is. What is ours and damaged is renamed, never deleted. Nobody but SQLite opens the
//! file itself: closing it anywhere in this process would end the locks of SQLite's own connections.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, Error, ErrorCode, OpenFlags};

use super::settings::Synchronous;
use crate::net::clock::Now;
use crate::net::files::{beside, directory_of, leave_to_owner_of_directory, require_trusted};
use crate::net::secret;

/// Tells our files from those of other programs: "CSHP".
pub const APPLICATION_ID: i64 = 0x4353_4850;

/// What makes each version of the schema from the one before. The file's `user_version` is how many are done.
const MIGRATIONS: [&str; 1] = [include_str!("schema.sql")];

/// What `sqlite3` shows to people, as SQLite keeps the text of it.
const VIEW: &str = include_str!("view.sql");

/// How long the making of a file waits for other processes that make it.
const MAKING: Duration = Duration::from_secs(5);

/// How long a file that is being opened is waited for: after a crash the first process replays the WAL.
const OPENING: Duration = Duration::from_secs(1);

/// How long another process may hold the directory before we go on without that lock.
const DIRECTORY_LOCK: Duration = Duration::from_secs(1);

/// Memory for pages of the file, in KiB.
const CACHE: i64 = 8 * 1024;

/// The WAL is cut to this many bytes after it was longer.
const WAL_SIZE: i64 = 4 << 20;

/// Statements that are kept prepared: more than there are.
const STATEMENTS: usize = 64;

/// Why a file is not used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It is ours.
    #[error("it is damaged: {0}")]
    Damaged(String),
    /// Anything else; says what to do.
    #[error("{0}")]
    Refused(String),
}

/// Which file a path leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileIdentity(u64, u64);

impl FileIdentity {
    /// `None`: there is no file.
    pub fn of(path: &Path) -> Option<Self> {
        fs::symlink_metadata(path).ok().map(|found| Self(found.dev(), found.ino()))
    }
}

/// Opens the file, and makes it if there is none.
pub fn open(path: &Path, synchronous: Synchronous) -> Result<(Connection, FileIdentity), FileError> {
    let path = &real(path).map_err(|error| FileError::Refused(remedy(&error, path)))?;
    loop {
        match open_existing(path, synchronous) {
            Ok(Some(opened)) => return Ok(opened),
            Ok(None) => make(path).map_err(|error| FileError::Refused(remedy(&error, path)))?,
            Err(error) => return Err(error),
        }
    }
}

/// Opens a file for reading alone; `None`: there is none.
pub fn open_to_read(path: &Path) -> Result<Option<Connection>, FileError> {
    let path = &real(path).map_err(|error| FileError::Refused(remedy(&error, path)))?;
    if !is_there(path)? {
        return Ok(None);
    }
    // Readers of a WAL need to write to its index, so this connection may write; it does not.
    let connection = connect(path).map_err(|error| explain(&error))?;
    let kept = connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
    kept.map_err(|error| explain(&error))?;
    match check(&connection)? {
        0 => Err(FileError::Refused("it is empty: nothing has been counted yet".to_owned())),
        _ => Ok(Some(connection)),
    }
}

/// The path with the links in its directory followed. A link in place of the file itself is none of ours.
fn real(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| io::Error::other("it names no file"))?;
    Ok(fs::canonicalize(directory_of(path))?.join(name))
}

fn open_existing(path: &Path, synchronous: Synchronous) -> Result<Option<(Connection, FileIdentity)>, FileError> {
    if !is_there(path)? {
        return Ok(None);
    }
    let identity = FileIdentity::of(path);
    let mut connection = connect(path).map_err(|error| explain(&error))?;
    if check(&connection)? < MIGRATIONS.len() || !has_view(&connection).map_err(|error| explain(&error))? {
        migrate(&connection).map_err(|error| explain(&error))?;
    }
    set_pragmas(&mut connection, synchronous).map_err(|error| explain(&error))?;
    // Another may have been put in its place meanwhile.
    match identity.filter(|_| identity == FileIdentity::of(path)) {
        Some(identity) => Ok(Some((connection, identity))),
        None => Ok(None),
    }
}

/// Whether there is a file that we may use.
fn is_there(path: &Path) -> Result<bool, FileError> {
    match fs::symlink_metadata(path) {
        Ok(found) => match require_trusted(&found, path) {
            Ok(()) if found.mode() & 0o002 != 0 => {
                Err(FileError::Refused("all users may write it: take that right from them, with chmod o-w".to_owned()))
            }
            Ok(()) => Ok(true),
            Err(error) => Err(FileError::Refused(format!("{error}; name another file in sqlite_file"))),
        },
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(FileError::Refused(remedy(&error, path))),
    }
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_NOFOLLOW
        | OpenFlags::SQLITE_OPEN_EXRESCODE;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(OPENING)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(connection)
}

/// Another process writes, mostly for well below a millisecond. True: try again. In all that is some 20 ms, then
/// whoever waits decides.
fn wait_a_little(before: i32) -> bool {
    let longest = (100 << before.clamp(0, 5)).min(2000);
    thread::sleep(Duration::from_micros(longest / 2 + secret::random()[0] % (longest / 2)));
    before < 15
}

/// Whether a file is ours, and its version.
fn check(connection: &Connection) -> Result<usize, FileError> {
    let number = |pragma: &str| connection.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
    let id = number("application_id").map_err(|error| match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => {
            FileError::Refused("it is no SQLite database: name another file in sqlite_file, or move it away".to_owned())
        }
        _ => explain(&error),
    })?;
    if id == 0 && number("page_count").map_err(|error| explain(&error))? == 0 {
        return Ok(0);
    }
    if id != APPLICATION_ID {
        return Err(FileError::Refused(
            "it is the database of another program: name another file in sqlite_file, or move it away".to_owned(),
        ));
    }
    let version = number("user_version").map_err(|error| explain(&error))?;
    usize::try_from(version).ok().filter(|version| *version <= MIGRATIONS.len()).ok_or_else(|| {
        FileError::Refused(format!(
            "its schema has version {version}, and this program knows {} at most: start the newer connshaper that made \
             it, or name another file in sqlite_file",
            MIGRATIONS.len()
        ))
    })
}

/// The statement that makes the view: without the comment before it, which SQLite does not keep.
fn view() -> &'static str {
    VIEW[VIEW.find("CREATE VIEW").unwrap_or(0)..].trim_end()
}

/// Whether the view is that of this program.
fn has_view(connection: &Connection) -> rusqlite::Result<bool> {
    let select = "SELECT count(*) FROM sqlite_master WHERE type = 'view' AND name = 'counts' AND sql = ?1";
    connection.query_row(select, [view()], |row| row.get::<_, i64>(0)).map(|number| number > 0)
}

/// Brings a file of an older version, or an empty one, to ours. Of several processes one does it.
fn migrate(connection: &Connection) -> rusqlite::Result<()> {
    let begun = Instant::now();
    loop {
        match try_to_migrate(connection) {
            Err(error) if is_busy(&error) && begun.elapsed() < MAKING => thread::sleep(Duration::from_millis(5)),
            done => return done,
        }
    }
}

fn try_to_migrate(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.execute_batch("BEGIN IMMEDIATE")?;
    let done = (|| {
        let version = connection.pragma_query_value(None, "user_version", |row| row.get::<_, u32>(0))?;
        for migration in MIGRATIONS.iter().skip(version as usize) {
            connection.execute_batch(migration)?;
        }
        if !has_view(connection)? {
            connection.execute_batch("DROP VIEW IF EXISTS counts")?;
            connection.execute_batch(view())?;
        }
        connection.pragma_update(None, "application_id", APPLICATION_ID)?;
        connection.pragma_update(None, "user_version", MIGRATIONS.len() as i64)
    })();
    connection.execute_batch(if done.is_ok() { "COMMIT" } else { "ROLLBACK" })?;
    done
}

/// How a connection works from then on.
fn set_pragmas(connection: &mut Connection, synchronous: Synchronous) -> rusqlite::Result<()> {
    connection.pragma_update(None, "synchronous", synchronous.into_str())?;
    connection.pragma_update(None, "cache_size", -CACHE)?;
    connection.pragma_update(None, "journal_size_limit", WAL_SIZE)?;
    connection.pragma_update(None, "temp_store", "memory")?;
    // Another thread makes checkpoints, so that no request waits for the disk; and the last process to end leaves the
    // WAL, so that the next need not make it again.
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    // Reads the schema now, so that damage there is found before anything is counted.
    connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
    connection.busy_handler(Some(wait_a_little))
}

/// Makes the file, unless another process just did.
fn make(path: &Path) -> io::Result<()> {
    let _lock = lock_directory(path)?;
    if FileIdentity::of(path).is_some() {
        return Ok(());
    }
    // SQLite would take the WAL of a file that is gone for this one's.
    move_wal_away(path, ".removed")?;
    let new = beside(path, &format!(".new-{}", std::process::id()));
    let made = make_at(&new).and_then(|()| match fs::hard_link(&new, path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        linked => linked,
    });
    for leftover in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(beside(&new, leftover));
    }
    made
}

fn make_at(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        // Left behind by a process that was killed while it made one.
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    leave_to_owner_of_directory(&file, path)?;
    drop(file);
    let other = |error: Error| io::Error::other(error);
    let connection = connect(path).map_err(other)?;
    migrate(&connection).map_err(other)?;
    // Copies all of it from the WAL into the file.
    connection.close().map_err(|(_, error)| other(error))
}

/// Renames a damaged file and its WAL; returns the new name. Of several processes that find the damage one does it.
pub fn set_aside(path: &Path, damaged: FileIdentity) -> io::Result<Option<PathBuf>> {
    let path = &real(path)?;
    let _lock = lock_directory(path)?;
    if FileIdentity::of(path) != Some(damaged) {
        return Ok(None);
    }
    let suffix = format!(".damaged-{}", Now::read().unix());
    // First the WAL: a new file must never meet it.
    move_wal_away(path, &suffix)?;
    let aside = beside(path, &suffix);
    fs::rename(path, &aside)?;
    Ok(Some(aside))
}

fn move_wal_away(path: &Path, suffix: &str) -> io::Result<()> {
    for part in ["-shm", "-wal"] {
        match fs::rename(beside(path, part), beside(path, &format!("{suffix}{part}"))) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// One process at a time makes or renames the file. Whoever may read the directory can hold that lock too, so the wait
/// for it has an end.
fn lock_directory(path: &Path) -> io::Result<Option<Flock<File>>> {
    let begun = Instant::now();
    let mut directory = File::open(directory_of(path))?;
    while begun.elapsed() < DIRECTORY_LOCK {
        match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(Some(lock)),
            Err((file, _)) => directory = file,
        }
        thread::sleep(Duration::from_millis(2));
    }
    Ok(None)
}

/// What is wrong within a file, if anything is. Reads all of it.
pub fn check_whole(connection: &Connection) -> rusqlite::Result<Option<String>> {
    let first: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    Ok((first != "ok").then_some(first))
}

/// How long it takes until the file could be written; `None`: another process holds the lock for longer than that.
pub fn wait_for_lock(connection: &Connection, patience: Duration) -> rusqlite::Result<Option<Duration>> {
    let begun = Instant::now();
    while begun.elapsed() < patience {
        match connection.execute_batch("BEGIN IMMEDIATE; ROLLBACK") {
            Err(error) if is_busy(&error) => {}
            done => return done.map(|()| Some(begun.elapsed())),
        }
    }
    Ok(None)
}

/// Whether another process is in the way.
pub fn is_busy(error: &Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

/// What an error of SQLite means for the file. It is known to be ours.
pub fn explain(error: &Error) -> FileError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => FileError::Damaged(error.to_string()),
        Some(ErrorCode::DiskFull) => FileError::Refused("the disk is full".to_owned()),
        Some(ErrorCode::ReadOnly) => FileError::Refused(format!(
            "{error}: give the user that connshaper runs as the right to write it and its directory"
        )),
        Some(ErrorCode::CannotOpen) => FileError::Refused(format!(
            "{error}: the user that connshaper runs as needs the right to write the directory too"
        )),
        _ => FileError::Refused(error.to_string()),
    }
}

fn remedy(error: &io::Error, path: &Path) -> String {
    let directory = directory_of(path).display();
    match error.kind() {
        ErrorKind::NotFound => format!("there is no directory {directory}: make it, for connshaper's user to write"),
        ErrorKind::PermissionDenied => {
            format!("{error}: give the user that connshaper runs as the right to write {directory}")
        }
        ErrorKind::ReadOnlyFilesystem => format!("{error}: name a file elsewhere in sqlite_file"),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(connection: &Connection, pragma: &str) -> i64 {
        connection.pragma_query_value(None, pragma, |row| row.get(0)).unwrap()
    }

    #[test]
    fn a_file_is_ours_whole_and_as_careful_as_it_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("counts.db");
        for (synchronous, told) in [(Synchronous::Normal, 1), (Synchronous::Full, 2)] {
            let (connection, identity) = open(&path, synchronous).unwrap();
            assert_eq!(number(&connection, "application_id"), APPLICATION_ID);
            assert_eq!(number(&connection, "user_version"), MIGRATIONS.len() as i64);
            assert_eq!(number(&connection, "synchronous"), told);
            assert_eq!(FileIdentity::of(&path), Some(identity));
        }
        let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(names.iter().all(|name| name.to_string_lossy().starts_with("counts.db")), "{names:?}");
        assert!(!names.iter().any(|name| name.to_string_lossy().contains(".new")), "{names:?}");
    }

    #[test]
    fn an_older_view_is_made_anew_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("counts.db");
        let (connection, _) = open(&path, Synchronous::Normal).unwrap();
        let of_year = "connshaper:a/192.0.2.1!w6e8f2a0151800";
        let insert = "INSERT INTO counter VALUES (?1, 3, 1000 * (strftime('%s', 'now') + 60))";
        for key in [of_year, "connshaper:192.0.2.1"] {
            connection.execute(insert, [key]).unwrap();
        }
        connection.execute_batch("DROP VIEW counts; CREATE VIEW counts AS SELECT key FROM counter").unwrap();
        assert!(!has_view(&connection).unwrap());
        drop(connection);
        let (connection, _) = open(&path, Synchronous::Normal).unwrap();
        assert!(has_view(&connection).unwrap());
        let row = |row: &rusqlite::Row<'_>| {
            Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get::<_, i64>(2)?, row.get::<_, i64>(3)?))
        };
        let mut select = connection.prepare("SELECT key, kind, count, seconds_left FROM counts ORDER BY key").unwrap();
        let rows: Vec<_> = select.query_map([], row).unwrap().map(Result::unwrap).collect();
        let [window, calendar] = rows.as_slice() else { panic!("{rows:?}") };
        assert_eq!((&*window.0, &*window.1, window.2), ("connshaper:192.0.2.1", "window", 3));
        assert_eq!((&*calendar.0, &*calendar.1, calendar.2), (of_year, "calendar", 3));
        // The other one ends ten seconds after it.
        assert_eq!(window.3 - calendar.3, 10, "{rows:?}");
    }

    #[test]
    fn who_holds_the_lock_of_the_directory_keeps_nobody_out_for_long() {
        let dir = tempfile::tempdir().unwrap();
        let _lock = Flock::lock(File::open(dir.path()).unwrap(), FlockArg::LockExclusive).unwrap();
        assert!(open(&dir.path().join("counts.db"), Synchronous::Normal).is_ok());
    }

    #[test]
    fn only_the_file_that_was_found_damaged_is_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("counts.db");
        let (connection, damaged) = open(&path, Synchronous::Normal).unwrap();
        drop(connection);
        let aside = set_aside(&path, damaged).unwrap().expect("a new name");
        assert!(aside.exists() && !path.exists() && !beside(&path, "-wal").exists());
        // Another process found the same, and there is a new file by now.
        let (_, new) = open(&path, Synchronous::Normal).unwrap();
        assert_eq!(set_aside(&path, damaged).unwrap(), None);
        assert_eq!(FileIdentity::of(&path), Some(new));
    }
}
