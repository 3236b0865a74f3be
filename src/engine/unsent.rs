//! Takes hits for recipients of messages that are not sent back from their counters. `session::unsent` finds out which
//! messages those are.

use crate::engine::service::{Rules, Service};
use crate::net::clock::Now;
use crate::policy::Refund;
use crate::policy::message::HeldHits;

/// Takes back all hits that the ends of messages have left.
pub fn take_back_all(service: &Service, now: Now) {
    take_back(service, &service.rules.load(), service.sessions.take_unsent(), now);
}

/// Takes hits back, if the limit that counted them and the window still exist.
#[cold]
pub fn take_back(service: &Service, rules: &Rules, hits: Vec<HeldHits>, now: Now) {
    for hit in hits.into_iter().filter(|hit| hit.lasts(now)) {
        let HeldHits { limit, part, kind, amount, passed, .. } = hit;
        if let Some(limit) = rules.policy.limits().iter().find(|one| one.id == limit) {
            service.daily.take_back(limit.id, &part, passed, now);
            rules.store.take_back(&Refund { limit, part, kind, amount }, now);
        }
    }
}
