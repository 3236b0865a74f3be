//! A SQLite file that fails under load, in every way it can: Postfix notices nothing.
//!
//! ```text
//! cargo test --test it -- faults_sqlite:: --nocapture
//! ```

use std::cell::RefCell;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use nix::sys::signal::Signal;

use crate::faults_store::{conclude, in_time_and_right, outage};
use crate::support::load::{RULES, Row, under_load};
use crate::support::{Daemon, Dir, Process, Sqlite, until};

fn daemon(sqlite: &Sqlite) -> Daemon {
    Daemon::start(&format!("{RULES}{}", sqlite.config()))
}

/// The count of a client that the load has again and again.
const BUSY: &str = "connshaper:10.0.200.0";

#[test]
fn a_process_that_locks_the_file_for_long_delays_no_answer() {
    let sqlite = Sqlite::new();
    let daemon = daemon(&sqlite);
    until("the file", || sqlite.file().exists().then_some(()));
    let lock = RefCell::new(None);
    let seen = outage(&daemon, || *lock.borrow_mut() = Some(sqlite.lock()), || drop(lock.borrow_mut().take()));
    conclude("locked", &daemon, &seen);
    let line = daemon.lines().wait_for("STORE_DOWN");
    assert!(line.contains("another process has locked it"), "{line}");
    until("a count after the lock", || sqlite.value(BUSY));
}

#[test]
fn a_process_that_locks_the_file_again_and_again_is_waited_for() {
    let sqlite = Sqlite::new();
    let daemon = Daemon::start(&format!("{RULES}{}store_timeout = \"5s\"\n", sqlite.config()));
    until("the file", || sqlite.file().exists().then_some(()));
    let (seen, ()) = under_load(&daemon, |progress| {
        for _ in 0..10 {
            let lock = sqlite.lock();
            std::thread::sleep(std::time::Duration::from_millis(20));
            drop(lock);
            progress.wait_for(20);
        }
    });
    Row { fault: "locked, 20 ms of 5 s", seen: &seen, p99: None, recovery: None, log: daemon.lines() }.print();
    assert_eq!((seen.refused_wrongly(), seen.passed_wrongly()), (0, 0));
    assert!(daemon.lines().with("STORE_DOWN").is_empty(), "{}", daemon.lines());
}

/// A directory on a file system of its own, in the mount namespace of one daemon.
struct Disk {
    dir: Dir,
    daemon: Daemon,
}

impl Disk {
    /// In memory. `options` are those of mount(8).
    fn new(options: &str) -> Self {
        Self::mounted(Dir::new(), &format!("-t tmpfs -o {options} none"))
    }

    /// In a file, as a block device.
    fn of_blocks() -> Self {
        let dir = Dir::new();
        let image = dir.join("image");
        fs::File::create(&image).and_then(|file| file.set_len(64 << 20)).unwrap();
        assert!(Command::new("mkfs.ext4").arg("-q").arg(&image).status().unwrap().success());
        Self::mounted(dir, &format!("-o loop {}", image.display()))
    }

    fn mounted(dir: Dir, source: &str) -> Self {
        let disk = dir.join("disk");
        fs::create_dir(&disk).unwrap();
        let mount = format!("mount {source} {}", disk.display());
        let preparation = format!("exec unshare --mount sh -c '{mount} && exec \"$0\" \"$@\"' \"$0\" \"$@\"");
        let config = format!("{RULES}sqlite_file = {:?}\n", disk.join("counts.db"));
        let daemon = Daemon::start_after(&preparation, &config);
        Self { dir, daemon }
    }

    /// A path on it, as this process sees it.
    fn path(&self, name: &str) -> PathBuf {
        let within = self.dir.join("disk").join(name);
        format!("/proc/{}/root{}", self.daemon.id(), within.display()).into()
    }

    /// Keeps every write waiting, as a disk that hangs does, until this is dropped.
    fn freeze(&self) -> Frozen {
        let frozen = Frozen(self.path(""));
        frozen.tell("--freeze");
        frozen
    }

    /// Mounts it with other options.
    fn remount(&self, options: &str) {
        let mut command = Command::new("nsenter");
        command.args(["--mount", "--target", &self.daemon.id().to_string(), "mount", "-o"]);
        command.arg(format!("remount,{options}")).arg(self.dir.join("disk"));
        assert!(command.status().unwrap().success());
    }
}

/// A disk that hangs.
struct Frozen(PathBuf);

impl Frozen {
    fn tell(&self, what: &str) {
        assert!(Command::new("fsfreeze").arg(what).arg(&self.0).status().unwrap().success());
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.tell("--unfreeze");
    }
}

#[test]
fn a_disk_that_hangs_delays_no_answer() {
    let disk = Disk::of_blocks();
    let daemon = &disk.daemon;
    until("the file", || disk.path("counts.db").exists().then_some(()));
    let frozen = RefCell::new(None);
    let seen = outage(daemon, || *frozen.borrow_mut() = Some(disk.freeze()), || drop(frozen.borrow_mut().take()));
    conclude("hangs", daemon, &seen);
    let line = daemon.lines().wait_for("STORE_DOWN");
    assert!(line.contains("the disk is slow"), "{line}");
}

#[test]
fn a_disk_that_becomes_full_delays_no_answer() {
    let disk = Disk::new("size=16m");
    let daemon = &disk.daemon;
    until("the file", || disk.path("counts.db").exists().then_some(()));
    let fill = || {
        // All that is left, to the last page, and what the store frees when it notices.
        let filler = format!("of={}", disk.path("filler").display());
        for _ in 0..10 {
            let mut command = Command::new("dd");
            command.args(["if=/dev/zero", "bs=4k", "oflag=append", "conv=notrunc", &filler]);
            let _ = command.stderr(Stdio::null()).status();
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    };
    let seen = outage(daemon, fill, || fs::remove_file(disk.path("filler")).unwrap());
    conclude("full", daemon, &seen);
    let line = daemon.lines().wait_for("STORE_DOWN");
    assert!(line.contains("full"), "{line}");
}

#[test]
fn a_disk_that_may_not_be_written_delays_no_answer() {
    let disk = Disk::new("size=16m,ro");
    let daemon = &disk.daemon;
    let seen = outage(daemon, || {}, || disk.remount("rw"));
    conclude("read-only", daemon, &seen);
    let line = daemon.lines().wait_for("STORE_DOWN");
    assert!(line.contains("Read-only file system"), "{line}");
}

#[test]
fn a_file_that_is_removed_under_load_restarts_counts_and_refuses_no_client() {
    let sqlite = Sqlite::new();
    let daemon = daemon(&sqlite);
    let (seen, recovery) = under_load(&daemon, |progress| {
        let removed = Instant::now();
        fs::remove_file(sqlite.file()).unwrap();
        daemon.lines().wait_for("STORE_FLUSHED");
        let recovery = removed.elapsed();
        progress.wait_for(800);
        recovery
    });
    Row { fault: "removed", seen: &seen, p99: None, recovery: Some(recovery), log: daemon.lines() }.print();
    in_time_and_right("removed", &seen);
    assert_ne!(sqlite.say("SELECT count(*) FROM counts"), "0\n");
}

#[test]
fn another_process_that_is_killed_while_it_writes_delays_no_answer() {
    let sqlite = Sqlite::new();
    let daemon = daemon(&sqlite);
    until("the file", || sqlite.file().exists().then_some(()));
    let (seen, ()) = under_load(&daemon, |progress| {
        for _ in 0..10 {
            let mut command = Command::new("sqlite3");
            command.args(["-batch", "-cmd", ".timeout 10000"]).arg(sqlite.file()).stderr(Stdio::null());
            command.arg(
                "BEGIN IMMEDIATE; WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)
                 INSERT INTO counter SELECT 'other:' || i, 1, 1 FROM n; ROLLBACK;",
            );
            let mut shell = Process::start(&mut command, Signal::SIGKILL);
            progress.wait_for(10);
            if shell.ended().is_none() {
                shell.signal(Signal::SIGKILL);
            }
            shell.wait();
        }
    });
    Row { fault: "a writer is killed", seen: &seen, p99: None, recovery: None, log: daemon.lines() }.print();
    in_time_and_right("a writer is killed", &seen);
    assert_eq!(sqlite.say("PRAGMA integrity_check"), "ok\n");
}
