//! A sliding window: slots of a tenth of its length, aligned to Unix time.
//!
//! The slot of this moment is hit, the ten before it are read, and all are
//! counted in full. So there are never more hits than allowed in any span of
//! the window's length, and a client may be refused up to a tenth of it too long.
//! Hosts that share counters need clocks that agree.

/// Older slots that reach into the window.
pub const OLDER: u64 = 10;

/// The number of the slot that a moment is in, for a window of `exptime` seconds.
pub fn slot(exptime: u32, unix_ms: u64) -> u64 {
    unix_ms / length(exptime)
}

/// The numbers of all slots that a window reaches into, the newest first.
pub fn slots(exptime: u32, unix_ms: u64) -> [u64; OLDER as usize + 1] {
    let newest = slot(exptime, unix_ms);
    std::array::from_fn(|age| newest.saturating_sub(age as u64))
}

/// How many seconds a slot is kept: until the window has left it, by a clock that is behind too.
pub fn lifetime(exptime: u32) -> u32 {
    exptime.saturating_add(exptime.div_ceil(10)).saturating_add(2)
}

/// Seconds until one more hit fits in, if nothing else comes: until enough of the oldest slots are left
/// behind. `slots` are their counts, from the newest to the oldest.
pub fn left(slots: &[u32], threshold: u32, exptime: u32, unix_ms: u64) -> u32 {
    let mut sum = 0_u64;
    // The first slot with which the window is full has to be left behind.
    let full = slots.iter().position(|count| {
        sum += u64::from(*count);
        sum >= u64::from(threshold)
    });
    let Some(age) = full else {
        return 0;
    };
    let ends = (slot(exptime, unix_ms) + OLDER + 1).saturating_sub(age as u64) * length(exptime);
    u32::try_from(ends.saturating_sub(unix_ms).div_ceil(1000)).unwrap_or(u32::MAX)
}

/// The last millisecond of a slot.
pub fn end(exptime: u32, slot: u64) -> u64 {
    ((slot + 1) * length(exptime)).saturating_sub(1)
}

/// A slot's length in milliseconds.
fn length(exptime: u32) -> u64 {
    u64::from(exptime.max(1)) * 100
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn slots_are_tenths_aligned_to_unix_time() {
        assert_eq!([0, 5_999, 6_000, 12_000].map(|unix_ms| slot(60, unix_ms)), [0, 0, 1, 2]);
        assert_eq!([0, 99, 100].map(|unix_ms| slot(1, unix_ms)), [0, 0, 1]);
        assert_eq!(lifetime(60), 68);
    }

    #[test]
    fn the_wait_ends_when_the_oldest_hits_have_left() {
        // One hit of two is in the slot of this moment, another in the oldest.
        assert_eq!(left(&[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], 2, 60, 600_000), 6);
        assert_eq!(left(&[2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 2, 60, 600_000), 66);
        assert_eq!(left(&[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 2, 60, 600_000), 0);
    }

    proptest! {
        #[test]
        fn no_span_of_the_window_has_more_hits_than_allowed(
            pauses in prop::collection::vec(0_u64..3_000, 1..200),
            exptime in 1_u32..20,
            threshold in 1_u32..8,
        ) {
            let mut slots = std::collections::HashMap::new();
            let mut passed: Vec<u64> = Vec::new();
            let mut now = 1_700_000_000_000;
            for pause in pauses {
                now += pause;
                let newest = slot(exptime, now);
                *slots.entry(newest).or_insert(0) += 1;
                let counts: Vec<u32> =
                    (0..=OLDER).map(|age| slots.get(&(newest - age)).copied().unwrap_or(0)).collect();
                if counts.iter().sum::<u32>() <= threshold {
                    passed.push(now);
                    let span = u64::from(exptime) * 1000;
                    let within = passed.iter().filter(|then| **then + span > now).count();
                    prop_assert!(within <= threshold as usize);
                } else {
                    prop_assert!(left(&counts, threshold, exptime, now) > 0);
                }
            }
        }
    }
}
