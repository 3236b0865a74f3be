//! Writes lines to standard error, or to the system logger's datagram socket.
//!
//! Runs on the log's own thread, so it may wait, but never for long: a line
//! that cannot be written is retried for a while and then given up.
//! Nothing that happens to a logger ends or blocks the daemon.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use syslog::{Formatter5424, LogFormat};

use super::encode;
use super::sink::QueuedLine;
use crate::observe::log::LogTarget;
use crate::observe::log::{Facility, SyslogFormat};

/// How long a line is retried, counted from when it was logged. Loggers are
/// restarted in less; and a receiver stamps a line when it gets it, so that a
/// late one would tell a wrong time.
const RETRY_TIME: Duration = Duration::from_secs(2);
/// Between two tries, and how long one may wait for a logger that does not read.
const PAUSE: Duration = Duration::from_millis(50);

/// Writes lines to a target.
pub enum LogWriter {
    /// Standard error.
    Stderr {
        /// Whether the journal reads it and takes a priority from each line.
        journal: bool,
        /// Whether a line was given up after a part of it was written.
        torn: bool,
    },
    /// Standard error, as JSON.
    Json {
        /// Whether a line was given up after a part of it was written.
        torn: bool,
    },
    /// A datagram socket.
    Socket {
        path: PathBuf,
        /// `None` before it could be made.
        socket: Option<UnixDatagram>,
        protocol: SyslogProtocol,
    },
}

/// What is sent to a datagram socket.
pub enum SyslogProtocol {
    Journal(Facility),
    Rfc3164(Facility),
    Rfc5424(Formatter5424),
}

impl SyslogProtocol {
    fn datagram(&self, entry: &QueuedLine) -> Vec<u8> {
        match self {
            Self::Journal(facility) => encode::journal(&entry.record, entry.severity, *facility),
            // Not by the library, which would add the time in UTC to a protocol that knows local time only.
            Self::Rfc3164(facility) => {
                let (priority, text) = (facility.priority(entry.severity), encode::text(&entry.record));
                format!("<{priority}>connshaper[{}]: {text}", std::process::id()).into_bytes()
            }
            Self::Rfc5424(formatter) => {
                let mut datagram = Vec::new();
                let message = (0, BTreeMap::new(), encode::text(&entry.record));
                formatter.format(&mut datagram, entry.severity.into(), message).expect("memory takes what is written");
                datagram
            }
        }
    }
}

impl LogWriter {
    /// A writer for the configured target.
    pub fn new(target: &LogTarget) -> Self {
        match target {
            LogTarget::Stderr => {
                let stream = std::env::var("JOURNAL_STREAM").ok();
                let journal = stream.is_some_and(|stream| is_stream(io::stderr(), &stream).unwrap_or(false));
                Self::Stderr { journal, torn: false }
            }
            LogTarget::Json => Self::Json { torn: false },
            LogTarget::Syslog { socket, facility, format } => {
                let protocol = match format {
                    SyslogFormat::Rfc3164 => SyslogProtocol::Rfc3164(*facility),
                    SyslogFormat::Rfc5424 => SyslogProtocol::Rfc5424(Formatter5424 {
                        facility: (*facility).into(),
                        process: "connshaper".to_owned(),
                        pid: std::process::id(),
                        ..Formatter5424::default()
                    }),
                };
                Self::Socket { path: socket.clone(), socket: None, protocol }
            }
            LogTarget::Journal { socket, facility } => {
                Self::Socket { path: socket.clone(), socket: None, protocol: SyslogProtocol::Journal(*facility) }
            }
        }
    }

    /// Writes one line. Returns whether it arrived.
    pub fn write(&mut self, entry: &QueuedLine) -> bool {
        match self {
            Self::Stderr { journal, torn } => {
                let priority = if *journal { format!("<{}>", entry.severity as u8) } else { String::new() };
                write_line(&mut io::stderr(), torn, &(priority + &encode::text(&entry.record)), entry.since)
            }
            Self::Json { torn } => {
                let time = SystemTime::now() - entry.since.elapsed();
                let text = encode::json(&entry.record, entry.severity, time);
                write_line(&mut io::stderr(), torn, &text, entry.since)
            }
            Self::Socket { path, socket, protocol } => send(socket, path, &protocol.datagram(entry), entry.since),
        }
    }
}

/// Whether `file` is the stream that systemd describes as `DEVICE:INODE`.
/// The variable alone proves nothing: it is inherited when the stream is not.
fn is_stream(file: impl AsFd, described: &str) -> io::Result<bool> {
    let metadata = File::from(file.as_fd().try_clone_to_owned()?).metadata()?;
    Ok(described == format!("{}:{}", metadata.dev(), metadata.ino()))
}

/// Writes one line to a stream; `torn` says whether the line before ended early.
fn write_line(stream: &mut impl Write, torn: &mut bool, line: &str, since: Instant) -> bool {
    let end_of_torn = if *torn { "\n" } else { "" };
    let text = format!("{end_of_torn}{line}\n");
    let written = write_stream(stream, text.as_bytes(), since);
    if written > 0 {
        *torn = written < text.len();
    }
    written == text.len()
}

/// Writes to a stream that may be closed, full or unwilling to block; returns how much went out.
fn write_stream(stream: &mut impl Write, text: &[u8], since: Instant) -> usize {
    let mut written = 0;
    while written < text.len() {
        match stream.write(&text[written..]) {
            Ok(0) => break,
            Ok(count) => written += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock && since.elapsed() < RETRY_TIME => {
                thread::sleep(PAUSE);
            }
            Err(_) => break,
        }
    }
    written
}

/// Sends a datagram, to a socket that may be down or full for a while.
fn send(socket: &mut Option<UnixDatagram>, path: &Path, text: &[u8], since: Instant) -> bool {
    loop {
        match try_to_send(socket, path, text) {
            Ok(()) => return true,
            Err(_) if since.elapsed() >= RETRY_TIME => return false,
            // A full receiver has been waited for already.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => thread::sleep(PAUSE),
        }
    }
}

/// Our socket is never connected, so it finds a logger that was started again by itself.
fn try_to_send(socket: &mut Option<UnixDatagram>, path: &Path, text: &[u8]) -> io::Result<()> {
    let socket = match socket {
        Some(socket) => socket,
        none => {
            let unbound = UnixDatagram::unbound()?;
            unbound.set_write_timeout(Some(PAUSE))?;
            none.insert(unbound)
        }
    };
    socket.send_to(text, path).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes `room` bytes, then fails as it is told to.
    struct Narrow {
        room: usize,
        error: ErrorKind,
        taken: Vec<u8>,
    }

    impl Write for Narrow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = bytes.len().min(self.room).min(7);
            if count == 0 {
                return Err(self.error.into());
            }
            self.room -= count;
            self.taken.extend(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_stream_that_takes_little_at_a_time_gets_it_all() {
        let mut stream = Narrow { room: 100, error: ErrorKind::BrokenPipe, taken: Vec::new() };
        let text = b"REFUSED client=192.0.2.1\n";
        assert_eq!(write_stream(&mut stream, text, Instant::now()), text.len());
        assert_eq!(stream.taken, text);
    }

    #[test]
    fn a_closed_stream_is_given_up_at_once_and_a_full_one_after_a_while() {
        for error in [ErrorKind::BrokenPipe, ErrorKind::StorageFull] {
            let mut stream = Narrow { room: 3, error, taken: Vec::new() };
            assert_eq!(write_stream(&mut stream, b"REFUSED", Instant::now()), 3);
        }
        let mut stream = Narrow { room: 0, error: ErrorKind::WouldBlock, taken: Vec::new() };
        let long_ago = Instant::now().checked_sub(RETRY_TIME).unwrap();
        assert_eq!(write_stream(&mut stream, b"REFUSED", long_ago), 0);
    }

    #[test]
    fn a_torn_line_is_ended_before_the_next() {
        let mut torn = false;
        let mut stream = Narrow { room: 5, error: ErrorKind::BrokenPipe, taken: Vec::new() };
        assert!(!write_line(&mut stream, &mut torn, "REFUSED", Instant::now()));
        stream.room = 100;
        assert!(write_line(&mut stream, &mut torn, "<6>STOPPED", Instant::now()));
        assert!(write_line(&mut stream, &mut torn, "START", Instant::now()));
        assert_eq!(stream.taken, b"REFUS\n<6>STOPPED\nSTART\n");
    }

    #[test]
    fn a_stream_is_told_by_its_device_and_inode() {
        let file = tempfile::tempfile().unwrap();
        let metadata = file.metadata().unwrap();
        let described = format!("{}:{}", metadata.dev(), metadata.ino());
        assert!(is_stream(&file, &described).unwrap());
        assert!(!is_stream(&file, &format!("{}:{}", metadata.dev(), metadata.ino() + 1)).unwrap());
        assert!(!is_stream(&file, "").unwrap());
    }
}
