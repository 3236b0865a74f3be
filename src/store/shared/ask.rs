//! One request's operations on a shared store, and what this process remembers of the answers.

use smallvec::SmallVec;

use super::replica::Waiting;
use crate::net::clock::Now;
use crate::observe::statistics::add;
use crate::policy::OnStoreFailure;
use crate::policy::{Hit, Key, Operation, Purpose};
use crate::store::memcached::protocol::{Answer, Command, Counted};
use crate::store::memcached::{Memcached, text};
use crate::store::shared::over_limit::{Advice, Known};
use crate::store::{Hits, NOTHING, Store, Uncounted};

/// Milliseconds that a window may end before the time that memcached told, in whole seconds.
const TOLERANCE: u64 = 2000;

/// One operation on its way.
enum Sent {
    /// To the store, with hits of earlier requests.
    There(Waiting, u32),
    /// Nowhere: what is known here is the answer.
    Spared(Hit),
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
            spared = advice == Advice::Spare;
            let way = match advice {
                Advice::Spare => Sent::Spared(self.spare(&operation, now)),
                Advice::Ask(kept) => {
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
        add(&self.statistics.without_store, u64::from(!complete));
        hits
    }

    /// Whether a key is so surely over that the store is not asked. `spared`: it was not for the
    /// operation before.
    fn advise(&self, memcached: &Memcached, operation: &Operation<'_>, spared: bool, now: Now) -> Advice {
        let key = &operation.key;
        match key.purpose {
            // What else is asked of the key follows its window, with which each of them begins.
            Purpose::Ban | Purpose::Violations | Purpose::Bans if spared => return Advice::Spare,
            Purpose::Window if self.over.remembers(key) => {}
            _ => return Advice::Ask(0),
        }
        // A server that is known to be away costs nothing to ask, and says what is done meanwhile.
        let known = if memcached.is_away() { None } else { self.known(operation, now) };
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
            let ban = Key { purpose: Purpose::Ban, ..key };
            let ban = self.table.peek(self.table.subject(ban), now.monotonic);
            key.limit.ban.is_some() && ban.is_some_and(|ban| ban.count > 0)
        };
        let is_over = window.count.saturating_add(missing) > threshold || is_banned();
        Some(Known { count: window.count, left: window.left_ms, is_over })
    }

    /// The answer without the store.
    fn spare(&self, operation: &Operation<'_>, now: Now) -> Hit {
        let amount = operation.amount;
        add(&self.statistics.over_memory, u64::from(operation.key.purpose == Purpose::Window));
        if amount == 0 || operation.key.limit.count_refused {
            return self.count_here(operation, now);
        }
        // It is not counted, so whatever comes next is not one with it.
        self.coalesce.forget(operation.key.limit, operation.key.part);
        let hit = self.count_here(&Operation { amount: 0, ..*operation }, now);
        Hit { count: hit.count.saturating_add(amount), ..hit }
    }

    /// An answer as it would be without the hits of earlier requests, where those began the key: then it was
    /// reset, and they are none of the new one's.
    fn without_kept(&self, operation: &Operation<'_>, answer: Answer, kept: u32, now: Now) -> Answer {
        let amount = operation.amount;
        match answer {
            Answer::Counted(counted) if kept > 0 && counted.count == amount.saturating_add(kept) => {
                self.give_back(&self.counter(&operation.key), kept, now);
                Answer::Counted(Counted { count: amount, ..counted })
            }
            answer => answer,
        }
    }

    /// What is done about an operation that the shared store did not do.
    fn without(&self, operation: &Operation<'_>, uncounted: Uncounted, now: Now) -> Option<Hit> {
        match (uncounted, self.on_failure) {
            (Uncounted::Away, OnStoreFailure::Dunno | OnStoreFailure::Defer) => None,
            _ => Some(self.count_here(operation, now)),
        }
    }

    /// Remembers what a server said.
    fn seen(&self, operation: &Operation<'_>, answer: Answer, now: Now) -> Hit {
        let Operation { key, amount, exptime, threshold } = *operation;
        let subject = self.table.subject(key);
        let Answer::Counted(counted) = answer else {
            // There is no such key, whatever was known of it here.
            self.table.forget(subject);
            return NOTHING;
        };
        let untold = if key.purpose == Purpose::Violations { self.offences.kept(&key) } else { 0 };
        let counted = Counted { count: counted.count.saturating_add(untold), ..counted };
        let is_banned = key.purpose == Purpose::Ban && counted.count > 0;
        if is_banned || (key.purpose == Purpose::Window && counted.count > threshold) {
            self.over.remember(&key, now);
        }
        // A banned client is kept longest, like one that is over its limit.
        let ban = key.limit.ban.filter(|_| key.purpose == Purpose::Ban);
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
            add(&self.statistics.began_anew, u64::from(lost));
        }
        let longest = || ban.map_or(exptime, |ban| ban.length(counted.count));
        let left = counted.left.or(known.map(|hit| hit.left_seconds())).unwrap_or_else(longest);
        Hit { count: counted.count, left, added: amount }
    }
}
