//! What the store would answer, without being told to count.

use std::net::Ipv4Addr;

use crate::engine::target::TargetCounter;
use crate::net::clock::Now;
use crate::policy::checks::{CheckState, LimitCheck, Operations};
use crate::policy::key::KeyPart;
use crate::policy::{Counter, LimitChecks, Operation, Readings, Scope};
use crate::store::Store;

/// What the store would answer to the operations of these checks: each counter is read, and what the request would
/// add is added here.
pub async fn preview(store: &Store, checks: &LimitChecks<'_>, now: Now) -> Readings {
    retime(store, checks, now).await;
    let operations = checks.operations(now);
    let reads = operations.iter().map(|operation| Operation { amount: 0, ..*operation });
    let found = store.count(reads.collect::<Operations<'_>>(), now).await;
    let added = |(counter, operation): (Option<Counter>, &Operation<'_>)| {
        let Operation { amount, exptime, .. } = *operation;
        let counter = counter?;
        if amount == 0 {
            return Some(counter);
        }
        let left = if counter.count == 0 { exptime } else { counter.left };
        Some(Counter { count: counter.count.saturating_add(amount), left, added: amount })
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
        said: None,
        stress: false,
        checks: std::iter::once(check).collect(),
    }
}
