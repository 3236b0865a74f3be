//! Perlbal::Plugin::Throttle: lines of `SET [SERVICE] name = value`.

use super::draft::{Draft, LimitDraft};
use super::{ConvertError, FileSettings, lines};

/// The tunables of the plugin, in their order of importance; what is not among them is Perlbal's.
const OWN: [&str; 18] = [
    "throttle_threshold_seconds",
    "initial_delay",
    "max_delay",
    "max_concurrent",
    "ban_threshold",
    "ban_expiration",
    "whitelist_file",
    "blacklist_file",
    "default_action",
    "blacklist_action",
    "path_regex",
    "method_regex",
    "log_events",
    "log_only",
    "memcached_servers",
    "memcached_async_clients",
    "instance_name",
    "syslog_host",
];

/// Postfix waits 100 seconds for an answer unless main.cf says otherwise; a delay holds an smtpd process for as long.
const LONGEST_DELAY: u32 = 60;

pub(super) fn is_it(text: &str) -> bool {
    lines(text).filter_map(|(_, line)| setting(line)).any(|(name, _)| OWN.contains(&name.as_str()))
}

/// Name and value of `SET [SERVICE] name = value`, the equals sign optional.
fn setting(line: &str) -> Option<(String, String)> {
    let (word, rest) = line.split_once(char::is_whitespace)?;
    if !word.eq_ignore_ascii_case("SET") {
        return None;
    }
    let (names, value) = match rest.split_once('=') {
        Some((names, value)) => (names, value.trim().to_owned()),
        None => {
            let mut words: Vec<&str> = rest.split_whitespace().collect();
            let value = words.pop()?.to_owned();
            return Some((last_name(&words.join(" "))?, value));
        }
    };
    Some((last_name(names)?, value))
}

/// `name` of `SERVICE name`, `SERVICE.name` or `name`.
fn last_name(names: &str) -> Option<String> {
    let name = names.split(|c: char| c.is_whitespace() || c == '.').rfind(|word| !word.is_empty())?;
    Some(name.to_lowercase())
}

pub(super) fn read(text: &str, draft: &mut Draft) -> Result<(), ConvertError> {
    let all = lines(text).filter_map(|(line, text)| setting(text).map(|(name, value)| (name, (line, value))));
    let settings = FileSettings(all.clone().collect());
    let mut limit = LimitDraft::new(None, "throttle", "A client that comes back within this time is delayed.");
    let (line, seconds) = settings.number("throttle_threshold_seconds", 60)?;
    limit.set("threshold", 1).set("exptime", seconds).set("window", "sliding");
    draft
        .carried(line, format!("throttle_threshold_seconds: threshold = 1, exptime = {seconds}, window = \"sliding\""));
    delays(&settings, &mut limit, draft)?;

    let (line, most) = settings.number("max_concurrent", 2)?;
    limit.set("max_concurrent", most);
    draft.carried(line, format!("max_concurrent = {most}"));
    draft.differs(
        line,
        "max_concurrent: only sessions whose answer is delayed count, and max_delayed bounds all of them",
    );

    let (line, violations) = settings.number("ban_threshold", 0)?;
    let (expiry, seconds) = settings.number("ban_expiration", 60)?;
    if violations > 0 {
        limit.set("ban_threshold", violations).set("ban_time", seconds);
        draft.carried(line, format!("ban_threshold = {violations}"));
        draft.carried(expiry, format!("ban_expiration: ban_time = {seconds}"));
    } else if line.or(expiry).is_some() {
        draft.carried(line.or(expiry), "ban_threshold is 0: no bans");
    }
    draft.limit(limit);

    draft.exempt_nobody(None, "Perlbal exempted no other client, not even loopback.");
    lists(&settings, draft);
    filters(&settings, draft);
    log(&settings, draft);
    store(&settings, draft);
    let others = all.filter(|(name, _)| !OWN.contains(&name.as_str())).count();
    if others > 0 {
        draft.missing(None, format!("{others} other SET lines, which are Perlbal's own"));
    }
    Ok(())
}

fn delays(settings: &FileSettings, limit: &mut LimitDraft, draft: &mut Draft) -> Result<(), ConvertError> {
    let (first_line, first) = settings.number("initial_delay", 3)?;
    let (most_line, most) = settings.number("max_delay", 300)?;
    let longest = most.min(LONGEST_DELAY);
    let first = first.min(longest);
    if first == 0 {
        draft.carried(first_line, "initial_delay is 0: no delays");
        return Ok(());
    }
    limit.set("initial_delay", first).set("max_delay", longest);
    draft.carried(first_line, format!("initial_delay = {first}"));
    match longest == most {
        true => draft.carried(most_line, format!("max_delay = {longest}")),
        false => draft.differs(
            most_line,
            format!(
                "max_delay = {longest}, not {most}: a delayed answer holds an smtpd process, and Postfix waits 100 s"
            ),
        ),
    }
    let comment = "How long Postfix waits for an answer by default: write no shorter timeout in main.cf.";
    draft.set(None, "policy_timeout", 100, comment);
    Ok(())
}

fn lists(settings: &FileSettings, draft: &mut Draft) {
    for name in ["whitelist_file", "blacklist_file"] {
        if let Some((line, file)) = settings.find(name) {
            let text = format!("{name} = {file:?}; list_check_interval reads it again when it has changed");
            draft.carry(line, name, file, text);
        }
    }
    if let Some((line, action)) = settings.find("default_action") {
        if action == "allow" {
            let all = vec!["0.0.0.0/0".into(), "::/0".into()];
            draft.set(
                Some(line),
                "whitelist",
                toml::Value::Array(all),
                "default_action allow: no client is throttled.",
            );
        }
        draft.carried(line, format!("default_action {action}"));
    }
    match settings.find("blacklist_action") {
        Some((line, "throttle")) => draft.carry(line, "blacklist_action", "delay", "blacklist_action = \"delay\""),
        other => {
            draft.set(other.as_ref().map(|(line, _)| *line), "blacklist_action", "REJECT", "Perlbal answered 403.");
            draft.carried(other.map(|(line, _)| line), "blacklist_action deny: blacklist_action = \"REJECT\"");
        }
    }
}

fn filters(settings: &FileSettings, draft: &mut Draft) {
    for name in ["path_regex", "method_regex"] {
        if let Some((line, _)) = settings.find(name) {
            let why = "a mail has neither path nor method; `match` chooses by recipient, sender and other attributes";
            draft.missing(line, format!("{name}: {why}"));
        }
    }
}

fn log(settings: &FileSettings, draft: &mut Draft) {
    if let Some((line, value)) = settings.find("log_only") {
        let on = ["1", "on", "yes", "true", "enabled"].contains(&value.to_lowercase().as_str());
        draft.carry(line, "log_only", on, format!("log_only = {on}"));
    }
    if let Some((line, value)) = settings.find("log_events") {
        let words = value.split([',', ' ']).filter(|word| !word.is_empty());
        let mut events: Vec<toml::Value> = Vec::new();
        for word in words.map(str::to_lowercase) {
            match word.as_str() {
                "throttled" => events.extend(["over".into(), "delayed".into()]),
                word => events.push(word.into()),
            }
        }
        match events.iter().find(|event| ["all", "none"].contains(&event.as_str().unwrap_or(""))).cloned() {
            Some(word) => draft.set(Some(line), "log_events", word, ""),
            None => draft.set(Some(line), "log_events", events, ""),
        }
        draft.carried(line, format!("log_events {value}"));
    }
    if let Some((line, _)) = settings.find("syslog_host") {
        draft.missing(line, "syslog_host: log = \"syslog\" writes to this host's syslog, which can send it on");
    }
}

fn store(settings: &FileSettings, draft: &mut Draft) {
    let servers = settings.find("memcached_servers");
    if let Some((line, value)) = servers {
        let list = value.split([',', ' ', '\t']).filter(|server| !server.is_empty());
        let list: Vec<toml::Value> = list.map(toml::Value::from).collect();
        draft.carry(line, "memcached_server", list, format!("memcached_servers: memcached_server has {value}"));
        draft.differs(line, "memcached_servers: Perlbal's counts there are not shared, they have another form");
    }
    if let Some((line, name)) = settings.find("instance_name") {
        match servers {
            Some(_) => {
                let text = format!("instance_name: key_prefix = \"{name}:\"");
                draft.carry(line, "key_prefix", format!("{name}:"), text);
            }
            None => draft.missing(line, "instance_name: without memcached no other instance shares counts"),
        }
    }
    if let Some((line, _)) = settings.find("memcached_async_clients") {
        draft.missing(line, "memcached_async_clients: one connection to each server is enough");
    }
}
