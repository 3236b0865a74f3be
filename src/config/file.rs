//! The TOML form: each key's type and bounds.
//!
//! `Settings` types the values, this file knows what they mean. A value that is
//! wrong is noted and its default taken, so that reading goes on to the next.

mod logging;
mod peers;
pub(super) mod places;

use std::time::Duration;

use ipnet::IpNet;
use serde_json::Value;
use toml::de::{DeTable, DeValue};

use super::error::ConfigError;
use super::keys::KEYS;
use super::remarks::quoted;
use super::settings::Settings;
use super::source::Source;
use super::{Config, Form, OnStoreFailure, Origin, Setting, StoreConfig};
use super::{netblock, sense, syntax};
use crate::policy::Limit;
use crate::policy::action::{self, Action, Part};
use crate::policy::lists::Lists;

const SECOND: Duration = Duration::from_secs(1);
const MILLISECOND: Duration = Duration::from_millis(1);
const DAY: Duration = Duration::from_secs(86_400);

/// Postfix waits ten seconds for us as our manual sets it up; the store may have half of that.
const LONGEST_STORE_TIMEOUT: Duration = Duration::from_secs(5);

/// Reads the TOML form.
pub(super) fn read(source: &Source) -> Result<Config, ConfigError> {
    let (table, errors) = DeTable::parse_recoverable(&source.text);
    if !errors.is_empty() {
        return Err(syntax::explain(source, &errors));
    }
    let mut s = Settings::new(source, table.into_inner());
    let default = Config::default();
    let top = top(&mut s, default.top());
    let inetd_log = logging::syslog(&mut s);
    let mut config = Config {
        path: Some(source.path.clone()),
        form: Form::Toml,
        lists: whitelist(&mut s).map_or(default.lists, Lists::whitelist),
        limits: vec![top],
        store: store(&mut s, default.store),
        listen: places::listen(&mut s).unwrap_or(default.listen),
        socket: places::socket(&mut s, default.socket),
        allow_peers: peers::allow_peers(&mut s).unwrap_or(default.allow_peers),
        max_connections: s.integer("max_connections", 1..=1_000_000).map_or(default.max_connections, |n| n as usize),
        log: logging::log(&mut s, default.log, &inetd_log),
        inetd_log,
        settings: Vec::new(),
        warnings: Vec::new(),
        ..default
    };
    config.limits[0].key_prefix.clone_from(&config.store.key_prefix);
    config.settings = in_force(&s, &config);
    sense::examine(&config, &s.names, &mut s.remarks);
    config.warnings = s.remarks.finish()?;
    Ok(config)
}

/// connection_shaper's limit.
fn top(s: &mut Settings, default: &Limit) -> Limit {
    let exptime =
        s.duration("exptime", SECOND..=365 * DAY, SECOND).map_or(default.exptime, |time| time.as_secs() as u32);
    Limit {
        exptime,
        forget_after: exptime,
        threshold: threshold(s).unwrap_or(default.threshold),
        ipv4_prefix_length: s.integer("ipv4_prefix_length", 1..=32).unwrap_or(32) as u8,
        ipv6_prefix_length: s.integer("ipv6_prefix_length", 1..=128).unwrap_or(64) as u8,
        action: action(s).unwrap_or_default(),
        ..default.clone()
    }
}

fn threshold(s: &mut Settings) -> Option<u32> {
    if !s.is_zero("threshold") {
        let number = s.integer("threshold", 1..=1_000_000_000)?;
        return Some(number as u32);
    }
    let remedy = "write a number from 1; to refuse certain clients whatever they do, \
                  use a blacklist: Postfix's check_client_access with REJECT";
    let span = s.span("threshold")?;
    let problem = "a `threshold` of 0 would refuse every client";
    s.remarks.wrong(&span, problem, remedy)
}

fn whitelist(s: &mut Settings) -> Option<Vec<IpNet>> {
    let list = s.list("whitelist")?;
    let mut nets = Vec::new();
    let mut spans = Vec::new();
    for (text, span) in &list {
        match netblock::parse(text) {
            Ok(block) => {
                if block.host_bits {
                    let text = format!("{} has host bits set, taken as {}", quoted(text), block.net);
                    s.remarks.odd(span, text);
                }
                nets.push(block.net);
                spans.push(span.clone());
            }
            Err((problem, remedy)) => {
                let problem = format!("{}: {problem}", quoted(text));
                s.remarks.wrong::<()>(span, problem, remedy);
            }
        }
    }
    sense::examine_whitelist(&nets, &spans, &mut s.remarks);
    Some(nets)
}

fn store(s: &mut Settings, default: StoreConfig) -> StoreConfig {
    let port = s.integer("memcached_port", 1..=65535).unwrap_or(11211) as u16;
    StoreConfig {
        servers: places::servers(s, port).unwrap_or(default.servers),
        timeout: s
            .duration("store_timeout", MILLISECOND..=LONGEST_STORE_TIMEOUT, MILLISECOND)
            .unwrap_or(default.timeout),
        on_failure: s.choice(
            "on_store_failure",
            &[("local", OnStoreFailure::Local), ("dunno", OnStoreFailure::Dunno), ("defer", OnStoreFailure::Defer)],
        ),
        key_prefix: key_prefix(s).unwrap_or(default.key_prefix),
        max_clients: s.integer("max_clients", 1000..=1_000_000_000).map_or(default.max_clients, |n| n as usize),
    }
}

fn key_prefix(s: &mut Settings) -> Option<String> {
    // memcached takes keys up to 250 bytes without spaces; the address needs the rest.
    const LONGEST: usize = 100;
    let (prefix, span) = s.string("key_prefix")?;
    if prefix.len() > LONGEST {
        let problem = "`key_prefix` is too long";
        return s.remarks.wrong(&span, problem, format!("write at most {LONGEST} characters"));
    }
    if !prefix.bytes().all(|b| b.is_ascii_graphic()) {
        let problem = "`key_prefix` has characters that a memcached key cannot have";
        return s.remarks.wrong(&span, problem, "write printable ASCII without spaces");
    }
    Some(prefix)
}

fn action(s: &mut Settings) -> Option<Action> {
    let said = |found: Option<(String, _)>, default: &str| found.map_or_else(|| default.to_owned(), |(text, _)| text);
    let action = said(s.string("action"), action::DEFAULT_ACTION);
    let text = said(s.string("text"), action::DEFAULT_TEXT);
    let code = said(s.string("enhanced_status_code"), action::DEFAULT_CODE);
    let classes = s.list("restriction_classes").unwrap_or_default();
    for (class, span) in &classes {
        let letters = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        if class.is_empty() || !class.bytes().all(letters) {
            let problem = format!("{} is no name of a restriction class", quoted(class));
            let remedy = "write a name that stands in main.cf's smtpd_restriction_classes";
            s.remarks.wrong::<()>(span, problem, remedy);
        }
    }
    let classes: Vec<String> = classes.into_iter().map(|(class, _)| class).collect();
    let error = match Action::new(&action, &text, &code, &classes) {
        Ok(action) => return Some(action),
        Err(error) => error,
    };
    let key = match error.part {
        Part::Action => "action",
        Part::Text => "text",
        Part::EnhancedStatusCode => "enhanced_status_code",
    };
    // A default can clash with what was said: then what was said is the place.
    let places = [key, "action", "enhanced_status_code", "text"];
    let span = places.into_iter().find_map(|key| s.span(key)).unwrap_or(0..0);
    s.remarks.wrong(&span, error.problem, error.remedy)
}

/// Every key with its value and where that comes from.
fn in_force(s: &Settings, config: &Config) -> Vec<Setting> {
    let said = |key: &'static str| {
        let value = s.values().get(key)?.get_ref();
        let (line, _) = s.remarks.source.place(s.name(key)?.start);
        let value = if key == "whitelist" { Setting::netblocks(config.whitelist()) } else { json(value) };
        Some(Setting { key, value, origin: Origin::Line(line) })
    };
    KEYS.iter().map(|key| said(key.name).unwrap_or_else(|| Setting::default_of(key))).collect()
}

/// The value for people and programs; those that no key takes are nothing.
fn json(value: &DeValue) -> Value {
    match value {
        DeValue::String(text) => text.as_ref().into(),
        DeValue::Integer(number) => {
            i64::from_str_radix(number.as_str(), number.radix()).map_or(Value::Null, Value::from)
        }
        DeValue::Array(items) => items.iter().map(|item| json(item.get_ref())).collect(),
        _ => Value::Null,
    }
}
