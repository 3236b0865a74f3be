//! A map of the keys that were used lately, in bounded memory: strangers choose the keys.
//!
//! There are two generations. When the young one is full it becomes the old one,
//! and the old one is forgotten as a whole: the keys that were touched longest
//! ago go, and nobody ever waits for a sweep.

use std::collections::HashMap;

/// Values of at most `MOST` keys, which are hashes under [`crate::net::secret`].
#[derive(Debug, Default)]
pub struct RecentMap<V, const MOST: usize> {
    young: HashMap<u64, V>,
    old: HashMap<u64, V>,
}

impl<V: Default, const MOST: usize> RecentMap<V, MOST> {
    /// The value of a key.
    pub fn get(&self, key: u64) -> Option<&V> {
        self.young.get(&key).or_else(|| self.old.get(&key))
    }

    /// The same, copied.
    pub fn find(&self, key: u64) -> Option<V>
    where
        V: Copy,
    {
        self.get(key).copied()
    }

    /// The value of a key to be changed, a new key's being the default. The key counts as touched.
    pub fn touch(&mut self, key: u64) -> &mut V {
        if self.young.len() >= MOST / 2 && !self.young.contains_key(&key) {
            std::mem::swap(&mut self.young, &mut self.old);
            // A key that moves on from the old generation is looked up there first.
            let moved = self.young.remove(&key);
            self.young.clear();
            return self.young.entry(key).or_insert(moved.unwrap_or_default());
        }
        let old = &mut self.old;
        self.young.entry(key).or_insert_with(|| old.remove(&key).unwrap_or_default())
    }

    /// Forgets a key.
    pub fn forget(&mut self, key: u64) {
        self.young.remove(&key);
        self.old.remove(&key);
    }

    /// Every key with its value, the old generation first.
    pub fn iter(&self) -> impl Iterator<Item = (&u64, &V)> {
        self.old.iter().chain(&self.young)
    }

    /// Keys remembered.
    pub fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: usize = 1000;

    #[test]
    fn memory_is_bounded_and_the_latest_are_kept() {
        let mut generations = RecentMap::<u64, MOST>::default();
        let many = 5 * MOST as u64;
        for key in 0..many {
            *generations.touch(key) = key;
            assert!(generations.len() <= MOST);
        }
        for key in many - MOST as u64 / 2..many {
            assert_eq!(generations.find(key), Some(key));
        }
        assert_eq!(generations.find(0), None);
    }

    #[test]
    fn a_key_that_is_touched_again_and_again_outlives_the_others() {
        let mut generations = RecentMap::<u64, MOST>::default();
        for key in 1..5 * MOST as u64 {
            *generations.touch(0) += 1;
            *generations.touch(key) = key;
            assert_eq!(generations.find(0), Some(key));
        }
        generations.forget(0);
        assert_eq!(generations.find(0), None);
    }
}
