//! Single steps on one counter, beside the hits and reads of requests.
//!
//! Each is done in memcached if there is one, and remembered in this process;
//! what memcached does not do is done in this process alone.

use crate::net::clock::Now;
use crate::policy::{CounterKind, Key};
use crate::store::Store;
use crate::store::local::counter_id::CounterId;
use crate::store::memcached::protocol::{Command, KeyText, Response};
use crate::store::memcached::text;

/// A counter by its names.
#[derive(Debug)]
pub(crate) struct Counter {
    /// In this process.
    subject: CounterId,
    /// In memcached.
    text: KeyText,
    /// Beyond this it is kept longest where room is short.
    threshold: u32,
}

impl Store {
    pub(crate) fn counter(&self, key: &Key<'_>) -> Counter {
        // Bans are kept. What else is remembered of violations may go before those that are over.
        let threshold = if key.kind == CounterKind::Ban { 0 } else { u32::MAX };
        Counter { subject: self.table.subject(*key), text: text(key), threshold }
    }

    /// One more hit, after which the counter lives for `exptime` seconds. Says how many there were. With it go
    /// earlier ones that were `kept` from the store, and are counted in this process.
    pub(crate) async fn renew(&self, counter: &Counter, kept: u32, exptime: u32, now: Now) -> u32 {
        let Counter { subject, threshold, .. } = *counter;
        let lasts = u64::from(exptime) * 1000;
        if self.memcached.is_some() {
            // First, so that a hit that creates the key is the last word. `ma` could set the expiry itself,
            // but memcached drops that when the number gains a digit.
            self.send(counter, Command::Touch, exptime, now);
            let amount = kept.saturating_add(1);
            if let Some(Response::Counted(counted)) = self.ask(counter, Command::Hit(amount), exptime, now).await {
                let mut count = counted.count;
                if kept > 0 && count == amount {
                    // They began the counter: it was forgotten meanwhile, and they are none of the new one's.
                    self.give_back(counter, kept, now);
                    count = 1;
                }
                self.table.observe(subject, count, lasts, threshold, now.monotonic);
                return count;
            }
        }
        self.table.renew(subject, 1, lasts, threshold, now.monotonic)
    }

    /// Begins a counter of 1 that lives for `exptime` seconds, unless it is there. Says whether it did.
    pub(crate) async fn add(&self, counter: &Counter, exptime: u32, now: Now) -> bool {
        let Counter { subject, threshold, .. } = *counter;
        let lasts = u64::from(exptime) * 1000;
        match self.ask(counter, Command::Add(1), exptime, now).await {
            Some(Response::Done) => {
                self.table.observe(subject, 1, lasts, threshold, now.monotonic);
                true
            }
            Some(_) => false,
            None => self.table.add(subject, 1, lasts, threshold, now.monotonic),
        }
    }

    /// Gives a counter another number and `exptime` seconds from now. One that has ended meanwhile stays so.
    pub(crate) fn replace(&self, counter: &Counter, number: u32, exptime: u32, now: Now) {
        let Counter { subject, threshold, .. } = *counter;
        self.send(counter, Command::Replace(number), exptime, now);
        if self.table.peek(subject, now.monotonic).is_some() {
            self.table.observe(subject, number, u64::from(exptime) * 1000, threshold, now.monotonic);
        }
    }

    /// Takes hits back, down to 0. Neither makes a counter nor changes how long it lives.
    pub(crate) fn give_back(&self, counter: &Counter, amount: u32, now: Now) {
        self.send(counter, Command::TakeBack(amount), 0, now);
        self.table.take_back(counter.subject, amount, now.monotonic);
    }

    /// Ends a counter.
    pub(crate) fn forget(&self, counter: &Counter, now: Now) {
        self.send(counter, Command::Delete, 0, now);
        self.table.forget(counter.subject);
    }

    /// Ends counters, and waits until a shared store has done that too. Says whether it has.
    pub async fn reset(&self, keys: impl Iterator<Item = Key<'_>>, now: Now) -> bool {
        let mut sent = Vec::new();
        for key in keys {
            let counter = self.counter(&key);
            self.table.forget(counter.subject);
            if let Some(memcached) = &self.memcached {
                sent.push(memcached.send(counter.text, Command::Delete, 0, now));
            }
        }
        let mut done = true;
        for waiting in sent {
            done &= waiting.outcome().await.is_ok();
        }
        done
    }

    /// Forgets what this process knows of a counter, which the store was told already.
    pub fn forget_here(&self, key: &Key<'_>) {
        self.table.forget(self.table.subject(*key));
    }

    /// Sends a command to memcached and does not wait for it.
    fn send(&self, counter: &Counter, command: Command, exptime: u32, now: Now) {
        if let Some(memcached) = &self.memcached {
            drop(memcached.send(counter.text.clone(), command, exptime, now));
        }
    }

    /// What memcached answers; `None`: it is away, or there is none.
    async fn ask(&self, counter: &Counter, command: Command, exptime: u32, now: Now) -> Option<Response> {
        let memcached = self.memcached.as_ref()?;
        memcached.send(counter.text.clone(), command, exptime, now).outcome().await.ok()
    }
}
