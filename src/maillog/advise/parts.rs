//! The log in a few parts of equal time, to test a number on a part that it was not made from.
//!
//! The time that a log covers is not known before its end. So parts begin short
//! and are joined in pairs whenever there would be too many of them.

/// The most parts. A long log has more than half as many.
pub const MAX_PARTS: usize = 6;

/// Milliseconds of a part in the beginning.
const SHORTEST: i64 = 60_000;

/// Which part of the log a time belongs to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Parts {
    start: Option<i64>,
    length: i64,
}

impl Parts {
    /// The part of a time. `join` joins what is kept by part in pairs, and is called as often as needed.
    pub fn part(&mut self, time: i64, mut join: impl FnMut()) -> usize {
        let start = *self.start.get_or_insert_with(|| {
            self.length = SHORTEST;
            time
        });
        let part = |length: i64| ((time - start).max(0) / length) as usize;
        while part(self.length) >= MAX_PARTS {
            self.length *= 2;
            join();
        }
        part(self.length)
    }

    /// Milliseconds of a part.
    pub fn length(&self) -> i64 {
        self.length
    }

    /// When a part begins, in milliseconds since the epoch.
    pub fn begin(&self, part: usize) -> i64 {
        self.start.unwrap_or(0) + part as i64 * self.length
    }
}

/// Joins parts in pairs that are a bit each.
pub fn join_bits(parts: u8) -> u8 {
    (0..MAX_PARTS.div_ceil(2)).map(|part| u8::from(parts >> (2 * part) & 3 != 0) << part).sum()
}

/// The highest numbers of a client or an account by part, in rows: one for each length of windows.
#[derive(Clone, Debug)]
pub struct PartPeaks {
    peaks: Box<[[u16; MAX_PARTS]]>,
}

impl PartPeaks {
    pub fn new(rows: usize) -> Self {
        Self { peaks: vec![[0; MAX_PARTS]; rows].into() }
    }

    pub fn note(&mut self, part: usize, row: usize, number: u32) {
        let peak = &mut self.peaks[row][part];
        *peak = (*peak).max(u16::try_from(number).unwrap_or(u16::MAX));
    }

    pub fn peaks(&self, row: usize) -> [u32; MAX_PARTS] {
        self.peaks[row].map(u32::from)
    }

    /// Joins parts in pairs.
    pub fn join(&mut self) {
        for peaks in &mut self.peaks {
            let mut joined = [0; MAX_PARTS];
            joined.iter_mut().zip(peaks.chunks(2)).for_each(|(peak, pair)| *peak = pair[0].max(pair[1]));
            *peaks = joined;
        }
    }
}

const _: () = assert!(MAX_PARTS.is_multiple_of(2) && MAX_PARTS <= 8);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_log_has_longer_parts_and_loses_no_peak() {
        let (mut parts, mut peaks, mut joins) = (Parts::default(), PartPeaks::new(1), 0);
        for day in 0..30 {
            let part = parts.part(day * 86_400_000, || {
                peaks.join();
                joins += 1;
            });
            peaks.note(part, 0, day as u32 + 1);
        }
        let last = parts.part(29 * 86_400_000, || unreachable!());
        assert!((MAX_PARTS / 2..MAX_PARTS).contains(&last), "{last}");
        let found = peaks.peaks(0);
        assert_eq!((found[last], joins), (30, 13));
        assert!(found[..=last].is_sorted() && found[0] > 1);
        assert_eq!(parts.part(-5, || unreachable!()), 0);
    }
}
