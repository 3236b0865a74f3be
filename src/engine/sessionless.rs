//! One request at a door without sessions, a login or a web request: from its plan to its verdict.
//!
//! Each of these requests is judged alone. Lists, overrides, bans, limits and delays are those of `policy`, as at
//! Postfix's door.

use smallvec::SmallVec;

use crate::engine::counting::{count, preview};
use crate::engine::decide::{Answer, apply, unknown_client};
use crate::engine::report::{note_counts, report};
use crate::engine::service::{Rules, Service};
use crate::net::clock::Now;
use crate::policy::checks::{CheckState, LimitCheck, Operations};
use crate::policy::door::Door;
use crate::policy::limit::CountKind;
use crate::policy::request::Request;
use crate::policy::{
    CounterKind, CounterValue, Decision, Effect, Key, Limit, LimitChecks, Operation, Plan, SessionRecord, Verdict,
};

/// What is left of a limit for a client, for the headers of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quota<'r> {
    pub limit: &'r str,
    /// Hits allowed in a window.
    pub threshold: u32,
    /// Seconds of a window.
    pub exptime: u32,
    /// Hits left.
    pub remaining: u32,
    /// Seconds until the window ends.
    pub left: u32,
}

/// Whether a request is counted when it is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CountMode {
    /// It is counted, and judged by that.
    Count,
    /// It is judged by what the counts would be with it. A report follows, which may count it.
    Preview,
}

/// Decides about a request. Also returns what is left of the limits that counted it.
pub async fn decide_sessionless<'r>(
    service: &Service,
    rules: &'r Rules,
    request: &Request<'_>,
    mode: CountMode,
    now: Now,
) -> (Answer<'r>, SmallVec<[Quota<'r>; 2]>) {
    let Rules { policy, store, .. } = rules;
    let mut record = SessionRecord::default();
    let Some(client) = policy.client(request) else {
        return (unknown_client(service, request.door), SmallVec::new());
    };
    let (mut decision, quotas) = match policy.plan(request, &record, now) {
        Plan::Done(decision) => (decision, SmallVec::new()),
        Plan::Count(checks) => {
            let readings = match mode {
                CountMode::Count => count(store, &checks, now).await,
                CountMode::Preview => preview(store, &checks, now).await,
            };
            let decision = policy.judge(&checks, &readings, &record, now);
            if mode == CountMode::Count {
                note_counts(service, &checks, &decision, request, now);
            }
            let quotas = quotas(&checks, &decision, now);
            (decision, quotas)
        }
    };
    let permit = match &decision.verdict {
        Verdict::Delay(delay) => service.delayed_http.try_acquire(delay, rules.max_delayed),
        _ => None,
    };
    decision.settle(permit.is_some(), &mut record);
    if mode == CountMode::Preview {
        // Nothing was counted that could be taken back.
        decision.effects.retain(|effect| !matches!(effect, Effect::Refund(_)));
    }
    apply(service, rules, &decision, Some(request), now);
    report(service, request.door, client, &decision.verdict, now);
    ((decision.verdict, permit), quotas)
}

/// What is left of the limits that are enforced and have counted.
fn quotas<'r>(checks: &LimitChecks<'r>, decision: &Decision<'_>, now: Now) -> SmallVec<[Quota<'r>; 2]> {
    let is_told = |(check, _): &(&LimitCheck<'r>, CounterValue)| {
        !check.limit.log_only && matches!(check.state, CheckState::ToCount { .. })
    };
    let quota = |(check, hit): (&LimitCheck<'r>, CounterValue)| Quota {
        limit: &check.limit.name,
        threshold: check.threshold,
        exptime: check.limit.window.length(check.limit.exptime, now),
        remaining: check.threshold.saturating_sub(hit.count),
        left: hit.left,
    };
    decision.hits(checks).filter(is_told).map(quota).collect()
}

/// Counts the report of a login that was tried. `password` is a digest of the login and the wrong
/// password; of equal ones a limit of wrong passwords counts the first only.
pub async fn count_login(rules: &Rules, request: &Request<'_>, password: Option<u64>, now: Now) {
    debug_assert_eq!(request.door, Door::Login);
    let Plan::Count(mut checks) = rules.policy.plan(request, &SessionRecord::default(), now) else { return };
    if let Some(password) = password {
        leave_out_known_passwords(rules, &mut checks, password, now).await;
    }
    count(&rules.store, &checks, now).await;
}

/// Leaves out the limits that have counted this wrong password already.
async fn leave_out_known_passwords(rules: &Rules, checks: &mut LimitChecks<'_>, password: u64, now: Now) {
    let is_of_passwords = |limit: &Limit| limit.counts == CountKind::FailedPasswords;
    let answers = {
        let concerned = checks.checks.iter().filter(|check| is_of_passwords(check.limit));
        let operations: Operations<'_> = concerned
            .map(|check| {
                let key = Key { limit: check.limit, part: &check.part, kind: CounterKind::Member(password) };
                Operation { key, amount: 1, exptime: check.limit.exptime, threshold: u32::MAX }
            })
            .collect();
        rules.store.count(operations, now).await
    };
    let concerned = checks.checks.iter_mut().filter(|check| is_of_passwords(check.limit));
    for (check, answer) in concerned.zip(answers) {
        if let (CheckState::ToCount { amount, .. }, true) = (&mut check.state, answer.is_some_and(|it| it.count > 1)) {
            *amount = 0;
        }
    }
}
