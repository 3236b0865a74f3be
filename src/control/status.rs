//! `connshaper status`: how the daemon is.

use std::sync::atomic::Ordering;

use serde_json::{Map, Value, json};

use super::Control;
use super::columns::{cell, lasting};
use crate::net::clock::Now;
use crate::observe::terminal::Paint;
use crate::policy::overrides::OverrideKind;
use crate::store::shared::breaker::Condition;

/// All that can be told in a few numbers.
pub fn answer(control: &Control, now: Now) -> Value {
    let service = &control.service;
    let rules = service.rules.load();
    let numbers: Map<String, Value> = service
        .statistics
        .numbers()
        .map(|(name, number)| (name.to_owned(), number.load(Ordering::Relaxed).into()))
        .into_iter()
        .collect();
    let words = rules.policy.overrides().list();
    let of = |kind| words.iter().filter(|word| word.kind == kind).count();
    let history = service.rates();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "pid": std::process::id(),
        "uptime": now.monotonic.saturating_sub(control.started.monotonic) / 1000,
        "configuration": service.configured(),
        "store": {
            "kind": rules.store.name(),
            "state": rules.store.state(),
            "servers": rules.store.servers().into_iter().map(object).collect::<Vec<_>>(),
        },
        "limits": rules.policy.limits().iter().map(|limit| limit.name.as_str()).collect::<Vec<_>>(),
        "queries_per_second": history.queries_per_second,
        "refusals_per_second": history.refusals_per_second,
        "refusals": history.refusals,
        "clients": rules.store.table().len(),
        "max_clients": rules.store.table().max_clients(),
        "evictions": rules.store.table().evictions(),
        "policy_connections": control.connections.len(),
        "sessions": service.sessions.len(),
        "waiting": service.delayed.len(),
        "bans": of(OverrideKind::Ban),
        "allowances": of(OverrideKind::Allow),
        "since_start": numbers,
        "diagnosis": service.diagnosis.findings().iter().map(|finding| json!({
            "problem": finding.problem(), "remedy": finding.remedy(),
        })).collect::<Vec<_>>(),
        "suppressed_lines": service.log.suppressed(),
        "dropped_lines": service.log.dropped(),
    })
}

fn object(Condition { server, breaker, away }: Condition) -> Value {
    json!({
        "server": server,
        "away": away.is_some(),
        "breaker": breaker.name(),
        "away_seconds": away.map(|time| time.as_secs()),
    })
}

/// The same for people.
pub fn shown(answer: &Value, paint: Paint) -> String {
    let number = |name: &str| answer[name].as_u64().unwrap_or(0);
    let since = |name: &str| answer["since_start"][name].as_u64().unwrap_or(0);
    let version = answer["version"].as_str().unwrap_or_default();
    let mut text = paint.bold(&format!("connshaper {version}, up {}", lasting(number("uptime")))) + "\n";
    let mut line = |name: &str, value: String| text += &format!("  {name:14}{value}\n");
    line("store", store(&answer["store"], paint));
    for condition in answer["store"]["servers"].as_array().into_iter().flatten() {
        line("", server(condition, paint));
    }
    line("configuration", cell(&answer["configuration"]["form"]) + &path(&answer["configuration"]["path"]));
    let limits: Vec<String> = answer["limits"].as_array().into_iter().flatten().map(cell).collect();
    line("limits", limits.join(", "));
    let rate = |name: &str| answer[name].as_f64().unwrap_or(0.0);
    line(
        "requests",
        format!("{:.1} a second in the last minute, {} in all", rate("queries_per_second"), since("queries")),
    );
    line(
        "refusals",
        format!("{:.1} a second in the last minute, {} in all", rate("refusals_per_second"), since("refused")),
    );
    line(
        "sessions",
        format!("{} known, {} waiting, {} in all", number("sessions"), number("waiting"), since("sessions")),
    );
    line("connections", format!("{} of Postfix", number("policy_connections")));
    line("clients", format!("{} counted here, room for {}", number("clients"), number("max_clients")));
    line("administrator", format!("{} bans, {} allowances", number("bans"), number("allowances")));
    let warnings = answer["configuration"]["warnings"].as_array().into_iter().flatten().map(cell);
    let failed = answer["configuration"]["reload_failed"].as_str();
    let failed =
        failed.map(|error| format!("the last reload failed, the configuration before it is in force: {error}"));
    for warning in failed.into_iter().chain(warnings).chain(trouble(answer)) {
        text += &format!("{} {warning}\n", paint.warning("warning:"));
    }
    text
}

/// What is wrong though nobody configured it so.
fn trouble(answer: &Value) -> Vec<String> {
    let said = [
        ("evictions", "clients were forgotten because max_clients is reached"),
        ("dropped_lines", "log lines were lost because the logger was away or too slow"),
    ];
    let number = |name: &str| answer[name].as_u64().unwrap_or(0);
    let diagnosed = answer["diagnosis"].as_array().into_iter().flatten();
    let diagnosed = diagnosed.map(|finding| format!("{}: {}", cell(&finding["problem"]), cell(&finding["remedy"])));
    let numbers = said.iter().filter(|(name, _)| number(name) > 0);
    numbers.map(|(name, what)| format!("{} {what}", number(name))).chain(diagnosed).collect()
}

fn store(store: &Value, paint: Paint) -> String {
    match (store["kind"].as_str(), store["state"].as_str()) {
        (Some("memory"), _) => "memory of this process".to_owned(),
        (_, Some("away")) => format!("memcached, {}", paint.bad("away")),
        _ => format!("memcached, {}", paint.good("up")),
    }
}

fn server(condition: &Value, paint: Paint) -> String {
    let (server, breaker) = (cell(&condition["server"]), cell(&condition["breaker"]).replace('_', "-"));
    match condition["away_seconds"].as_u64() {
        None => format!("{server}, breaker {breaker}"),
        Some(seconds) => format!("{server}, breaker {}, away for {}", paint.bad(&breaker), lasting(seconds)),
    }
}

fn path(path: &Value) -> String {
    path.as_str().map(|path| format!(", {path}")).unwrap_or_default()
}
