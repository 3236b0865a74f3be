//! The findings as text: what was read, the table of candidates, the recommendation and the plots.

use std::time::Duration;

use jiff::civil::Date;

use super::super::accounts::Per;
use super::super::basis::{Basis, Doubt, ENOUGH_DAYS, ENOUGH_SENDERS, Missed, PartTests};
use super::super::clients::MAX_CLIENTS;
use super::super::findings::{Candidate, ConfigFindings, Findings, Refusals, ReportedClient, WindowFindings};
use super::super::users::{UserCandidate, UserFindings, UserLimit};
use super::plot::{Characters, area, distribution};
use crate::config::units;
use crate::maillog::summary;
use crate::maillog::text::{count, number, percent, time};

/// Entries of a list; the page and the JSON have more.
const NAMES: usize = 10;

pub fn text(findings: &Findings, taken: Duration) -> String {
    let read = &findings.read;
    let mut text = summary::lines(read, Some(taken)) + &summary::sessions(read) + &clients(findings);
    if findings.sessions() > 0 {
        text += &candidates(findings);
        text += &advice(findings);
        text += &plots(findings);
    }
    if let Some(found) = &findings.users {
        text += &users(found);
    }
    if let Some(outcome) = &findings.trial {
        text += &trial(outcome);
    }
    text
}

fn clients(findings: &Findings) -> String {
    let Some((first, last)) = findings.counts.span else {
        return "No session of a client was asked about: there is nothing to choose a number from.\n".into();
    };
    let (clients, senders) = findings.clients;
    let (v4, v6) = (findings.mask.ipv4_prefix_length, findings.mask.ipv6_prefix_length);
    let mut text = format!("  From {} to {}.\n", time(first, &findings.read.zone), time(last, &findings.read.zone));
    text += &format!(
        "  {} of {} (IPv4 /{v4}, IPv6 /{v6}), of which {} delivered mail.\n",
        count(findings.sessions(), "session"),
        count(clients, "client"),
        number(senders)
    );
    if findings.forgotten > 0 {
        text += &format!(
            "  More than {} clients: {} that had delivered nothing were forgotten; each that came back counts again.\n",
            number(MAX_CLIENTS as u64),
            number(findings.forgotten)
        );
    }
    text
}

fn candidates(findings: &Findings) -> String {
    let mut text = "\nWhat would have been refused\n".to_owned();
    let has_whole = findings.candidates.iter().any(|candidate| candidate.masked != candidate.whole);
    let heading = ["exptime", "threshold", "sessions", "share", "clients", "that delivered mail"];
    text += &row(&heading.map(str::to_owned));
    text.truncate(text.trim_end().len());
    if has_whole {
        text += "   by whole address";
    }
    text.push('\n');
    for (at, candidate) in findings.candidates.iter().enumerate() {
        let Candidate { length, threshold, masked, whole } = *candidate;
        let exptime = units::spell(Duration::from_secs(findings.lengths[length].exptime.into()));
        let share = percent(masked.sessions, findings.sessions());
        let Refusals { sessions, clients, senders } = masked;
        text += &row(&[exptime, number(threshold.into()), number(sessions), share, number(clients), number(senders)]);
        if has_whole {
            text += &format!("   {} sessions, {} clients", number(whole.sessions), number(whole.clients));
        }
        text.truncate(text.trim_end().len());
        if findings.advice == Some(at) {
            text += "  <- recommended";
        }
        text.push('\n');
    }
    text
}

fn row(cells: &[String; 6]) -> String {
    let [exptime, threshold, sessions, share, clients, senders] = cells;
    format!("  {exptime:>8}  {threshold:>9}  {sessions:>12}  {share:>8}  {clients:>9}  {senders:>19}")
}

/// The figures of the reading, and of the clients found.
pub fn reading(findings: &Findings) -> String {
    summary::lines(&findings.read, None) + &summary::sessions(&findings.read) + &clients(findings)
}

/// The recommended number and what it rests on; empty without one.
pub fn recommendation(findings: &Findings) -> String {
    let Some(Candidate { length, threshold, masked, .. }) = findings.advised() else {
        return String::new();
    };
    let exptime = units::spell(Duration::from_secs(findings.lengths[*length].exptime.into()));
    let mut text = whitelist(findings);
    text += &format!("  threshold = {threshold}\n  exptime = \"{exptime}\"\n");
    if let Some(date) = findings.log_only_until {
        text += &format!("  log_only = true    # until {date}\n");
    }
    text += "The smallest threshold that refuses no client that delivered mail.\n";
    text += &match masked.sessions {
        0 => format!("It would have stopped none of {}.\n", count(findings.sessions(), "session")),
        refused => format!(
            "It would have stopped {} of {} ({}), of {}.\n",
            number(refused),
            count(findings.sessions(), "session"),
            percent(refused, findings.sessions()),
            count(masked.clients, "client"),
        ),
    };
    text + &findings.basis.as_ref().map(|basis| rests_on(findings, basis)).unwrap_or_default()
}

fn advice(findings: &Findings) -> String {
    let Some(Candidate { length, threshold, .. }) = findings.advised() else {
        return match findings.clients.1 {
            0 => "\nNo recommendation: no client delivered mail in these logs, so nothing tells senders from others.\n",
            _ => "\nNo recommendation: a sender came more often than the highest threshold that is evaluated.\n",
        }
        .into();
    };
    let length = &findings.lengths[*length];
    let mut text = format!("\nRecommended\n{}", recommendation(findings));
    text += &deciders(length);
    text += &others(length, *threshold);
    text += &would_delay(findings);
    text
}

/// The client that no number fits, because all or nearly all mail comes from it.
fn whitelist(findings: &Findings) -> String {
    if let Some(gateway) = &findings.gateway {
        return format!(
            "  whitelist: add {}\n    {} has {} of all sessions: it is a smart host, a gateway or a content filter.\n    \
             A limit on it stops the mail of all who send through it. Limit clients where they connect.\n",
            gateway.address,
            name(gateway),
            percent(gateway.sessions, findings.sessions()),
        );
    }
    match &findings.only_sender {
        Some(sender) => format!(
            "  whitelist: add {}\n    {} is the only client that delivered mail: a number made from it holds for no other.\n",
            sender.address,
            name(sender)
        ),
        None => String::new(),
    }
}

/// What the recommendation rests on, how it did on parts of the log, and what follows.
fn rests_on(findings: &Findings, basis: &Basis) -> String {
    let mut text = format!("It rests on {} of mail in {}.\n", count(basis.senders, "sender"), covered(basis.covered));
    if let Some(numbers) = numbers(&basis.tests) {
        let refused = match basis.tests.missed.len() as u64 {
            0 => "no sender.".to_owned(),
            missed => format!("{}:", count(missed, "sender")),
        };
        text += &format!(
            "Tested on each of {} parts of the log, made from the others it is {numbers} and refuses {refused}\n",
            basis.tests.parts.len(),
        );
        for Missed { client, threshold } in &basis.missed {
            text += &format!("  {:>9}  {}; the others gave {threshold}\n", number(client.peak.into()), known(client));
        }
    }
    text + &too_little(&basis.doubts, findings.log_only_until)
}

/// The numbers that all parts of the log but one give, as `24` or `24 to 25`.
fn numbers(tests: &PartTests) -> Option<String> {
    let (lowest, highest) = tests.thresholds()?;
    Some(if lowest == highest { number(lowest.into()) } else { format!("{lowest} to {highest}") })
}

/// A time that a log covers.
fn covered(milliseconds: i64) -> String {
    match milliseconds {
        ..86_400_000 => units::words(Duration::from_secs((milliseconds / 1000).max(1) as u64)),
        _ => format!("{:.1} days", milliseconds as f64 / 86_400_000.0),
    }
}

/// Why a number should only log; empty when it may be enforced.
fn too_little(doubts: &[Doubt], until: Option<Date>) -> String {
    let Some(date) = until else {
        return String::new();
    };
    let reasons = doubts.iter().map(|doubt| match doubt {
        Doubt::Days => format!("less than {ENOUGH_DAYS} days"),
        Doubt::Senders => format!("fewer than {ENOUGH_SENDERS} senders"),
        Doubt::Refused => "the test refused senders".to_owned(),
        Doubt::Untested => "nothing to test it on".to_owned(),
    });
    let reasons = reasons.collect::<Vec<_>>().join(", ");
    format!(
        "Too little to refuse mail on: {reasons}.\nLet it only log until {date}, then run advise again on all logs \
         up to that day.\n"
    )
}

/// The senders that decide the threshold, and the threshold without them.
fn deciders(length: &WindowFindings) -> String {
    let mut text = "The busiest senders decide it, by the most sessions each had in a window. One that is on the\n\
         whitelist, or unwanted, decides nothing:\n"
        .to_owned();
    for (at, sender) in length.senders.iter().take(NAMES).enumerate() {
        let without = match length.senders.get(at + 1) {
            Some(next) if next.peak < sender.peak => format!("; without it and those above: {}", next.peak),
            _ => String::new(),
        };
        text += &format!("  {:>9}  {}{without}\n", number(sender.peak.into()), known(sender));
    }
    text
}

fn others(length: &WindowFindings, threshold: u32) -> String {
    let refused: Vec<&ReportedClient> = length.others.iter().filter(|other| other.peak > threshold).collect();
    if refused.is_empty() {
        return String::new();
    }
    let mut text = "The busiest of those it would have refused, by the same number:\n".to_owned();
    for other in refused {
        text += &format!("  {:>9}  {}\n", number(other.peak.into()), known(other));
    }
    text
}

/// The senders that the lowest candidate would have delayed, with the threshold that each needs.
fn would_delay(findings: &Findings) -> String {
    let mut text = String::new();
    for (at, length) in findings.lengths.iter().enumerate() {
        let candidates = findings.candidates.iter().filter(|candidate| candidate.length == at);
        let Some(tightest) = candidates.min_by_key(|candidate| candidate.threshold) else {
            continue;
        };
        let delayed = length.senders.iter().filter(|sender| sender.peak > tightest.threshold).take(NAMES);
        let (mut lines, mut shown) = (String::new(), 0);
        for sender in delayed {
            lines += &format!("  {:>9}  {}\n", number(sender.peak.into()), known(sender));
            shown += 1;
        }
        let exptime = units::spell(Duration::from_secs(length.exptime.into()));
        if shown > 0 {
            text +=
                &format!("With exptime {exptime}, real mail would have been delayed by any threshold below\n{lines}");
        }
        let more = tightest.masked.senders.saturating_sub(shown);
        if more > 0 {
            text += &format!("  and that of {} more by threshold {}\n", number(more), tightest.threshold);
        }
    }
    text
}

fn known(client: &ReportedClient) -> String {
    let (sessions, delivered) = (count(client.sessions, "session"), count(client.delivered, "message"));
    format!("{}, {sessions}, {delivered} delivered", name(client))
}

fn name(client: &ReportedClient) -> String {
    let name = if client.name.is_empty() { "unknown" } else { &client.name };
    format!("{name}[{}]", client.address)
}

fn plots(findings: &Findings) -> String {
    let characters = Characters::of_locale();
    let advised = findings.advised();
    let at = advised.map_or(0, |candidate| candidate.length);
    let length = &findings.lengths[at];
    let exptime = units::words(Duration::from_secs(length.exptime.into()));
    let threshold = advised.map(|candidate| candidate.threshold);
    let mut text = format!("\nClients by the most sessions they had within {exptime} (logarithmic)\n");
    text += &distribution(&length.peaks, threshold, characters);
    let threshold = threshold.unwrap_or(findings.candidates.first().map_or(10, |candidate| candidate.threshold));
    let slots = findings.counts.timeline.refused(at, threshold, &findings.numbers(at));
    let slot = units::words(Duration::from_millis(findings.counts.timeline.slot() as u64));
    let [all, refused] = [0, 1].map(|which| -> Vec<u64> {
        slots.iter().map(|(all, refused)| if which == 0 { *all } else { *refused }).collect()
    });
    text += &format!("\nSessions per {slot}\n{}", area(&all, characters));
    text += &format!("\nRefusals per {slot} with threshold {threshold} in {exptime}\n{}", area(&refused, characters));
    if let Some((first, last)) = findings.counts.span {
        let (first, last) = (time(first, &findings.read.zone), time(last, &findings.read.zone));
        text += &format!("{:>15}{first}{last:>width$}\n", "", width = 72_usize.saturating_sub(first.len()));
    }
    text
}

/// The thresholds of a limit on users that are printed: the recommended one and these many below it.
const TIGHTER: usize = 2;

fn users(found: &UserFindings) -> String {
    let [logins, senders, domains] = found.accounts;
    let mut text = format!(
        "\nUsers: {} to {}, of {}, {} and {}\n",
        count(found.messages, "message"),
        count(found.recipients, "recipient"),
        count(logins, "login"),
        count(senders, "sender"),
        count(domains, "sender domain"),
    );
    text += &user_row(&["per", "count", "exptime", "threshold", "refused", "share", "stopped", "real users"]);
    for limit in &found.limits {
        let Some((advised, at)) = limit.advised().zip(limit.advice) else {
            continue;
        };
        let same = limit.candidates.iter().enumerate().filter(|(_, it)| it.length == advised.length);
        let tighter = same.clone().filter(|(place, _)| *place < at).count().saturating_sub(TIGHTER);
        for (place, candidate) in same.skip(tighter).take_while(|(place, _)| *place <= at) {
            let UserCandidate { length, threshold, refused, accounts, users } = *candidate;
            let row = user_row(&[
                limit.per.into_str(),
                limit.counted.into_str(),
                &units::spell(Duration::from_secs(limit.lengths[length].exptime.into())),
                &number(threshold.into()),
                &number(refused),
                &percent(refused, limit.lengths[length].hits()),
                &number(accounts),
                &number(users),
            ]);
            text += row.trim_end();
            if place == at {
                text += "  <- recommended";
                let tests = limit.tests.as_ref();
                if let Some((tests, numbers)) = tests.and_then(|tests| Some((tests, numbers(tests)?))) {
                    text +=
                        &format!("; tested on parts: {numbers}, stops {}", count(tests.missed.len() as u64, "user"));
                }
            }
            text.push('\n');
        }
    }
    text += &users_rest_on(found);
    for limit in found.limits.iter().filter(|limit| limit.per == Per::Login) {
        text += &busiest_users(limit);
    }
    if !found.stolen.is_empty() {
        text += "Probably stolen: such a login decides no number, but what it sent is in the figures of its domain.\n";
        for it in found.stolen.iter().take(NAMES) {
            text += &format!(
                "  {}: {} and {} within {}; the median of the others: {} and {}\n",
                it.login,
                match it.addresses {
                    1 => "1 address".to_owned(),
                    addresses => format!("{} addresses", number(addresses.into())),
                },
                count(it.recipients.into(), "recipient"),
                units::words(Duration::from_secs(it.exptime.into())),
                number(it.usual_addresses.into()),
                number(it.usual_recipients.into()),
            );
        }
        if found.stolen.len() > NAMES {
            text += &format!("  and {} more\n", number((found.stolen.len() - NAMES) as u64));
        }
    }
    text
}

/// What the numbers for users rest on, and what follows.
pub fn users_rest_on(found: &UserFindings) -> String {
    let [logins, senders, _] = found.accounts;
    let users = if logins > 0 { count(logins, "login") } else { count(senders, "sender") };
    format!("It rests on {users} in {}.\n", covered(found.covered)) + &too_little(&found.doubts, found.log_only_until)
}

fn user_row(cells: &[&str; 8]) -> String {
    let [per, count, exptime, threshold, refused, share, stopped, users] = cells;
    format!(
        "  {per:<13}  {count:<10}  {exptime:>7}  {threshold:>9}  {refused:>9}  {share:>7}  {stopped:>7}  {users:>10}\n"
    )
}

/// The real users that a lower threshold would have stopped.
fn busiest_users(limit: &UserLimit) -> String {
    let Some(advised) = limit.advised() else {
        return String::new();
    };
    let length = &limit.lengths[advised.length];
    let users = length.users.iter().filter(|user| !user.is_stolen && user.peak > 1).take(SHORT_LIST);
    let users: Vec<String> = users.map(|user| format!("{} {}", user.key, number(user.peak.into()))).collect();
    if users.is_empty() {
        return String::new();
    }
    let exptime = units::words(Duration::from_secs(length.exptime.into()));
    format!("The most {} of a login within {exptime}: {}\n", limit.counted.into_str(), users.join(", "))
}

/// Users that are named in one line.
const SHORT_LIST: usize = 5;

fn trial(outcome: &ConfigFindings) -> String {
    let mut text =
        format!("\nWith {}: a question for each session, and for each further message of it\n", outcome.path);
    for (action, reason, count) in &outcome.verdicts {
        text += &format!("  {:>12}  {action}  {reason}\n", number(*count));
    }
    let (sessions, clients) = outcome.refused;
    text += &format!("  Refused: {} questions about {} addresses.\n", number(sessions), number(clients));
    if sessions > 0 && outcome.senders.is_empty() {
        text += "  None of them delivered mail.\n";
    }
    if !outcome.senders.is_empty() {
        let all = outcome.senders.len() as u64 + outcome.more_senders;
        text += &format!("  It would have delayed real mail; clients: {}\n", number(all));
        for (sender, refused) in outcome.senders.iter().take(NAMES) {
            text += &format!("  {:>7} refused  {}\n", number(*refused), known(sender));
        }
        if all > NAMES as u64 {
            text += &format!("    and {} more\n", number(all - NAMES as u64));
        }
    }
    text
}
