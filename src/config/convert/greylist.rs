//! Plack::Middleware::Greylist: its arguments, or the hash `greylist` alone, as JSON.

use serde_json::{Map, Value};
use toml::Value as Toml;

use super::draft::{Draft, LimitDraft};
use super::{ConvertError, line_of};
use crate::net::netblock;

pub(super) fn is_it(text: &str) -> bool {
    match serde_json::from_str(text) {
        Ok(Value::Object(map)) => {
            map.contains_key("greylist") || map.contains_key("default_rate") || {
                !map.is_empty() && map.keys().all(|name| netblock::parse(name).is_some())
            }
        }
        _ => false,
    }
}

/// The object of a JSON file.
pub(super) fn object(text: &str) -> Result<Map<String, Value>, ConvertError> {
    match serde_json::from_str(text) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => {
            Err((1, "this is not an object of JSON".to_owned(), "write the hash as { \"name\": value }".to_owned()))
        }
        Err(error) => Err((error.line(), format!("this is not JSON: {error}"), "write the hash as JSON".to_owned())),
    }
}

pub(super) fn read(text: &str, draft: &mut Draft) -> Result<(), ConvertError> {
    let map = object(text)?;
    let alone = !map.contains_key("greylist") && !map.contains_key("default_rate");
    let empty = Map::new();
    let list = match alone {
        true => &map,
        false => map.get("greylist").and_then(Value::as_object).unwrap_or(&empty),
    };
    let rate = map.get("default_rate").filter(|_| !alone).and_then(number).filter(|rate| *rate > 0);
    let mut limit =
        LimitDraft::new(line_of(text, "default_rate"), "default", "A rate is per minute, for each address.");
    limit.set("exptime", 60).set("ipv6_prefix_length", 128);
    match rate {
        Some(rate) => {
            limit.set("threshold", rate);
            draft.carried(line_of(text, "default_rate"), format!("default_rate: threshold = {rate}"));
        }
        None => {
            draft.insert(None, "netblocks", "0.0.0.0/0", "whitelist".into());
            draft.insert(None, "netblocks", "::/0", "whitelist".into());
            draft.carried(None, "no default_rate: clients in no other netblock are on the whitelist");
        }
    }
    draft.limit(limit);
    draft.exempt_nobody(None, "The middleware exempted no other client, not even loopback.");
    draft.set(None, "blacklist_action", "REJECT", "The middleware answered 403.");
    for (name, value) in list {
        netblock(line_of(text, name), name, value, draft);
    }
    for name in map.keys().filter(|name| !alone && !["greylist", "default_rate"].contains(&name.as_str())) {
        let line = line_of(text, name);
        match name.as_str() {
            "retry_after" => draft.differs(line, "retry_after: the text says the seconds that are really left"),
            "file" | "cache" | "cache_config" => {
                draft.missing(line, format!("{name}: counts are in the daemon's memory, or see memcached_server"));
            }
            "expiry_time" => draft.missing(line, "expiry_time: counts end with their window"),
            _ => draft.missing(line, name.as_str()),
        }
    }
    draft.differs(
        None,
        "HTTP 429 is a temporary refusal here, DEFER_IF_PERMIT; each session counts once, not each request",
    );
    Ok(())
}

/// `-1`, `0`, `250`, `"whitelist"`, `"5 netblock"`, `[5, "netblock"]`.
fn netblock(line: Option<usize>, name: &str, value: &Value, draft: &mut Draft) {
    let words: Vec<String> = match value {
        Value::Array(items) => items.iter().map(word).collect(),
        value => word(value).split_whitespace().map(str::to_owned).collect(),
    };
    let treatment: Toml = match (words.first().map(String::as_str), words.get(1).map(String::as_str)) {
        (Some("whitelist" | "-1"), _) => "whitelist".into(),
        (Some("blacklist" | "0"), _) => "blacklist".into(),
        (Some(rate), per) => match (rate.parse::<i64>(), per.unwrap_or("ip")) {
            (Ok(rate), "ip") => rate.into(),
            (Ok(rate), per) => Toml::Table(
                [("threshold".to_owned(), rate.into()), ("per".to_owned(), per.into())].into_iter().collect(),
            ),
            (Err(_), _) => return draft.missing(line, format!("{name}: the rate {rate:?} is not a number")),
        },
        (None, _) => return draft.missing(line, format!("{name}: it has no rate")),
    };
    draft.carried(line, format!("{name}: {}", words.join(" ")));
    draft.insert(line, "netblocks", name, treatment);
}

fn word(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

pub(super) fn number(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str()?.trim().parse().ok())
}
