//! Every key with its value and where that comes from, for people and programs.

use serde_json::{Map, Value};
use toml::de::DeValue;

use super::super::keys::{KEYS, Key, Scope};
use super::super::settings::{self, Settings};
use super::super::{LimitSettings, Origin, Setting, netblock};
use crate::config::resolve::reply::default_text;
use crate::policy::limit::Counts;

/// The keys of the top level.
pub(super) fn top(s: &Settings) -> Vec<Setting> {
    KEYS.iter()
        .map(|key| said(s, key).or_else(|| text_of(s, key)).unwrap_or_else(|| Setting::default_of(key)))
        .collect()
}

/// The keys of a named limit. What it does not say itself it may have from the `top` level.
pub(super) fn of_limit(s: &Settings, top: &Settings, name: &str) -> LimitSettings {
    let above = |key: &'static Key| {
        let setting = said(top, key).filter(|_| key.scope == Scope::Inherited)?;
        Some(Setting { origin: Origin::TopLevel, ..setting })
    };
    let setting = |key: &'static Key| {
        said(s, key).or_else(|| above(key)).or_else(|| text_of(s, key)).unwrap_or_else(|| Setting::default_of(key))
    };
    LimitSettings {
        name: name.to_owned(),
        settings: KEYS.iter().filter(|key| key.is_of_limit()).map(setting).collect(),
    }
}

fn said(s: &Settings, key: &'static Key) -> Option<Setting> {
    let value = s.value(key.name)?.get_ref();
    let (line, _) = s.diagnostics.source.place(s.name(key.name)?.start);
    let value = match (key.name, value) {
        ("whitelist" | "blacklist", DeValue::Array(list)) => {
            // As it was understood: without host bits.
            let understood =
                |text: &str| netblock::parse(text).map_or_else(|_| text.to_owned(), |block| block.net.to_string());
            Setting::shortened(list.iter().map(|item| understood(item.get_ref().as_str().unwrap_or_default())))
        }
        ("limit", DeValue::Table(table)) => settings::entries(table).iter().map(|entry| entry.name).collect(),
        (_, value) => json(value),
    };
    Some(Setting { key: key.name, value, origin: Origin::Line(line) })
}

/// The text that nobody wrote says what there was too much of.
fn text_of(s: &Settings, key: &'static Key) -> Option<Setting> {
    let said = s.value("count").filter(|_| key.name == "text")?.get_ref().as_str()?;
    let (_, counts) = Counts::WORDS.into_iter().find(|(word, _)| *word == said)?;
    Some(Setting { value: default_text(counts).into(), ..Setting::default_of(key) })
}

/// The value for people and programs; those that no key takes are nothing.
fn json(value: &DeValue) -> Value {
    /// More of a table nobody reads here.
    const SHOWN: usize = 20;
    match value {
        DeValue::String(text) => text.as_ref().into(),
        DeValue::Integer(number) => {
            i64::from_str_radix(number.as_str(), number.radix()).map_or(Value::Null, Value::from)
        }
        DeValue::Boolean(truth) => (*truth).into(),
        DeValue::Array(items) => items.iter().map(|item| json(item.get_ref())).collect(),
        DeValue::Table(table) => {
            let entries = settings::entries(table);
            let mut shown: Map<_, _> =
                entries.iter().take(SHOWN).map(|entry| (entry.name.to_owned(), json(entry.value.get_ref()))).collect();
            if entries.len() > SHOWN {
                shown.insert("and".to_owned(), format!("{} more", entries.len() - SHOWN).into());
            }
            shown.into()
        }
        _ => Value::Null,
    }
}
