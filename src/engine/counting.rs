//! Has the store count the checks of a request, or reads what it would answer if they were counted.
//!
//! A limit of different clients (`count = "clients"`) counts a client for a key the first time it comes in a window.
//! Each client of a key has a counter of its own in the store, which lives as long as a window. If that ends before the
//! key's window does, it is from an earlier window, and the client is counted again.

use std::net::{IpAddr, Ipv4Addr};

use crate::engine::target::TargetCounter;
use crate::net::clock::Now;
use crate::policy::checks::{CheckState, LimitCheck, Operations};
use crate::policy::key::KeyPart;
use crate::policy::limit::CountKind;
use crate::policy::{CounterKind, CounterValue, Key, LimitChecks, Operation, Readings, Scope};
use crate::store::Store;

/// What the store would answer to the operations of these checks: each counter is read, and what the request would
/// add is added here.
pub async fn preview(store: &Store, checks: &LimitChecks<'_>, now: Now) -> Readings {
    retime(store, checks, now).await;
    let operations = checks.operations(now);
    let reads = operations.iter().map(|operation| Operation { amount: 0, ..*operation });
    let found = store.count(reads.collect::<Operations<'_>>(), now).await;
    let added = |(counter, operation): (Option<CounterValue>, &Operation<'_>)| {
        let Operation { amount, exptime, .. } = *operation;
        let counter = counter?;
        if amount == 0 {
            return Some(counter);
        }
        let left = if counter.count == 0 { exptime } else { counter.left };
        Some(CounterValue { count: counter.count.saturating_add(amount), left, added: amount })
    };
    Readings::new(&operations, found.into_iter().zip(&operations).map(added))
}

/// Counts these checks, as the daemon does for a request.
pub async fn count(store: &Store, checks: &LimitChecks<'_>, now: Now) -> Readings {
    retime(store, checks, now).await;
    let operations = checks.operations(now);
    let answers = store.count(operations.clone(), now).await;
    Readings::new(&operations, answers)
}

/// Gives windows that were open when a reload changed their length the new one, before they are counted.
#[cold]
pub async fn retime(store: &Store, checks: &LimitChecks<'_>, now: Now) {
    for check in checks.checks.iter().filter(|check| matches!(check.state, CheckState::ToCount { .. })) {
        if let Some(change) = check.limit.exptime_change.filter(|change| now.monotonic < change.until) {
            store.retime(check.limit, &check.part, change, now).await;
        }
    }
}

/// The check of one limit and one key, as another program than Postfix reports a hit.
pub fn checks_of<'p>(counted: TargetCounter<'p>, amount: u32) -> LimitChecks<'p> {
    let TargetCounter { limit, part, threshold } = counted;
    let client = match &part {
        KeyPart::Client { address, .. } => *address,
        KeyPart::Text(_) => Ipv4Addr::UNSPECIFIED.into(),
    };
    let state = CheckState::ToCount { scope: Scope::Request, amount };
    let check = LimitCheck { limit, threshold, part, nth: 0, state };
    LimitChecks {
        client,
        door: limit.door,
        whitelisted: false,
        named: None,
        active: None,
        stress: false,
        limits: 1,
        checks: std::iter::once(check).collect(),
    }
}

/// The most different clients that are counted for a key, or one more than its threshold if that is more. No further
/// ones are remembered, so that no number of addresses fills the store.
pub const MAX_DISTINCT_CLIENTS: u32 = 1000;

/// Has the checks of limits on different clients count a new client, and only read for a known one. `counts`: a new
/// client is remembered.
#[cold]
pub async fn leave_out_known_clients(store: &Store, checks: &mut LimitChecks<'_>, counts: bool, now: Now) {
    let client = checks.client;
    for check in checks.checks.iter_mut().filter(|check| check.limit.counts == CountKind::Clients) {
        if !matches!(check.state, CheckState::ToCount { .. }) {
            continue;
        }
        let is_new = is_new(store, check, CounterKind::Member(member(check, client)), counts, now).await;
        if let (CheckState::ToCount { amount, .. }, false) = (&mut check.state, is_new) {
            *amount = 0;
        }
    }
}

async fn is_new(store: &Store, check: &LimitCheck<'_>, kind: CounterKind, counts: bool, now: Now) -> bool {
    let LimitCheck { limit, part, threshold, .. } = check;
    let key = |kind| Key { limit, part, kind };
    if store.known_count(&key(CounterKind::FixedWindow), now) >= MAX_DISTINCT_CLIENTS.max(threshold.saturating_add(1)) {
        return false;
    }
    let operation = |kind, amount| Operation { key: key(kind), amount, exptime: limit.exptime, threshold: u32::MAX };
    let operations: Operations<'_> =
        [operation(kind, u32::from(counts)), operation(CounterKind::FixedWindow, 0)].into_iter().collect();
    let found = store.count(operations, now).await;
    let counter = |place: usize| found[place].unwrap_or(CounterValue { count: 0, left: 0, added: 0 });
    let (client, window) = (counter(0), counter(1));
    // The client had no counter before this hit.
    if client.count <= client.added {
        return true;
    }
    // After a reload has changed the length of windows, the two ends say nothing: rather too few clients are counted
    // then than too many.
    let is_comparable = limit.exptime_change.is_none_or(|change| change.until <= now.monotonic);
    let is_known = window.count > 0 && (client.left >= window.left || !is_comparable);
    if !is_known && counts {
        store.prolong(&key(kind), limit.exptime, now);
    }
    !is_known
}

/// The digest of a client, the same on every host.
fn member(check: &LimitCheck<'_>, client: IpAddr) -> u64 {
    let part = KeyPart::client(client, check.limit.ipv4_prefix_length, check.limit.ipv6_prefix_length);
    part.digest()
}
