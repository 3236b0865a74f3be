//! What one limit makes of its count of a client.

use std::net::IpAddr;

use super::Policy;
use super::limit::Limit;
use super::operation::Hit;
use super::verdict::{Pass, Reason, Refusal, Verdict, Wait};
use crate::policy::OnStoreFailure;
use crate::policy::checks::Item;
use crate::policy::record::Count;

/// What a limit makes of a count.
pub(crate) enum Opinion<'p> {
    /// It may go on.
    Pass,
    /// Nobody knows.
    Uncounted(OnStoreFailure),
    /// It has to wait.
    Delay(Wait<'p>),
    /// It would have to wait, but its session has waited already.
    Excuse,
    /// It must not go on.
    Refuse(Refusal<'p>),
}

impl<'p> Opinion<'p> {
    pub(crate) fn refuses(&self) -> bool {
        matches!(self, Self::Refuse(_))
    }

    pub(crate) fn verdict(self) -> Verdict<'p> {
        match self {
            Self::Pass | Self::Excuse => Verdict::Pass(Pass::WithinLimits),
            Self::Uncounted(OnStoreFailure::Defer) => Verdict::Defer,
            Self::Uncounted(_) => Verdict::Pass(Pass::StoreAway),
            Self::Delay(wait) => Verdict::Delay(wait),
            Self::Refuse(refusal) => Verdict::Refuse(refusal),
        }
    }
}

impl Policy {
    /// What a limit makes of its count of a client. `waited`: the session has.
    pub(crate) fn opinion<'p>(
        &self,
        client: IpAddr,
        stress: bool,
        item: &Item<'p>,
        count: &Count,
        violations: u32,
        waited: bool,
    ) -> Opinion<'p> {
        let limit = item.limit;
        if count.passed {
            return Opinion::Pass;
        }
        let refusal = |reason, hit: Hit| {
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
        let hit = count.hit.unwrap_or(Hit { count: 0, left: 0, added: 0 });
        // A ban that the configuration does not have any more holds nobody.
        if count.banned > 0 && limit.ban.is_some() {
            return Opinion::Refuse(refusal(Reason::Banned, Hit { left: count.banned, ..hit }));
        }
        if count.hit.is_none() {
            return Opinion::Uncounted(self.on_store_failure);
        }
        if hit.count <= item.threshold {
            return Opinion::Pass;
        }
        match limit.delay {
            Some(_) if count.crowded => Opinion::Refuse(refusal(Reason::Crowded, hit)),
            // One that is only logged has made nobody wait.
            Some(_) if waited && !limit.log_only => Opinion::Excuse,
            Some(delay) if !stress => {
                let time = delay.of(violations.saturating_add(1));
                Opinion::Delay(Wait::new(refusal(Reason::Over, hit), time, delay.max_concurrent, Some(count)))
            }
            _ => Opinion::Refuse(refusal(Reason::Over, hit)),
        }
    }

    /// A count as the session remembers it: a pass stays a pass, whatever a reload says of it later.
    pub(crate) fn settled(&self, count: Count, limit: &Limit, opinion: &Opinion<'_>) -> Count {
        let passed = match opinion {
            Opinion::Pass | Opinion::Excuse => true,
            Opinion::Uncounted(on_failure) => *on_failure != OnStoreFailure::Defer,
            Opinion::Delay(_) | Opinion::Refuse(_) => limit.log_only,
        };
        // One that was refused because of stress is not made to wait once that is over.
        let crowded = count.crowded || (limit.delay.is_some() && matches!(opinion, Opinion::Refuse(_)));
        Count { passed, crowded, ..count }
    }
}
