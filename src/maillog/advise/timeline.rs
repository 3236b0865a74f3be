//! Sessions and refusals over time, for every threshold.
//!
//! The time a log covers is not known before its end. So slots begin short and
//! are joined to longer ones whenever there would be too many of them.

use std::cmp::Ordering;

/// The most slots. A long log has more than a sixth as many.
const MAX_SLOTS: usize = 512;

/// Seconds of a slot: each is a multiple of the one before. Longer ones are twice as long each.
const LENGTHS: [i64; 14] = [1, 5, 15, 30, 60, 300, 900, 1_800, 3_600, 7_200, 21_600, 43_200, 86_400, 172_800];

/// Sessions in slots of time, by the number they had in their window.
#[derive(Debug)]
pub struct Timeline {
    start: Option<i64>,
    /// Milliseconds of a slot.
    slot: i64,
    lengths: usize,
    levels: Vec<u32>,
    /// For each slot, for each length of windows, how many sessions were at each level.
    slots: Vec<Vec<u32>>,
}

impl Timeline {
    pub fn new(lengths: usize) -> Self {
        Self { start: None, slot: LENGTHS[0] * 1_000, lengths, levels: levels(), slots: Vec::new() }
    }

    /// Counts a session that has this number in its window of a length.
    pub fn count(&mut self, time: i64, length: usize, number: u32) {
        let start = *self.start.get_or_insert(time);
        let at = |slot: i64| ((time - start).max(0) / slot) as usize;
        while at(self.slot) >= MAX_SLOTS {
            self.join();
        }
        let at = at(self.slot);
        if self.slots.len() <= at {
            self.slots.resize(at + 1, vec![0; self.lengths * self.levels.len()]);
        }
        let level = self.level(number);
        self.slots[at][length * self.levels.len() + level] += 1;
    }

    /// When the first slot begins, in milliseconds since the epoch.
    pub fn start(&self) -> i64 {
        self.start.unwrap_or(0)
    }

    /// Milliseconds of a slot.
    pub fn slot(&self) -> i64 {
        self.slot
    }

    /// The numbers at which levels begin. Up to 65 each number is a level; from there on levels are five
    /// percent apart.
    pub fn levels(&self) -> &[u32] {
        &self.levels
    }

    /// For each slot: sessions of the level, as indices of levels and how many there were.
    pub fn sessions(&self, length: usize) -> impl Iterator<Item = impl Iterator<Item = (usize, u32)>> {
        let count = self.levels.len();
        self.slots.iter().map(move |slot| {
            let levels = slot[length * count..][..count].iter().copied().enumerate();
            levels.filter(|(_, sessions)| *sessions > 0)
        })
    }

    /// For each slot: all sessions, and those beyond a threshold.
    ///
    /// `numbers` says how many sessions of the whole log had each number. Where the threshold lies within a
    /// level, each slot has its share of those beyond it, so that the sum is exact.
    pub fn refused(&self, length: usize, threshold: u32, numbers: &[u64]) -> Vec<(u64, u64)> {
        let (first, bounds) = self.level_of(threshold.saturating_add(1));
        let sum = |from: u32, to: u32| numbers.iter().take(to as usize).skip(from as usize).sum::<u64>();
        let (beyond, whole) = (sum(threshold.saturating_add(1), bounds.1), sum(bounds.0, bounds.1));
        let mut so_far = 0;
        let mut share = |sessions: u64| {
            let before = so_far * beyond / whole.max(1);
            so_far += sessions;
            so_far * beyond / whole.max(1) - before
        };
        let slots = self.sessions(length).map(|levels| {
            levels.fold((0, 0), |(all, refused), (level, sessions)| {
                let sessions = u64::from(sessions);
                let over = match level.cmp(&first) {
                    Ordering::Less => 0,
                    Ordering::Equal => share(sessions),
                    Ordering::Greater => sessions,
                };
                (all + sessions, refused + over)
            })
        });
        slots.collect()
    }

    /// The level of a number, where it begins, and where the next one begins.
    fn level_of(&self, number: u32) -> (usize, (u32, u32)) {
        let level = self.level(number);
        (level, (self.levels[level], self.levels.get(level + 1).copied().unwrap_or(u32::MAX)))
    }

    fn level(&self, number: u32) -> usize {
        self.levels.partition_point(|level| *level <= number).saturating_sub(1)
    }

    /// Joins slots to longer ones.
    fn join(&mut self) {
        let longer = LENGTHS.iter().map(|seconds| seconds * 1_000).find(|length| *length > self.slot);
        let longer = longer.unwrap_or(self.slot * 2);
        let joined = self.slots.chunks((longer / self.slot) as usize).map(|slots| {
            let mut sum = slots[0].clone();
            for slot in &slots[1..] {
                sum.iter_mut().zip(slot).for_each(|(sum, more)| *sum += more);
            }
            sum
        });
        (self.slots, self.slot) = (joined.collect(), longer);
    }
}

fn levels() -> Vec<u32> {
    let mut levels: Vec<u32> = (1..=65).collect();
    while levels[levels.len() - 1] < 65_536 {
        let last = levels[levels.len() - 1];
        levels.push(last + last / 20);
    }
    levels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_those_beyond_the_threshold_in_their_slot() {
        let mut timeline = Timeline::new(2);
        for (time, number) in [(0, 1), (10, 2), (999, 3), (1_000, 1), (2_500, 4)] {
            timeline.count(5_000 + time, 1, number);
        }
        assert_eq!(timeline.refused(1, 1, &[0, 2, 1, 1, 1]), [(3, 2), (1, 0), (1, 1)]);
        assert_eq!(timeline.refused(0, 1, &[]), [(0, 0), (0, 0), (0, 0)]);
        assert_eq!((timeline.start(), timeline.slot()), (5_000, 1_000));
    }

    #[test]
    fn a_long_log_has_longer_slots_and_loses_no_session() {
        let mut timeline = Timeline::new(1);
        const YEAR: i64 = 365 * 86_400_000;
        for day in 0..365 {
            timeline.count(day * 86_400_000, 0, day as u32 + 1);
        }
        let numbers: Vec<u64> = (0..366).map(|number| u64::from(number > 0)).collect();
        let slots = timeline.refused(0, 100, &numbers);
        assert!(slots.len() <= MAX_SLOTS && slots.len() > MAX_SLOTS / 6 && timeline.slot() * MAX_SLOTS as i64 >= YEAR);
        assert_eq!(slots.iter().map(|(all, _)| all).sum::<u64>(), 365);
        for threshold in [63, 64, 65, 66, 100, 101, 364, 365, 65_534] {
            let refused = timeline.refused(0, threshold, &numbers).iter().map(|(_, refused)| refused).sum::<u64>();
            assert_eq!(refused, 365_u64.saturating_sub(threshold.into()), "{threshold}");
        }
    }
}
