//! The original's whitelist: regular expressions, read as the netblocks their authors meant.

use std::net::Ipv6Addr;

use ipnet::IpNet;

use super::super::netblock;
use super::super::source::Span;
use crate::config::diagnostics::{Diagnostics, quoted};
use crate::config::lint as sense;

/// Reads the entries, which stand between commas.
pub(super) fn read(span: Span, remarks: &Diagnostics) -> Vec<IpNet> {
    let mut nets = Vec::new();
    let mut start = span.start;
    let all = &remarks.source.text[span.clone()];
    for part in all.split(',') {
        let begin = start + part.len() - part.trim_start().len();
        let text = part.trim();
        let place = begin..begin + text.len();
        start += part.len() + 1;
        if text.is_empty() {
            // Empty after the last comma is usual, and meant nothing.
            if start <= span.end {
                remarks.warn(&place, "an empty entry is ignored");
            }
            continue;
        }
        match entry(text) {
            Ok(net) => {
                if text.contains('/') {
                    let text = format!("connection_shaper never matched {text}; taken as {net}");
                    remarks.warn(&place, text);
                }
                nets.push((net, place));
            }
            Err((problem, remedy)) => {
                remarks.error::<()>(&place, problem, remedy);
            }
        }
    }
    sense::examine_list(&nets, "exempts", remarks);
    nets.into_iter().map(|(net, _)| net).collect()
}

/// An entry of the whitelist: what its author meant by a regular expression.
fn entry(text: &str) -> Result<IpNet, (String, String)> {
    let problem = |what: &str| format!("{} {what}", quoted(text));
    if text.contains('/') {
        return match netblock::parse(text) {
            Ok(block) => Ok(block.net),
            Err((what, remedy)) => Err((format!("{}: {what}", quoted(text)), remedy)),
        };
    }
    // A remedy repeats nothing but what is an address.
    if text.ends_with("::") && text.parse::<Ipv6Addr>().is_ok() {
        let remedy = format!("write {text}/64, or the length that is meant");
        return Err((problem("does not say how much of an address it means"), remedy));
    }
    if let Some(net) = plain(text) {
        return Ok(net);
    }
    let stripped = text.replace(['^', '$', '\\'], "");
    let stripped = stripped.trim_end_matches(".*").trim();
    let remedy = match plain(stripped) {
        Some(_) => format!("write {stripped}"),
        None => "write plain addresses or beginnings of them, as in 192.168.1. or 10.0.0, \
                 one entry each"
            .to_owned(),
    };
    Err((problem("is neither an address nor the beginning of one"), remedy))
}

fn plain(text: &str) -> Option<IpNet> {
    match netblock::parse(text) {
        Ok(block) => Some(block.net),
        Err(_) => netblock::beginning(text),
    }
}
