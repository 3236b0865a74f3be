//! mod_ip_count of Apache: its directives in any file of httpd.

use super::draft::{Draft, LimitDraft};
use super::{ConvertError, FileSettings, lines};

const DIRECTIVES: [&str; 9] = [
    "memcacheservers",
    "memcachemaxrequests",
    "memcachemaxtime",
    "memcacheblocktime",
    "memcacheallow",
    "memcachejusttesting",
    "urilist",
    "latency",
    "httpresponse",
];

pub(super) fn is_it(text: &str) -> bool {
    directives(text).any(|(name, _)| name.starts_with("memcachemax") || name == "memcacheblocktime")
}

/// Name in lower case, line, and argument without quotes.
fn directives(text: &str) -> impl Iterator<Item = (String, (usize, String))> {
    lines(text).filter_map(|(line, text)| {
        let (name, argument) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let name = name.to_lowercase();
        let argument = argument.trim().trim_matches(['"', '\'']).to_owned();
        DIRECTIVES.contains(&name.as_str()).then_some((name, (line, argument)))
    })
}

pub(super) fn read(text: &str, draft: &mut Draft) -> Result<(), ConvertError> {
    let settings = FileSettings(directives(text).collect());
    // mod_ip_count kept the time of every request.
    let mut limit = LimitDraft::new(None, "requests", "");
    let (line, requests) = settings.number("memcachemaxrequests", 50)?;
    limit.set("threshold", requests);
    draft.carried(line, format!("MemCacheMaxRequests: threshold = {requests}"));
    if line.is_some() {
        draft.differs(line, format!("MemCacheMaxRequests: request {requests} passes here; mod_ip_count refused it"));
    }
    let (line, seconds) = settings.number("memcachemaxtime", 120)?;
    limit.set("exptime", seconds).set("window", "sliding");
    draft.carried(line, format!("MemCacheMaxTime: exptime = {seconds}, window = \"sliding\""));
    let (line, seconds) = settings.number("memcacheblocktime", 120)?;
    if seconds > 0 {
        limit.set("ban_time", seconds);
        draft.carried(line, format!("MemCacheBlockTime: ban_time = {seconds}"));
    }
    let (line, microseconds) = settings.number("latency", 0)?;
    let milliseconds = microseconds.div_ceil(1000);
    if milliseconds > 0 {
        limit.set("coalesce", format!("{}ms", milliseconds.min(10_000)));
        draft.carried(line, format!("Latency: coalesce = \"{}ms\"", milliseconds.min(10_000)));
    }
    draft.limit(limit);
    if let Some((line, code)) = settings.find("httpresponse") {
        draft
            .differs(line, format!("HttpResponse {code} is HTTP's: clients are deferred, and `action` says what else"));
    }
    if let Some((line, list)) = settings.find("urilist") {
        let why = "a connection has none; `match` chooses by recipient, sender and others";
        draft.missing(line, format!("UriList {list}: {why}"));
    }
    if let Some((line, value)) = settings.find("memcachejusttesting") {
        let on = ["on", "1", "true", "yes"].contains(&value.to_lowercase().as_str());
        draft.carry(line, "log_only", on, format!("MemCacheJustTesting: log_only = {on}"));
    }
    exempt(settings.find("memcacheallow"), draft);
    let servers = settings.find("memcacheservers");
    let (line, servers) = servers.map_or((None, "127.0.0.1:11211"), |(line, list)| (Some(line), list));
    let list: Vec<toml::Value> = servers.split_whitespace().map(toml::Value::from).collect();
    let comment = if line.is_none() { "mod_ip_count asked this server when none was named." } else { "" };
    draft.set(line, "memcached_server", list, comment);
    draft.carried(line, format!("MemCacheServers: memcached_server has {servers}"));
    draft.differs(line, "MemCacheServers: the counts of mod_ip_count there are not shared, they have another form");
    let comment = "mod_ip_count let everyone pass while memcached was away.";
    draft.set(None, "on_store_failure", "dunno", comment);
    Ok(())
}

fn exempt(allow: Option<(usize, &str)>, draft: &mut Draft) {
    draft.exempt_nobody(None, "mod_ip_count exempted no other client, not even loopback.");
    let Some((line, list)) = allow else { return };
    for word in list.split_whitespace() {
        match word.split_once('=') {
            Some((kind, _)) => draft.missing(line, format!("MemCacheAllow {word}: mail has no {kind} of Apache")),
            None => {
                draft.push(Some(line), "whitelist", word, "");
                draft.carried(line, format!("MemCacheAllow: whitelist has {word}"));
            }
        }
    }
}
