//! Finds the first of a few bytes in a text. It is mostly near the beginning, where an inlined search is faster than a
//! call.

use wide::u8x16;

/// Where the first of these bytes is.
#[inline]
pub fn find<const N: usize>(bytes: [u8; N], text: &[u8]) -> Option<usize> {
    let (mut before, mut rest) = (0, text);
    while let Some((block, after)) = rest.split_first_chunk::<16>() {
        let block = u8x16::from(*block);
        let is_one = bytes.map(|byte| block.simd_eq(u8x16::splat(byte)));
        let places = is_one.into_iter().fold(u8x16::splat(0), |all, one| all | one).to_bitmask();
        if places != 0 {
            return Some(before + places.trailing_zeros() as usize);
        }
        (before, rest) = (before + 16, after);
    }
    rest.iter().position(|byte| bytes.contains(byte)).map(|place| before + place)
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
