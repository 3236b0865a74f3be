//! Logs as `logrotate` leaves them: plain, gzip, zstd, xz or lzma, told by their first bytes.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use lzma_rust2::{LzmaReader, XzReader};
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use super::source::Input;

/// Bytes read at once from a compressed file.
const CHUNK: usize = 64 * 1024;

/// The most memory a decompressor may ask for, in KiB: what the strongest preset of xz needs.
/// A file that wants more is no log, whoever made it.
const MEMORY: u32 = 128 * 1024;

/// What is known and not unpacked here: first bytes, name, command.
const OTHERS: [(&[u8], &str, &str); 3] =
    [(b"BZh", "bzip2", "bzip2 -d"), (b"\x04\x22\x4d\x18", "lz4", "lz4 -d"), (b"PK\x03\x04", "zip", "unzip")];

/// The text in what may be compressed.
pub fn decompress(mut reader: impl Read + Send + 'static) -> io::Result<Input> {
    let mut magic = Vec::new();
    reader.by_ref().take(6).read_to_end(&mut magic)?;
    let is = |expected: &[u8]| magic.starts_with(expected);
    let (gzip, zstd, xz) = (is(b"\x1f\x8b"), is(b"\x28\xb5\x2f\xfd"), is(b"\xfd7zXZ\0"));
    // The usual properties, and a dictionary of a whole number of 64 KiB.
    let lzma = is(b"\x5d\0\0");
    if let Some((_, name, command)) = OTHERS.iter().find(|(magic, ..)| is(magic)) {
        return Err(io::Error::other(format!("compressed with {name}: unpack it first, as with {command}")));
    }
    let whole = io::Cursor::new(magic).chain(reader);
    if !(gzip || zstd || xz || lzma) {
        return Ok(Box::new(whole));
    }
    let whole = BufReader::with_capacity(CHUNK, whole);
    Ok(match (gzip, zstd) {
        _ if lzma => Box::new(LzmaReader::new_mem_limit(whole, MEMORY, None).map_err(io::Error::other)?),
        (true, _) => Box::new(MultiGzDecoder::new(whole)),
        (_, true) => Box::new(Zstd::new(whole)),
        _ => Box::new(XzReader::new_mem_limit(whole, true, MEMORY)),
    })
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
            Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
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
                decoded.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
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
        for program in ["cat", "gzip", "zstd", "xz"] {
            let pack = |text| if program == "cat" { [text].concat() } else { packed(program, text) };
            let (one, two) = text.split_at(text.len() / 3);
            assert_eq!(unpacked([pack(one), pack(two)].concat()).unwrap(), text, "{program}");
        }
    }

    #[test]
    fn a_file_that_was_cut_off_is_an_error() {
        for program in ["gzip", "zstd", "xz", "lzma"] {
            let whole = packed(program, &b"Nov 21 09:05:07 mx postfix/smtpd[1]: x\n".repeat(1000));
            assert!(unpacked(whole[..whole.len() - 5].to_vec()).is_err(), "{program}");
        }
    }

    #[test]
    fn lzma_gives_the_text_back() {
        let text = b"Nov 21 09:05:07 mx postfix/smtpd[1]: x\n".repeat(1000);
        assert_eq!(unpacked(packed("lzma", &text)).unwrap(), text);
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
