//! Every key there is, with its default and what it is about.
//!
//! The readers, `connshaper check`, the sample and the manual all go by this
//! table; a key that a reader asks for and this table lacks is a bug that the
//! first test to read a file finds.

/// A key of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// Its default in TOML; `None`: absent, which `about` explains.
    pub default: Option<&'static str>,
    /// What it says, in a few words.
    pub about: &'static str,
    /// Where it may stand.
    pub scope: Scope,
}

/// Where a key may stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// At the top level: it is about the whole program.
    Program,
    /// There and in every `[limit.NAME]`, which takes its default where it does not set it.
    Limit,
    /// The same, but a limit that does not set it takes the top level's value.
    Inherited,
}

const fn of(scope: Scope, name: &'static str, default: &'static str, about: &'static str) -> Key {
    let default = if default.is_empty() { None } else { Some(default) };
    Key { name, default, about, scope }
}

const fn key(name: &'static str, default: &'static str, about: &'static str) -> Key {
    of(Scope::Program, name, default, about)
}

const fn limit(name: &'static str, default: &'static str, about: &'static str) -> Key {
    of(Scope::Limit, name, default, about)
}

const fn inherited(name: &'static str, default: &'static str, about: &'static str) -> Key {
    of(Scope::Inherited, name, default, about)
}

/// Every key, in the order of the sample and the manual.
pub const KEYS: &[Key] = &[
    inherited("exptime", "60", "length of a window"),
    limit("threshold", "10", "connections a window allows"),
    limit("window", r#""fixed""#, "where a window begins and ends"),
    limit("count", r#""connections""#, "what is counted"),
    limit("per", r#""client""#, "what has a counter of its own"),
    limit("match", "", "conditions on the requests it is about; absent: none"),
    limit("unless", "", "conditions on those it is not about; absent: none"),
    inherited("ipv4_prefix_length", "32", "bits of an IPv4 address counted together"),
    inherited("ipv6_prefix_length", "64", "bits of an IPv6 address counted together"),
    limit("netblocks", "", "netblocks with a threshold of their own; absent: none"),
    limit("coalesce", "0", "hits closer together than this are one"),
    limit("count_refused", "true", "whether what is refused stays counted"),
    limit("log_only", "false", "judge, count and log, but enforce nothing"),
    limit("initial_delay", "", "wait after the first violation; absent: no delay"),
    limit("max_delay", r#""5s""#, "the longest wait"),
    limit("max_concurrent", "3", "sessions of one key that may wait at once"),
    limit("ban_time", "", "length of the first ban; absent: no bans"),
    limit("ban_threshold", "1", "violations that bring a ban"),
    limit("ban_max", "", "the longest ban; absent: ban_time"),
    limit("forget_after", "", "when violations are forgotten; absent: exptime or ban_max, the longer"),
    inherited("action", r#""DEFER_IF_PERMIT""#, "what Postfix is told over the limit"),
    inherited(
        "text",
        r#""Too many connections from {client}, try again in {left} seconds""#,
        "what the client is told over the limit",
    ),
    inherited("enhanced_status_code", r#""4.7.0""#, "status code before the text"),
    limit("stress_threshold", "", "threshold while Postfix reports stress; absent: the same"),
    inherited("stress_action", "", "action while Postfix reports stress; absent: the same"),
    key("limit", "", "further limits, a table [limit.NAME] each"),
    key("whitelist", r#"["127.0.0.0/8", "::1"]"#, "netblocks that are never limited"),
    key("whitelist_file", "", "files with more of them"),
    key("blacklist", "[]", "netblocks that are always refused"),
    key("blacklist_file", "", "files with more of them"),
    key("list_check_interval", "0", "between two looks for changed list files; 0: only at SIGHUP"),
    key("blacklist_action", r#""refuse""#, "what is done about clients on the blacklist"),
    key("blacklist_text", r#""Access denied for {client}""#, "what they are told"),
    key("max_delayed", "10", "sessions that may wait at once in all"),
    key("policy_timeout", r#""10s""#, "how long main.cf has Postfix wait for an answer"),
    key("memcached_server", "", "where to count; absent: in this process"),
    key("memcached_port", "11211", "port of servers named without one"),
    key("replicas", "1", "servers that have each key"),
    key("failover", "false", "whether the keys of a server that is away are the next one's meanwhile"),
    key("over_memory", r#""2s""#, "between two questions about a key over its limit; 0: every hit is one"),
    key("store_timeout", r#""100ms""#, "how long a request waits for memcached"),
    key("on_store_failure", r#""local""#, "what to do while memcached is away"),
    key("key_prefix", r#""connshaper:""#, "what the keys in memcached begin with"),
    key("max_clients", "1000000", "clients counted in this process at once"),
    key("state_file", "", "where they outlive a restart; absent: nowhere"),
    key("state_interval", r#""5m""#, "between two writes of it; 0: only at the end"),
    key("restriction_classes", "[]", "classes of main.cf that action may name"),
    key("listen", r#""inet:127.0.0.1:10040""#, "where Postfix asks"),
    key("socket_mode", r#""0660""#, "permissions of unix sockets"),
    key("socket_owner", "", "their owner; absent: the daemon's own"),
    key("socket_group", "", "their group; absent: the daemon's own"),
    key("allow_peers", r#"["127.0.0.0/8", "::1"]"#, "who may ask over TCP"),
    key("max_connections", "4096", "policy connections held at once"),
    key(
        "control_socket",
        "",
        "where administrators ask; absent: beside the daemon's runtime files, if systemd made a place",
    ),
    key("control_group", "", "group that may ask there; absent: only the daemon's user and root"),
    key("metrics_listen", "", "where Prometheus may ask; absent: nowhere"),
    key("log", r#""stderr""#, "where log lines go"),
    key("log_level", r#""info""#, "the least severe line that is logged"),
    key("syslog_facility", r#""mail""#, "facility of lines sent to syslog"),
    key("syslog_socket", r#""/dev/log""#, "where syslog listens"),
    key(
        "log_events",
        r#"["blacklisted", "over", "ban", "unban", "banned", "delayed", "concurrent", "log-only", "store"]"#,
        "what of clients is logged",
    ),
    key("log_interval", r#""10s""#, "between two lines about one client"),
    key("log_rate", "100", "log lines a second in all"),
    key("statistics_interval", r#""10m""#, "between two STATISTICS lines; 0: never"),
    key("ban_command", "", "run when a ban begins or is lifted; absent: nothing"),
    key("alert_command", "", "run on bans, outages and recoveries; absent: nothing"),
    key("alert_interval", r#""1m""#, "between two runs of alert_command for the same"),
];

impl Key {
    /// Whether it may stand in a `[limit.NAME]`.
    pub fn is_of_limit(&self) -> bool {
        self.scope != Scope::Program
    }
}

/// The table's entry of that name.
pub fn find(name: &str) -> Option<&'static Key> {
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
