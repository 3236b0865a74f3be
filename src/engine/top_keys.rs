//! The keys with the largest sums, of however many there are, in bounded memory.
//!
//! By the method of Space-Saving: a new key takes the place of one of the smallest, and begins with its sum. So a sum
//! is never too small, and too large by its `excess` at most. Keys that strangers invent displace each other only.

use std::cmp::Reverse;
use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::policy::key::KeyPart;

/// Keys that are kept of each limit and day when there are more than twice as many.
pub const MAX_KEYS: usize = 500;

/// Sums by key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopKeys {
    keys: HashMap<KeyPart, KeySum>,
    /// No key that is not kept has a larger sum.
    floor: u64,
}

/// The sum of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeySum {
    pub sum: u64,
    /// By how much that may be too large.
    pub excess: u64,
    /// Since when it is kept, in seconds since the Unix epoch.
    pub since: u64,
}

impl TopKeys {
    /// Adds to the sum of a key at that second.
    pub fn add(&mut self, part: &KeyPart, amount: u64, unix: u64) {
        if let Some(known) = self.keys.get_mut(part) {
            known.sum += amount;
            return;
        }
        if self.keys.len() >= 2 * MAX_KEYS {
            self.make_room();
        }
        let excess = self.floor;
        self.keys.insert(part.clone(), KeySum { sum: excess + amount, excess, since: unix });
    }

    /// Takes from the sum of a key, as far as there is one.
    pub fn take_back(&mut self, part: &KeyPart, amount: u64) {
        if let Some(known) = self.keys.get_mut(part) {
            known.sum = known.sum.saturating_sub(amount).max(known.excess);
        }
    }

    /// What is known of a key.
    pub fn get(&self, part: &KeyPart) -> Option<KeySum> {
        self.keys.get(part).copied()
    }

    /// The keys with the largest sums, in that order, as many as that.
    pub fn largest(&self, most: usize) -> Vec<(&KeyPart, KeySum)> {
        let mut keys: Vec<_> =
            self.keys.iter().map(|(part, sum)| (part, *sum)).filter(|(_, sum)| sum.sum > 0).collect();
        keys.sort_unstable_by_key(|(_, sum)| Reverse(sum.sum));
        keys.truncate(most);
        keys.sort_by_cached_key(|(part, sum)| (Reverse(sum.sum), part.to_string()));
        keys
    }

    /// Keys that are kept.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Keeps the larger half.
    fn make_room(&mut self) {
        let mut sums: Vec<u64> = self.keys.values().map(|known| known.sum).collect();
        let (larger, largest_dropped, _) = sums.select_nth_unstable_by(MAX_KEYS, |one, other| other.cmp(one));
        let floor = *largest_dropped;
        let mut equal_ones = larger.iter().filter(|sum| **sum == floor).count();
        self.keys.retain(|_, known| {
            let is_kept = known.sum > floor || known.sum == floor && equal_ones > 0;
            equal_ones -= usize::from(is_kept && known.sum == floor);
            is_kept
        });
        self.floor = self.floor.max(floor);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(name: impl std::fmt::Display) -> KeyPart {
        KeyPart::of_text(&format!("sender={name}"))
    }

    #[test]
    fn who_has_much_stays_known_however_many_strangers_there_are() {
        let mut top = TopKeys::default();
        for stranger in 0..200_000 {
            top.add(&part(stranger), 1, 7);
            if stranger % 100 == 0 {
                top.add(&part("heavy"), 1, 7);
            }
            if stranger % 200 == 0 {
                top.add(&part("lighter"), 1, 7);
            }
            assert!(top.len() <= 2 * MAX_KEYS);
        }
        let names: Vec<String> = top.largest(2).iter().map(|(part, _)| part.to_string()).collect();
        assert_eq!(names, ["sender=heavy", "sender=lighter"]);
        for (name, truth) in [("heavy", 2000), ("lighter", 1000)] {
            let KeySum { sum, excess, .. } = top.get(&part(name)).unwrap();
            assert!(sum >= truth && sum - excess <= truth, "{name}: {sum}, {excess}");
        }
        // All that there was, shared among the places.
        assert!(top.floor <= 203_000 / MAX_KEYS as u64, "{}", top.floor);
    }

    #[test]
    fn sums_are_exact_as_long_as_all_have_a_place_and_what_goes_back_is_no_longer_in_them() {
        let mut top = TopKeys::default();
        for number in 0..2 * MAX_KEYS as u64 {
            top.add(&part(number), number, number);
        }
        top.take_back(&part(999), 900);
        top.take_back(&part(998), 5000);
        top.take_back(&part("nobody"), 1);
        let sum = |name: u64| top.get(&part(name)).unwrap();
        assert_eq!(sum(999), KeySum { sum: 99, excess: 0, since: 999 });
        assert_eq!(sum(998).sum, 0);
        assert_eq!(top.largest(1)[0].0, &part(997));
    }
}
