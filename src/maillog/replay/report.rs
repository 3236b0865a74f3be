//! What the daemon answered, as text and as JSON.

use std::net::IpAddr;

use serde::Serialize;
use serde_json::json;

use super::player::Answers;
use crate::maillog::reading::Read;
use crate::maillog::summary;
use crate::maillog::text::{number, percent};
use crate::observe::terminal;

/// The most clients that are listed.
const NAMES: usize = 20;

pub fn text(answers: &Answers, read: &Read) -> String {
    let mut text = summary::lines(read, None) + &summary::sessions(read);
    text += &format!(
        "Asked {} questions about {} of {} sessions in {:.1} s; the slowest answer took {:.1} ms.\n",
        number(answers.questions),
        number(answers.sessions),
        number(read.sums.sessions),
        answers.taken.as_secs_f64(),
        answers.slowest.as_secs_f64() * 1000.0,
    );
    if answers.behind.as_millis() >= 1000 {
        text += &format!(
            "The daemon, or this machine, was slower than the log: up to {:.1} s behind it.\n",
            answers.behind.as_secs_f64()
        );
    }
    for (action, count) in &answers.actions {
        text += &format!("  {:>12}  {:>8}  {action}\n", number(*count), percent(*count, answers.questions));
    }
    let refused = refused(answers);
    let senders = refused.iter().filter(|client| client.is_sender).count();
    if refused.is_empty() {
        return text;
    }
    text += &format!(
        "Refused: {} addresses; of these, delivered mail in the log: {}.\n",
        number(refused.len() as u64),
        number(senders as u64)
    );
    for client in refused.iter().take(NAMES) {
        let name = if client.name.is_empty() { "unknown" } else { client.name };
        let sender = if client.is_sender { ", delivered mail" } else { "" };
        text += &format!("  {:>12}  {name}[{}]{sender}\n", number(client.refused), client.address);
    }
    if refused.len() > NAMES {
        text += &format!("  and {} more\n", number((refused.len() - NAMES) as u64));
    }
    text
}

pub fn json(answers: &Answers, read: &Read) -> String {
    let refused = refused(answers);
    let mut object = summary::json(read);
    let answered = json!({
        "sessions": read.sums.sessions,
        "asked": answers.sessions,
        "questions": answers.questions,
        "actions": answers.actions,
        "refused_addresses": refused.len(),
        "refused_senders": refused.iter().filter(|client| client.is_sender).count(),
        "refused": &refused[..refused.len().min(NAMES)],
        "seconds": answers.taken.as_secs_f64(),
        "slowest_milliseconds": answers.slowest.as_secs_f64() * 1000.0,
        "behind_seconds": answers.behind.as_secs_f64(),
    });
    summary::merge(&mut object, answered);
    terminal::json(&object)
}

/// A client that was refused.
#[derive(Serialize)]
struct RefusedClient<'p> {
    name: &'p str,
    address: IpAddr,
    refused: u64,
    #[serde(rename = "delivered_mail")]
    is_sender: bool,
}

/// Clients that delivered mail first, then by the number of refusals.
fn refused(answers: &Answers) -> Vec<RefusedClient<'_>> {
    let clients = answers.refused.iter().map(|(address, (name, refused))| RefusedClient {
        name,
        address: *address,
        refused: *refused,
        is_sender: answers.senders.contains(address),
    });
    let mut clients: Vec<_> = clients.collect();
    clients.sort_by_key(|client| std::cmp::Reverse((client.is_sender, client.refused, client.address)));
    clients
}
