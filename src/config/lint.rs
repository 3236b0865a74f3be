//! Warnings about settings that parse but make no sense, alone or together.

use ipnet::IpNet;

use super::diagnostics::Diagnostics;
use super::netblock;
use super::resolve::store::choices;
use super::settings::TableSettings;
use super::source::Span;
use super::{Config, OnStoreFailure};
use crate::listener::Peers;
use crate::net::address::Address;
use crate::policy::attribute::Attribute;
use crate::policy::conditions::{Pattern, Test};
use crate::policy::door::Door;
use crate::policy::key_field::KeyField;
use crate::policy::limit::{self, CountKind, Limit};
use crate::policy::lists::ListEntry;
use crate::store::STORES;
use crate::store::shared::kind::StoreKind;

/// Checks the keys of the whole program. `s` is the top level of the file.
pub(super) fn check(config: &Config, s: &TableSettings) {
    check_store(config, s);
    let mut sockets = config.listen.iter().chain(&config.metrics).chain(&config.http.listen);
    if !sockets.any(|address| matches!(address, Address::Unix(_))) {
        s.warn_each(&["socket_mode", "socket_owner", "socket_group"], "has no effect: `listen` has no unix socket");
    }
    if config.policy.limits.iter().all(|limit| limit.delay.is_none()) && config.policy.blacklist.delay.is_none() {
        s.warn("max_delayed", "has no effect: no session is delayed");
    }
    let no_lists = config.list_files.is_empty() && config.limit_files.is_empty();
    if no_lists {
        s.warn("list_may_shrink", "has no effect without a list file");
    }
    if no_lists && config.origin_files.is_empty() {
        s.warn("list_check_interval", "has no effect without a list file or a database");
    }
    check_spellings(config, s);
    check_peers(config, s);
    check_blacklist(config, s);
}

fn check_spellings(config: &Config, s: &TableSettings) {
    let limits = &config.policy.limits;
    if !limits.iter().any(|limit| limit.concerns(Attribute::is_mail_address)) {
        s.warn("recipient_delimiter", "has no effect: no limit is about senders, recipients or logins");
    }
    if !limits.iter().any(|limit| limit.concerns(Attribute::is_of_envelope)) {
        s.warn("canonical_senders", "has no effect: no limit is about senders or recipients");
    }
}

fn check_store(config: &Config, s: &TableSettings) {
    let kind = config.store.kind();
    if let Some(StoreKind { name, is_bounded, .. }) = kind {
        if !is_bounded && config.store.on_failure.is_some_and(|way| way != OnStoreFailure::Local) {
            s.warn("max_clients", &format!("has no effect: {name} counts, and nothing counts while it is down"));
        }
        s.warn("state_file", &format!("has no effect: counts are kept in {name}"));
    } else {
        let text = format!("has no effect without {}: counts are kept in this process", choices("or", "`"));
        s.warn_each(&["over_memory", "store_timeout", "on_store_failure", "key_prefix"], &text);
    }
    if config.state.file.is_none() || kind.is_some() {
        s.warn("state_interval", "has no effect: no counts are kept in a file");
    }
    for store in STORES.iter().filter(|store| kind.is_none_or(|kind| kind.name != store.name)) {
        let place = kind.map_or("this process", |kind| kind.name);
        let text = format!("has no effect without `{}`: counts are kept in {place}", store.key());
        store.keys[1..].iter().for_each(|key| s.warn(key.name, &text));
    }
}

fn check_blacklist(config: &Config, s: &TableSettings) {
    let keys = ["blacklist_action", "blacklist_text"];
    if !keys.iter().any(|key| s.sets(key)) {
        return;
    }
    let named = ["blacklist", "blacklist_file"].iter().any(|key| s.sets(key));
    if !named && !config.policy.lists.netblocks.iter().any(|(_, entry)| matches!(entry, ListEntry::Blacklist(_))) {
        s.warn_each(&keys, "has no effect: the blacklist is empty");
    }
    if has_text("blacklist_action", s) {
        s.warn("blacklist_text", "has no effect: `blacklist_action` has a text of its own");
    }
}

/// Whether an action has a text of its own.
fn has_text(key: &str, s: &TableSettings) -> bool {
    s.get::<String>(key).trim().contains(char::is_whitespace)
}

fn check_peers(config: &Config, s: &TableSettings) {
    let mut sockets = config.listen.iter().chain(&config.http.listen);
    if !sockets.any(|address| matches!(address, Address::Inet { .. })) {
        s.warn("allow_peers", "has no effect: `listen` has no TCP address");
    } else if config.allow_peers.netblocks().is_empty() {
        s.warn("allow_peers", "is empty: no host may connect over TCP");
    } else {
        for (key, addresses) in [("listen", &config.listen), ("http_listen", &config.http.listen)] {
            for address in addresses.iter().filter(|address| config.allow_peers.exclude_others_at(address)) {
                s.warn(key, &format!("has {address}, {}", Peers::EXCLUDES));
            }
        }
    }
}

/// Checks the keys of one limit.
pub(super) fn check_limit(limit: &Limit, s: &TableSettings) {
    /// More connections than one client can make: Postfix itself accepts fewer.
    const MOST_PER_SECOND: u32 = 10_000;
    if limit.counts == CountKind::Connections && limit.threshold / limit.exptime.max(1) > MOST_PER_SECOND {
        s.warn("threshold", "will never be reached: no client connects that often in `exptime`");
    }
    // Further limits may inherit it from the top level, where it has an effect then.
    let is_inherited = s.sets("limit");
    if !is_inherited && s.sets("action") && has_text("action", s) {
        s.warn_each(&["text", "enhanced_status_code"], "has no effect: `action` has a text of its own");
    }
    check_penalties(limit, s);
    if limit.stress_threshold.is_some_and(|stressed| stressed > limit.threshold) {
        s.warn("stress_threshold", "has no effect: `threshold` is lower");
    }
    check_key(limit, is_inherited, s);
    check_door(limit, is_inherited, s);
    check_conditions(limit, s);
}

fn check_penalties(limit: &Limit, s: &TableSettings) {
    let blacklist_delays = limit.name == limit::TOP && s.get::<String>("blacklist_action") == "delay";
    if limit.delay.is_none() && !blacklist_delays {
        s.warn_each(&["max_delay", "max_concurrent"], "has no effect without `initial_delay`: no session is delayed");
    }
    if limit.ban.is_none() {
        s.warn_each(
            &["ban_threshold", "ban_max", "ban_doors"],
            "has no effect without `ban_time`: no client is banned",
        );
    }
    if limit.ban.is_none() && limit.delay.is_none() {
        s.warn("forget_after", "has no effect without `initial_delay` or `ban_time`: nothing is remembered");
    }
}

/// Checks for keys that mean nothing at the door.
fn check_door(limit: &Limit, is_inherited: bool, s: &TableSettings) {
    if limit.door != Door::Web {
        s.warn("status", "has no effect: only limits with `door = \"web\"` answer in HTTP");
    }
    if limit.door == Door::Smtp || is_inherited {
        return;
    }
    s.warn_each(
        &["stress_threshold", "stress_action"],
        "has no effect: Postfix's stress is known at its own door only",
    );
    if limit.ban.is_none() || !limit.ban_doors.contains(Door::Smtp) {
        s.warn_each(&["action", "enhanced_status_code"], "has no effect: Postfix gets no answer because of this limit");
    }
}

/// Checks what has a counter of its own.
fn check_key(limit: &Limit, is_inherited: bool, s: &TableSettings) {
    let of_mail = |field: &KeyField| {
        let (KeyField::Whole(attribute) | KeyField::MailDomain(attribute)) = field else { return false };
        matches!(attribute, Attribute::Sender | Attribute::Recipient)
    };
    if limit.counts == CountKind::Connections && limit.per.0.iter().any(of_mail) {
        let text = "looks at the first sender or recipient of a connection only: \
                    set `count` to \"messages\" or \"recipients\" to have all of them counted";
        s.warn("per", text);
    }
    if limit.counts == CountKind::Clients && limit.per.0.contains(&KeyField::Client) {
        s.warn("per", "has the client, so there is one client of each key");
    }
    if !limit.per.may_be_left_out() {
        s.warn("count_absent", "has no effect: no client can leave out all of `per`");
    }
    let looks_at_client = limit.per.0.iter().any(|field| field.is_of_address()) || limit.counts == CountKind::Clients;
    if !looks_at_client && !is_inherited {
        s.warn_each(&["ipv4_prefix_length", "ipv6_prefix_length"], "has no effect: `per` does not have the client");
    }
}

/// Checks for conditions that never hold, and for protocol states in which nothing can be counted.
fn check_conditions(limit: &Limit, s: &TableSettings) {
    /// The values of `protocol_state`; the last one is not documented, but sent.
    const STATES: [&str; 10] =
        ["CONNECT", "EHLO", "HELO", "MAIL", "RCPT", "DATA", "END-OF-MESSAGE", "VRFY", "ETRN", "XCLIENT"];
    let may_be_end =
        |pattern: &Pattern| !matches!(pattern, Pattern::Text(text) if !text.eq_ignore_ascii_case("END-OF-MESSAGE"));
    let conditions = limit.conditions.all.iter().chain(&limit.conditions.none);
    for condition in conditions.filter(|condition| condition.attribute == Attribute::ProtocolState) {
        let Test::AnyOf(patterns) = &condition.test else { continue };
        for pattern in patterns {
            let Pattern::Text(text) = pattern else { continue };
            let required = limit.conditions.all.contains(condition);
            if required && limit.counts == CountKind::Bytes && !patterns.iter().any(may_be_end) {
                s.warn("match", "is never fulfilled where bytes are known: that is at END-OF-MESSAGE");
            }
            if !STATES.iter().any(|state| state.eq_ignore_ascii_case(text)) {
                let key = if required { "match" } else { "unless" };
                let states = STATES.join(", ");
                s.warn(key, &format!("names a `protocol_state` that there is not: the states are {states}"));
            }
        }
    }
    let exclusive = limit.conditions.none.iter().any(|condition| limit.conditions.all.contains(condition));
    if exclusive {
        s.warn("unless", "has a condition that is in `match` too, so the limit is about nothing");
    }
}

/// Checks for limits that do exactly the same. `spans` are those of the names of all but the first.
pub(super) fn check_equal_limits(config: &Config, spans: &[Span], diagnostics: &Diagnostics) {
    let unnamed = |limit: &Limit| Limit { name: String::new(), key_prefix: String::new(), ..limit.clone() };
    let limits: Vec<Limit> = config.policy.limits.iter().map(unnamed).collect();
    // The top level's netblocks are not part of its limit.
    let first = usize::from(!config.policy.lists.rates.is_empty());
    for (index, limit) in limits.iter().enumerate().skip(first + 1) {
        if let Some(earlier) = (first..index).find(|earlier| limits[*earlier] == *limit) {
            let (name, earlier) = (&config.policy.limits[index].name, &config.policy.limits[earlier].name);
            let text = format!("limit `{name}` says the same as `{earlier}`, so it has no effect");
            diagnostics.warn(&spans[index - 1], text);
        }
    }
}

/// Checks for entries that add nothing, or too much. `does` is what the list does to its clients.
pub(super) fn check_list(list: &[(IpNet, Span)], does: &str, diagnostics: &Diagnostics) {
    /// A longer list was made by a program, and is not read entry by entry.
    const LONGEST_READ: usize = 10_000;
    let read: &[_] = if list.len() > LONGEST_READ { &[] } else { list };
    let nets: Vec<IpNet> = read.iter().map(|(net, _)| *net).collect();
    for (index, cover) in netblock::covered(&nets) {
        if diagnostics.is_full() {
            break;
        }
        let (line, _) = diagnostics.source.place(list[cover].1.start);
        let text = format!("{} is covered by {} in line {line}", nets[index], nets[cover]);
        diagnostics.warn(&list[index].1, text);
    }
    check_whole_families(list, |index| list[index].1.clone(), does, diagnostics);
}

/// Checks for entries that cover every client.
pub(super) fn check_whole_families<T>(
    list: &[(IpNet, T)],
    span: impl Fn(usize) -> Span,
    does: &str,
    diagnostics: &Diagnostics,
) {
    for (index, (net, _)) in list.iter().enumerate().filter(|(_, (net, _))| net.prefix_len() == 0) {
        let family = if net.addr().is_ipv4() { "IPv4" } else { "IPv6" };
        diagnostics.warn(&span(index), format!("{net} {does} every {family} client"));
    }
}
