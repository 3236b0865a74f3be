//! Every key: where it may stand, what it takes, its default, and what it is about.
//!
//! This table, with the keys that each store has in its folder, is the only place that
//! states any of it. `settings` types values by it and takes defaults from it, and
//! `resolve` makes the settings of each module of them; tests compare it with the sample and
//! the manual.

use std::sync::LazyLock;

use ValueKind::*;

pub use crate::policy::config_key::{ConfigKey, KeyScope, ValueKind};
use crate::policy::config_key::{inherited, key, limit};
use crate::store::STORES;

/// Seconds of a day and a year.
const DAY: u64 = 86_400;
const YEAR: u64 = 365 * DAY;

/// Every key, in the order of the sample and the manual.
pub static KEYS: LazyLock<Vec<ConfigKey>> = LazyLock::new(|| {
    let of_stores = STORES.iter().flat_map(|store| store.keys);
    BEFORE_STORES.iter().chain(of_stores).chain(AFTER_STORES).copied().collect()
});

/// Those before the keys of stores, which each store has in its folder.
const BEFORE_STORES: &[ConfigKey] = &[
    inherited("exptime", Seconds(1, YEAR), "60", "length of a window"),
    limit("threshold", Threshold, "10", "hits allowed per window"),
    limit("window", String, r#""fixed""#, "fixed or sliding window, or one of the calendar"),
    limit("door", String, r#""smtp""#, "where its requests come in"),
    limit("count", String, r#""connections""#, "what is a hit"),
    limit("per", StringOrList, r#""client""#, "what has a counter of its own"),
    limit("count_absent", Boolean, "false", "whether requests that say nothing of per are counted, together"),
    limit("match", Table, "", "conditions that a request must meet; unset: none"),
    limit("unless", Table, "", "conditions that a request must not meet; unset: none"),
    inherited("ipv4_prefix_length", Integer(1, 32), "32", "bits of an IPv4 address that are counted together"),
    inherited("ipv6_prefix_length", Integer(1, 128), "64", "bits of an IPv6 address that are counted together"),
    limit("whitelist_exempts", Boolean, "", "whether the whitelist exempts from it; unset: unless per is of mail"),
    limit("netblocks", Table, "", "netblocks with a threshold of their own; unset: none"),
    limit("thresholds", Table, "", "thresholds of single logins, senders, domains; unset: none"),
    limit("thresholds_file", OneOrMore, "", "files with more of them; unset: none"),
    limit("coalesce", Milliseconds(0, 10_000), "0", "hits closer together than this count as one"),
    limit("count_refused", Boolean, "true", "whether refused hits stay counted"),
    limit("count_unsent", Boolean, "", "whether recipients of unsent messages count; unset: until a request at DATA"),
    limit("alert", Boolean, "false", "whether alert_command runs when a key goes over the limit"),
    limit("alert_threshold", Threshold, "", "hits beyond which alert_command runs before that; unset: none"),
    limit("log_only", Boolean, "false", "judge, count and log, but enforce nothing"),
    limit("initial_delay", Milliseconds(1, 60_000), "", "delay of the first violation; unset: no delays"),
    limit("max_delay", Milliseconds(1, 1_000_000), r#""5s""#, "the longest delay"),
    limit("max_concurrent", Integer(1, 1000), "3", "sessions of one key that may be delayed at once"),
    limit("ban_time", Seconds(1, YEAR), "", "length of the first ban; unset: no bans"),
    limit("ban_threshold", Integer(1, 1_000_000), "1", "violations that cause a ban"),
    limit("ban_max", Seconds(1, YEAR), "", "the longest ban; unset: ban_time"),
    limit("ban_doors", StringOrList, "", "where its bans hold; unset: its own door"),
    limit("forget_after", Seconds(1, YEAR), "", "when violations are forgotten; unset: exptime or ban_max, the longer"),
    inherited("action", String, r#""DEFER_IF_PERMIT""#, "answer to Postfix over the limit"),
    inherited(
        "text",
        String,
        r#""Too many connections from {client}, try again in {left} seconds""#,
        "text for the client over the limit",
    ),
    inherited("enhanced_status_code", String, r#""4.7.0""#, "status code before the text"),
    limit("status", Integer(400, 599), "429", "HTTP status over the limit at the web door"),
    limit("stress_threshold", Threshold, "", "threshold while Postfix reports stress; unset: the same"),
    inherited("stress_action", String, "", "action while Postfix reports stress; unset: the same"),
    key("time_zone", String, "", "time zone of calendar windows and of the report; unset: the system's"),
    key("include", Strings, "[]", "further configuration files"),
    key("ipv4_in_ipv6", Netblocks, r#"["64:ff9b::/96"]"#, "IPv6 prefixes whose addresses are taken for IPv4"),
    key("recipient_delimiter", String, r#""""#, "characters that begin an extension of a mailbox, as in main.cf"),
    key("canonical_senders", Boolean, "false", "whether BATV and SRS addresses count as their mailbox"),
    key("limit", Table, "", "further limits, a table [limit.NAME] each"),
    key("whitelist", Clients, r#"["127.0.0.0/8", "::1"]"#, "netblocks and names that are never limited"),
    key("whitelist_file", OneOrMore, "", "files with more of them; unset: none"),
    key("blacklist", Clients, "[]", "netblocks and names that are always refused"),
    key("blacklist_file", OneOrMore, "", "files with more of them; unset: none"),
    key("list_may_shrink", Boolean, "false", "whether a list file may lose more than half of its entries at a reload"),
    key("list_check_interval", Seconds(0, DAY), "0", "time between checks of list files and databases; 0: at SIGHUP"),
    key("asn_database", String, "", "MaxMind DB file with the autonomous systems of addresses; unset: none"),
    key("country_database", String, "", "MaxMind DB file with the countries of addresses; unset: none"),
    key("blacklist_action", String, r#""refuse""#, "what happens to clients on the blacklist"),
    key("blacklist_text", String, r#""Access denied for {client}""#, "text for clients on the blacklist"),
    key("max_delayed", Integer(1, 10_000), "10", "sessions that may be delayed at once in all"),
    key("policy_timeout", Seconds(3, 1000), r#""10s""#, "how long Postfix waits for an answer, as in main.cf"),
];

/// Those after the keys of stores.
const AFTER_STORES: &[ConfigKey] = &[
    key(
        "over_memory",
        Milliseconds(0, 60_000),
        r#""2s""#,
        "time between queries for a key over its limit; 0: all hits",
    ),
    key("store_timeout", Milliseconds(1, 5_000), r#""100ms""#, "how long a request waits for the store"),
    key("on_store_failure", String, r#""local""#, "what happens while the store is down"),
    key("key_prefix", String, r#""connshaper:""#, "prefix of the keys in the store"),
    key("max_clients", Integer(1000, 1_000_000_000), "1000000", "clients counted in this process at once"),
    key("state_file", String, "", "file that keeps counts across restarts; unset: none"),
    key("state_interval", Seconds(0, DAY), r#""5m""#, "time between writes of state_file; 0: only at the end"),
    key("restriction_classes", Strings, "[]", "restriction classes of main.cf that action may name"),
    key("listen", OneOrMore, r#""inet:127.0.0.1:10040""#, "sockets for Postfix"),
    key("socket_mode", String, r#""0660""#, "permissions of unix sockets"),
    key("socket_owner", String, "", "owner of unix sockets; unset: the daemon's user"),
    key("socket_group", String, "", "group of unix sockets; unset: the daemon's group"),
    key("allow_peers", Netblocks, r#"["127.0.0.0/8", "::1"]"#, "hosts that may connect over TCP"),
    key("max_connections", Integer(1, 1_000_000), "4096", "policy connections held at once"),
    key("control_socket", String, "", "socket for commands; unset: in systemd's runtime directory, if there is one"),
    key("control_group", String, "", "group that may use control_socket; unset: only the daemon's user and root"),
    key("metrics_listen", OneOrMore, "", "sockets for Prometheus; unset: none"),
    key("http_listen", OneOrMore, "", "sockets for Dovecot, web servers and programs; unset: none"),
    key("http_token_file", String, "", "file with the token that they need; unset: they need none"),
    key("trusted_proxies", Netblocks, r#"["127.0.0.0/8", "::1"]"#, "web servers that are trusted to name the client"),
    key("client_header", String, r#""X-Forwarded-For""#, "header with the client's address"),
    key("user_header", String, "", "header with the user; unset: the name in Authorization"),
    key("http_page", Boolean, "false", "whether a page shows what top shows"),
    key("log", String, r#""stderr""#, "where log lines go"),
    key("log_level", String, r#""info""#, "the least severe line that is logged"),
    key("syslog_facility", String, r#""mail""#, "facility of lines sent to syslog"),
    key("syslog_format", String, r#""rfc3164""#, "format of lines sent to syslog"),
    key("syslog_socket", String, r#""/dev/log""#, "socket of syslog"),
    key(
        "log_events",
        StringOrList,
        r#"["blacklisted", "over", "ban", "unban", "banned", "delayed", "concurrent", "log-only", "store"]"#,
        "client events that are logged",
    ),
    key("log_interval", Seconds(1, DAY), r#""10s""#, "time between two lines about one client"),
    key("log_rate", Integer(1, 100_000), "100", "log lines a second in all"),
    key("statistics_interval", Seconds(0, YEAR), r#""10m""#, "time between STATISTICS lines; 0: never"),
    key("ban_command", OneOrMore, "", "program to run when a ban begins or is lifted; unset: none"),
    key("alert_command", OneOrMore, "", "program to run on bans, alerts, outages and recoveries; unset: none"),
    key("alert_interval", Seconds(1, DAY), r#""1m""#, "time between runs of alert_command for the same event"),
];

pub fn find(name: &str) -> Option<&'static ConfigKey> {
    KEYS.iter().find(|key| key.name == name)
}

/// The one of some known words that was probably meant.
pub(super) fn nearest<'w>(name: &str, words: impl Iterator<Item = &'w str>) -> Option<&'w str> {
    let name = name.to_lowercase().replace('-', "_");
    let (word, steps) = words.map(|word| (word, distance(&name, word))).min_by_key(|(_, steps)| *steps)?;
    (steps <= word.len() / 3).then_some(word)
}

/// Letters to insert, drop or replace to make one word of the other.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    // Names longer than any key are far from all of them, whatever comes after.
    for (i, x) in a.chars().take(64).enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_pen_finds_the_key_that_was_meant() {
        let nearest = |name| nearest(name, KEYS.iter().map(|key| key.name));
        assert_eq!(nearest("treshold"), Some("threshold"));
        assert_eq!(nearest("Memcached-Servers"), Some("memcached_server"));
        assert_eq!(nearest("listens"), Some("listen"));
        assert_eq!(nearest("colour"), None);
        assert_eq!(nearest(""), None);
    }
}
