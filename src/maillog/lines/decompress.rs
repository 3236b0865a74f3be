//! Logs as `logrotate` and others leave them: plain or compressed, told by their first bytes.

use std::io::{self, BufRead, BufReader, Cursor, Read, Take};
use std::sync::Arc;

use bzip2::bufread::MultiBzDecoder;
use flate2::CrcReader;
use flate2::bufread::{DeflateDecoder, MultiGzDecoder};
use lz4_flex::frame::FrameDecoder as Lz4Decoder;
use lzma_rust2::{LzmaReader, XzReader};
use rawzip::{CompressionMethod, ZipArchive};
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use super::source::LogInput;

/// Bytes read at once from a compressed file.
const CHUNK: usize = 64 * 1024;

/// The most memory a decompressor may ask for, in KiB: what the strongest preset of xz needs.
/// A file that wants more is no log, whoever made it.
const MEMORY: u32 = 128 * 1024;

/// Bytes of a zip archive, which is held in memory: its directory is at its end.
const MAX_ZIP: usize = 256 * 1024 * 1024;

/// What is known and not unpacked here: first bytes, name, command.
const OTHERS: [(&[u8], &str, &str); 5] = [
    (b"\x1f\x9d", "compress", "uncompress -c"),
    (b"\x02\x21\x4c\x18", "an old lz4", "lz4 -dc"),
    (b"LZIP", "lzip", "lzip -dc"),
    (b"7z\xbc\xaf\x27\x1c", "7-Zip", "7z x -so"),
    (b"Rar!", "rar", "unrar p -inul"),
];

/// The text in what may be compressed.
pub fn decompress(mut reader: impl Read + Send + 'static) -> io::Result<LogInput> {
    let mut magic = Vec::new();
    reader.by_ref().take(6).read_to_end(&mut magic)?;
    let is = |expected: &[u8]| magic.starts_with(expected);
    if let Some((_, name, command)) = OTHERS.iter().find(|(magic, ..)| is(magic)) {
        return Err(io::Error::other(format!("compressed with {name}: unpack it first, as with {command}")));
    }
    let (gzip, zstd, xz) = (is(b"\x1f\x8b"), is(b"\x28\xb5\x2f\xfd"), is(b"\xfd7zXZ\0"));
    let (bzip2, lz4, zip) = (is(b"BZh"), is(b"\x04\x22\x4d\x18"), is(b"PK\x03\x04"));
    // The usual properties, and a dictionary of a whole number of 64 KiB.
    let lzma = is(b"\x5d\0\0");
    let whole = Cursor::new(magic).chain(reader);
    if !(gzip || zstd || xz || lzma || bzip2 || lz4 || zip) {
        return Ok(Box::new(whole));
    }
    let whole = BufReader::with_capacity(CHUNK, whole);
    Ok(match () {
        () if gzip => Box::new(MultiGzDecoder::new(whole)),
        () if zstd => Box::new(Zstd::new(whole)),
        () if xz => Box::new(XzReader::new_mem_limit(whole, true, MEMORY)),
        () if bzip2 => Box::new(MultiBzDecoder::new(whole)),
        () if lz4 => Box::new(Lz4::new(whole)),
        () if zip => Box::new(Zip::read_directory(whole)?),
        () => Box::new(LzmaReader::new_mem_limit(whole, MEMORY, None).map_err(io::Error::other)?),
    })
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// LZ4 frames, one after the other.
struct Lz4<R: Read> {
    decoder: Lz4Decoder<Tail<R>>,
}

/// A reader that knows the last bytes it gave.
struct Tail<R> {
    reader: R,
    last: [u8; 8],
}

impl<R: BufRead> Lz4<R> {
    fn new(reader: R) -> Self {
        Self { decoder: Lz4Decoder::new(Tail { reader, last: [0; 8] }) }
    }
}

impl<R: BufRead> Read for Lz4<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let length = self.decoder.read(buffer)?;
            if length > 0 || buffer.is_empty() {
                return Ok(length);
            }
            // A frame has ended, or the file: the decoder takes an end between two blocks for that of the frame.
            let Tail { reader, last } = self.decoder.get_mut();
            if reader.fill_buf()?.is_empty() {
                // Four zeros end a frame; a checksum may follow.
                let is_whole = last.starts_with(&[0; 4]) || last.ends_with(&[0; 4]);
                return if is_whole { Ok(0) } else { Err(invalid("the last frame of lz4 is cut off")) };
            }
        }
    }
}

impl<R: Read> Read for Tail<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.reader.read(buffer)?;
        let kept = length.min(self.last.len());
        self.last.rotate_left(kept);
        let start = self.last.len() - kept;
        self.last[start..].copy_from_slice(&buffer[length - kept..length]);
        Ok(length)
    }
}

/// The members of a zip archive, one after the other.
struct Zip {
    archive: Arc<[u8]>,
    /// Those to come, the next one last.
    members: Vec<Member>,
    /// The one that is read, with its text.
    open: Option<(Member, CrcReader<Unpacked>)>,
}

/// What is in a member.
type Unpacked = Box<dyn Read + Send>;

/// A member as the directory of its archive describes it.
struct Member {
    start: u64,
    end: u64,
    is_deflated: bool,
    length: u64,
    crc: u32,
}

impl Zip {
    fn read_directory(reader: impl Read) -> io::Result<Self> {
        let mut archive = Vec::new();
        reader.take(MAX_ZIP as u64 + 1).read_to_end(&mut archive)?;
        if archive.len() > MAX_ZIP {
            return Err(io::Error::other("a zip archive of more than 256 MiB: unpack it first, as with unzip -p"));
        }
        let archive: Arc<[u8]> = archive.into();
        let directory = ZipArchive::from_slice(Arc::clone(&archive)).map_err(invalid)?;
        let mut members = Vec::new();
        for entry in directory.entries() {
            let entry = entry.map_err(invalid)?;
            // What macOS adds to every file.
            if entry.is_dir() || entry.file_path().as_ref().starts_with(b"__MACOSX/") {
                continue;
            }
            let method = entry.compression_method();
            if entry.flags().is_encrypted() || ![CompressionMethod::STORE, CompressionMethod::DEFLATE].contains(&method)
            {
                return Err(io::Error::other("encrypted, or not deflated: unpack it first, as with unzip -p"));
            }
            let (start, end) = directory.get_entry(entry.wayfinder()).map_err(invalid)?.compressed_data_range();
            let is_deflated = method == CompressionMethod::DEFLATE;
            members.push(Member {
                start,
                end,
                is_deflated,
                length: entry.uncompressed_size_hint(),
                crc: entry.crc32(),
            });
        }
        members.reverse();
        Ok(Self { archive, members, open: None })
    }

    fn unpacked(&self, member: &Member) -> Unpacked {
        let mut packed = Cursor::new(Arc::clone(&self.archive));
        packed.set_position(member.start);
        let packed: Take<Cursor<Arc<[u8]>>> = packed.take(member.end - member.start);
        if member.is_deflated { Box::new(DeflateDecoder::new(packed)) } else { Box::new(packed) }
    }
}

impl Read for Zip {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some((member, reader)) = &mut self.open {
                let length = reader.read(buffer)?;
                if length > 0 || buffer.is_empty() {
                    return Ok(length);
                }
                let is_whole = reader.crc().sum() == member.crc && u64::from(reader.crc().amount()) == member.length;
                if !is_whole {
                    return Err(invalid("a member of the zip archive is damaged"));
                }
            }
            let Some(member) = self.members.pop() else {
                return Ok(0);
            };
            let unpacked = self.unpacked(&member);
            self.open = Some((member, CrcReader::new(unpacked)));
        }
    }
}

/// Zstandard frames, one after the other.
struct Zstd<R> {
    reader: R,
    decoder: FrameDecoder,
    is_in_frame: bool,
}

impl<R: BufRead> Zstd<R> {
    fn new(reader: R) -> Self {
        // The decoder's own bound on its window is MEMORY, too.
        Self { reader, decoder: FrameDecoder::new(), is_in_frame: false }
    }

    /// Begins the next frame, or skips one that holds no data.
    fn next_frame(&mut self) -> io::Result<()> {
        use FrameDecoderError::ReadFrameHeaderError as Header;
        match self.decoder.init(&mut self.reader) {
            Ok(()) => self.is_in_frame = true,
            Err(Header(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                io::copy(&mut self.reader.by_ref().take(length.into()), &mut io::sink())?;
            }
            Err(error) => return Err(invalid(error)),
        }
        Ok(())
    }
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.is_in_frame && self.decoder.can_collect() > 0 {
                return self.decoder.read(buffer);
            }
            if self.is_in_frame && !self.decoder.is_finished() {
                let some = BlockDecodingStrategy::UptoBlocks(1);
                let decoded = self.decoder.decode_blocks(&mut self.reader, some);
                decoded.map_err(invalid)?;
                continue;
            }
            self.is_in_frame = false;
            if self.reader.fill_buf()?.is_empty() {
                return Ok(0);
            }
            self.next_frame()?;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;

    /// What a program makes of a text.
    fn packed(program: &str, text: &[u8]) -> Vec<u8> {
        let mut command = Command::new(program);
        let child = command.arg("-c").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.unwrap_or_else(|error| panic!("cannot run {program} (is it installed?): {error}"));
        let mut input = child.stdin.take().unwrap();
        let text = text.to_owned();
        let writer = std::thread::spawn(move || input.write_all(&text).unwrap());
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        assert!(output.status.success(), "{program}: {}", output.status);
        output.stdout
    }

    fn unpacked(bytes: Vec<u8>) -> io::Result<Vec<u8>> {
        let mut text = Vec::new();
        decompress(io::Cursor::new(bytes))?.read_to_end(&mut text).map(|_| text)
    }

    #[test]
    fn every_compression_gives_the_text_back_also_in_several_pieces() {
        let text: Vec<u8> =
            (0..200_000_u64).flat_map(|number| format!("{}\n", number * number % 7919).into_bytes()).collect();
        for program in ["cat", "gzip", "bzip2", "zstd", "xz", "lz4"] {
            let pack = |text| if program == "cat" { [text].concat() } else { packed(program, text) };
            let (one, two) = text.split_at(text.len() / 3);
            assert_eq!(unpacked([pack(one), pack(two)].concat()).unwrap(), text, "{program}");
        }
    }

    #[test]
    fn a_file_that_was_cut_off_is_an_error() {
        for program in ["gzip", "bzip2", "zstd", "xz", "lzma", "lz4"] {
            let whole = packed(program, &b"Nov 21 09:05:07 mx postfix/smtpd[1]: x\n".repeat(1000));
            for cut in [1, 5, 8, whole.len() / 2] {
                assert!(unpacked(whole[..whole.len() - cut].to_vec()).is_err(), "{program} {cut}");
            }
        }
    }

    #[test]
    fn lzma_gives_the_text_back() {
        let text = b"Nov 21 09:05:07 mx postfix/smtpd[1]: x\n".repeat(1000);
        assert_eq!(unpacked(packed("lzma", &text)).unwrap(), text);
    }

    /// An archive of these files.
    fn zipped(options: &[&str], files: &[(&str, &[u8])]) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let names = files.iter().map(|(name, _)| name);
        let output = Command::new("zip").args(["-q", "-r", "-"]).args(options).args(names).current_dir(&dir).output();
        let output = output.unwrap_or_else(|error| panic!("cannot run zip (is it installed?): {error}"));
        assert!(output.status.success(), "{output:?}");
        output.stdout
    }

    #[test]
    fn the_members_of_a_zip_archive_follow_each_other() {
        let lines = |day: u32| format!("Nov {day} 09:05:07 mx postfix/smtpd[1]: x\n").repeat(3_000).into_bytes();
        let (one, two) = (lines(21), lines(22));
        for options in [&["-9"][..], &["-0"], &["-fd"]] {
            let archive = zipped(options, &[("mail.log.1", &one), ("mail.log", &two)]);
            assert_eq!(unpacked(archive.clone()).unwrap(), [&one[..], &two].concat(), "{options:?}");
            assert!(unpacked(archive[..archive.len() - 5].to_vec()).is_err());
        }
        let mut damaged = zipped(&["-0"], &[("mail.log", &one)]);
        damaged[200] ^= 1;
        assert!(unpacked(damaged).unwrap_err().to_string().contains("damaged"));
        let encrypted = zipped(&["-P", "secret"], &[("mail.log", &one)]);
        assert!(unpacked(encrypted).unwrap_err().to_string().contains("unzip -p"));
    }

    #[test]
    fn what_is_not_unpacked_is_named_with_the_way_out() {
        for (magic, name, command) in OTHERS {
            let error = unpacked([magic, b"xxxxxxxx"].concat()).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains(command), "{error}");
        }
    }

    #[test]
    fn a_short_text_is_a_text() {
        assert_eq!(unpacked(b"x".to_vec()).unwrap(), b"x");
        assert_eq!(unpacked(Vec::new()).unwrap(), b"");
    }
}
