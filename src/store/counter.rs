//! Single steps on one counter, beside the hits and reads of requests.
//!
//! Each is done in memcached if there is one, and remembered in this process;
//! what memcached does not do is done in this process alone.

use super::Store;
use super::memcached::text;
use super::subject::Subject;
use super::wire::{Command, KeyText};
use crate::clock::Now;
use crate::policy::Key;

/// A counter by its names.
#[derive(Debug)]
pub(super) struct Counter {
    /// In this process.
    subject: Subject,
    /// In memcached.
    text: KeyText,
}

impl Store {
    pub(super) fn counter(&self, key: &Key<'_>) -> Counter {
        Counter { subject: self.table.subject(*key), text: text(key) }
    }

    /// Takes hits back, down to 0. Neither makes a counter nor changes how long it lives.
    pub(super) fn give_back(&self, counter: &Counter, amount: u32, now: Now) {
        self.send(counter, Command::TakeBack(amount), 0, now);
        self.table.take_back(counter.subject, amount, now.monotonic);
    }

    /// Sends a command to memcached and does not wait for it.
    fn send(&self, counter: &Counter, command: Command, exptime: u32, now: Now) {
        if let Some(memcached) = &self.memcached {
            drop(memcached.send(counter.text.clone(), command, exptime, now));
        }
    }
}
