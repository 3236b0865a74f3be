//! The format of the state file and of a hand-over: a mark, then sections, then a last section.
//!
//! Each section has a kind, the version of its content, and a checksum. So a damaged or
//! truncated file is recognised. What a section of another version means for the others is
//! up to the reader.

use std::hash::Hasher;
use std::io::{self, ErrorKind, Read, Write};

use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher13;
use thiserror::Error;

/// The file begins with this; the version of the format follows.
const MARK: &[u8; 16] = b"connshaper state";

const FORM: u32 = 1;

/// Kind, version, length and checksum.
const HEADER: usize = 16;

/// The longest content that is read: far more than is ever written, and less than would exhaust a host.
const MAX_CONTENT: u32 = 256 * 1024 * 1024;

/// The kind of the last section.
const LAST: u16 = 0;

/// Bytes of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// What the content is; never 0.
    pub kind: u16,
    /// Raised whenever the content means something else.
    pub version: u16,
    /// The bytes.
    pub content: Vec<u8>,
}

/// The bytes of a value, in the format of `postcard`.
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    postcard::to_stdvec(value).expect("every length is known, and memory grows as needed")
}

/// The value of these bytes, of which none may be left over.
pub fn decode<'b, T: Deserialize<'b>>(bytes: &'b [u8]) -> Result<T, SnapshotError> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        _ => Err(SnapshotError::Corrupt),
    }
}

/// Why a snapshot cannot be read.
#[derive(Debug, Error)]
pub enum SnapshotError {
    /// It does not begin with the mark.
    #[error("it is not a state file of connshaper")]
    Foreign,
    /// Another program wrote it, newer or older: the format, or a section, has this version.
    #[error("it was written by another version of connshaper (version {0} of its format)")]
    OtherVersion(u32),
    #[error("it is cut short")]
    CutShort,
    /// Its bytes are not those that were written, or have no meaning.
    #[error("it is corrupt")]
    Corrupt,
    /// It could not be read at all.
    #[error("{0}")]
    Unreadable(io::Error),
}

/// Writes sections one after the other.
#[derive(Debug)]
pub struct SectionWriter<W>(W);

impl<W: Write> SectionWriter<W> {
    /// Begins.
    pub fn begin(mut output: W) -> io::Result<Self> {
        output.write_all(MARK)?;
        output.write_all(&FORM.to_le_bytes())?;
        Ok(Self(output))
    }

    /// Adds a section.
    pub fn add(&mut self, kind: u16, version: u16, content: &[u8]) -> io::Result<()> {
        let length = u32::try_from(content.len()).map_err(|_| ErrorKind::FileTooLarge)?;
        let mut header = [0; HEADER];
        header[..2].copy_from_slice(&kind.to_le_bytes());
        header[2..4].copy_from_slice(&version.to_le_bytes());
        header[4..8].copy_from_slice(&length.to_le_bytes());
        let checksum = checksum(&header[..8], content);
        header[8..].copy_from_slice(&checksum.to_le_bytes());
        self.0.write_all(&header)?;
        self.0.write_all(content)
    }

    /// Adds a section with one value.
    pub fn add_value<T: Serialize + ?Sized>(&mut self, (kind, version): (u16, u16), value: &T) -> io::Result<()> {
        self.add(kind, version, &encode(value))
    }

    /// Writes the last section; a snapshot without it was cut short.
    pub fn finish(mut self) -> io::Result<W> {
        self.add(LAST, FORM as u16, &[])?;
        Ok(self.0)
    }
}

/// Reads sections one after the other.
#[derive(Debug)]
pub struct SectionReader<R>(R);

impl<R: Read> SectionReader<R> {
    /// Begins, if there is something to read.
    pub fn begin(mut input: R) -> Result<Self, SnapshotError> {
        let (mut mark, mut form) = ([0; MARK.len()], [0; 4]);
        input.read_exact(&mut mark).map_err(|error| match SnapshotError::from(error) {
            SnapshotError::CutShort => SnapshotError::Foreign,
            damage => damage,
        })?;
        if mark != *MARK {
            return Err(SnapshotError::Foreign);
        }
        input.read_exact(&mut form)?;
        match u32::from_le_bytes(form) {
            FORM => Ok(Self(input)),
            form => Err(SnapshotError::OtherVersion(form)),
        }
    }

    /// The next section; `None` after the last.
    pub fn next_section(&mut self) -> Result<Option<Section>, SnapshotError> {
        let mut header = [0; HEADER];
        self.0.read_exact(&mut header)?;
        let [k0, k1, v0, v1, l0, l1, l2, l3, expected @ ..] = header;
        let (kind, version) = (u16::from_le_bytes([k0, k1]), u16::from_le_bytes([v0, v1]));
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        if length > MAX_CONTENT {
            return Err(SnapshotError::Corrupt);
        }
        let mut content = Vec::new();
        // Grows as the bytes come: a length that is not true costs nothing.
        self.0.by_ref().take(length.into()).read_to_end(&mut content)?;
        if content.len() < length as usize {
            return Err(SnapshotError::CutShort);
        }
        if checksum(&header[..8], &content) != u64::from_le_bytes(expected) {
            return Err(SnapshotError::Corrupt);
        }
        Ok((kind != LAST).then_some(Section { kind, version, content }))
    }
}

/// Against accidents only: a program that may write the content may write the checksum too.
fn checksum(header: &[u8], content: &[u8]) -> u64 {
    let mut hasher = SipHasher13::new();
    hasher.write(header);
    hasher.write(content);
    hasher.finish()
}

impl From<io::Error> for SnapshotError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::UnexpectedEof => Self::CutShort,
            _ => Self::Unreadable(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(sections: &[Section]) -> Vec<u8> {
        let mut writer = SectionWriter::begin(Vec::new()).unwrap();
        sections.iter().for_each(|section| writer.add(section.kind, section.version, &section.content).unwrap());
        writer.finish().unwrap()
    }

    fn read(bytes: &[u8]) -> Result<Vec<Section>, SnapshotError> {
        let mut reader = SectionReader::begin(bytes)?;
        let mut sections = Vec::new();
        while let Some(section) = reader.next_section()? {
            sections.push(section);
        }
        Ok(sections)
    }

    fn some() -> Vec<Section> {
        let section = |kind, length| Section { kind, version: 3, content: vec![7; length] };
        vec![section(1, 10), section(2, 0), section(1, 100)]
    }

    #[test]
    fn sections_are_read_as_they_were_written() {
        assert_eq!(read(&written(&some())).unwrap(), some());
        assert_eq!(read(&written(&[])).unwrap(), []);
    }

    #[test]
    fn wherever_it_is_cut_or_a_bit_is_wrong_it_is_damaged() {
        let whole = written(&some());
        for length in 0..whole.len() {
            assert!(read(&whole[..length]).is_err(), "{length}");
        }
        for bit in 0..whole.len() * 8 {
            let mut damaged = whole.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&damaged).is_err(), "{bit}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_apart() {
        let problem = |bytes: &[u8]| read(bytes).unwrap_err().to_string();
        assert_eq!(problem(b"root:x:0:0:root:/root:/bin/bash\n"), "it is not a state file of connshaper");
        assert_eq!(problem(b""), "it is not a state file of connshaper");
        let whole = written(&some());
        assert_eq!(problem(&whole[..50]), "it is cut short");
        let mut newer = whole.clone();
        newer[16] = 2;
        assert_eq!(problem(&newer), "it was written by another version of connshaper (version 2 of its format)");
        let mut corrupt = whole;
        corrupt[40] = 8;
        assert_eq!(problem(&corrupt), "it is corrupt");
    }

    proptest! {
        #[test]
        fn nothing_that_is_read_can_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let begun = [MARK.as_slice(), &FORM.to_le_bytes(), &bytes].concat();
            let _ = read(&begun);
        }
    }
}
