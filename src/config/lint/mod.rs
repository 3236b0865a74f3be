//! What parses but makes no sense: warnings about settings that do not fit together.

mod limit;

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::netblock;
use super::source::Span;
use super::{Config, OnStoreFailure};
use crate::config::diagnostics::Diagnostics;
use crate::listener::Peers;
use crate::net::address::Address;
use crate::policy::lists::ListEntry;
pub(super) use limit::{examine_equals, examine_limit};

/// Looks at the keys a file sets, knowing what all of them come to.
pub(super) fn examine(config: &Config, said: &BTreeMap<String, Span>, remarks: &Diagnostics) {
    let odd = |key: &str, text: &str| {
        if let Some(span) = said.get(key) {
            remarks.warn(span, format!("`{key}` {text}"));
        }
    };
    if config.store.servers.is_empty() {
        let keys = ["memcached_port", "over_memory", "store_timeout", "on_store_failure", "key_prefix"];
        for key in keys {
            odd(key, "has no effect without `memcached_server`: counts are kept in this process");
        }
    } else if config.store.on_failure.is_some_and(|way| way != OnStoreFailure::Local) {
        odd("max_clients", "has no effect: memcached counts, and nothing counts while it is away");
    }
    if !config.store.servers.is_empty() {
        odd("state_file", "has no effect: counts are kept in memcached");
    }
    if config.state.file.is_none() || !config.store.servers.is_empty() {
        odd("state_interval", "has no effect: no counts are kept in a file");
    }
    if config.store.servers.len() <= config.store.replicas {
        odd("failover", "has no effect: no server is left that could have the keys of another");
    }
    if !config.store.servers.is_empty() && !uses_port(config) {
        odd("memcached_port", "has no effect: every server has a port of its own or none");
    }
    if !config.listen.iter().any(|place| matches!(place, Address::Unix(_))) {
        for key in ["socket_mode", "socket_owner", "socket_group"] {
            odd(key, "has no effect: `listen` has no unix socket");
        }
    }
    let waits = config.limits.iter().any(|limit| limit.delay.is_some()) || config.blacklist.delay.is_some();
    if !waits {
        odd("max_delayed", "has no effect: nobody waits");
    }
    if config.list_files.is_empty() {
        odd("list_check_interval", "has no effect without `whitelist_file` or `blacklist_file`");
    }
    examine_peers(config, &odd);
    examine_blacklist(config, said, odd);
}

fn examine_blacklist(config: &Config, said: &BTreeMap<String, Span>, odd: impl Fn(&str, &str)) {
    let keys = ["blacklist_action", "blacklist_text"];
    if !keys.iter().any(|key| said.contains_key(*key)) {
        return;
    }
    let named = ["blacklist", "blacklist_file"].iter().any(|key| said.contains_key(*key));
    if !named && !config.lists.netblocks.iter().any(|(_, entry)| matches!(entry, ListEntry::Blacklist(_))) {
        for key in keys {
            odd(key, "has no effect: nobody is on the blacklist");
        }
    }
    let action = config.setting("blacklist_action").as_str().unwrap_or_default();
    if action.trim().contains(char::is_whitespace) {
        odd("blacklist_text", "has no effect: `blacklist_action` has a text of its own");
    }
}

fn examine_peers(config: &Config, odd: &impl Fn(&str, &str)) {
    if !config.listen.iter().any(|place| matches!(place, Address::Inet { .. })) {
        odd("allow_peers", "has no effect: `listen` has no TCP address");
    } else if config.allow_peers.netblocks().is_empty() {
        odd("allow_peers", "is empty: nobody may ask over TCP");
    } else {
        for place in config.listen.iter().filter(|place| config.allow_peers.exclude_others_at(place)) {
            odd("listen", &format!("has {place}, {}", Peers::EXCLUDES));
        }
    }
}

/// A longer list was made by a program, and nobody reads it entry by entry.
const LONGEST_READ: usize = 10_000;

/// Looks for entries that add nothing, or too much. `does` is what the list does to its clients.
pub(super) fn examine_list(list: &[(IpNet, Span)], does: &str, remarks: &Diagnostics) {
    let nets: Vec<IpNet> = list.iter().map(|(net, _)| *net).collect();
    let read = &nets[..if nets.len() > LONGEST_READ { 0 } else { nets.len() }];
    for (place, cover) in netblock::covered(read) {
        if remarks.is_full() {
            break;
        }
        let (line, _) = remarks.source.place(list[cover].1.start);
        let text = format!("{} is covered by {} in line {line}", nets[place], nets[cover]);
        remarks.warn(&list[place].1, text);
    }
    examine_whole_families(list, |place| list[place].1.clone(), does, remarks);
}

/// Looks for entries that are about everyone.
pub(super) fn examine_whole_families<T>(
    list: &[(IpNet, T)],
    span: impl Fn(usize) -> Span,
    does: &str,
    remarks: &Diagnostics,
) {
    for (place, (net, _)) in list.iter().enumerate().filter(|(_, (net, _))| net.prefix_len() == 0) {
        let family = if net.addr().is_ipv4() { "IPv4" } else { "IPv6" };
        remarks.warn(&span(place), format!("{net} {does} every {family} client"));
    }
}

fn uses_port(config: &Config) -> bool {
    let port = config.setting("memcached_port").as_u64();
    let same = |server: &Address| matches!(server, Address::Inet { port: p, .. } if Some(u64::from(*p)) == port);
    config.store.servers.iter().any(same)
}
