//! `netblocks`: netblocks with a threshold of their own, or none, or no chance.

use std::collections::HashMap;

use ipnet::IpNet;
use toml::Spanned;
use toml::de::DeValue;

use super::super::settings::{self, Entry, Settings, a};
use super::super::source::Span;
use super::super::{keys, netblock};
use crate::config::diagnostics::quoted;
use crate::config::resolve::threshold as amount;
use crate::net::netblock_table::NetblockTable;
use crate::policy::key::{KeyField, KeySpec};
use crate::policy::limit::Counts;
use crate::policy::limit::{Rate, RatePer};

/// What is said of a netblock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// `whitelist`.
    White,
    /// `blacklist`, with a reason if one is noted.
    Black(Option<String>),
    /// A threshold of its own.
    Rate(Rate),
}

/// A netblock with what is said of it, and where.
pub(super) struct Said {
    pub net: IpNet,
    pub word: Word,
    pub span: Span,
}

/// The netblocks of a named limit. Those on its whitelist it does not count.
pub(super) fn of_limit(s: &Settings, counts: Counts, per: &KeySpec) -> NetblockTable<Option<Rate>> {
    let said = read(s, counts, per, false).into_iter();
    let rate = |word| match word {
        Word::Rate(rate) => Some(rate),
        Word::White | Word::Black(_) => None,
    };
    said.map(|Said { net, word, .. }| (net, rate(word))).collect()
}

/// Reads a limit's table. `refuses`: a netblock may be blacklisted there.
pub(super) fn read(s: &Settings, counts: Counts, per: &KeySpec, refuses: bool) -> Vec<Said> {
    let mut seen: HashMap<IpNet, usize> = HashMap::new();
    let mut groups = HashMap::new();
    let mut list: Vec<Said> = Vec::new();
    for entry in s.table("netblocks") {
        let Some(net) = net(s, &entry) else { continue };
        let Some(word) = word(s, &entry, counts) else { continue };
        let span = entry.span.clone();
        if matches!(word, Word::Black(_)) && !refuses {
            let problem = format!("{} cannot refuse {net} whatever it does", s.whose().trim_start_matches(" of "));
            let remedy = "put it into `blacklist`, or into `[netblocks]` at the top level";
            s.diagnostics.error::<()>(&span, problem, remedy);
            continue;
        }
        let shared = matches!(&word, Word::Rate(rate) if rate.per != RatePer::Ip);
        if shared && !per.0.contains(&KeyField::Client) {
            s.diagnostics.warn(&span, "`per` has no effect: that of the limit does not have the client");
        }
        if let Word::Rate(Rate { threshold, per: RatePer::Group(group) }) = &word {
            let (first, place) = *groups.entry(group.clone()).or_insert((*threshold, span.start));
            if first != *threshold {
                let (line, _) = s.diagnostics.source.place(place);
                let problem = format!("group {} has another threshold in line {line}", quoted(group));
                let remedy = "the netblocks of a group share one counter: give all of them the same threshold";
                s.diagnostics.error::<()>(&span, problem, remedy);
            }
        }
        match seen.insert(net, list.len()).map(|place| &list[place]) {
            Some(other) => twice(s, net, &span, &other.span, other.word == word),
            None => list.push(Said { net, word, span }),
        }
    }
    list
}

/// Notes that a netblock stands at two places.
pub(super) fn twice(s: &Settings, net: IpNet, span: &Span, other: &Span, same: bool) {
    let (line, _) = s.diagnostics.source.place(other.start);
    if same {
        s.diagnostics.warn(span, format!("{net} stands in line {line} too"));
    } else {
        let problem = format!("{net} stands in line {line} too, and means something else there");
        s.diagnostics.error::<()>(span, problem, "keep one of the two");
    }
}

fn net(s: &Settings, entry: &Entry) -> Option<IpNet> {
    match netblock::parse(entry.name) {
        Ok(block) => {
            if block.host_bits {
                let text = format!("{} has host bits set, taken as {}", quoted(entry.name), block.net);
                s.diagnostics.warn(&entry.span, text);
            }
            Some(block.net)
        }
        Err((_, _)) if keys::find(entry.name).is_some() => {
            let problem = format!("`{}` is no netblock", entry.name);
            let remedy = "it is a key: write it above the header of this table";
            s.diagnostics.error(&entry.span, problem, remedy)
        }
        Err((problem, remedy)) => {
            s.diagnostics.error(&entry.span, format!("{}: {problem}", quoted(entry.name)), remedy)
        }
    }
}

fn word(s: &Settings, entry: &Entry, counts: Counts) -> Option<Word> {
    let DeValue::Table(table) = entry.value.get_ref() else {
        return threshold(s, entry.name, entry.value, counts)?.with(RatePer::Ip, None);
    };
    let (mut rate, mut per, mut reason) = (None, RatePer::Ip, None);
    let mut complete = true;
    for part in settings::entries(table) {
        match part.name {
            "threshold" => match threshold(s, entry.name, part.value, counts) {
                Some(found) => rate = Some(found),
                None => complete = false,
            },
            "per" => match text(s, &part).and_then(|text| rate_per(s, text, &part.value.span())) {
                Some(found) => per = found,
                None => complete = false,
            },
            "reason" => match text(s, &part) {
                Some(text) => reason = Some((text.to_owned(), part.span.clone())),
                None => complete = false,
            },
            name => {
                let remedy = match keys::nearest(name, ["threshold", "per", "reason"].into_iter()) {
                    Some(key) => format!("did you mean `{key}`?"),
                    None => "a netblock has a `threshold`, and may have `per` and `reason`".to_owned(),
                };
                s.diagnostics.error::<()>(&part.span, format!("unknown key {} of a netblock", quoted(name)), remedy);
                complete = false;
            }
        }
    }
    if !complete {
        return None;
    }
    let Some(rate) = rate else {
        let problem = format!("netblock {} has no `threshold`", quoted(entry.name));
        return s.diagnostics.error(&entry.span, problem, "write a number, \"whitelist\" or \"blacklist\"");
    };
    if let Some((_, span)) = reason.as_ref().filter(|_| !matches!(rate, Threshold::Black)) {
        s.diagnostics.warn(span, "`reason` has no effect: only what is blacklisted has one");
    }
    rate.with(per, reason.map(|(reason, _)| reason))
}

/// What stands for the threshold.
enum Threshold {
    White,
    Black,
    Number(u32),
}

impl Threshold {
    fn with(self, per: RatePer, reason: Option<String>) -> Option<Word> {
        Some(match self {
            Self::White => Word::White,
            Self::Black => Word::Black(reason.and_then(|reason| super::super::list_file::reason(&reason))),
            Self::Number(threshold) => Word::Rate(Rate { threshold, per }),
        })
    }
}

fn threshold(s: &Settings, netblock: &str, value: &Spanned<DeValue>, counts: Counts) -> Option<Threshold> {
    match value.get_ref() {
        DeValue::String(text) if text == "whitelist" => Some(Threshold::White),
        DeValue::String(text) if text == "blacklist" => Some(Threshold::Black),
        DeValue::Integer(number) if number.as_str() == "-1" => Some(Threshold::White),
        DeValue::Integer(number) if number.as_str() == "0" => Some(Threshold::Black),
        DeValue::String(text) if counts != Counts::Bytes || !text.starts_with(|c: char| c.is_ascii_digit()) => {
            let problem = format!("{} is no threshold", quoted(text));
            s.diagnostics.error(&value.span(), problem, "write a number, \"whitelist\" or \"blacklist\"")
        }
        _ => amount::of(s, &format!("the threshold of {}", quoted(netblock)), value, counts).map(Threshold::Number),
    }
}

fn text<'t>(s: &Settings, part: &Entry<'t, '_>) -> Option<&'t str> {
    match part.value.get_ref() {
        DeValue::String(text) => Some(text.as_ref()),
        other => {
            let problem = format!("`{}` of a netblock is a string, not {}", part.name, a(other.type_str()));
            s.diagnostics.error(&part.value.span(), problem, "put it in quotes")
        }
    }
}

fn rate_per(s: &Settings, text: &str, span: &Span) -> Option<RatePer> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    match text {
        "ip" => Some(RatePer::Ip),
        "netblock" => Some(RatePer::Netblock),
        group if (1..=32).contains(&group.len()) && group.bytes().all(good) => {
            // Letters in keys are lower case, so that names which differ in case only are one group.
            Some(RatePer::Group(group.to_ascii_lowercase()))
        }
        _ => {
            let problem = format!("`per` of a netblock cannot be {}", quoted(text));
            let remedy = "write \"ip\", \"netblock\", or the name of a group: 1 to 32 letters, digits, `_` and `-`";
            s.diagnostics.error(span, problem, remedy)
        }
    }
}
