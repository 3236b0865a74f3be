//! What the store would answer, without being told to count.

use crate::engine::target::Counted;
use crate::net::clock::Now;
use crate::policy::checks::CheckState;
use crate::policy::{Counter, LimitChecks, Operation, Scope, checks as case};
use crate::store::Store;

/// The answers the operations of a case would have, in their order: each counter is read, and what the
/// request would add is added here.
pub async fn preview(store: &Store, case: &LimitChecks<'_>, now: Now) -> Vec<Option<Counter>> {
    let mut reads = case.operations(now);
    reads.iter_mut().for_each(|operation| operation.amount = 0);
    let found = store.count(reads, now).await;
    let added = |(hit, operation): (Option<Counter>, Operation<'_>)| {
        let Operation { amount, exptime, .. } = operation;
        let hit = hit?;
        if amount == 0 {
            return Some(hit);
        }
        let left = if hit.count == 0 { exptime } else { hit.left };
        Some(Counter { count: hit.count.saturating_add(amount), left, added: amount })
    };
    found.into_iter().zip(case.operations(now)).map(added).collect()
}

/// A case of one limit and one key, as a program reports it that is no Postfix.
pub fn case_of<'p>(counted: Counted<'p>, amount: u32) -> LimitChecks<'p> {
    let Counted { limit, part, threshold } = counted;
    let client = match &part {
        crate::policy::key::KeyPart::Client { address, .. } => *address,
        crate::policy::key::KeyPart::Text(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
    };
    let matter = CheckState::ToCount { scope: Scope::Request, amount };
    let item = case::LimitCheck { limit, threshold, part, state: matter };
    LimitChecks { client, stress: false, checks: std::iter::once(item).collect() }
}
