//! The findings as one JSON object; the page carries the same.

use serde_json::{Value, json};

use super::super::counts::Grouping;
use super::super::findings::{Candidate, Effect, Findings, Known, Length, Outcome};
use crate::maillog::sessions::Seen;
use crate::maillog::text::{plain, time};

/// All of it.
pub fn object(findings: &Findings) -> Value {
    let stats = &findings.read.stats;
    let span = findings.counts.span;
    let moment = |pick: fn((i64, i64)) -> i64| span.map(|span| time(pick(span), &findings.zone));
    json!({
        "logs": stats.logs.iter().map(|name| plain(name)).collect::<Vec<_>>(),
        "troubles": stats.troubles,
        "notes": findings.notes,
        "lines": {
            "all": stats.lines.all,
            "told": stats.lines.told,
            "postfix": stats.lines.idle,
            "other_programs": stats.lines.foreign,
            "not_understood": stats.lines.strange,
            "bytes": stats.lines.bytes,
        },
        "clock_set_back": stats.set_back,
        "seen": match findings.seen { Seen::Rcpt => "rcpt", Seen::Connect => "connect" },
        "sums": sums(findings),
        "timezone": findings.zone.iana_name(),
        "from": moment(|(first, _)| first),
        "to": moment(|(_, last)| last),
        "ipv4_prefix_length": findings.mask.ipv4_prefix_length,
        "ipv6_prefix_length": findings.mask.ipv6_prefix_length,
        "sessions": findings.sessions(),
        "clients": findings.clients.0,
        "senders": findings.clients.1,
        "forgotten_clients": findings.forgotten,
        "candidates": findings.candidates.iter().map(|it| candidate(findings, it)).collect::<Vec<_>>(),
        "recommended": findings.advised().map(|it| candidate(findings, it)),
        "lengths": findings.lengths.iter().map(length).collect::<Vec<_>>(),
        "config": findings.trial.as_ref().map(outcome),
    })
}

fn sums(findings: &Findings) -> Value {
    let sums = findings.read.sums;
    json!({
        "sessions": sums.sessions,
        "asked": sums.asked,
        "mynetworks": sums.mynetworks,
        "authenticated": sums.authenticated,
        "authenticated_late": sums.authenticated_late,
        "without_recipient": sums.without_recipient,
        "unknown_address": sums.unknown,
        "submission": sums.submission,
        "postscreen": sums.postscreen,
        "postscreen_passed": sums.postscreen_passed,
    })
}

fn candidate(findings: &Findings, candidate: &Candidate) -> Value {
    let effect = |Effect { sessions, clients, senders }: Effect| json!({ "refused_sessions": sessions, "refused_clients": clients, "refused_senders": senders });
    let Candidate { length, threshold, masked, whole } = *candidate;
    json!({
        "exptime": findings.lengths[length].exptime,
        "threshold": threshold,
        "masked": effect(masked),
        "whole_addresses": effect(whole),
    })
}

fn length(length: &Length) -> Value {
    json!({
        "exptime": length.exptime,
        "needed_threshold": length.needed,
        "senders": length.senders.iter().map(known).collect::<Vec<_>>(),
        "more_senders": length.more_senders,
        "others": length.others.iter().map(known).collect::<Vec<_>>(),
    })
}

fn known(client: &Known) -> Value {
    let Known { name, address, sessions, delivered, peak } = client;
    json!({ "name": name, "address": address, "sessions": sessions, "delivered": delivered, "peak": peak })
}

fn outcome(outcome: &Outcome) -> Value {
    let verdicts = outcome.verdicts.iter();
    let senders = outcome.senders.iter().map(|(sender, refused)| {
        let mut object = known(sender);
        object["refused"] = (*refused).into();
        // How often it came at once is a matter of a window's length, and a configuration may have several.
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

/// What the page's plots are drawn from, beside `object`: everything for every threshold.
pub fn plots(findings: &Findings) -> Value {
    let timeline = &findings.counts.timeline;
    let lengths = findings.lengths.iter().enumerate().map(|(at, length)| {
        let mut numbers: Vec<u64> = Vec::new();
        for table in findings.counts.tables(Grouping::Masked) {
            let more = table.numbers(at);
            numbers.resize(numbers.len().max(more.len()), 0);
            numbers.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
        }
        // Many neighbours are equal: only where it changes.
        let mut steps: Vec<(usize, u64)> = Vec::new();
        for (number, sessions) in numbers.iter().enumerate() {
            if steps.last().is_none_or(|(_, last)| last != sessions) {
                steps.push((number, *sessions));
            }
        }
        let slot = |levels: &mut dyn Iterator<Item = (usize, u32)>| {
            levels.map(|(level, count)| [level as u64, count.into()]).collect::<Vec<_>>()
        };
        let slots = timeline.sessions(at).map(|mut levels| slot(&mut levels));
        let peaks = length.peaks.iter().map(|(peak, (senders, others))| [u64::from(*peak), *senders, *others]);
        json!({
            "steps": steps,
            "end": numbers.len(),
            "peaks": peaks.collect::<Vec<_>>(),
            "slots": slots.collect::<Vec<_>>(),
        })
    });
    json!({
        "start": timeline.start(),
        "slot": timeline.slot(),
        "levels": timeline.levels(),
        "lengths": lengths.collect::<Vec<_>>(),
    })
}
