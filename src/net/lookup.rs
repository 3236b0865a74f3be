//! Lookups in the system's name service.
//!
//! A lookup cannot be cancelled, and has no bound on its time. So there is one at a time for each key, on a thread that
//! may block: a second caller, after a reload as well, waits for the lookup that is under way.

use std::collections::BTreeMap;
use std::sync::Mutex;

use tokio::sync::watch;
use tokio::task::spawn_blocking;

use super::lock;

/// The lookups of one kind that are under way, by what is looked up.
pub struct Lookups<K, V>(Mutex<BTreeMap<K, watch::Receiver<Option<V>>>>);

impl<K: Ord + Clone + Send, V: Clone + Send + Sync> Lookups<K, V> {
    /// None that are under way.
    pub const fn none() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    /// What `look_up` returns for this key; `None`: the runtime ended first. There is no bound on the time: a caller
    /// who has one drops this, and asks again.
    pub async fn get(&'static self, key: K, look_up: impl FnOnce(&K) -> V + Send + 'static) -> Option<V>
    where
        K: 'static,
        V: 'static,
    {
        let mut answer = self.begin(key, look_up);
        answer.wait_for(Option::is_some).await.ok().and_then(|found| found.clone())
    }

    /// The lookup that is under way, or a new one.
    fn begin(&'static self, key: K, look_up: impl FnOnce(&K) -> V + Send + 'static) -> watch::Receiver<Option<V>>
    where
        K: 'static,
        V: 'static,
    {
        let mut under_way = lock(&self.0);
        if let Some(answer) = under_way.get(&key) {
            return answer.clone();
        }
        let (sender, answer) = watch::channel(None);
        under_way.insert(key.clone(), answer.clone());
        let entry = UnderWay { lookups: self, key };
        spawn_blocking(move || {
            let found = look_up(&entry.key);
            // A caller from here on begins another lookup.
            drop(entry);
            sender.send_replace(Some(found));
        });
        answer
    }
}

/// An entry of the map, removed when this is dropped, also by a runtime that ends.
struct UnderWay<K: Ord + 'static, V: 'static> {
    lookups: &'static Lookups<K, V>,
    key: K,
}

impl<K: Ord, V> Drop for UnderWay<K, V> {
    fn drop(&mut self) {
        lock(&self.lookups.0).remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::mpsc::sync_channel;

    use super::*;

    #[tokio::test]
    async fn a_lookup_that_is_under_way_answers_all_who_ask_meanwhile() {
        static LOOKUPS: Lookups<u32, u32> = Lookups::none();
        static BEGUN: AtomicU32 = AtomicU32::new(0);
        let (answer, hangs) = sync_channel(1);
        let slow = move |key: &u32| {
            BEGUN.fetch_add(1, Ordering::Relaxed);
            *key + hangs.recv().unwrap_or(0)
        };
        let other = |_: &u32| {
            BEGUN.fetch_add(1, Ordering::Relaxed);
            0
        };
        let end = async {
            tokio::task::yield_now().await;
            answer.send(1).unwrap();
        };
        let (one, two, ()) = tokio::join!(LOOKUPS.get(7, slow), LOOKUPS.get(7, other), end);
        assert_eq!((one, two, BEGUN.load(Ordering::Relaxed)), (Some(8), Some(8), 1));
        assert_eq!(LOOKUPS.get(7, |_| 9).await, Some(9), "it is over");
        assert!(lock(&LOOKUPS.0).is_empty());
    }
}
