//! Whitelist, blacklist and netblocks at the top level: one set, of which the longest netblock decides.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ipnet::IpNet;
use toml::de::DeValue;

use super::super::diagnostics::quoted;
use super::super::effective::Origin;
use super::super::limit_files::{FilePurpose, LimitFile};
use super::super::lint;
use super::super::lists::{ListKind, NamedListFile};
use super::super::origin_files::{self, OriginFile};
use super::super::settings::TableSettings;
use super::super::source::Span;
use super::conditions::FILE;
use super::netblocks::{self, Treated, Treatment};
use crate::net::embedded::EmbeddedIpv4;
use crate::net::origin::OriginKind;
use crate::policy::Limit;
use crate::policy::attribute::Attribute;
use crate::policy::lists::{ListEntry, ListIndex, Lists};

/// The lists of the configuration file itself.
pub(super) fn own(s: &TableSettings, top: &Limit) -> Lists {
    let (white, black) = (s.netblocks("whitelist"), s.netblocks("blacklist"));
    let treated = netblocks::read(s, top.counts, &top.per, true);
    let default = s.origin("whitelist") == Origin::Default;
    if !default {
        lint::check_list(white, "exempts", s.diagnostics);
    }
    lint::check_list(black, "refuses", s.diagnostics);
    note_conflicts(s, if default { &[] } else { white }, black, &treated);
    let mut lists = Lists::default();
    let white = white.iter().map(|(net, _)| (*net, ListEntry::Whitelist));
    // Of equal netblocks the last one counts: a value that is set before a default, the milder before the harder.
    if default {
        lists.netblocks.extend(white.clone());
    }
    lists.netblocks.extend(black.iter().map(|(net, _)| (*net, ListEntry::Blacklist(None))));
    for Treated { net, treatment, .. } in treated {
        let entry = match treatment {
            Treatment::Whitelist => ListEntry::Whitelist,
            Treatment::Blacklist(reason) => ListEntry::Blacklist(reason.map(|reason| {
                lists.reasons.push(reason.into());
                ListIndex::new(lists.reasons.len() - 1)
            })),
            Treatment::Rate(rate) => {
                lists.rates.push(rate);
                ListEntry::Rate(ListIndex::new(lists.rates.len() - 1))
            }
        };
        lists.netblocks.push((net, entry));
    }
    if !default {
        lists.netblocks.extend(white);
    }
    for (key, entry) in [("blacklist", ListEntry::Blacklist(None)), ("whitelist", ListEntry::Whitelist)] {
        lists.names.extend(s.names(key).iter().map(|(name, _)| (name.clone(), entry)));
    }
    lists
}

/// The prefixes whose IPv6 addresses are taken for the IPv4 addresses in them.
pub(super) fn embedded(s: &TableSettings) -> EmbeddedIpv4 {
    let prefixes = s.netblocks("ipv4_in_ipv6");
    let embedded = EmbeddedIpv4::new(prefixes.iter().map(|(net, _)| *net)).unwrap_or_else(|wrong| {
        let span = prefixes.iter().find(|(net, _)| *net == wrong).map(|(_, span)| span.clone()).unwrap_or_default();
        let problem = format!("{wrong} has no IPv4 addresses in it");
        let remedy = "write the prefix of a NAT64, of 32, 40, 48, 56, 64 or 96 bits; 2002::/16 for 6to4; 2001::/32 for \
                      Teredo";
        s.diagnostics.error::<()>(&span, problem, remedy);
        EmbeddedIpv4::default()
    });
    for key in ["whitelist", "blacklist"] {
        // A wide netblock has other clients too.
        for (net, span) in s.netblocks(key).iter().filter(|(net, _)| embedded.covers(net) && net.prefix_len() > 16) {
            let text = format!("{net} has no client: addresses in it are taken for IPv4, see `ipv4_in_ipv6`");
            s.diagnostics.warn(span, text);
        }
    }
    embedded
}

/// Notes netblocks that are treated in two ways.
fn note_conflicts(s: &TableSettings, white: &[(IpNet, Span)], black: &[(IpNet, Span)], treated: &[Treated]) {
    let treated: HashMap<IpNet, &Treated> = treated.iter().map(|treated| (treated.net, treated)).collect();
    for (list, is_black) in [(white, false), (black, true)] {
        for (net, span) in list.iter().filter(|_| !treated.is_empty()) {
            let Some(other) = treated.get(net) else { continue };
            let same = match other.treatment {
                Treatment::Whitelist => !is_black,
                Treatment::Blacklist(_) => is_black,
                Treatment::Rate(_) => false,
            };
            netblocks::note_repetition(s, *net, span, &other.span, same);
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

/// The list files, with the spans of their names.
pub(super) fn files(s: &TableSettings, config: &Path) -> (Vec<NamedListFile>, Vec<Span>) {
    let directory = config.parent().unwrap_or(Path::new(""));
    let (mut files, mut spans) = (Vec::new(), Vec::new());
    for (key, kind) in [("whitelist_file", ListKind::White), ("blacklist_file", ListKind::Black)] {
        for (text, span) in s.strings(key).unwrap_or_default() {
            let path =
                path(s, key, directory, text, span, |path| files.iter().any(|file: &NamedListFile| file.path == path));
            if let Some(path) = path {
                files.push(NamedListFile { path, kind });
                spans.push(span.clone());
            }
        }
    }
    (files, spans)
}

/// The databases of where clients are from, with the spans of their names.
pub(super) fn databases(s: &TableSettings, config: &Path) -> Vec<(OriginFile, Span)> {
    let directory = config.parent().unwrap_or(Path::new(""));
    let named = |(key, kind): (&str, OriginKind)| {
        let text: String = s.get::<Option<String>>(key)?;
        let span = s.span(key);
        let path = path(s, key, directory, &text, &span, |_| false)?;
        Some((OriginFile { path, kind, stamp: None }, span))
    };
    origin_files::KEYS.into_iter().filter_map(named).collect()
}

/// The path of a file that a key names.
fn path(
    s: &TableSettings,
    key: &str,
    directory: &Path,
    text: &str,
    span: &Span,
    is_known: impl Fn(&Path) -> bool,
) -> Option<PathBuf> {
    if text.is_empty() || text.contains('\0') {
        let problem = format!("{} names no file", s.named(key));
        return s.diagnostics.error(span, problem, "write its path, or remove the key");
    }
    let path = directory.join(text);
    if is_known(&path) {
        return s.diagnostics.error(span, format!("{} is named twice", quoted(text)), "keep one of the two");
    }
    Some(path)
}

/// The files of the limit at this place, with the spans of their names. Each has its list there, still empty.
pub(super) fn files_of_limit(
    s: &TableSettings,
    config: &Path,
    place: usize,
    limit: &mut Limit,
) -> Vec<(LimitFile, Span)> {
    let directory = config.parent().unwrap_or(Path::new(""));
    let mut files: Vec<(LimitFile, Span)> = Vec::new();
    for (is_unless, key) in [(false, "match"), (true, "unless")] {
        for entry in s.table(key) {
            let texts = match entry.value.get_ref() {
                DeValue::Array(items) => items.iter().collect(),
                _ => vec![entry.value],
            };
            let paths =
                texts.iter().filter_map(|text| Some((text.get_ref().as_str()?.strip_prefix(FILE)?, text.span())));
            for (number, (text, span)) in paths.enumerate() {
                let Some(attribute) = Attribute::at(limit.door).find(|known| known.name() == entry.name) else {
                    continue;
                };
                let purpose = FilePurpose::Condition { is_unless, attribute, number };
                let path = path(s, key, directory, text, &span, |_| false).filter(|_| !text.is_empty());
                files.extend(path.map(|path| (LimitFile::new(path, place, purpose), span)));
            }
        }
    }
    let Some(own) = &mut limit.thresholds else { return files };
    for (text, span) in s.strings("thresholds_file").unwrap_or_default() {
        let is_known = |path: &Path| {
            files.iter().any(|(file, _)| file.path == path && matches!(file.purpose, FilePurpose::Thresholds { .. }))
        };
        if let Some(path) = path(s, "thresholds_file", directory, text, span, is_known) {
            let purpose = FilePurpose::Thresholds { place: own.lists.len() };
            own.lists.push(Arc::default());
            files.push((LimitFile::new(path, place, purpose), span.clone()));
        }
    }
    files
}
