//! One request's operations on a shared store, and what this process remembers of the answers.

use smallvec::SmallVec;

use crate::net::clock::Now;
use crate::observe::statistics::add;
use crate::policy::OnStoreFailure;
use crate::policy::{Counter, CounterKind, Key, Operation};
use crate::store::memcached::protocol::{Command, Counted, Response};
use crate::store::memcached::replicas::ReplicaWait;
use crate::store::memcached::{Memcached, text};
use crate::store::shared::over_limit::{Known, Lookup};
use crate::store::{Hits, NOTHING, Store, StoreError};

/// Milliseconds that a window may end before the time that memcached told, in whole seconds.
const TOLERANCE: u64 = 2000;

/// One operation on its way.
enum Sent {
    /// To the store, with hits of earlier requests.
    There(ReplicaWait, u32),
    /// Nowhere: what is known here is the answer.
    Spared(Counter),
}

impl Store {
    pub(crate) async fn count_shared(
        &self,
        memcached: &Memcached,
        operations: impl Iterator<Item = Operation<'_>>,
        now: Now,
    ) -> Hits {
        let mut batch = memcached.batch(now);
        // Everything is sent before anything is waited for.
        let mut sent = SmallVec::<[_; 2]>::new();
        let mut spared = false;
        for mut operation in operations {
            self.coalesce.apply(&mut operation, now);
            let advice = self.advise(memcached, &operation, spared, now);
            spared = advice == Lookup::UseCached;
            let way = match advice {
                Lookup::UseCached => Sent::Spared(self.spare(&operation, now)),
                Lookup::Ask(kept) => {
                    let amount = operation.amount.saturating_add(kept);
                    let command = if amount > 0 { Command::Hit(amount) } else { Command::Read };
                    Sent::There(batch.send(text(&operation.key), command, operation.exptime), kept)
                }
            };
            sent.push((operation, way));
        }
        let mut hits = Hits::new();
        let mut complete = true;
        for (operation, way) in sent {
            hits.push(match way {
                Sent::Spared(hit) => Some(hit),
                Sent::There(waiting, kept) => match waiting.outcome().await {
                    Ok(answer) => Some(self.seen(&operation, self.without_kept(&operation, answer, kept, now), now)),
                    Err(uncounted) => {
                        complete = false;
                        self.without(&operation, uncounted, now)
                    }
                },
            });
        }
        add(&self.statistics.store_bypassed, u64::from(!complete));
        hits
    }

    /// Whether a key is so surely over that the store is not asked. `spared`: it was not for the
    /// operation before.
    fn advise(&self, memcached: &Memcached, operation: &Operation<'_>, spared: bool, now: Now) -> Lookup {
        let key = &operation.key;
        match key.kind {
            // What else is asked of the key follows its window, with which each of them begins.
            CounterKind::Ban | CounterKind::Violations | CounterKind::Bans if spared => return Lookup::UseCached,
            CounterKind::Window if self.over.remembers(key) => {}
            _ => return Lookup::Ask(0),
        }
        // Asking a server that is known to be away costs nothing, and decides what is done meanwhile.
        let known = self.known(operation, now).filter(|_| !memcached.is_away_for(key));
        // What is not to stay counted is not counted to be taken back.
        let kept = if key.limit.count_refused { operation.amount } else { 0 };
        self.over.advise(key, kept, known, now)
    }

    /// What is known here of a window.
    fn known(&self, operation: &Operation<'_>, now: Now) -> Option<Known> {
        let Operation { key, amount, threshold, .. } = *operation;
        let window = self.table.peek(self.table.subject(key), now.monotonic)?;
        // Where refused hits are taken back, the one that makes it over is missing.
        let missing = if key.limit.count_refused { 0 } else { amount };
        let is_banned = || {
            let ban = Key { kind: CounterKind::Ban, ..key };
            let ban = self.table.peek(self.table.subject(ban), now.monotonic);
            key.limit.ban.is_some() && ban.is_some_and(|ban| ban.count > 0)
        };
        let is_over = window.count.saturating_add(missing) > threshold || is_banned();
        Some(Known { count: window.count, left: window.left_ms, is_over })
    }

    /// The answer without the store.
    fn spare(&self, operation: &Operation<'_>, now: Now) -> Counter {
        let amount = operation.amount;
        add(&self.statistics.over_memory, u64::from(operation.key.kind == CounterKind::Window));
        if amount == 0 || operation.key.limit.count_refused {
            return self.count_here(operation, now);
        }
        // It is not counted, so whatever comes next is not one with it.
        self.coalesce.forget(operation.key.limit, operation.key.part);
        let hit = self.count_here(&Operation { amount: 0, ..*operation }, now);
        Counter { count: hit.count.saturating_add(amount), ..hit }
    }

    /// An answer as it would be without the hits of earlier requests, where those began the key: then it was
    /// reset, and they are none of the new one's.
    fn without_kept(&self, operation: &Operation<'_>, answer: Response, kept: u32, now: Now) -> Response {
        let amount = operation.amount;
        match answer {
            Response::Counted(counted) if kept > 0 && counted.count == amount.saturating_add(kept) => {
                self.give_back(&self.counter(&operation.key), kept, now);
                Response::Counted(Counted { count: amount, ..counted })
            }
            answer => answer,
        }
    }

    /// What is done about an operation that the shared store did not do.
    fn without(&self, operation: &Operation<'_>, uncounted: StoreError, now: Now) -> Option<Counter> {
        match (uncounted, self.on_failure) {
            (StoreError::Unavailable, OnStoreFailure::Dunno | OnStoreFailure::Defer) => None,
            _ => Some(self.count_here(operation, now)),
        }
    }

    /// Remembers what a server said.
    fn seen(&self, operation: &Operation<'_>, answer: Response, now: Now) -> Counter {
        let Operation { key, amount, exptime, threshold } = *operation;
        let subject = self.table.subject(key);
        let Response::Counted(counted) = answer else {
            // There is no such key, whatever was known of it here.
            self.table.forget(subject);
            return NOTHING;
        };
        let untold = if key.kind == CounterKind::Violations { self.offences.kept(&key) } else { 0 };
        let counted = Counted { count: counted.count.saturating_add(untold), ..counted };
        let is_banned = key.kind == CounterKind::Ban && counted.count > 0;
        if is_banned || (key.kind == CounterKind::Window && counted.count > threshold) {
            self.over.remember(&key, now);
        }
        // A banned client is kept longest, like one that is over its limit.
        let ban = key.limit.ban.filter(|_| key.kind == CounterKind::Ban);
        let threshold = if ban.is_some() { 0 } else { threshold };
        // A server without meta commands does not say how long a window lasts. What is
        // remembered then ends early rather than late; what is told errs the other way.
        let known = counted.left.is_none().then(|| self.table.peek(subject, now.monotonic)).flatten();
        let told = counted.left.map(|left| u64::from(left) * 1000);
        let remembered = told.or(known.map(|hit| hit.left_ms)).unwrap_or(1000);
        let before = self.table.observe(subject, counted.count, remembered, threshold, now.monotonic);
        // A hit that begins a counter, though there was one: somebody reset it, or the store has lost it.
        if amount > 0 && counted.count == amount {
            let lost = before.is_some_and(|before| before.count > amount && before.left_ms > TOLERANCE);
            add(&self.statistics.windows_lost, u64::from(lost));
        }
        let longest = || ban.map_or(exptime, |ban| ban.length(counted.count));
        let left = counted.left.or(known.map(|hit| hit.left_seconds())).unwrap_or_else(longest);
        Counter { count: counted.count, left, added: amount }
    }
}
