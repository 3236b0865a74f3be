//! CGI::Application::Plugin::RateLimit: the hashes of `protected_modes` and `protected_actions` as JSON.

use serde_json::{Map, Value};
use toml::Value as Toml;

use super::draft::{Draft, LimitDraft};
use super::greylist::{number, object};
use super::{ConvertError, line_of};

const GROUPS: [&str; 2] = ["protected_modes", "protected_actions"];

pub(super) fn is_it(text: &str) -> bool {
    object(text).is_ok_and(|map| {
        let limits = |map: &Map<String, Value>| {
            !map.is_empty()
                && map.values().all(|value| value.get("timeframe").is_some() && value.get("max_hits").is_some())
        };
        limits(&map) || GROUPS.iter().any(|group| map.contains_key(*group))
    })
}

pub(super) fn read(text: &str, draft: &mut Draft) -> Result<(), ConvertError> {
    let map = object(text)?;
    let grouped = GROUPS.iter().any(|group| map.contains_key(*group));
    let groups: Vec<(&str, &Map<String, Value>)> = match grouped {
        true => GROUPS.iter().filter_map(|group| Some((*group, map.get(*group)?.as_object()?))).collect(),
        false => vec![("protected_actions", &map)],
    };
    for (group, limits) in groups {
        for (name, limit) in limits {
            protected(text, group, name, limit, draft);
        }
    }
    for name in map.keys().filter(|name| grouped && !GROUPS.contains(&name.as_str())) {
        let line = line_of(text, name);
        match name.as_str() {
            "violation_mode" | "violation_callback" => {
                draft
                    .differs(line, format!("{name}: the answer is DEFER_IF_PERMIT; `action` and `text` say what else"));
            }
            "dbh" | "table" => {
                draft.missing(line, format!("{name}: counts are in the daemon's memory, or see memcached_server"))
            }
            "identity_callback" => draft.missing(line, "identity_callback: `per` says what has a counter of its own"),
            _ => draft.missing(line, name.as_str()),
        }
    }
    if draft.has_limits() {
        draft.exempt_nobody(None, "The plugin exempted no client.");
        draft.differs(
            None,
            "a hit is a request with policy_context=NAME: from main.cf's check_policy_service { ..., policy_context=NAME }, \
             or from a script by connshaper query CLIENT policy_context=NAME",
        );
    }
    Ok(())
}

/// A limit per user name, and the same per address for those without.
fn protected(text: &str, group: &str, name: &str, limit: &Value, draft: &mut Draft) {
    let line = line_of(text, name);
    let hits = limit.get("max_hits").and_then(number).filter(|hits| *hits > 0);
    let time = limit.get("timeframe").and_then(Value::as_str).and_then(seconds);
    let (Some(hits), Some(time)) = (hits, time) else {
        return draft.missing(line, format!("{name}: max_hits is not a number, or timeframe has no unit s, m or h"));
    };
    for (name_of, logged_in, per) in
        [(name.to_owned(), true, "sasl_username"), (format!("{name}_by_address"), false, "client")]
    {
        let mut draft_limit = LimitDraft::new(line, name_of, format!("{group}: {name}"));
        let wanted = [("policy_context".to_owned(), Toml::from(name)), ("sasl_username".to_owned(), logged_in.into())];
        draft_limit.set("threshold", hits).set("exptime", time).set("window", "sliding").set("count", "requests");
        draft_limit.set("per", per).set("match", Toml::Table(wanted.into_iter().collect()));
        draft_limit.set("ipv6_prefix_length", 128);
        draft.limit(draft_limit);
    }
    draft.carried(line, format!("{name}: {hits} requests in {time} seconds, per user name, else per address"));
}

fn seconds(text: &str) -> Option<i64> {
    let unit = text.chars().last()?;
    let factor = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        _ => return None,
    };
    text.trim_end_matches(unit).parse::<i64>().ok()?.checked_mul(factor)
}
