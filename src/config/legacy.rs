//! The form of connection_shaper: lines of `key value`, with the original's semantics.
//!
//! The original's defaults differ from ours. A file of its
//! form is therefore converted to TOML that says so, and that is read like any other;
//! only the places in messages are those of the original file.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use ipnet::IpNet;
use toml::de::DeTable;

use super::diagnostics::{ConfigError, Diagnostics, quoted};
use super::keys::{self, ValueKind};
use super::resolve;
use super::settings::TableSettings;
use super::source::{ConfigText, Span};
use super::syntax;
use super::{Config, Form, Loaded, netblock};
use crate::store::memcached;

const ORIGINAL_KEYS: [&str; 5] = ["exptime", "threshold", "memcached_server", "memcached_port", "whitelist"];

/// The form, as the first significant line tells it; `None`: there is no such line.
pub(super) fn form(text: &str) -> Option<Form> {
    let (key, value) = lines(text).next().map(|(key, value)| (&text[key], &text[value]))?;
    let word = key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    let pair = word && !value.is_empty() && !value.contains('=');
    let bare = value.is_empty() && ORIGINAL_KEYS.contains(&key);
    Some(if pair || bare { Form::ConnectionShaper } else { Form::Toml })
}

/// Whether a text has a line of the original, or no significant line at all.
pub(super) fn is_original(text: &str) -> bool {
    let known = |key: &str| ORIGINAL_KEYS.contains(&key);
    form(text).is_none_or(|form| form == Form::ConnectionShaper && lines(text).any(|(key, _)| known(&text[key])))
}

pub(super) fn read(source: &ConfigText, before_lists: &mut dyn FnMut(&Config)) -> Result<Loaded, ConfigError> {
    let diagnostics = Diagnostics::new(source);
    let file = File::read(&diagnostics);
    let port = file.number("memcached_port", 11211);
    let whitelist = file.values.get("whitelist").map(|span| whitelist(span.clone(), &diagnostics)).unwrap_or_default();
    let nets: Vec<String> = whitelist.iter().map(|(net, _)| net.to_string()).collect();
    let mut text = format!("exptime = {}\nthreshold = {}\n", file.exptime(), file.number("threshold", 10));
    // IPv6 was unknown: its addresses were counted whole.
    text += "ipv6_prefix_length = 128\n";
    // Loopback was not exempt.
    text += &format!("whitelist = {nets:?}\n");
    text += &format!("memcached_server = {}\nmemcached_port = {port}\n", toml::Value::from(file.server(port as u16)));
    // The keys were bare addresses: both programs share a count.
    text += "on_store_failure = \"dunno\"\nkey_prefix = \"\"\n";
    let table = DeTable::parse(&text).expect("it is written so");
    let mut s = TableSettings::top(&diagnostics, table.get_ref());
    s.relocate(|key| Some((file.names.get(key)?.clone(), file.values.get(key)?.clone())));
    s.set_netblocks("whitelist", whitelist);
    let (mut loaded, _) = resolve::resolve(&s, Form::ConnectionShaper, before_lists);
    loaded.config.warnings = diagnostics.finish()?;
    Ok(loaded)
}

/// The significant lines: spans of key and value, which may be empty.
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

/// The last line of every key.
struct File<'d, 's> {
    diagnostics: &'d Diagnostics<'s>,
    names: BTreeMap<&'static str, Span>,
    values: BTreeMap<&'static str, Span>,
}

impl<'d, 's> File<'d, 's> {
    fn read(diagnostics: &'d Diagnostics<'s>) -> Self {
        let mut file = Self { diagnostics, names: BTreeMap::new(), values: BTreeMap::new() };
        for (key, value) in lines(&diagnostics.source.text) {
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
            self.diagnostics.error::<()>(&name, "a line with `=` among lines without", remedy);
            return;
        }
        let Some(key) = ORIGINAL_KEYS.into_iter().find(|key| *key == text) else {
            let why = match keys::find(text) {
                Some(_) => "it needs the TOML form, which `connshaper convert` prints",
                None => "connection_shaper did not know it either",
            };
            self.diagnostics.warn(&name, format!("{} is ignored: {why}", quoted(text)));
            return;
        };
        let value = self.without_comment(key, value);
        if syntax::has_variable(self.text(&value)) && key != "whitelist" {
            self.diagnostics.error::<()>(&value, syntax::NO_VARIABLES, syntax::WRITE_VALUE);
        }
        if let Some(earlier) = self.names.insert(key, name) {
            self.diagnostics.warn(&earlier, format!("`{key}` is set again below, the last one counts"));
        }
        self.values.insert(key, value);
    }

    /// A value without a comment behind it, which is a mistake: connection_shaper took it for a part of the value.
    fn without_comment(&self, key: &str, value: Span) -> Span {
        let text = self.text(&value);
        let Some(comment) =
            text.match_indices('#').map(|(at, _)| at).find(|at| text[..*at].ends_with(char::is_whitespace))
        else {
            return value;
        };
        let before = text[..comment].trim_end();
        let remedy = format!("write the comment in a line of its own, and here {}", quoted(&format!("{key} {before}")));
        let span = value.start + comment..value.end;
        self.diagnostics.error::<()>(&span, "this form has no comments behind values", remedy);
        value.start..value.start + before.len()
    }

    fn text(&self, span: &Span) -> &'s str {
        &self.diagnostics.source.text[span.clone()]
    }

    /// A number; absent, empty and 0 stand for the original's default.
    fn number(&self, key: &str, default: u64) -> u64 {
        let Some(span) = self.values.get(key) else { return default };
        let text = self.text(span);
        let most = match keys::find(key).map(|key| key.kind) {
            Some(ValueKind::Integer(_, most) | ValueKind::Seconds(_, most)) => most,
            _ => resolve::LARGEST_THRESHOLD,
        };
        match text.parse::<u64>() {
            Ok(0) => default,
            Ok(number) if number <= most && !text.starts_with('+') => number,
            _ if text.is_empty() => default,
            _ => {
                let remedy = format!("write a whole number from 1 to {most}, or remove the line");
                let problem = format!("`{key}` cannot be {}", quoted(text));
                self.diagnostics.error(span, problem, remedy).unwrap_or(default)
            }
        }
    }

    fn exptime(&self) -> u64 {
        const MONTH: u64 = 30 * 86_400;
        let exptime = self.number("exptime", 60);
        if let Some(span) = self.values.get("exptime").filter(|_| exptime > MONTH) {
            let text = "connection_shaper never counted with an exptime above 30 days, for memcached \
                        takes it as a date; here it is what it says";
            self.diagnostics.warn(span, text);
        }
        exptime
    }

    fn server(&self, port: u16) -> &'s str {
        const DEFAULT: &str = "localhost";
        let Some(span) = self.values.get("memcached_server") else { return DEFAULT };
        let name = self.text(span);
        if ["", "0"].contains(&name) {
            return DEFAULT;
        }
        if let Err(remedy) = memcached::settings::server(name, port) {
            self.diagnostics.error::<()>(span, format!("{} is not a valid memcached address", quoted(name)), remedy);
            return DEFAULT;
        }
        name
    }
}

/// Reads the whitelist: regular expressions between commas, taken as the netblocks their authors meant.
fn whitelist(span: Span, diagnostics: &Diagnostics) -> Vec<(IpNet, Span)> {
    let mut nets = Vec::new();
    let mut start = span.start;
    for part in diagnostics.source.text[span.clone()].split(',') {
        let begin = start + part.len() - part.trim_start().len();
        let text = part.trim();
        let entry = begin..begin + text.len();
        start += part.len() + 1;
        if text.is_empty() {
            // Empty after the last comma is usual, and meant nothing.
            if start <= span.end {
                diagnostics.warn(&entry, "an empty entry is ignored");
            }
            continue;
        }
        let Some(net) = diagnostics.noted(&entry, netblock(text)) else { continue };
        if text.contains('/') {
            diagnostics.warn(&entry, format!("connection_shaper never matched {text}; taken as {net}"));
        }
        nets.push((net, entry));
    }
    nets
}

/// The netblock that the author of a regular expression meant.
fn netblock(text: &str) -> Result<IpNet, (String, String)> {
    let problem = |what: &str| format!("{} {what}", quoted(text));
    if text.contains('/') {
        return match netblock::parse(text) {
            Ok(block) => Ok(block.net),
            Err((what, remedy)) => Err((format!("{}: {what}", quoted(text)), remedy)),
        };
    }
    // A remedy repeats nothing but what is an address.
    if text.ends_with("::") && text.parse::<Ipv6Addr>().is_ok() {
        let remedy = format!("write {text}/64, or the length that is meant");
        return Err((problem("does not say how much of an address it means"), remedy));
    }
    let plain = |text: &str| netblock::parse(text).map(|block| block.net).ok().or_else(|| netblock::beginning(text));
    if let Some(net) = plain(text) {
        return Ok(net);
    }
    let stripped = text.replace(['^', '$', '\\'], "");
    let stripped = stripped.trim_end_matches(".*").trim();
    let remedy = match plain(stripped) {
        Some(_) => format!("write {stripped}"),
        None => "write plain addresses or beginnings of them, as in 192.168.1. or 10.0.0, \
                 one entry each"
            .to_owned(),
    };
    Err((problem("is neither an address nor the beginning of one"), remedy))
}
