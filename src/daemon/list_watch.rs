//! Looks at list files and databases at intervals, and reports the ones that have changed.
//!
//! Nothing of it is on the request path: files are looked at, and read, on threads that may block.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::config::{Config, FileStamp};

/// The list files and databases of a configuration as they were last seen.
#[derive(Debug)]
pub struct ListWatch {
    interval: Duration,
    seen: Vec<(PathBuf, Option<FileStamp>)>,
}

impl ListWatch {
    /// From the state in which `config` has read them on.
    pub fn new(config: &Config) -> Self {
        let lists = config.list_files.iter().map(|file| (file.path.clone(), file.stamp));
        // A file that several limits use is reported once.
        let of_limits: BTreeMap<_, _> = config.limit_files.iter().map(|file| (file.path.clone(), file.stamp)).collect();
        let databases: BTreeMap<_, _> =
            config.origin_files.iter().map(|file| (file.path.clone(), file.stamp)).collect();
        let seen = lists.chain(of_limits).chain(databases).collect();
        Self { interval: config.list_check_interval, seen }
    }

    /// Returns the files that have changed since they were last seen. Never returns if
    /// `list_check_interval` is 0. Each change is reported once; nothing is lost when the future is dropped before.
    pub async fn changed(&mut self) -> Vec<PathBuf> {
        if self.interval.is_zero() || self.seen.is_empty() {
            return std::future::pending().await;
        }
        loop {
            sleep(self.interval).await;
            let paths: Vec<PathBuf> = self.seen.iter().map(|(path, _)| path.clone()).collect();
            let look = move || -> Vec<Option<FileStamp>> { paths.iter().map(|path| FileStamp::of(path)).collect() };
            // Files that cannot be examined now are examined next time.
            let Ok(stamps) = spawn_blocking(look).await else { continue };
            let mut changed = Vec::new();
            for ((path, seen), stamp) in self.seen.iter_mut().zip(stamps) {
                if std::mem::replace(seen, stamp) != stamp {
                    changed.push(path.clone());
                }
            }
            if !changed.is_empty() {
                return changed;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_millis(50);

    fn watch(path: &std::path::Path) -> ListWatch {
        ListWatch { interval: Duration::from_millis(1), seen: vec![(path.to_owned(), FileStamp::of(path))] }
    }

    #[tokio::test]
    async fn a_change_is_told_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("list");
        fs::write(&path, "192.0.2.1\n").unwrap();
        let mut watch = watch(&path);
        assert!(timeout(SOON, watch.changed()).await.is_err());
        fs::write(&path, "192.0.2.1\n192.0.2.2\n").unwrap();
        assert_eq!(watch.changed().await, std::slice::from_ref(&path));
        assert!(timeout(SOON, watch.changed()).await.is_err());
        // Of the same size and time, but another file.
        let other = directory.path().join("new");
        fs::copy(&path, &other).unwrap();
        fs::File::options()
            .append(true)
            .open(&other)
            .unwrap()
            .set_modified(path.metadata().unwrap().modified().unwrap())
            .unwrap();
        fs::rename(&other, &path).unwrap();
        assert_eq!(watch.changed().await, std::slice::from_ref(&path));
        fs::remove_file(&path).unwrap();
        assert_eq!(watch.changed().await, std::slice::from_ref(&path));
        assert!(timeout(SOON, watch.changed()).await.is_err());
    }

    #[tokio::test]
    async fn nobody_looks_unless_asked_to() {
        let mut watch = ListWatch::new(&Config::default());
        assert!(timeout(SOON, watch.changed()).await.is_err());
    }
}
