//! Whitelist, blacklist and netblocks at the top level: one set, of which the longest netblock decides.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use ipnet::IpNet;

use super::super::lists::{ListKind, NamedListFile};
use super::super::netblock;
use super::super::settings::Settings;
use super::super::source::Span;
use super::netblocks::{self, Said, Word};
use crate::config::diagnostics::quoted;
use crate::config::lint as sense;
use crate::policy::Limit;
use crate::policy::lists::{ListEntry, ListIndex, Lists};

/// Netblocks of a list with their places in the file.
type List = Vec<(IpNet, Span)>;

/// What the file itself says. `default` is the whitelist unless it has one.
pub(super) fn own(s: &Settings, top: &Limit, default: Lists) -> Lists {
    let white = list(s, "whitelist", "exempts");
    let black = list(s, "blacklist", "refuses").unwrap_or_default();
    let said = netblocks::read(s, top.counts, &top.per, true);
    examine(s, white.as_deref().unwrap_or_default(), &black, &said);
    let mut lists = Lists::default();
    // Of equal netblocks the last one counts: what is written wins over a default, the milder word over the harder.
    if white.is_none() {
        lists = default;
    }
    lists.netblocks.extend(black.into_iter().map(|(net, _)| (net, ListEntry::Blacklist(None))));
    for Said { net, word, .. } in said {
        let entry = match word {
            Word::White => ListEntry::Whitelist,
            Word::Black(reason) => ListEntry::Blacklist(reason.map(|reason| {
                lists.reasons.push(reason.into());
                ListIndex::new(lists.reasons.len() - 1)
            })),
            Word::Rate(rate) => {
                lists.rates.push(rate);
                ListEntry::Rate(ListIndex::new(lists.rates.len() - 1))
            }
        };
        lists.netblocks.push((net, entry));
    }
    lists.netblocks.extend(white.into_iter().flatten().map(|(net, _)| (net, ListEntry::Whitelist)));
    lists
}

fn list(s: &Settings, key: &'static str, does: &str) -> Option<List> {
    let list = s.list(key)?;
    let mut nets = List::new();
    for (text, span) in list {
        match netblock::parse(&text) {
            Ok(block) => {
                if block.host_bits {
                    let text = format!("{} has host bits set, taken as {}", quoted(&text), block.net);
                    s.diagnostics.warn(&span, text);
                }
                nets.push((block.net, span));
            }
            Err((problem, remedy)) => {
                let problem = format!("{}: {problem}", quoted(&text));
                s.diagnostics.error::<()>(&span, problem, remedy);
            }
        }
    }
    sense::examine_list(&nets, does, s.diagnostics);
    Some(nets)
}

/// Looks for netblocks of which two things are said.
fn examine(s: &Settings, white: &[(IpNet, Span)], black: &[(IpNet, Span)], said: &[Said]) {
    let said: HashMap<IpNet, &Said> = said.iter().map(|said| (said.net, said)).collect();
    if !said.is_empty() {
        for (net, span) in white {
            if let Some(other) = said.get(net) {
                netblocks::twice(s, *net, span, &other.span, other.word == Word::White);
            }
        }
        for (net, span) in black {
            if let Some(other) = said.get(net) {
                netblocks::twice(s, *net, span, &other.span, matches!(other.word, Word::Black(_)));
            }
        }
    }
    let (few, many) = if white.len() < black.len() { (white, black) } else { (black, white) };
    let few: HashMap<IpNet, &Span> = few.iter().map(|(net, span)| (*net, span)).collect();
    for (net, span) in many.iter().filter(|_| !few.is_empty()) {
        if let Some(other) = few.get(net) {
            let (line, _) = s.diagnostics.source.place(other.start);
            s.diagnostics.warn(span, format!("{net} is on whitelist and blacklist, see line {line}: it passes"));
        }
    }
}

/// The list files that are named, each with the place where.
pub(super) fn files(s: &Settings, config: &Path) -> (Vec<NamedListFile>, Vec<Span>) {
    let directory = config.parent().unwrap_or(Path::new(""));
    let (mut files, mut spans) = (Vec::new(), Vec::new());
    for (key, kind) in [("whitelist_file", ListKind::White), ("blacklist_file", ListKind::Black)] {
        for (text, span) in s.one_or_more(key).unwrap_or_default() {
            if text.is_empty() || text.contains('\0') {
                let problem = format!("`{key}` names no file");
                s.diagnostics.error::<()>(&span, problem, "write its path, or remove the key");
                continue;
            }
            let path: PathBuf = directory.join(&text);
            if files.iter().any(|file: &NamedListFile| file.path == path) {
                let problem = format!("{} is named twice", quoted(&text));
                s.diagnostics.error::<()>(&span, problem, "keep one of the two");
                continue;
            }
            files.push(NamedListFile { path, kind });
            spans.push(span);
        }
    }
    (files, spans)
}
