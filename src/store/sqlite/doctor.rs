//! The SQLite file that counts: whether it can be used, whether it is whole, and whether the disk has room for it.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::statfs::{FsType, NFS_SUPER_MAGIC, SMB_SUPER_MAGIC, statfs};

use super::{SqliteConfig, file};
use crate::net::files::directory_of;
use crate::observe::finding::{Finding, doubtful, right, wrong};
use crate::store::shared::doctor::FAR;

/// How long another process may hold the lock.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);

/// The largest size of the file's write-ahead log.
const LARGEST_WAL: u64 = 32 << 20;

const MEBIBYTE: u64 = 1 << 20;

/// Checks the file and its disk.
pub fn examine(config: &SqliteConfig) -> Vec<Finding> {
    let path = config.path.as_path();
    let mut findings = vec![content(path)];
    findings.extend(disk(config));
    findings
}

/// Whether it is ours and whole, and may be written.
fn content(path: &Path) -> Finding {
    let place = path.display();
    let begun = Instant::now();
    let checked = match file::open_to_read(path) {
        Err(error) => return wrong(format!("{place} is not used"), error.to_string()),
        Ok(None) => return right(format!("{place} is made with the first connection")),
        Ok(Some(connection)) => file::check_whole(&connection).and_then(|problems| {
            let counters = connection.query_row("SELECT count(*) FROM counter", [], |row| row.get::<_, i64>(0))?;
            Ok((problems, counters, file::wait_for_lock(&connection, LOCK_TIMEOUT)?))
        }),
    };
    match checked {
        Ok((None, counters, waited)) => whole(path, counters, waited, begun.elapsed()),
        Ok((Some(problem), ..)) => damaged(path, &problem),
        Err(error) => match file::explain(&error) {
            file::FileError::Damaged(problem) => damaged(path, &problem),
            refused => wrong(format!("{place} cannot be used"), refused.to_string()),
        },
    }
}

/// The lock took so long; `None`: it could not be had. All took `looked`.
fn whole(path: &Path, counters: i64, waited: Option<Duration>, looked: Duration) -> Finding {
    let milliseconds = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1e3);
    let what = format!("{} is whole, with {counters} counters", path.display());
    match waited {
        Some(waited) if waited > FAR => doubtful(
            format!("{what}, and its lock took {}", milliseconds(waited)),
            "look for a process that holds it for long, such as a sqlite3 shell within a transaction",
        ),
        Some(_) => right(format!("{what}, looked at in {}", milliseconds(looked))),
        None => wrong(
            format!("{} has been locked for {} s by another process", path.display(), LOCK_TIMEOUT.as_secs()),
            "end that process, such as a sqlite3 shell within a transaction; fuser(1) names it",
        ),
    }
}

fn damaged(path: &Path, problem: &str) -> Finding {
    wrong(
        format!("{} is damaged: {problem}", path.display()),
        "rename it, with its -wal and -shm; connshaper makes a new one, and clients start at zero",
    )
}

/// Whether the disk is a local one with room for as much as the file may grow to.
fn disk(config: &SqliteConfig) -> Option<Finding> {
    /// SMB2 and later, which nix has no name for.
    const SMB2_SUPER_MAGIC: FsType = FsType(0xfe53_4d42);
    let directory = directory_of(&config.path);
    let found = statfs(directory).ok()?;
    let place = directory.display();
    if [NFS_SUPER_MAGIC, SMB_SUPER_MAGIC, SMB2_SUPER_MAGIC].contains(&found.filesystem_type()) {
        return Some(wrong(
            format!("{place} is on a network file system, where SQLite's locks do not hold"),
            "name a file on a local disk in sqlite_file, or share counts by a server",
        ));
    }
    let free = found.blocks_available() * u64::try_from(found.block_size()).unwrap_or(0);
    let size = fs::metadata(&config.path).map_or(0, |file| file.len());
    let needed = (config.largest() + LARGEST_WAL).saturating_sub(size);
    let [free_mib, needed_mib] = [free, needed].map(|bytes| bytes / MEBIBYTE);
    Some(match free >= needed {
        true => right(format!("{place} has {free_mib} MiB free, and the counts may grow by {needed_mib} MiB")),
        false => doubtful(
            format!("{place} has {free_mib} MiB free, and the counts may grow by {needed_mib} MiB"),
            "make room there, or lower max_clients",
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::finding::Assessment;

    #[test]
    fn a_lock_that_takes_longer_than_a_server_may_be_away_is_doubtful() {
        let whole = |waited| whole(Path::new("/counts.db"), 3, waited, Duration::from_millis(12));
        let found = |finding: Finding| (finding.state, finding.what);
        let quick = "/counts.db is whole, with 3 counters, looked at in 12.0 ms".to_owned();
        assert_eq!(found(whole(Some(FAR))), (Assessment::Right, quick));
        let slow = "/counts.db is whole, with 3 counters, and its lock took 10.5 ms".to_owned();
        assert_eq!(found(whole(Some(FAR + Duration::from_micros(500)))), (Assessment::Doubtful, slow));
        assert_eq!(whole(None).state, Assessment::Wrong);
    }
}
