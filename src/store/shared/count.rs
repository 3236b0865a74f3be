//! One request's operations on a shared store, and what this process remembers of the replies.

use smallvec::SmallVec;

use super::backend::{
    Backend, CounterCommand, CounterReply, CounterRequest, CounterRequests, PendingReply, Slide, StoreError, key_text,
};
use super::over_limit::{Known, Route};
use crate::net::clock::Now;
use crate::observe::statistics::add;
use crate::policy::limit::CounterLimitId;
use crate::policy::{CounterKind, CounterValue, Key, OnStoreFailure, Operation};
use crate::store::local::TableEntry;
use crate::store::{CounterValues, NOTHING, Store};

/// Milliseconds by which a window may end before the time that the store returned, in whole seconds.
const WINDOW_END_TOLERANCE_MS: u64 = 2000;

/// How one operation is answered.
enum CountSource {
    /// By the store, which is sent this many hits of earlier requests as well.
    Store { pending_hits: u32 },
    /// By what this process knows.
    Cache(CounterValue),
}

/// Operations of a request that are on their way.
pub(crate) struct SentOperations<'o> {
    operations: SmallVec<[(Operation<'o>, CountSource); 2]>,
    /// Of the operations that the store does.
    replies: SmallVec<[PendingReply; 2]>,
}

impl Store {
    /// Sends the operations of a request, for [`receive`](Self::receive).
    pub(crate) fn send_operations<'o>(
        &self,
        backend: &dyn Backend,
        operations: impl Iterator<Item = Operation<'o>>,
        now: Now,
    ) -> SentOperations<'o> {
        let mut requests = CounterRequests::new();
        let mut sources = SmallVec::new();
        // The limit that was just answered by what this process knows.
        let mut cached = None;
        for mut operation in operations {
            self.coalesce.apply(&mut operation, now);
            let route = self.route_operation(backend, &operation, cached, now);
            cached = (route == Route::UseCached).then_some(operation.key.limit.id);
            let source = match route {
                Route::UseCached => CountSource::Cache(self.count_cached(&operation, now)),
                Route::AskStore { pending: pending_hits } => {
                    let Operation { key, amount, exptime, .. } = &operation;
                    let command = match (key.kind, amount.saturating_add(pending_hits)) {
                        (CounterKind::ExactWindow, amount) => {
                            let (threshold, keeps_over) = (operation.threshold, key.limit.keeps_hits_over());
                            CounterCommand::Slide(Slide { amount, threshold, keeps_over })
                        }
                        (_, 0) => CounterCommand::Read,
                        (_, amount) => CounterCommand::Hit(amount),
                    };
                    let is_known = backend.omits_known_expiry() && self.knows_window(&operation, now);
                    requests.push(CounterRequest { key: key_text(key), command, exptime: *exptime, is_known });
                    CountSource::Store { pending_hits }
                }
            };
            sources.push((operation, source));
        }
        SentOperations { operations: sources, replies: backend.submit(requests, true, now) }
    }

    /// Waits until operations are done or given up, and returns the counters.
    pub(crate) async fn receive(&self, sent: &mut SentOperations<'_>, now: Now) -> CounterValues {
        let mut replies = sent.replies.iter_mut();
        let mut hits = CounterValues::new();
        let mut complete = true;
        for (operation, source) in &sent.operations {
            hits.push(match *source {
                CountSource::Cache(hit) => Some(hit),
                CountSource::Store { pending_hits } => {
                    let reply = replies.next().expect("a reply for every request");
                    match reply.outcome().await {
                        Ok(reply) => {
                            let reply = self.without_pending(operation, reply, pending_hits, now);
                            Some(self.remember(operation, reply, now))
                        }
                        Err(error) => {
                            complete = false;
                            self.count_without_store(operation, error, now)
                        }
                    }
                }
            });
        }
        add(&self.statistics.store_bypassed, u64::from(!complete));
        hits
    }

    /// Whether the store need not be asked because a key is known to be over. `cached`: the limit whose window was just
    /// answered from the cache. Its ban and violations are then answered from there too.
    fn route_operation(
        &self,
        backend: &dyn Backend,
        operation: &Operation<'_>,
        cached: Option<CounterLimitId>,
        now: Now,
    ) -> Route {
        let key = &operation.key;
        match key.kind {
            // The operations on one part begin with its window, and the others follow it.
            CounterKind::ActiveBan | CounterKind::Violations | CounterKind::BanCount
                if cached == Some(key.limit.id) =>
            {
                return Route::UseCached;
            }
            kind if kind.is_whole_window() && self.over.remembers(key) => {}
            _ => return Route::AskStore { pending: 0 },
        }
        // Asking a server that is known to be down costs nothing, and decides what is done meanwhile.
        let known = self.known(operation, now).filter(|_| !backend.is_down_for(key));
        // With `count_refused = false` cached hits are not accumulated; they would only be refunded.
        let pending_hits = if key.limit.count_refused { operation.amount } else { 0 };
        self.over.route(key, pending_hits, known, now)
    }

    /// Whether this process knows a window that one more hit fits in. Of others the store returns when they end.
    fn knows_window(&self, operation: &Operation<'_>, now: Now) -> bool {
        let Operation { key, amount, threshold, .. } = *operation;
        let known = || self.table.peek(self.counter_id_of_open_window(key, now), now.monotonic);
        key.kind.is_whole_window() && known().is_some_and(|known| known.count.saturating_add(amount) <= threshold)
    }

    /// What this process knows of a window.
    fn known(&self, operation: &Operation<'_>, now: Now) -> Option<Known> {
        let Operation { key, amount, threshold, .. } = *operation;
        let window = self.table.peek(self.counter_id_of_open_window(key, now), now.monotonic)?;
        // With refunds the stored count excludes the current hit.
        let missing = if key.limit.count_refused { 0 } else { amount };
        let is_banned = || {
            let ban = Key { kind: CounterKind::ActiveBan, ..key };
            let ban = self.table.peek(self.table.counter_id(ban), now.monotonic);
            key.limit.ban.is_some() && ban.is_some_and(|ban| ban.count > 0)
        };
        let is_over = window.count.saturating_add(missing) > threshold || is_banned();
        Some(Known { left: window.left_ms, is_over })
    }

    /// The answer without asking the store.
    fn count_cached(&self, operation: &Operation<'_>, now: Now) -> CounterValue {
        let amount = operation.amount;
        add(&self.statistics.over_memory, u64::from(operation.key.kind.is_whole_window()));
        if amount == 0 || operation.key.limit.count_refused {
            return self.count_here(operation, now);
        }
        // The hit is not counted, so the next one must not coalesce with it.
        self.coalesce.forget(operation.key.limit, operation.key.part);
        let hit = self.count_here(&Operation { amount: 0, ..*operation }, now);
        CounterValue { count: hit.count.saturating_add(amount), ..hit }
    }

    /// A reply without the hits of earlier requests, if those created the key: then it was reset or had expired, and
    /// they are not part of the new window. They are taken back.
    fn without_pending(
        &self,
        operation: &Operation<'_>,
        reply: CounterReply,
        pending_hits: u32,
        now: Now,
    ) -> CounterReply {
        let amount = operation.amount;
        match reply {
            CounterReply::Count { count, left } if pending_hits > 0 && count == amount.saturating_add(pending_hits) => {
                self.take_back_from(&self.counter(&operation.key), pending_hits, now);
                CounterReply::Count { count: amount, left }
            }
            reply => reply,
        }
    }

    /// The counter where the store did not do an operation. `on_store_failure` applies to a server that is known to be
    /// down. After a single time-out the hit is always counted in this process, on top of the last count seen.
    fn count_without_store(&self, operation: &Operation<'_>, error: StoreError, now: Now) -> Option<CounterValue> {
        match (error, self.on_failure) {
            (StoreError::Unavailable, OnStoreFailure::Dunno | OnStoreFailure::Defer) => None,
            _ => Some(self.count_here(operation, now)),
        }
    }

    /// Notes a ban that this process knew and the store does not have. While a server is down, another one may be asked
    /// for its bans: those are not lost.
    fn note_loss(&self, key: &Key<'_>, known: Option<TableEntry>) {
        let has_ban = known.is_some_and(|known| known.count > 0 && known.left_ms > WINDOW_END_TOLERANCE_MS);
        if key.kind == CounterKind::ActiveBan && has_ban && self.state() == "up" {
            self.lost_bans.push(key);
        }
    }

    /// Remembers the reply of the store, and makes the counter of it.
    fn remember(&self, operation: &Operation<'_>, reply: CounterReply, now: Now) -> CounterValue {
        let Operation { key, amount, exptime, threshold } = *operation;
        let id = self.counter_id_of_open_window(key, now);
        let CounterReply::Count { count, left } = reply else {
            // There is no such key, whatever this process knew of it.
            self.note_loss(&key, self.table.take(id, now.monotonic));
            return NOTHING;
        };
        let pending = if key.kind == CounterKind::Violations { self.over_violations.pending_hits(&key) } else { 0 };
        let count = count.saturating_add(pending);
        let is_banned = key.kind == CounterKind::ActiveBan && count > 0;
        if is_banned || (key.kind.is_whole_window() && count > threshold) {
            self.over.remember(&key, now);
        }
        // A banned client is kept longest, like one that is over its limit.
        let ban = key.limit.ban.filter(|_| key.kind == CounterKind::ActiveBan);
        let threshold = if ban.is_some() { 0 } else { threshold };
        // Some servers do not return how long a window lasts. Then the remembered window ends too early rather than
        // too late, and the `left` of the answer is too long rather than too short.
        let known = left.is_none().then(|| self.table.peek(id, now.monotonic)).flatten();
        let slides = key.kind == CounterKind::ExactWindow;
        // A sliding window within its limit has its hits for at most this long.
        let lasting = if slides && count <= threshold { Some(exptime) } else { left };
        let told = match key.kind {
            CounterKind::Calendar(window) => Some(window.left_ms(now)),
            _ => lasting.map(|left| u64::from(left) * 1000),
        };
        let remembered = told.or(known.map(|hit| hit.left_ms)).unwrap_or(1000);
        let before = self.table.observe(id, count, remembered, threshold, now.monotonic);
        // The hit created a counter that existed before: it was reset, or the store has lost it.
        if amount > 0 && count == amount && !slides {
            let lost = before.is_some_and(|before| before.count > amount && before.left_ms > WINDOW_END_TOLERANCE_MS);
            add(&self.statistics.windows_lost, u64::from(lost));
        }
        let longest = || ban.map_or(exptime, |ban| ban.length(count));
        let left = left.or(known.map(|hit| hit.left_seconds())).unwrap_or_else(longest);
        CounterValue { count, left, added: amount }
    }
}
