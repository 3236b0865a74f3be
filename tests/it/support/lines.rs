//! Lines that a process writes, read as they come.

use std::fmt;
use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::PATIENCE;

/// All lines so far. Clones see the same lines.
#[derive(Clone, Default)]
pub struct Lines(Arc<Shared>);

#[derive(Default)]
struct Shared {
    lines: Mutex<Vec<String>>,
    changed: Condvar,
}

impl Lines {
    /// The lines of a pipe, until it ends.
    pub fn of(source: impl Read + Send + 'static) -> Self {
        let lines = Self::default();
        drop(lines.add_all(source));
        lines
    }

    /// Datagrams sent to a socket at `path`, until no other clone of these lines is left.
    pub fn of_log_socket(path: &Path) -> Self {
        let (lines, socket) = (Self::default(), UnixDatagram::bind(path).unwrap());
        fs::set_permissions(path, Permissions::from_mode(0o666)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let (mut buffer, writer) = ([0; 8192], lines.clone());
        thread::spawn(move || {
            while Arc::strong_count(&writer.0) > 1 {
                match socket.recv(&mut buffer) {
                    Ok(length) => writer.add(&buffer[..length]),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(error) => panic!("cannot read the log socket: {error}"),
                }
            }
        });
        lines
    }

    /// Adds the lines of `source` in a thread that ends with the source.
    pub fn add_all(&self, source: impl Read + Send + 'static) -> JoinHandle<()> {
        let writer = self.clone();
        thread::spawn(move || {
            for line in BufReader::new(source).split(b'\n') {
                writer.add(&line.unwrap());
            }
        })
    }

    fn add(&self, line: &[u8]) {
        self.0.lines.lock().unwrap().push(String::from_utf8_lossy(line).into_owned());
        self.0.changed.notify_all();
    }

    /// The first line that contains `text`, as soon as there is one.
    #[track_caller]
    pub fn wait_for(&self, text: &str) -> String {
        self.wait_for_more(text, 0)
    }

    /// The first line that contains `text` after the `seen` first of these.
    #[track_caller]
    pub fn wait_for_more(&self, text: &str, seen: usize) -> String {
        let Some(line) = self.wait_within(PATIENCE, text, seen) else {
            panic!("no line with {text:?} ({seen} seen before) among:\n{self}");
        };
        line
    }

    /// As `wait_for_more`, with another time-out; `None` if the line does not come.
    pub fn wait_within(&self, time: Duration, text: &str, seen: usize) -> Option<String> {
        let deadline = Instant::now() + time;
        let mut lines = self.0.lines.lock().unwrap();
        loop {
            if let Some(line) = lines.iter().filter(|line| line.contains(text)).nth(seen) {
                return Some(line.clone());
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            lines = self.0.changed.wait_timeout(lines, left).unwrap().0;
        }
    }

    /// The lines so far that contain `text`. A line may come a little later than the event.
    pub fn with(&self, text: &str) -> Vec<String> {
        self.0.lines.lock().unwrap().iter().filter(|line| line.contains(text)).cloned().collect()
    }
}

/// Prints the log of a part if the test has failed; called when the part is dropped.
pub fn show_if_panicking(part: &str, lines: &Lines) {
    if thread::panicking() {
        eprintln!("{part} logged:\n{lines}");
    }
}

impl fmt::Display for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.lines.lock().unwrap().iter().try_for_each(|line| writeln!(f, "    {line}"))
    }
}
