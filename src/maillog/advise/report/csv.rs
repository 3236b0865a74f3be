//! The table of candidates as comma-separated values (RFC 4180). Every value is a number or a word.

use super::super::findings::{Findings, Refusals};

/// A line of names, then one for each candidate.
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
    text
}
