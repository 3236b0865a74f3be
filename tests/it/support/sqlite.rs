//! A SQLite file that counts, and the sqlite3 shell to look into it.

use std::fmt::Display;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::Dir;

/// A place for a file, which the first process makes. It is removed with this value.
pub struct Sqlite {
    dir: Dir,
    file: PathBuf,
}

impl Sqlite {
    pub fn new() -> Self {
        let dir = Dir::new();
        let file = dir.join("counts.db");
        Self { dir, file }
    }

    pub fn file(&self) -> &Path {
        &self.file
    }

    pub fn dir(&self) -> &Dir {
        &self.dir
    }

    /// The line that configures it.
    pub fn config(&self) -> String {
        format!("sqlite_file = {:?}\n", self.file)
    }

    /// What the sqlite3 shell says to a statement, a row a line, columns separated by `|`.
    pub fn say(&self, statement: impl Display) -> String {
        say(&self.file, statement)
    }

    /// The count of a key that has not ended; of a sliding window too.
    pub fn value(&self, key: &str) -> Option<String> {
        let is_there = self.file.exists();
        let count = is_there.then(|| self.say(format!("SELECT count FROM counts WHERE key = '{key}'")));
        count.map(|count| count.trim().to_owned()).filter(|count| !count.is_empty())
    }

    /// Removes a key.
    pub fn delete(&self, key: &str) {
        self.say(format!("DELETE FROM counter WHERE key = '{key}'"));
    }

    /// Has another process hold the lock on the file, until it is dropped.
    pub fn lock(&self) -> SqliteLock {
        let mut command = Command::new("sqlite3");
        command.arg("-batch").arg(&self.file).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut shell = command.spawn().expect("the sqlite3 shell");
        let begin = ".timeout 10000\nBEGIN EXCLUSIVE;\nSELECT 'locked';\n";
        shell.stdin.as_mut().unwrap().write_all(begin.as_bytes()).unwrap();
        let mut line = String::new();
        BufReader::new(shell.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "locked\n");
        SqliteLock(shell)
    }
}

/// A lock that a sqlite3 shell holds.
pub struct SqliteLock(Child);

impl Drop for SqliteLock {
    fn drop(&mut self) {
        // The end of its input is the end of the shell, which rolls back.
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// What the sqlite3 shell says to a statement about a file.
fn say(file: &Path, statement: impl Display) -> String {
    let mut command = Command::new("sqlite3");
    // The daemon writes too.
    command.args(["-batch", "-cmd", ".timeout 10000"]).arg(file).arg(statement.to_string());
    let output = command.output().expect("the sqlite3 shell");
    assert!(output.status.success(), "{statement}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
