//! Finds the first of a few bytes in a text. It is mostly near the beginning, where an inlined search is faster than a
//! call.

use wide::u8x16;

/// Where the first of these bytes is.
#[inline]
pub fn find<const N: usize>(bytes: [u8; N], text: &[u8]) -> Option<usize> {
    let (mut before, mut rest) = (0, text);
    while let Some((block, after)) = rest.split_first_chunk::<16>() {
        if let Some(place) = place(bytes, *block) {
            return Some(before + place);
        }
        (before, rest) = (before + 16, after);
    }
    // The last bytes once more, with those before them: among those is none.
    match text.last_chunk::<16>() {
        Some(block) => place(bytes, *block).map(|place| text.len() - 16 + place),
        None => rest.iter().position(|byte| bytes.contains(byte)),
    }
}

#[inline]
fn place<const N: usize>(bytes: [u8; N], block: [u8; 16]) -> Option<usize> {
    let block = u8x16::from(block);
    let is_one = bytes.map(|byte| block.simd_eq(u8x16::splat(byte)));
    let places = is_one.into_iter().fold(u8x16::splat(0), |all, one| all | one).to_bitmask();
    (places != 0).then(|| places.trailing_zeros() as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_the_bytes_is_found_wherever_it_stands() {
        for length in 0..70 {
            for place in 0..length {
                let mut text = vec![b'x'; length];
                text[place..].fill(b'b');
                assert_eq!(find([b'a', b'b'], &text), Some(place));
                text[length - 1] = b'a';
                assert_eq!(find([b'a'], &text), Some(length - 1));
            }
            assert_eq!(find([b'a', b'b', b'c'], &vec![b'x'; length]), None);
        }
    }
}
