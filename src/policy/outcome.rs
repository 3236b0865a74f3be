//! What one limit makes of its count of a client.

use std::net::IpAddr;

use super::Policy;
use super::limit::Limit;
use super::operation::Counter;
use super::verdict::{Delayed, Pass, Reason, Refusal, Verdict};
use crate::policy::OnStoreFailure;
use crate::policy::checks::LimitCheck;
use crate::policy::record::CountRecord;

/// What a limit makes of a count.
pub(crate) enum LimitOutcome<'p> {
    /// It may go on.
    Pass,
    /// Nobody knows.
    Uncounted(OnStoreFailure),
    /// It has to wait.
    Delay(Delayed<'p>),
    /// It would have to wait, but its session has waited already.
    AlreadyDelayed,
    /// It must not go on.
    Refuse(Refusal<'p>),
}

impl<'p> LimitOutcome<'p> {
    pub(crate) fn refuses(&self) -> bool {
        matches!(self, Self::Refuse(_))
    }

    pub(crate) fn verdict(self) -> Verdict<'p> {
        match self {
            Self::Pass | Self::AlreadyDelayed => Verdict::Pass(Pass::WithinLimits),
            Self::Uncounted(OnStoreFailure::Defer) => Verdict::Defer,
            Self::Uncounted(_) => Verdict::Pass(Pass::StoreAway),
            Self::Delay(wait) => Verdict::Delay(wait),
            Self::Refuse(refusal) => Verdict::Refuse(refusal),
        }
    }
}

impl Policy {
    /// What a limit makes of its count of a client. `waited`: the session has.
    pub(crate) fn outcome<'p>(
        &self,
        client: IpAddr,
        stress: bool,
        item: &LimitCheck<'p>,
        count: &CountRecord,
        violations: u32,
        waited: bool,
    ) -> LimitOutcome<'p> {
        let limit = item.limit;
        if count.passed {
            return LimitOutcome::Pass;
        }
        let refusal = |reason, hit: Counter| {
            let unit = u64::from(limit.counts.unit());
            let action = limit.stress_action.as_ref().filter(|_| stress).unwrap_or(&limit.action);
            Refusal {
                client,
                reason,
                limit: &limit.name,
                key: item.part.clone(),
                count: u64::from(hit.count) * unit,
                threshold: u64::from(item.threshold) * unit,
                left: hit.left,
                action,
            }
        };
        let hit = count.hit.unwrap_or(Counter { count: 0, left: 0, added: 0 });
        // A ban that the configuration does not have any more holds nobody.
        if count.banned > 0 && limit.ban.is_some() {
            return LimitOutcome::Refuse(refusal(Reason::Banned, Counter { left: count.banned, ..hit }));
        }
        if count.hit.is_none() {
            return LimitOutcome::Uncounted(self.on_store_failure);
        }
        if hit.count <= item.threshold {
            return LimitOutcome::Pass;
        }
        match limit.delay {
            Some(_) if count.delay_limit => LimitOutcome::Refuse(refusal(Reason::DelayLimit, hit)),
            // One that is only logged has made nobody wait.
            Some(_) if waited && !limit.log_only => LimitOutcome::AlreadyDelayed,
            Some(delay) if !stress => {
                let time = delay.of(violations.saturating_add(1));
                LimitOutcome::Delay(Delayed::new(refusal(Reason::Over, hit), time, delay.max_concurrent, Some(count)))
            }
            _ => LimitOutcome::Refuse(refusal(Reason::Over, hit)),
        }
    }

    /// A count as the session remembers it: a pass stays a pass, whatever a reload says of it later.
    pub(crate) fn finalize(&self, count: CountRecord, limit: &Limit, opinion: &LimitOutcome<'_>) -> CountRecord {
        let passed = match opinion {
            LimitOutcome::Pass | LimitOutcome::AlreadyDelayed => true,
            LimitOutcome::Uncounted(on_failure) => *on_failure != OnStoreFailure::Defer,
            LimitOutcome::Delay(_) | LimitOutcome::Refuse(_) => limit.log_only,
        };
        // One that was refused because of stress is not made to wait once that is over.
        let crowded = count.delay_limit || (limit.delay.is_some() && matches!(opinion, LimitOutcome::Refuse(_)));
        CountRecord { passed, delay_limit: crowded, ..count }
    }
}
