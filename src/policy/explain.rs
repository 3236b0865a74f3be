//! Why a request is judged as it is: what each limit makes of it, in the order of judgement.

use ipnet::IpNet;

use super::Policy;
use super::limit::Limit;
use crate::policy::checks::LimitChecks;
use crate::policy::request::Request;

/// Whether a limit has a say in a request, and if not, why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Say {
    /// It counts it.
    Counts,
    /// This netblock of the limit is not counted by it.
    Exempt(IpNet),
    /// These words of its key are missing from the request.
    NoKey(Vec<&'static str>),
    /// A condition on this attribute does not hold.
    Condition(&'static str),
    /// What it counts does not happen at this stage of the session.
    NotNow,
}

impl Policy {
    /// What every limit has to say, in their order; `case` is what `plan` made of the same request.
    pub fn explain(&self, request: &Request, case: &LimitChecks<'_>) -> Vec<(&Limit, Say)> {
        let say = |limit: &Limit| {
            if let Some((netblock, None)) = limit.netblocks.lookup(case.client) {
                return Say::Exempt(*netblock);
            }
            if case.checks.iter().any(|item| item.limit.id == limit.id) {
                return Say::Counts;
            }
            let missing = limit.per.missing(request);
            if !missing.is_empty() {
                return Say::NoKey(missing);
            }
            match limit.conditions.unmet(request) {
                Some(attribute) => Say::Condition(attribute.name()),
                None => Say::NotNow,
            }
        };
        self.limits.iter().map(|limit| (limit, say(limit))).collect()
    }
}
