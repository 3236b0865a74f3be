//! Whitelist, blacklist and netblocks in sentences.

use std::fmt::Display;

use ipnet::IpNet;

use crate::config::{Config, ListKind, units};
use crate::policy::limit::RatePer;
use crate::policy::lists::ListEntry;

use super::limits::amount;
use super::number;

/// More of a list nobody reads in a sentence.
const SHOWN: usize = 5;

/// Who is exempt, whose threshold differs, who is refused.
pub(crate) fn sentences(config: &Config) -> Vec<String> {
    [Some(whitelist(config)), rates(config), blacklist(config), check_interval(config)].into_iter().flatten().collect()
}

fn whitelist(config: &Config) -> String {
    match list(config, ListKind::White) {
        Some(list) => format!("Never counted nor refused: {list}."),
        None => "Nobody is exempt, loopback neither.".into(),
    }
}

fn blacklist(config: &Config) -> Option<String> {
    let list = list(config, ListKind::Black)?;
    let blacklist = &config.blacklist;
    let action = blacklist.action.keyword();
    let done = match blacklist.delay {
        None => format!("they are answered {action}"),
        Some(time) => format!(
            "they wait {}, and pass; when {} of a netblock wait already, the next is answered {action}",
            units::words(time),
            blacklist.max_concurrent
        ),
    };
    let log_only = if config.log_only { "; this is only logged" } else { "" };
    Some(format!("On the blacklist: {list}; {done}{log_only}."))
}

/// The configuration's own netblocks of a kind, and those of files.
fn list(config: &Config, kind: ListKind) -> Option<String> {
    let own = config.own_lists.as_ref().unwrap_or(&config.lists);
    let fits = |entry: &ListEntry| match entry {
        ListEntry::Whitelist => kind == ListKind::White,
        ListEntry::Blacklist(_) => kind == ListKind::Black,
        ListEntry::Rate(_) => false,
    };
    let nets = own.netblocks.iter().filter(|(_, entry)| fits(entry)).map(|(net, _)| net);
    let files = config.list_files.iter().filter(|file| file.kind == kind);
    let files =
        files.map(|file| format!("the {} of {}", number(file.netblocks, "netblock", "netblocks"), file.path.display()));
    let parts: Vec<String> = beginning(nets).into_iter().chain(files).collect();
    (!parts.is_empty()).then(|| parts.join(", and "))
}

fn beginning<'a>(mut list: impl Iterator<Item = &'a IpNet>) -> Option<String> {
    let shown: Vec<&dyn Display> = list.by_ref().take(SHOWN).map(|net| net as &dyn Display).collect();
    if shown.is_empty() {
        return None;
    }
    let shown: Vec<String> = shown.into_iter().map(ToString::to_string).collect();
    let more = match list.count() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Some(shown.join(", ") + &more)
}

/// The netblocks with thresholds of their own, and their groups.
fn rates(config: &Config) -> Option<String> {
    let own = config.own_lists.as_ref().unwrap_or(&config.lists);
    let top = config.top();
    let amount = |threshold| amount(top.counts, threshold);
    let mut parts = Vec::new();
    let mut groups: Vec<(&str, u32, usize)> = Vec::new();
    for (net, entry) in &own.netblocks {
        let ListEntry::Rate(place) = entry else { continue };
        let rate = &own.rates[place.index()];
        match &rate.per {
            RatePer::Ip => parts.push(format!("{} for {net}", amount(rate.threshold))),
            RatePer::Netblock => parts.push(format!("{} for all of {net}", amount(rate.threshold))),
            RatePer::Group(name) => match groups.iter_mut().find(|(group, ..)| group == name) {
                Some((_, _, netblocks)) => *netblocks += 1,
                None => groups.push((name, rate.threshold, 1)),
            },
        }
    }
    parts.extend(groups.into_iter().map(|(name, threshold, netblocks)| {
        format!("{} for the {} of group {name} together", amount(threshold), number(netblocks, "netblock", "netblocks"))
    }));
    let more = match parts.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    parts.truncate(SHOWN);
    (!parts.is_empty())
        .then(|| format!("Instead of {} the threshold is {}{more}.", amount(top.threshold), parts.join(", ")))
}

fn check_interval(config: &Config) -> Option<String> {
    let interval = config.list_check_interval;
    (!config.list_files.is_empty() && !interval.is_zero()).then(|| {
        format!("Every {} the list files are looked at, and read again when one has changed.", units::words(interval))
    })
}
