//! Single steps on one counter, beside the hits and reads of requests.
//!
//! Each is done in the shared store if there is one, and remembered in this process. What the shared store does not
//! do is done in this process alone.

use smallvec::smallvec;

use super::shared::backend::{Backend, CounterCommand, CounterReply, CounterRequest, KeyText, PendingReply, key_text};
use crate::net::clock::Now;
use crate::policy::{CounterKind, Key};
use crate::store::Store;
use crate::store::local::CounterId;

/// Where a counter is.
#[derive(Debug)]
pub(crate) struct CounterPlace {
    /// In this process.
    id: CounterId,
    /// In the shared store.
    text: KeyText,
    /// A count beyond this is kept longest when the table is full.
    threshold: u32,
    /// The seconds of an exact sliding window, if it is one.
    slides: Option<u32>,
}

impl Store {
    pub(crate) fn counter(&self, key: &Key<'_>) -> CounterPlace {
        // Bans are kept longest; what else is remembered of violations goes before clients that are over.
        let threshold = if key.kind == CounterKind::ActiveBan { 0 } else { u32::MAX };
        let slides = (key.kind == CounterKind::ExactWindow).then_some(key.limit.exptime);
        CounterPlace { id: self.table.counter_id(*key), text: key_text(key), threshold, slides }
    }

    /// One more hit, after which the counter lives for `exptime` seconds. Returns its count. The store is sent
    /// `pending` earlier hits as well, which are counted in this process already.
    pub(crate) async fn renew(&self, counter: &CounterPlace, pending: u32, exptime: u32, now: Now) -> u32 {
        let CounterPlace { id, threshold, .. } = *counter;
        let lasts = u64::from(exptime) * 1000;
        if self.backend.is_some() {
            // First the expiry, so that a hit that creates the key comes last. memcached's `ma` could set the expiry
            // itself, but the server drops that when the number gains a digit.
            self.send(counter, CounterCommand::Touch, exptime, now);
            let amount = pending.saturating_add(1);
            if let Some(CounterReply::Count { mut count, .. }) =
                self.ask(counter, CounterCommand::Hit(amount), exptime, now).await
            {
                if pending > 0 && count == amount {
                    // The key had expired, so the pending hits created it; take them back.
                    self.take_back_from(counter, pending, now);
                    count = 1;
                }
                self.table.observe(id, count, lasts, threshold, now.monotonic);
                return count;
            }
        }
        self.table.renew(id, 1, lasts, threshold, now.monotonic)
    }

    /// Creates a counter of 1 that lives for `exptime` seconds, unless it exists. Returns whether it did.
    pub(crate) async fn add(&self, counter: &CounterPlace, exptime: u32, now: Now) -> bool {
        let CounterPlace { id, threshold, .. } = *counter;
        let lasts = u64::from(exptime) * 1000;
        match self.ask(counter, CounterCommand::Add(1), exptime, now).await {
            Some(CounterReply::Done) => {
                self.table.observe(id, 1, lasts, threshold, now.monotonic);
                true
            }
            Some(_) => false,
            None => self.table.add(id, 1, lasts, threshold, now.monotonic),
        }
    }

    /// Sets a counter's count and its expiry, `exptime` seconds from now, if it still exists.
    pub(crate) fn replace(&self, counter: &CounterPlace, number: u32, exptime: u32, now: Now) {
        let CounterPlace { id, threshold, .. } = *counter;
        self.send(counter, CounterCommand::Replace(number), exptime, now);
        if self.table.peek(id, now.monotonic).is_some() {
            self.table.observe(id, number, u64::from(exptime) * 1000, threshold, now.monotonic);
        }
    }

    /// Takes hits back, down to 0. Neither creates a counter nor changes its expiry.
    pub(crate) fn take_back_from(&self, counter: &CounterPlace, amount: u32, now: Now) {
        self.take_back_sent(counter, amount, amount, now);
    }

    /// The same where only `sent` of these hits were sent to the shared store.
    pub(crate) fn take_back_sent(&self, counter: &CounterPlace, amount: u32, sent: u32, now: Now) {
        match counter.slides {
            _ if sent == 0 => {}
            Some(exptime) => self.send(counter, CounterCommand::SlideBack(sent), exptime, now),
            None => self.send(counter, CounterCommand::TakeBack(sent), 0, now),
        }
        self.table.take_back(counter.id, amount, now.monotonic);
    }

    /// Moves the end of a counter, if it exists, to `exptime` seconds from now.
    pub fn prolong(&self, key: &Key<'_>, exptime: u32, now: Now) {
        let counter = self.counter(key);
        let count = self.table.peek(counter.id, now.monotonic).map_or(1, |known| known.count);
        self.set_left(&counter, count, u64::from(exptime) * 1000, now);
    }

    /// What this process knows of a counter, without asking the shared store.
    pub fn known_count(&self, key: &Key<'_>, now: Now) -> u32 {
        self.table.peek(self.table.counter_id(*key), now.monotonic).map_or(0, |known| known.count)
    }

    /// Ends a counter.
    pub(crate) fn forget(&self, counter: &CounterPlace, now: Now) {
        self.send(counter, CounterCommand::Delete, 0, now);
        self.table.forget(counter.id);
    }

    /// The count of a counter, and the milliseconds until it expires.
    pub(crate) async fn read_counter(&self, counter: &CounterPlace, now: Now) -> Option<(u32, u64)> {
        let known = self.table.peek(counter.id, now.monotonic);
        match self.ask(counter, CounterCommand::Read, 0, now).await {
            Some(CounterReply::Count { count, left: Some(left) }) => Some((count, u64::from(left) * 1000)),
            // Some servers do not return how long it lasts.
            Some(CounterReply::Count { count, .. }) => Some((count, known.map_or(0, |known| known.left_ms))),
            Some(_) => None,
            None => known.map(|known| (known.count, known.left_ms)),
        }
    }

    /// Sets the milliseconds until a counter with this count expires; 0: it ends.
    pub(crate) fn set_left(&self, counter: &CounterPlace, count: u32, left: u64, now: Now) {
        if left == 0 {
            return self.forget(counter, now);
        }
        let exptime = u32::try_from(left.div_ceil(1000)).unwrap_or(u32::MAX);
        self.send(counter, CounterCommand::Touch, exptime, now);
        self.know(counter, count, left, now);
    }

    /// Adds hits that no decision is made from.
    pub(crate) fn add_hits(&self, counter: &CounterPlace, amount: u32, exptime: u32, now: Now) {
        self.send(counter, CounterCommand::Hit(amount), exptime, now);
        self.table.hit(counter.id, amount, u64::from(exptime) * 1000, counter.threshold, now.monotonic);
    }

    /// Whether this process knows of a counter.
    pub(crate) fn is_known(&self, counter: &CounterPlace, now: Now) -> bool {
        self.table.peek(counter.id, now.monotonic).is_some()
    }

    /// Remembers the state of a counter in this process.
    pub(crate) fn know(&self, counter: &CounterPlace, count: u32, left: u64, now: Now) {
        self.table.observe(counter.id, count, left, counter.threshold, now.monotonic);
    }

    /// Ends counters, and waits until a shared store has done that too. Returns whether it has.
    pub async fn reset(&self, keys: impl Iterator<Item = Key<'_>>, now: Now) -> bool {
        let mut sent = Vec::new();
        for key in keys {
            let counter = self.counter(&key);
            self.table.forget(counter.id);
            sent.extend(
                self.backend.as_deref().map(|backend| send_to(backend, &counter, CounterCommand::Delete, 0, now)),
            );
        }
        let mut done = true;
        for mut reply in sent {
            done &= reply.outcome().await.is_ok();
        }
        done
    }

    /// Forgets what this process knows of a counter, which is deleted in the shared store already.
    pub fn forget_here(&self, key: &Key<'_>) {
        self.table.forget(self.table.counter_id(*key));
    }

    /// Sends a command to the shared store and does not wait for its reply.
    fn send(&self, counter: &CounterPlace, command: CounterCommand, exptime: u32, now: Now) {
        if let Some(backend) = &self.backend {
            drop(send_to(&**backend, counter, command, exptime, now));
        }
    }

    /// The shared store's reply; `None`: it is down, or there is none.
    async fn ask(
        &self,
        counter: &CounterPlace,
        command: CounterCommand,
        exptime: u32,
        now: Now,
    ) -> Option<CounterReply> {
        let mut reply = send_to(self.backend.as_deref()?, counter, command, exptime, now);
        reply.outcome().await.ok()
    }
}

fn send_to(
    backend: &dyn Backend,
    counter: &CounterPlace,
    command: CounterCommand,
    exptime: u32,
    now: Now,
) -> PendingReply {
    let request = CounterRequest { key: counter.text.clone(), command, exptime, is_known: false };
    backend.submit(smallvec![request], false, now).pop().expect("a reply for every request")
}
