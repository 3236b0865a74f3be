//! The form of connection_shaper: lines of `key value`, kept as they are.
//!
//! Its ways are kept with it: what it did where a key is absent, and what it
//! did at all, stands in `read` and is written out by `convert`.

mod whitelist;

use std::collections::BTreeMap;

use serde_json::Value;

use super::error::ConfigError;
use super::keys::{self, KEYS};
use super::source::{Source, Span};
use super::{Config, Form, OnStoreFailure, Origin, Setting, StoreConfig};
use crate::config::diagnostics::{Diagnostics, quoted};
use crate::config::lint as sense;
use crate::config::resolve::endpoints as places;
use crate::net::address::Address;
use crate::policy::Limit;
use crate::policy::lists::Lists;

/// The five keys there were.
const ORIGINAL: [&str; 5] = ["exptime", "threshold", "memcached_server", "memcached_port", "whitelist"];

/// The form, as the first significant line tells it; `None`: there is no such line.
pub(super) fn form(text: &str) -> Option<Form> {
    let (key, value) = lines(text).next().map(|(key, value)| (&text[key], &text[value]))?;
    let word = key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    let pair = word && !value.is_empty() && !value.contains('=');
    let bare = value.is_empty() && ORIGINAL.contains(&key);
    Some(if pair || bare { Form::ConnectionShaper } else { Form::Toml })
}

/// Reads the original's form.
pub(super) fn read(source: &Source) -> Result<Config, ConfigError> {
    let mut file = File::read(source);
    let exptime = file.number("exptime", 60, 365 * 86_400);
    let threshold = file.number("threshold", 10, 1_000_000_000);
    let port = file.number("memcached_port", 11211, 65535);
    let server = file.server(port as u16);
    let whitelist = match file.values.get("whitelist").cloned() {
        Some(span) => whitelist::read(span, &file.remarks),
        None => Vec::new(),
    };
    file.examine_exptime(exptime);
    let default = Config::default();
    let mut config = Config {
        path: Some(source.path.clone()),
        form: Form::ConnectionShaper,
        limits: vec![Limit {
            exptime: exptime as u32,
            forget_after: exptime as u32,
            threshold: threshold as u32,
            // There was no notion of IPv6: its addresses counted as a whole.
            ipv6_prefix_length: 128,
            // The bare address, so that both programs share one count.
            ..Limit::top(String::new())
        }],
        // Nobody else is exempt: a loopback client is limited like any other.
        lists: Lists::whitelist(whitelist),
        store: StoreConfig {
            servers: server.into_iter().collect(),
            on_failure: Some(OnStoreFailure::Dunno),
            key_prefix: String::new(),
            ..default.store
        },
        ..default
    };
    config.settings = file.in_force(&config, exptime, threshold, port);
    sense::examine(&config, &file.names, &file.remarks);
    config.warnings = file.remarks.finish()?;
    Ok(config)
}

/// The significant lines: places of key and value, which may be empty.
fn lines(text: &str) -> impl Iterator<Item = (Span, Span)> {
    let mut offset = 0;
    text.split_inclusive('\n').filter_map(move |line| {
        let start = offset + line.len() - line.trim_start().len();
        offset += line.len();
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            return None;
        }
        let key = line.find(char::is_whitespace).unwrap_or(line.len());
        let value = line.len() - line[key..].trim_start().len();
        Some((start..start + key, start + value..start + line.len()))
    })
}

struct File<'s> {
    remarks: Diagnostics<'s>,
    names: BTreeMap<String, Span>,
    values: BTreeMap<&'static str, Span>,
}

impl<'s> File<'s> {
    /// Finds the last line of every key.
    fn read(source: &'s Source) -> Self {
        let mut file = Self { remarks: Diagnostics::new(source), names: BTreeMap::new(), values: BTreeMap::new() };
        for (key, value) in lines(&source.text) {
            file.line(key, value);
        }
        file
    }

    fn line(&mut self, name: Span, value: Span) {
        let text = self.text(&name);
        if self.text(&value).starts_with('=') || text.contains('=') {
            let remedy = "this file is read as connection_shaper's, because its first line is \
                          `key value`: write all lines so, or all with `=` as TOML \
                          (`connshaper convert` does)";
            self.remarks.error::<()>(&name, "a line with `=` among lines without", remedy);
            return;
        }
        let Some(key) = ORIGINAL.into_iter().find(|key| *key == text) else {
            let why = match keys::find(text) {
                Some(_) => "it needs the TOML form, which `connshaper convert` prints",
                None => "connection_shaper did not know it either",
            };
            self.remarks.warn(&name, format!("{} is ignored: {why}", quoted(text)));
            return;
        };
        if let Some(earlier) = self.names.insert(key.to_owned(), name) {
            self.remarks.warn(&earlier, format!("`{key}` is set again below, the last one counts"));
        }
        self.values.insert(key, value);
    }

    fn text(&self, span: &Span) -> &'s str {
        &self.remarks.source.text[span.clone()]
    }

    /// A number; absent, empty and 0 stand for the original's default.
    fn number(&mut self, key: &'static str, default: u64, most: u64) -> u64 {
        let Some(span) = self.values.get(key).cloned() else {
            return default;
        };
        let text = self.text(&span);
        match text.parse::<u64>() {
            Ok(0) => default,
            Ok(number) if number <= most && !text.starts_with('+') => number,
            _ if text.is_empty() => default,
            _ => {
                let problem = format!("`{key}` cannot be {}", quoted(text));
                let remedy = format!("write a whole number from 1 to {most}, or remove the line");
                self.remarks.error::<()>(&span, problem, remedy);
                default
            }
        }
    }

    fn server(&mut self, port: u16) -> Option<Address> {
        let said = self.values.get("memcached_server").cloned();
        let text = self.server_name();
        match places::server(text, port) {
            Ok(server) => Some(server),
            Err(remedy) => {
                let problem = format!("{} is no memcached server", quoted(text));
                self.remarks.error(&said.unwrap_or(0..0), problem, remedy)
            }
        }
    }

    fn server_name(&self) -> &'s str {
        match self.values.get("memcached_server").map(|span| self.text(span)) {
            None | Some("" | "0") => "localhost",
            Some(name) => name,
        }
    }

    fn examine_exptime(&mut self, exptime: u64) {
        const MONTH: u64 = 30 * 86_400;
        if let Some(span) = self.values.get("exptime").filter(|_| exptime > MONTH) {
            let text = "connection_shaper never counted with an exptime above 30 days, for memcached \
                        takes it as a date; here it is what it says";
            self.remarks.warn(span, text);
        }
    }

    fn in_force(&self, config: &Config, exptime: u64, threshold: u64, port: u64) -> Vec<Setting> {
        let setting = |key: &keys::Key| {
            let value: Value = match key.name {
                "exptime" => exptime.into(),
                "threshold" => threshold.into(),
                "memcached_server" => self.server_name().into(),
                "memcached_port" => port.into(),
                "whitelist" => Setting::shortened(config.lists.netblocks.iter().map(|(net, _)| net.to_string())),
                "on_store_failure" => "dunno".into(),
                "key_prefix" => "".into(),
                "ipv6_prefix_length" => 128.into(),
                _ => return Setting::default_of(key),
            };
            let line = |span: &Span| self.remarks.source.place(span.start).0;
            let origin = match self.names.get(key.name) {
                Some(span) => Origin::Line(line(span)),
                None => Origin::Form,
            };
            Setting { key: key.name, value, origin }
        };
        KEYS.iter().map(setting).collect()
    }
}
