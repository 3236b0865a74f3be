//! The findings as text: what was read, the table of candidates, the recommendation and the plots.

use std::time::Duration;

use super::super::clients::MAX_CLIENTS;
use super::super::findings::{Candidate, Effect, Findings, Known, Length, Outcome};
use super::plot::{Characters, area, distribution};
use crate::config::units;
use crate::maillog::sessions::Seen;
use crate::maillog::text::{bytes, number, percent, plain, time};

/// Names printed of a list; the page and the JSON have more.
const NAMES: usize = 10;

/// All of it.
pub fn text(findings: &Findings, taken: Duration) -> String {
    let mut text = read(findings, taken);
    text += &sessions(findings);
    if findings.sessions() > 0 {
        text += &candidates(findings);
        text += &advice(findings);
        text += &plots(findings);
    }
    if let Some(outcome) = &findings.trial {
        text += &trial(outcome);
    }
    text
}

fn read(findings: &Findings, taken: Duration) -> String {
    let stats = &findings.read.stats;
    let lines = stats.lines;
    let seconds = taken.as_secs_f64().max(0.001);
    let logs = match stats.logs.as_slice() {
        [one] => plain(one),
        many => format!("{} logs", many.len()),
    };
    let mut text = format!(
        "Read {} lines ({}) of {logs} in {seconds:.1} s.\n  {} told something, {} were other lines of Postfix, \
         {} of other programs, {} not understood.\n",
        number(lines.all),
        bytes(lines.bytes),
        number(lines.told),
        number(lines.idle),
        number(lines.foreign),
        number(lines.strange),
    );
    if stats.set_back > 0 {
        text += &format!(
            "  The clock was set back {} times; the time is taken to have gone on. See --timezone.\n",
            number(stats.set_back)
        );
    }
    text
}

fn sessions(findings: &Findings) -> String {
    let sums = findings.read.sums;
    let stage = match findings.seen {
        Seen::Rcpt => "at RCPT TO",
        Seen::Connect => "when the client connects",
    };
    let mut text =
        format!("Postfix asks {stage}: about {} of {} sessions.\n", number(sums.asked), number(sums.sessions));
    let left_out = [
        (sums.without_recipient, "got to no recipient"),
        (sums.mynetworks, "were from mynetworks"),
        (sums.authenticated, "had logged in"),
        (sums.unknown, "had no known address"),
    ];
    let left_out: Vec<String> = left_out
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, why)| format!("{} {why}", number(*count)))
        .collect();
    if !left_out.is_empty() {
        text += &format!("  Not asked about: {}.\n", left_out.join(", "));
    }
    if sums.authenticated_late > 0 {
        text +=
            &format!("  {} turned out to have logged in after they were counted.\n", number(sums.authenticated_late));
    }
    if sums.submission > 0 {
        text += &format!("  {} more were of submission services.\n", number(sums.submission));
    }
    if sums.postscreen > 0 {
        let kept = sums.postscreen.saturating_sub(sums.postscreen_passed);
        text += &format!("  postscreen kept {} of {} clients from smtpd.\n", number(kept), number(sums.postscreen));
    }
    for note in &findings.notes {
        text += &format!("  {note}\n");
    }
    let Some((first, last)) = findings.counts.span else {
        return text + "No session of a client was asked about: there is nothing to choose a number from.\n";
    };
    let (clients, senders) = findings.clients;
    let (v4, v6) = (findings.mask.ipv4_prefix_length, findings.mask.ipv6_prefix_length);
    text += &format!("  From {} to {}.\n", time(first, &findings.zone), time(last, &findings.zone));
    text += &format!(
        "  {} sessions of {} clients (IPv4 /{v4}, IPv6 /{v6}), of which {} delivered mail.\n",
        number(findings.sessions()),
        number(clients),
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
        let Effect { sessions, clients, senders } = masked;
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

fn advice(findings: &Findings) -> String {
    let Some(Candidate { length, threshold, masked, .. }) = findings.advised() else {
        return "\nNo recommendation: no client delivered mail in these logs, so nothing tells senders from others.\n"
            .into();
    };
    let length = &findings.lengths[*length];
    let exptime = units::spell(Duration::from_secs(length.exptime.into()));
    let mut text = format!("\nRecommended\n  threshold = {threshold}\n  exptime = \"{exptime}\"\n");
    text += &format!(
        "The smallest threshold that refuses no client that delivered mail. It would have stopped\n\
         {} of {} sessions ({}), of {} clients.\n",
        number(masked.sessions),
        number(findings.sessions()),
        percent(masked.sessions, findings.sessions()),
        number(masked.clients),
    );
    if masked.sessions == 0 {
        text += "Nobody came more often than the busiest sender of mail: these logs show no need of a limit.\n";
    }
    text += &deciders(length);
    text += &others(length, *threshold);
    text += &would_delay(findings);
    text
}

/// Who decides the threshold, and what it would be without them.
fn deciders(length: &Length) -> String {
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

fn others(length: &Length, threshold: u32) -> String {
    let refused: Vec<&Known> = length.others.iter().filter(|other| other.peak > threshold).collect();
    if refused.is_empty() {
        return String::new();
    }
    let mut text = "The busiest of those it would have refused, by the same number:\n".to_owned();
    for other in refused {
        text += &format!("  {:>9}  {}\n", number(other.peak.into()), known(other));
    }
    text
}

/// The names of senders that some candidate would have delayed, with the threshold that each needs.
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

fn known(client: &Known) -> String {
    let Known { name, address, sessions, delivered, .. } = client;
    let name = if name.is_empty() { "unknown" } else { name };
    format!("{name}[{address}], {} sessions, {} messages delivered", number(*sessions), number(*delivered))
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
    let slots = findings.counts.timeline.refused(at, threshold);
    let slot = units::words(Duration::from_millis(findings.counts.timeline.slot() as u64));
    let [all, refused] = [0, 1].map(|which| -> Vec<u64> {
        slots.iter().map(|(all, refused)| if which == 0 { *all } else { *refused }).collect()
    });
    text += &format!("\nSessions per {slot}\n{}", area(&all, characters));
    text += &format!("\nRefusals per {slot} with threshold {threshold} in {exptime}\n{}", area(&refused, characters));
    if let Some((first, last)) = findings.counts.span {
        let (first, last) = (time(first, &findings.zone), time(last, &findings.zone));
        text += &format!("{:>15}{first}{last:>width$}\n", "", width = 72_usize.saturating_sub(first.len()));
    }
    text
}

fn trial(outcome: &Outcome) -> String {
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
