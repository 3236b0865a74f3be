//! Input that comes in pieces, as from a socket, and is longer than it looks.

/// Bytes and where they are cut.
#[derive(Debug)]
pub struct Cuts {
    /// All of it.
    pub bytes: Vec<u8>,
    /// Where it is cut, in order; from 0 to the end.
    places: Vec<usize>,
}

/// The most cuts.
const MOST: u8 = 8;

/// What a run of one byte is long at least: bounds of many KiB are to be met by inputs of a few bytes.
const RUN: usize = 64;

impl Cuts {
    /// Reads a number, as many places to cut at, and the bytes. Among these, NUL, `b` and `n` stand for
    /// 64 times `n` bytes `b`, or for one NUL if `n` is 0.
    pub fn read(data: &[u8]) -> Self {
        let (number, data) = data.split_first().unwrap_or((&0, &[]));
        let number = usize::from(number % (MOST + 1)).min(data.len() / 2);
        let (places, rest) = data.split_at(2 * number);
        let bytes = expand(rest);
        let scale = |pair: &[u8]| usize::from(pair[0]) << 8 | usize::from(pair[1]);
        let mut places: Vec<_> = places.chunks(2).map(|pair| scale(pair) % (bytes.len() + 1)).collect();
        places.extend([0, bytes.len()]);
        places.sort_unstable();
        Self { bytes, places }
    }

    /// The pieces in order; some may be empty.
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        self.places.windows(2).map(|pair| &self.bytes[pair[0]..pair[1]])
    }
}

fn expand(data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(data.len());
    let mut rest = data;
    while let Some((byte, after)) = rest.split_first() {
        rest = match (byte, after) {
            (0, [_, 0, after @ ..]) => {
                bytes.push(0);
                after
            }
            (0, [byte, times, after @ ..]) => {
                bytes.resize(bytes.len() + RUN * usize::from(*times), *byte);
                after
            }
            _ => {
                bytes.push(*byte);
                after
            }
        };
    }
    bytes
}
