//! mod_ip_count of Apache: its directives in any file of httpd.

use super::draft::{Draft, LimitDraft};
use super::{ConvertError, lines};

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
    directives(text).any(|(_, name, _)| name.starts_with("memcachemax") || name == "memcacheblocktime")
}

/// Line, name in lower case, and argument without quotes.
fn directives(text: &str) -> impl Iterator<Item = (usize, String, &str)> {
    lines(text).filter_map(|(line, text)| {
        let (name, argument) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let name = name.to_lowercase();
        DIRECTIVES.contains(&name.as_str()).then(|| (line, name, argument.trim().trim_matches(['"', '\''])))
    })
}

pub(super) fn read(text: &str, draft: &mut Draft) -> Result<(), ConvertError> {
    let find = |name: &str| directives(text).filter(|(_, known, _)| known == name).last();
    let number = |name: &str, default: u64| -> Result<(Option<usize>, u64), ConvertError> {
        let Some((line, _, value)) = find(name) else { return Ok((None, default)) };
        let wrong = |_| (line, format!("{name} is not a whole number"), "write one".to_owned());
        Ok((Some(line), value.parse().map_err(wrong)?))
    };
    // It kept the time of every request.
    let mut limit = LimitDraft::new(None, "requests", "");
    let (line, requests) = number("memcachemaxrequests", 50)?;
    limit.set("threshold", requests as i64);
    draft.carried(line, format!("MemCacheMaxRequests: threshold = {requests}"));
    if line.is_some() {
        draft.differs(line, format!("MemCacheMaxRequests: request {requests} passes here; mod_ip_count refused it"));
    }
    let (line, seconds) = number("memcachemaxtime", 120)?;
    limit.set("exptime", seconds as i64).set("window", "sliding");
    draft.carried(line, format!("MemCacheMaxTime: exptime = {seconds}, window = \"sliding\""));
    let (line, seconds) = number("memcacheblocktime", 120)?;
    if seconds > 0 {
        limit.set("ban_time", seconds as i64);
        draft.carried(line, format!("MemCacheBlockTime: ban_time = {seconds}"));
    }
    let (line, microseconds) = number("latency", 0)?;
    let milliseconds = microseconds.div_ceil(1000);
    if milliseconds > 0 {
        limit.set("coalesce", format!("{}ms", milliseconds.min(10_000)));
        draft.carried(line, format!("Latency: coalesce = \"{}ms\"", milliseconds.min(10_000)));
    }
    draft.limit(limit);
    if let Some((line, _, code)) = find("httpresponse") {
        draft
            .differs(line, format!("HttpResponse {code} is HTTP's: clients are deferred, and `action` says what else"));
    }
    if let Some((line, _, list)) = find("urilist") {
        let why = "a connection has none; `match` chooses by recipient, sender and others";
        draft.missing(line, format!("UriList {list}: {why}"));
    }
    if let Some((line, _, value)) = find("memcachejusttesting") {
        let on = ["on", "1", "true", "yes"].contains(&value.to_lowercase().as_str());
        draft.set(Some(line), "log_only", on, "");
        draft.carried(line, format!("MemCacheJustTesting: log_only = {on}"));
    }
    exempt(find("memcacheallow").map(|(line, _, value)| (line, value)), draft);
    let (line, servers) =
        find("memcacheservers").map_or((None, "127.0.0.1:11211"), |(line, _, list)| (Some(line), list));
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
    draft.set(
        None,
        "whitelist",
        Vec::<toml::Value>::new(),
        "mod_ip_count exempted no other client, not even loopback.",
    );
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
