//! The text of a configuration file, and the places in it.
//!
//! Both forms are read from a `Source`; offsets into its text become lines,
//! columns and excerpts here, and only for what is reported.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use nix::fcntl::OFlag;

use super::diagnostics::{ConfigError, Snippet};
use super::lists::FileStamp;
use crate::config::diagnostics::Diagnostics;

/// A stretch of the text, in bytes.
pub(super) type Span = Range<usize>;

/// The largest file that is read. The largest sensible one has a whitelist of some hundred thousand netblocks.
pub(super) const LARGEST: u64 = 64 * 1024 * 1024;

/// A file's text.
#[derive(Clone)]
pub(super) struct ConfigText {
    pub path: PathBuf,
    pub text: String,
    /// Offset of the first byte that was not UTF-8.
    pub broken: Option<usize>,
    /// The offsets at which the texts of included files begin, with their paths.
    included: Vec<(usize, PathBuf)>,
}

impl ConfigText {
    /// Takes the content of a file. A byte order mark is dropped; bytes that
    /// are not UTF-8 are replaced and remembered, for in a comment of the
    /// original's form they never mattered.
    pub fn new(path: &Path, bytes: &[u8]) -> Self {
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        Self {
            path: path.to_owned(),
            text: String::from_utf8_lossy(bytes).into_owned(),
            broken: std::str::from_utf8(bytes).err().map(|e| e.valid_up_to()),
            included: Vec::new(),
        }
    }

    /// This text with others behind it.
    pub fn and(&self, others: Vec<Self>) -> Self {
        let mut all = self.clone();
        for Self { path, text, .. } in others {
            // A line ends with its file.
            all.text.push('\n');
            all.included.push((all.text.len(), path));
            all.text.push_str(&text);
        }
        all
    }

    /// The number of texts.
    pub fn parts(&self) -> usize {
        1 + self.included.len()
    }

    /// The texts, with the offsets at which they begin.
    pub fn texts(&self) -> impl Iterator<Item = (usize, &str)> {
        let starts = || std::iter::once(0).chain(self.included.iter().map(|(start, _)| *start));
        let ends = starts().skip(1).map(|start| start - 1).chain([self.text.len()]);
        starts().zip(ends).map(|(start, end)| (start, &self.text[start..end]))
    }

    /// The file of an offset; `None`: the first one.
    pub fn included_at(&self, offset: usize) -> Option<&(usize, PathBuf)> {
        self.included.iter().rev().find(|(start, _)| *start <= offset)
    }

    /// The place of the file of an offset among all; 0: the first one.
    pub fn number_of_file(&self, offset: usize) -> usize {
        self.included.iter().filter(|(start, _)| *start <= offset).count()
    }

    /// The paths of the included files.
    pub fn included(&self) -> Vec<PathBuf> {
        self.included.iter().map(|(_, path)| path.clone()).collect()
    }

    /// The path of the file of an offset.
    pub fn path_at(&self, offset: usize) -> &Path {
        self.included_at(offset).map_or(&self.path, |(_, path)| path)
    }

    /// Refuses text that had to be repaired.
    pub fn require_utf8(&self) -> Result<(), ConfigError> {
        let Some(offset) = self.broken else {
            return Ok(());
        };
        let remarks = Diagnostics::new(self);
        let remedy = "save the file in UTF-8, or remove the character";
        remarks.error::<()>(&(offset..offset), "this character is not UTF-8", remedy);
        remarks.finish().map(|_| ())
    }

    /// Line and column of an offset, both from 1.
    pub fn place(&self, offset: usize) -> (usize, usize) {
        let first = self.included_at(offset).map_or(0, |(start, _)| *start);
        let before = &self.text[first..self.text.floor_char_boundary(offset)];
        let line = memchr::memchr_iter(b'\n', before.as_bytes()).count() + 1;
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (line, before[start..].chars().count() + 1)
    }

    /// Whether no line ends between two offsets, the earlier one first.
    pub fn same_line(&self, earlier: usize, later: usize) -> bool {
        let between = self.text.as_bytes().get(earlier..later);
        between.is_some_and(|between| !between.contains(&b'\n'))
    }

    /// The line around an offset, without its end.
    pub fn line(&self, offset: usize) -> &str {
        let offset = self.text.floor_char_boundary(offset);
        let start = self.text[..offset].rfind('\n').map_or(0, |newline| newline + 1);
        self.text[start..].lines().next().unwrap_or("")
    }

    /// A stretch as a message shows it.
    pub fn snippet(&self, span: &Span) -> Snippet {
        let span = self.text.floor_char_boundary(span.start)..self.text.floor_char_boundary(span.end);
        let (line, column) = self.place(span.start);
        let start = self.text[..span.start].rfind('\n').map_or(0, |n| n + 1);
        let rest = &self.text[span.start..];
        let end = span.start + rest.find(['\n', '\r']).unwrap_or(rest.len());
        let width = self.text[span.start..span.end.clamp(span.start, end)].chars().count().max(1);
        excerpt(&without_password(&self.text[start..end]), line, column, width)
    }
}

/// A line in which dots stand for a password in a URL, so that no report shows one.
fn without_password(line: &str) -> String {
    let mut shown = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(begin) = rest.find("://").map(|scheme| scheme + 3) {
        let (before, from) = rest.split_at(begin);
        let length = from.find(['"', '\'', '/', ' ']).unwrap_or(from.len());
        let hidden = from[..length].rfind('@').unwrap_or(0);
        shown += before;
        shown.extend(from[..hidden].chars().map(|_| '.'));
        rest = &from[hidden..];
    }
    shown + rest
}

/// The part of a line around a column, without control characters.
fn excerpt(text: &str, line: usize, column: usize, width: usize) -> Snippet {
    const BEFORE: usize = 60;
    const LONGEST: usize = 120;
    let cut = if column > BEFORE && text.chars().nth(LONGEST).is_some() { column - BEFORE } else { 0 };
    let printable = |c: char| if c.is_control() { ' ' } else { c };
    let excerpt: String = text.chars().skip(cut).take(LONGEST).map(printable).collect();
    let indent = column - 1 - cut;
    Snippet {
        line,
        column,
        width: width.min(LONGEST - indent.min(LONGEST - 1)),
        indent,
        excerpt: excerpt.trim_end().to_owned(),
    }
}

/// Reads a whole file, within reason.
pub(super) fn read(path: &Path) -> Result<ConfigText, ReadError> {
    read_all(path, File::open(path).map_err(ReadError::Io)?)
}

/// The same; `-` is standard input.
pub(super) fn read_or_stdin(path: &Path) -> Result<ConfigText, ReadError> {
    if path == Path::new("-") { read_all(path, io::stdin().lock()) } else { read(path) }
}

fn read_all(path: &Path, file: impl Read) -> Result<ConfigText, ReadError> {
    let mut bytes = Vec::new();
    let size = file.take(LARGEST + 1).read_to_end(&mut bytes);
    if size.map_err(ReadError::Io)? as u64 > LARGEST {
        return Err(ReadError::Large);
    }
    Ok(ConfigText::new(path, &bytes))
}

/// Reads a list file. Returns its stamp too. `Err`: problem and remedy.
pub(super) fn read_list(path: &Path) -> Result<(ConfigText, FileStamp), (String, String)> {
    let (file, stamp) = open_plain(path)?;
    match read_all(path, file) {
        Ok(source) => Ok((source, stamp)),
        Err(ReadError::Large) => {
            let problem = format!("{} is larger than 64 MiB", path.display());
            Err((problem, "split it: the key takes a list of files".to_owned()))
        }
        Err(error) => Err(error.of(path)),
    }
}

/// The largest database that is read: those of all addresses have some 10 MiB, a big one of a maker that sells it 100.
const LARGEST_DATABASE: u64 = 512 * 1024 * 1024;

/// The same of a database, whose bytes are no text.
pub(super) fn read_database(path: &Path) -> Result<(Bytes, FileStamp), (String, String)> {
    let (mut file, stamp) = open_plain(path)?;
    let size = file.metadata().map_or(0, |metadata| metadata.len());
    if size > LARGEST_DATABASE {
        let problem = format!("{} is larger than 512 MiB", path.display());
        return Err((problem, "name a database of autonomous systems or of countries alone".to_owned()));
    }
    // Room for exactly that, so that nothing is copied.
    let mut bytes = Vec::with_capacity(size as usize);
    let read = file.by_ref().take(size).read_to_end(&mut bytes);
    read.map_err(|error| ReadError::Io(error).of(path))?;
    Ok((bytes.into(), stamp))
}

/// Opens a file that has to be a plain one: no directory, and nothing that never ends. `Err`: problem and remedy.
fn open_plain(path: &Path) -> Result<(File, FileStamp), (String, String)> {
    let wrong = |error: io::Error| ReadError::Io(error).of(path);
    let plain = |metadata: Metadata| match metadata.is_file() {
        true => Ok(metadata),
        false => {
            let problem = format!("{} is not a file but {}", path.display(), kind(&metadata));
            Err((
                problem,
                "name a plain file; a program that makes the list can write a new one and rename it".to_owned(),
            ))
        }
    };
    // Opening a device can already have an effect on it.
    plain(path.metadata().map_err(wrong)?)?;
    // Without O_NONBLOCK a pipe that has just replaced the file would block.
    let file = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path);
    let file = file.map_err(wrong)?;
    let metadata = plain(file.metadata().map_err(wrong)?)?;
    Ok((file, FileStamp::from(&metadata)))
}

fn kind(metadata: &Metadata) -> &'static str {
    let kind = metadata.file_type();
    match () {
        () if kind.is_dir() => "a directory",
        () if kind.is_fifo() => "a named pipe",
        () if kind.is_socket() => "a socket",
        () => "a device",
    }
}

pub(super) enum ReadError {
    Io(io::Error),
    Large,
}

impl ReadError {
    /// Problem and remedy.
    fn of(self, path: &Path) -> (String, String) {
        let mistake = self.at(path).diagnostics.swap_remove(0);
        (format!("{} {}", path.display(), mistake.problem), mistake.remedy)
    }

    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Io(error) if error.kind() == io::ErrorKind::NotFound)
    }

    pub fn at(self, path: &Path) -> ConfigError {
        let error = match self {
            Self::Large => {
                let remedy = "give connshaper.toml, not a log or a list";
                return ConfigError::whole(path, "the file is larger than 64 MiB", remedy);
            }
            Self::Io(error) => error,
        };
        let remedy = match error.kind() {
            io::ErrorKind::NotFound => "name a file that exists",
            io::ErrorKind::PermissionDenied => "let the user connshaper runs as read the file",
            io::ErrorKind::IsADirectory => "name the file in it",
            _ => "see whether other programs can read it",
        };
        ConfigError::whole(path, format!("cannot be read: {error}"), remedy)
    }
}
