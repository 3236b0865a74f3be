//! The findings as one JSON object; the page carries the same.

use serde_json::{Value, json};

use super::super::basis::Basis;
use super::super::findings::{Candidate, ConfigFindings, Findings};
use super::super::users::{UserCandidate, UserFindings, UserLength, UserLimit};
use crate::maillog::summary;
use crate::maillog::text::time;

pub fn object(findings: &Findings) -> Value {
    let span = findings.counts.span;
    let moment = |pick: fn((i64, i64)) -> i64| span.map(|span| time(pick(span), &findings.read.zone));
    let mut object = summary::json(&findings.read);
    let found = json!({
        "timezone": findings.read.zone.iana_name(),
        "from": moment(|(first, _)| first),
        "to": moment(|(_, last)| last),
        "ipv4_prefix_length": findings.mask.ipv4_prefix_length,
        "ipv6_prefix_length": findings.mask.ipv6_prefix_length,
        "sessions": findings.sessions(),
        "clients": findings.clients.0,
        "senders": findings.clients.1,
        "forgotten_clients": findings.forgotten,
        "candidates": findings.candidates.iter().map(|it| candidate(findings, it)).collect::<Vec<_>>(),
        "recommended": findings.advised().map(|it| recommended(findings, it)),
        "basis": findings.basis.as_ref().map(|it| basis(findings, it)),
        "gateway": findings.gateway,
        "only_sender": findings.only_sender,
        "lengths": findings.lengths,
        "users": findings.users.as_ref().map(users),
        "config": findings.trial.as_ref().map(outcome),
    });
    summary::merge(&mut object, found);
    object
}

fn recommended(findings: &Findings, it: &Candidate) -> Value {
    let mut object = candidate(findings, it);
    object["log_only"] = findings.log_only_until.is_some().into();
    object["log_only_until"] = findings.log_only_until.map(|date| date.to_string()).into();
    object
}

fn basis(findings: &Findings, basis: &Basis) -> Value {
    let parts = basis.tests.parts.iter().map(|part| {
        json!({
            "from": time(part.begin, &findings.read.zone),
            "threshold_of_the_rest": part.threshold,
            "senders": part.senders,
            "refused_senders": part.refused,
        })
    });
    let missed = basis.missed.iter().map(|missed| {
        let mut object = json!(missed.client);
        object["threshold_of_the_rest"] = missed.threshold.into();
        object
    });
    json!({
        "days": days(basis.covered),
        "senders": basis.senders,
        "parts": parts.collect::<Vec<_>>(),
        "refused_senders": basis.tests.missed.len(),
        "refused": missed.collect::<Vec<_>>(),
        "too_little": basis.doubts,
    })
}

fn candidate(findings: &Findings, candidate: &Candidate) -> Value {
    let Candidate { length, threshold, masked, whole } = *candidate;
    json!({
        "exptime": findings.lengths[length].exptime,
        "threshold": threshold,
        "masked": masked,
        "whole_addresses": whole,
    })
}

fn days(milliseconds: i64) -> f64 {
    (milliseconds as f64 / 86_400_000.0 * 100.0).round() / 100.0
}

fn users(findings: &UserFindings) -> Value {
    let [logins, senders, domains] = findings.accounts;
    json!({
        "logins": logins,
        "senders": senders,
        "sender_domains": domains,
        "messages": findings.messages,
        "recipients": findings.recipients,
        "days": days(findings.covered),
        "too_little": findings.doubts,
        "log_only_until": findings.log_only_until.map(|date| date.to_string()),
        "limits": findings.limits.iter().map(user_limit).collect::<Vec<_>>(),
        "probably_stolen": findings.stolen,
    })
}

fn user_limit(limit: &UserLimit) -> Value {
    let candidate = |it: &UserCandidate| {
        json!({
            "exptime": limit.lengths[it.length].exptime,
            "threshold": it.threshold,
            "refused": it.refused,
            "stopped": it.accounts,
            "stopped_users": it.users,
        })
    };
    let length = |it: &UserLength| {
        json!({
            "exptime": it.exptime,
            "needed_threshold": it.needed,
            "hits": it.hits(),
            "users": it.users,
            "more_users": it.more_users,
        })
    };
    json!({
        "per": limit.per.into_str(),
        "count": limit.counted.into_str(),
        "candidates": limit.candidates.iter().map(candidate).collect::<Vec<_>>(),
        "recommended": limit.advised().map(candidate),
        "test": limit.tests.as_ref().map(|tests| json!({
            "thresholds_of_the_rest": tests.parts.iter().map(|part| part.threshold).collect::<Vec<_>>(),
            "stopped_users": tests.missed.len(),
        })),
        "lengths": limit.lengths.iter().map(length).collect::<Vec<_>>(),
    })
}

fn outcome(outcome: &ConfigFindings) -> Value {
    let verdicts = outcome.verdicts.iter();
    let senders = outcome.senders.iter().map(|(sender, refused)| {
        let mut object = json!(sender);
        object["refused"] = (*refused).into();
        // The limits of a configuration may have windows of several lengths.
        object.as_object_mut().and_then(|object| object.remove("peak"));
        object
    });
    json!({
        "path": outcome.path,
        "verdicts": verdicts.map(|(action, reason, questions)| json!({
            "action": action, "reason": reason, "questions": questions,
        })).collect::<Vec<_>>(),
        "refused_questions": outcome.refused.0,
        "refused_addresses": outcome.refused.1,
        "refused_senders": senders.collect::<Vec<_>>(),
        "more_refused_senders": outcome.more_senders,
    })
}

/// The data of the page's plots, for every threshold.
pub fn plots(findings: &Findings) -> Value {
    let timeline = &findings.counts.timeline;
    let lengths = findings.lengths.iter().enumerate().map(|(at, length)| {
        let numbers = findings.numbers(at);
        let slot = |levels: &mut dyn Iterator<Item = (usize, u32)>| {
            levels.map(|(level, count)| [level as u64, count.into()]).collect::<Vec<_>>()
        };
        let slots = timeline.sessions(at).map(|mut levels| slot(&mut levels));
        let peaks = length.peaks.iter().map(|(peak, (senders, others))| [u64::from(*peak), *senders, *others]);
        json!({
            "steps": steps(&numbers),
            "end": numbers.len(),
            "peaks": peaks.collect::<Vec<_>>(),
            "slots": slots.collect::<Vec<_>>(),
        })
    });
    let user_length = |length: &UserLength| {
        let peaks = length.peaks.iter().map(|(peak, (users, stolen))| [u64::from(*peak), *users, *stolen]);
        json!({
            "steps": steps(&length.numbers),
            "end": length.numbers.len(),
            "peaks": peaks.collect::<Vec<_>>(),
        })
    };
    let users = findings.users.iter().flat_map(|users| &users.limits);
    let users = users.map(|limit| limit.lengths.iter().map(user_length).collect::<Vec<_>>());
    json!({
        "start": timeline.start(),
        "end": findings.counts.span.map_or(0, |(_, last)| last),
        "slot": timeline.slot(),
        "levels": timeline.levels(),
        "lengths": lengths.collect::<Vec<_>>(),
        "users": users.collect::<Vec<_>>(),
    })
}

/// The hits of each number, only where they differ from those of the number before.
fn steps(numbers: &[u64]) -> Vec<(usize, u64)> {
    let mut steps: Vec<(usize, u64)> = Vec::new();
    for (number, hits) in numbers.iter().enumerate() {
        if steps.last().is_none_or(|(_, last)| last != hits) {
            steps.push((number, *hits));
        }
    }
    steps
}
