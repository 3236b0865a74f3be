//! The table of candidates as comma-separated values (RFC 4180). Every value is a number or a word.

use super::super::findings::{Findings, Refusals};
use super::super::users::UserCandidate;

/// A line of names, then one for each candidate. Where there are users, limits on them follow, and two more
/// columns tell them apart.
pub fn table(findings: &Findings) -> String {
    let mut text = "exptime,threshold,recommended,sessions,refused_sessions,refused_clients,refused_senders,\
                    whole_refused_sessions,whole_refused_clients,whole_refused_senders\n"
        .to_owned();
    let sessions = findings.sessions();
    for (at, candidate) in findings.candidates.iter().enumerate() {
        let is_advised = if findings.advice == Some(at) { "yes" } else { "no" };
        let exptime = findings.lengths[candidate.length].exptime;
        let [masked, whole] = [candidate.masked, candidate.whole]
            .map(|Refusals { sessions, clients, senders }| format!("{sessions},{clients},{senders}"));
        text += &format!("{exptime},{},{is_advised},{sessions},{masked},{whole}\n", candidate.threshold);
    }
    if let Some(users) = &findings.users {
        text = text
            .lines()
            .zip(std::iter::once("per,count").chain(std::iter::repeat("client,connections")))
            .fold(String::new(), |text, (line, columns)| text + line + "," + columns + "\n");
        for limit in &users.limits {
            for (at, candidate) in limit.candidates.iter().enumerate() {
                let is_advised = if limit.advice == Some(at) { "yes" } else { "no" };
                let UserCandidate { length, threshold, refused, accounts, users } = *candidate;
                let (exptime, hits) = (limit.lengths[length].exptime, limit.lengths[length].hits());
                let (per, counted) = (limit.per.into_str(), limit.counted.into_str());
                text += &format!(
                    "{exptime},{threshold},{is_advised},{hits},{refused},{accounts},{users},,,,{per},{counted}\n"
                );
            }
        }
    }
    text
}
