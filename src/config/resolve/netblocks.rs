//! `netblocks`: netblocks with a threshold of their own, or on one of the lists.

use std::collections::HashMap;

use ipnet::IpNet;
use toml::Spanned;
use toml::de::DeValue;

use super::super::diagnostics::quoted;
use super::super::settings::{self, SettingEntry, TableSettings, with_article};
use super::super::source::Span;
use super::super::{keys, list_file};
use super::limit::amount;
use crate::net::netblock::NetblockTable;
use crate::policy::key::KeySpec;
use crate::policy::key_field::KeyField;
use crate::policy::limit::{CountKind, Rate, RatePer};

/// How a netblock is treated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Treatment {
    Whitelist,
    /// With a reason, if one is given.
    Blacklist(Option<String>),
    Rate(Rate),
}

/// A netblock with its treatment. The span is that of the netblock.
pub(super) struct Treated {
    pub net: IpNet,
    pub treatment: Treatment,
    pub span: Span,
}

/// The netblocks of a named limit. It does not count those on its whitelist.
pub(super) fn of_limit(s: &TableSettings, counts: CountKind, per: &KeySpec) -> NetblockTable<Option<Rate>> {
    let rate = |treatment| match treatment {
        Treatment::Rate(rate) => Some(rate),
        Treatment::Whitelist | Treatment::Blacklist(_) => None,
    };
    read(s, counts, per, false).into_iter().map(|treated| (treated.net, rate(treated.treatment))).collect()
}

/// Reads the table of a limit. `may_refuse`: a netblock may be blacklisted there.
pub(super) fn read(s: &TableSettings, counts: CountKind, per: &KeySpec, may_refuse: bool) -> Vec<Treated> {
    let mut seen: HashMap<IpNet, usize> = HashMap::new();
    let mut groups = HashMap::new();
    let mut list: Vec<Treated> = Vec::new();
    for entry in s.table("netblocks") {
        let Some(net) = net(s, &entry) else { continue };
        let Some(treatment) = treatment(s, &entry, counts) else { continue };
        let span = entry.span.clone();
        let error = |problem, remedy: &str| s.diagnostics.error::<()>(&span, problem, remedy);
        if matches!(treatment, Treatment::Blacklist(_)) && !may_refuse {
            let problem = format!("{} cannot refuse {net} whatever it does", s.owner().trim_start_matches(" of "));
            error(problem, "put it into `blacklist`, or into `[netblocks]` at the top level");
            continue;
        }
        let shared = matches!(&treatment, Treatment::Rate(rate) if rate.per != RatePer::Ip);
        if shared && !per.0.contains(&KeyField::Client) {
            s.diagnostics.warn(&span, "`per` has no effect: that of the limit does not have the client");
        }
        if let Treatment::Rate(Rate { threshold, per: RatePer::Group(group) }) = &treatment {
            let (first, offset) = *groups.entry(group.clone()).or_insert((*threshold, span.start));
            if first != *threshold {
                let (line, _) = s.diagnostics.source.place(offset);
                let problem = format!("group {} has another threshold in line {line}", quoted(group));
                error(problem, "the netblocks of a group share one counter: give all of them the same threshold");
            }
        }
        match seen.insert(net, list.len()).map(|index| &list[index]) {
            Some(other) => note_repetition(s, net, &span, &other.span, other.treatment == treatment),
            None => list.push(Treated { net, treatment, span }),
        }
    }
    list
}

/// Notes that a netblock stands at two places, with the `same` treatment or another.
pub(super) fn note_repetition(s: &TableSettings, net: IpNet, span: &Span, other: &Span, same: bool) {
    let (line, _) = s.diagnostics.source.place(other.start);
    if same {
        s.diagnostics.warn(span, format!("{net} stands in line {line} too"));
    } else {
        let problem = format!("{net} stands in line {line} too, and means something else there");
        s.diagnostics.error::<()>(span, problem, "keep one of the two");
    }
}

fn net(s: &TableSettings, entry: &SettingEntry) -> Option<IpNet> {
    if keys::find(entry.name).is_some() {
        let problem = format!("`{}` is not a netblock", entry.name);
        return s.diagnostics.error(&entry.span, problem, "it is a key: write it above the header of this table");
    }
    s.netblock(entry.name, &entry.span)
}

fn treatment(s: &TableSettings, entry: &SettingEntry, counts: CountKind) -> Option<Treatment> {
    let DeValue::Table(table) = entry.value.get_ref() else {
        return threshold(s, entry.name, entry.value, counts);
    };
    let (mut treatment, mut per, mut reason) = (None, RatePer::Ip, None);
    let mut complete = true;
    for part in settings::entries(table) {
        let right = match part.name {
            "threshold" => threshold(s, entry.name, part.value, counts).map(|found| treatment = Some(found)),
            "per" => text(s, &part).and_then(|text| rate_per(s, text, &part.value.span())).map(|found| per = found),
            "reason" => text(s, &part).map(|text| reason = Some((text, part.span.clone()))),
            name => {
                let remedy = match keys::nearest(name, ["threshold", "per", "reason"].into_iter()) {
                    Some(key) => format!("did you mean `{key}`?"),
                    None => "a netblock has a `threshold`, and may have `per` and `reason`".to_owned(),
                };
                s.diagnostics.error(&part.span, format!("unknown key {} of a netblock", quoted(name)), remedy)
            }
        };
        complete &= right.is_some();
    }
    if !complete {
        return None;
    }
    let Some(treatment) = treatment else {
        let problem = format!("netblock {} has no `threshold`", quoted(entry.name));
        return s.diagnostics.error(&entry.span, problem, "write a number, \"whitelist\" or \"blacklist\"");
    };
    if let Some((_, span)) = reason.as_ref().filter(|_| !matches!(treatment, Treatment::Blacklist(_))) {
        s.diagnostics.warn(span, "`reason` has no effect: only what is blacklisted has one");
    }
    Some(match treatment {
        Treatment::Whitelist => Treatment::Whitelist,
        Treatment::Blacklist(_) => Treatment::Blacklist(reason.and_then(|(reason, _)| list_file::reason(reason))),
        Treatment::Rate(rate) => Treatment::Rate(Rate { per, ..rate }),
    })
}

/// The treatment that a threshold stands for: a number allows each client so many hits, -1 is the whitelist and 0 the
/// blacklist.
fn threshold(s: &TableSettings, netblock: &str, toml: &Spanned<DeValue>, counts: CountKind) -> Option<Treatment> {
    match toml.get_ref() {
        DeValue::String(text) if text == "whitelist" => Some(Treatment::Whitelist),
        DeValue::String(text) if text == "blacklist" => Some(Treatment::Blacklist(None)),
        DeValue::Integer(number) if number.as_str() == "-1" => Some(Treatment::Whitelist),
        DeValue::Integer(number) if number.as_str() == "0" => Some(Treatment::Blacklist(None)),
        DeValue::String(text) if counts != CountKind::Bytes || !text.starts_with(|c: char| c.is_ascii_digit()) => {
            let problem = format!("{} is not a valid threshold", quoted(text));
            s.diagnostics.error(&toml.span(), problem, "write a number, \"whitelist\" or \"blacklist\"")
        }
        _ => {
            let threshold = amount(s, &format!("the threshold of {}", quoted(netblock)), toml, counts)?;
            Some(Treatment::Rate(Rate { threshold, per: RatePer::Ip }))
        }
    }
}

fn text<'t>(s: &TableSettings, part: &SettingEntry<'t, '_>) -> Option<&'t str> {
    match part.value.get_ref() {
        DeValue::String(text) => Some(text.as_ref()),
        other => {
            let found = with_article(other.type_str());
            let problem = format!("`{}` of a netblock is a string, not {found}", part.name);
            s.diagnostics.error(&part.value.span(), problem, "put it in quotes")
        }
    }
}

fn rate_per(s: &TableSettings, text: &str, span: &Span) -> Option<RatePer> {
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
