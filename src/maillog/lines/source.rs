//! The logs that were named: opened, decompressed, and in the order of their times.
//!
//! The compression is told by the content, never by the name. Only the beginning
//! of a file is read until its turn comes, so a year of rotated logs holds one
//! decompressor at a time.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use jiff::tz::TimeZone;

use super::blocks::parse;
use super::calendar::Calendar;
use super::decompress::decompress;
use super::stamp::Stamp;

/// Where the first line with a time must be, in bytes of text.
const HEAD: usize = 256 * 1024;

/// One log, not read yet.
pub struct Source {
    /// What to call it.
    pub name: String,
    /// Fills in what its times leave open.
    pub calendar: Calendar,
    /// The moment of its first line, in milliseconds since the epoch.
    pub first: i64,
    origin: Origin,
}

enum Origin {
    /// A file, to be opened again when its turn comes.
    File(PathBuf),
    /// What can be read but once is open already.
    Open(Input),
}

/// The text of a log.
pub type Input = Box<dyn Read + Send>;

/// How much has been read, of how much; shared with whoever shows it.
#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes read, as they lie on the disk.
    pub read: AtomicU64,
    /// Bytes of all files; what can be read but once is not among them.
    pub total: AtomicU64,
}

impl Source {
    /// Looks into a log; `-` is standard input. `None`: nothing in it has a time.
    pub fn open(path: &Path, zone: &TimeZone, progress: &Arc<Progress>) -> io::Result<Option<Self>> {
        let now = SystemTime::now();
        let (name, mut input, again, written) = if path == Path::new("-") {
            ("standard input".to_owned(), decompress(Counted::new(io::stdin(), progress))?, None, now)
        } else {
            let file = File::open(path)?;
            let metadata = file.metadata()?;
            if metadata.is_dir() {
                return Err(io::Error::other("it is a directory; name the files in it"));
            }
            let again = metadata.is_file().then(|| path.to_owned());
            if again.is_some() {
                progress.total.fetch_add(metadata.len(), Ordering::Relaxed);
            }
            // What was read to look into it is read again.
            let uncounted = Arc::default();
            let counted = Counted::new(file, if again.is_some() { &uncounted } else { progress });
            (path.display().to_string(), decompress(counted)?, again, metadata.modified().unwrap_or(now))
        };
        let head = head(&mut input)?;
        let Some(first) = first_stamp(&head) else {
            return Ok(None);
        };
        let written = written.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs() as i64);
        let calendar = Calendar::new(zone.clone(), first, written);
        let first = calendar.clone().time(first);
        let origin = match again {
            Some(path) => Origin::File(path),
            None => Origin::Open(Box::new(io::Cursor::new(head).chain(input))),
        };
        Ok(Some(Self { name, calendar, first, origin }))
    }

    /// Its text from the beginning.
    pub fn read(origin: Self, progress: &Arc<Progress>) -> io::Result<Input> {
        match origin.origin {
            Origin::File(path) => decompress(Counted::new(File::open(path)?, progress)),
            Origin::Open(input) => Ok(input),
        }
    }
}

/// The first bytes, up to `HEAD`.
fn head(input: &mut Input) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    let mut chunk = [0; 16 * 1024];
    // One piece at a time: a terminal or a pipe may have no more for long.
    while head.len() < HEAD && first_stamp(&head).is_none() {
        match input.read(&mut chunk) {
            Ok(0) => break,
            Ok(length) => head.extend_from_slice(&chunk[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(head)
}

fn first_stamp(head: &[u8]) -> Option<Stamp> {
    let end = memchr::memrchr(b'\n', head).unwrap_or(head.len());
    head[..end].split(|byte| *byte == b'\n').find_map(|line| parse(line, |line| line.stamp))
}

/// A reader that counts.
struct Counted<R> {
    reader: R,
    progress: Arc<Progress>,
}

impl<R> Counted<R> {
    fn new(reader: R, progress: &Arc<Progress>) -> Self {
        Self { reader, progress: Arc::clone(progress) }
    }
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.reader.read(buffer)?;
        self.progress.read.fetch_add(length as u64, Ordering::Relaxed);
        Ok(length)
    }
}
