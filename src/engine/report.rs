//! What is said of decisions: log lines and counters, both made from the verdict. The only place that says it.

use std::fmt::Display;
use std::net::IpAddr;

use crate::engine::decisions::Denial;
use crate::engine::service::Service;
use crate::net::clock::Now;
use crate::net::secret;
use crate::observe::log::line::Line;
use crate::observe::log::{Event, Log, Severity};
use crate::observe::statistics::add;
use crate::policy::{Pass, Reason, Refusal, Verdict};

/// Reports a verdict: once per session and count, not per request.
pub fn report(service: &Service, client: IpAddr, verdict: &Verdict<'_>, now: Now) {
    let Service { statistics, decisions, log, .. } = service;
    match verdict {
        Verdict::Pass(pass) => {
            add(&statistics.whitelisted, u64::from(*pass == Pass::Whitelisted));
            decisions.passed(*pass);
            passed(log, &client, *pass, now);
        }
        Verdict::Defer => {
            add(&statistics.deferred, 1);
            decisions.deferred();
            deferred(log, &client, Pass::StoreAway.reason(), now);
        }
        Verdict::Delay(wait) => {
            add(&statistics.delayed, 1);
            decisions.against(Denial::Delayed, &wait.refusal);
            refused(log, "DELAYED", &wait.refusal, now);
        }
        Verdict::Refuse(refusal) => {
            add(&statistics.refused, 1);
            decisions.against(Denial::Refused, refusal);
            refused(log, "REFUSED", refusal, now);
        }
    }
}

/// Reports what a log-only limit would have refused.
pub fn would_refuse(service: &Service, refusal: &Refusal<'_>, now: Now) {
    add(&service.statistics.would_refuse, 1);
    service.decisions.against(Denial::WouldRefuse, refusal);
    refused(&service.log, "WOULD_REFUSE", refusal, now);
}

/// Logs a refusal, a delay or what would have been refused, as the keyword says: the first in a window, then one line
/// per `log_interval` with the number since.
pub fn refused(log: &Log, keyword: &'static str, refusal: &Refusal<'_>, now: Now) {
    let event = match (keyword, refusal.reason) {
        ("WOULD_REFUSE", _) => Event::LogOnly,
        ("DELAYED", _) => Event::Delayed,
        (_, Reason::Over) => Event::Over,
        (_, Reason::Banned) => Event::Banned,
        (_, Reason::Blacklisted(_)) => Event::Blacklisted,
        (_, Reason::DelayLimit) => Event::Concurrent,
    };
    if !log.has(event) {
        return;
    }
    let subject = secret::hash((keyword, refusal.limit, &refusal.key));
    log.per_subject(Severity::Info, keyword, subject, refusal.left, now, |line, suppressed| {
        line.field("client", refusal.client)
            .field("key", &refusal.key)
            .field("limit", refusal.limit)
            .field("reason", refusal.reason.word())
            .field("count", refusal.count)
            .field("threshold", refusal.threshold)
            .field("left", refusal.left)
            .field("verdict", refusal.action.keyword())
            .field("suppressed", suppressed);
        if let Reason::Blacklisted(Some(note)) = refusal.reason {
            line.field("note", note);
        }
    });
}

/// Logs a client that has to come back because the store is down.
fn deferred(log: &Log, client: &dyn Display, reason: &str, now: Now) {
    if log.has(Event::Store) {
        log.limited(Severity::Info, "DEFERRED", now, |line| {
            line.field("client", client).field("reason", reason);
        });
    }
}

/// Logs a client that passes: at debug, unless `log_events` asks for it.
pub fn passed(log: &Log, client: &dyn Display, pass: Pass, now: Now) {
    let event = match pass {
        Pass::Whitelisted | Pass::Allowed => Event::Whitelisted,
        _ => Event::Session,
    };
    let fill = |line: &mut Line| {
        line.field("client", client).field("reason", pass.reason());
    };
    match log.has(event) {
        true => log.limited(Severity::Info, "PASSED", now, fill),
        false => log.limited(Severity::Debug, "PASSED", now, fill),
    }
}
