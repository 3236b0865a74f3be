//! Hits for recipients of messages that are not sent go back to their counters.

use crate::engine::service::{Rules, Service};
use crate::net::clock::Now;
use crate::policy::Refund;
use crate::policy::message::HeldHits;

/// Gives back what the ends of messages have left.
pub fn take_back_all(service: &Service, now: Now) {
    take_back(service, &service.rules.load(), service.sessions.take_unsent(), now);
}

/// Gives hits back, as far as there still is the limit that counted them, and the window.
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
