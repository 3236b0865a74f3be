//! Whether each limit counts a request, and why not, for `connshaper explain` and `status`.

use ipnet::IpNet;

use super::checks::client_part;
use super::request::Request;
use super::thresholds::UNLIMITED;
use super::{Limit, LimitChecks, Policy};

/// Whether a limit counts a request, and if not, why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Applicability {
    /// It counts it.
    Counts,
    /// The client is on the whitelist, which exempts from it.
    Whitelisted,
    /// This netblock of the limit is not counted by it.
    Exempt(IpNet),
    /// The key is not limited, by this entry of `thresholds`.
    Unlimited(String),
    /// These words of its key are missing from the request.
    NoKey(Vec<&'static str>),
    /// A condition on this attribute does not hold.
    Condition(&'static str),
    /// What it counts does not happen at this stage of the session.
    NotNow,
}

impl Applicability {
    /// Why the limit does not count the request; `None`: it does.
    pub fn why_not(&self) -> Option<String> {
        match self {
            Self::Counts => None,
            Self::Whitelisted => Some("the client is on the whitelist".to_owned()),
            Self::Exempt(netblock) => Some(format!("the limit does not count {netblock}")),
            Self::Unlimited(own) => Some(format!("not limited by {own}")),
            Self::NoKey(words) => Some(format!("the request has no {}", words.join(", "))),
            Self::Condition(attribute) => Some(format!("its condition on {attribute} does not hold")),
            Self::NotNow => Some("not counted at this protocol state".to_owned()),
        }
    }
}

impl Policy {
    /// Whether each limit counts a request, in their order; `checks` are those that `plan` made of the same request.
    pub fn explain(&self, request: &Request, checks: &LimitChecks<'_>) -> Vec<(&Limit, Applicability)> {
        let with_origin = self.with_origin(request, checks.client);
        let request = with_origin.as_ref().unwrap_or(request);
        let applicability = |limit: &Limit| {
            if checks.whitelisted && limit.whitelist_exempts {
                return Applicability::Whitelisted;
            }
            if let Some((netblock, None)) = limit.netblocks.lookup(checks.client) {
                return Applicability::Exempt(*netblock);
            }
            if checks.checks.iter().any(|check| check.limit.id == limit.id) {
                return Applicability::Counts;
            }
            let client = || client_part(limit, None, checks.client);
            let part = limit.thresholds.as_ref().and_then(|_| limit.part(request, client()));
            let own = limit.thresholds.as_ref().zip(part.as_ref());
            let own = own.and_then(|(own, part)| own.of_request(part, request, &limit.spellings));
            if let Some(own) = own.filter(|own| own.threshold == UNLIMITED) {
                return Applicability::Unlimited(own.to_string());
            }
            let missing = limit.per.missing(request);
            if !missing.is_empty() {
                return Applicability::NoKey(missing);
            }
            match limit.conditions.unmet(request) {
                Some(attribute) => Applicability::Condition(attribute.name()),
                None => Applicability::NotNow,
            }
        };
        let limits = self.limits_at(request.door).iter().chain(self.banning_at(request.door));
        limits.map(|limit| (limit, applicability(limit))).collect()
    }
}
