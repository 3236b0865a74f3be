//! Every key with the value in force and where that comes from, as `connshaper check` shows it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use toml::Spanned;
use toml::Value;
use toml::de::{DeValue, ValueDeserializer};

use super::keys::{self, ConfigKey, KEYS, ValueKind};
use super::resolve::reply::default_text;
use super::settings::{TableSettings, entries};
use super::source::ConfigText;
use crate::policy::Limit;

#[derive(Clone, Debug, PartialEq)]
pub struct Effective {
    /// Every key at the top level.
    pub settings: Vec<EffectiveSetting>,
    /// The keys of each `[limit.NAME]`, in the order of the file.
    pub limits: Vec<EffectiveLimit>,
    /// The files that were included.
    pub included: Vec<PathBuf>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct EffectiveLimit {
    pub name: String,
    /// Every key that may stand in a limit.
    pub settings: Vec<EffectiveSetting>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EffectiveSetting {
    pub key: &'static str,
    /// `None`: unset.
    pub value: Option<Value>,
    #[serde(flatten)]
    pub origin: Origin,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "from", rename_all = "lowercase")]
pub enum Origin {
    Default,
    #[serde(rename = "file")]
    Line {
        line: usize,
    },
    /// In the included file of this number, from 0.
    Included {
        file: usize,
        line: usize,
    },
    /// A limit has it from the top level.
    #[serde(rename = "top level")]
    TopLevel,
    /// connection_shaper's default, which differs from ours.
    #[serde(rename = "connection_shaper")]
    ConnectionShaper,
}

impl Origin {
    /// The place at an offset of a source.
    pub(super) fn of(source: &ConfigText, offset: usize) -> Self {
        let line = source.place(offset).0;
        match source.number_of_file(offset) {
            0 => Self::Line { line },
            number => Self::Included { file: number - 1, line },
        }
    }
}

impl EffectiveSetting {
    /// The values in force of a table, which is about a limit.
    pub(super) fn all(s: &TableSettings, limit: &Limit) -> Vec<Self> {
        let keys = KEYS.iter().filter(|key| s.owner().is_empty() || key.is_of_limit());
        let setting = |key: &'static ConfigKey| {
            let origin = s.origin(key.name);
            let value = match key.name {
                "text" if origin == Origin::Default => {
                    default_text(limit.counts, &limit.per).map(Value::from).or_else(|| s.toml(key.name).map(value))
                }
                "count" if origin == Origin::Default => Some(limit.counts.into_str().into()),
                _ if matches!(key.kind, ValueKind::Netblocks | ValueKind::Clients) && origin != Origin::Default => {
                    let netblocks = s.netblocks(key.name).iter().map(|(net, _)| net.to_string());
                    let names = s.names(key.name).iter().map(|(name, _)| name.to_string());
                    Some(shortened(netblocks.chain(names).collect::<Vec<_>>().into_iter()))
                }
                "limit" => s
                    .toml("limit")
                    .map(|_| Value::Array(s.table("limit").iter().map(|limit| limit.name.into()).collect())),
                name => s.toml(name).map(value),
            };
            Self { key: key.name, value, origin }
        };
        keys.map(setting).collect()
    }

    /// Whether the key may stand in a limit.
    pub fn is_of_limit(&self) -> bool {
        keys::find(self.key).is_some_and(ConfigKey::is_of_limit)
    }

    /// The value in TOML, on one line; `-` if it is unset.
    pub fn spelled(&self) -> String {
        self.value.as_ref().map_or_else(|| "-".to_owned(), spelled)
    }
}

/// The beginning of a list. A long one was made by a program, and is better read where it stands.
fn shortened(mut list: impl ExactSizeIterator<Item = String>) -> Value {
    let shown: Vec<_> = list.by_ref().take(SHOWN).collect();
    let rest = list.len();
    Value::Array(shown.into_iter().chain((rest > 0).then(|| format!("and {rest} more"))).map(Value::String).collect())
}

const SHOWN: usize = 20;

fn value(toml: &Spanned<DeValue>) -> Value {
    let whole = |toml: &Spanned<DeValue>| {
        // A number beyond 64 bits cannot be shown. The key's own error has the bounds.
        let value = Value::deserialize(ValueDeserializer::from(toml.clone()));
        value.unwrap_or_else(|error| Value::String(error.message().to_owned()))
    };
    let DeValue::Table(table) = toml.get_ref() else { return whole(toml) };
    let entries = entries(table);
    let shown = entries.iter().take(SHOWN).map(|entry| (entry.name.to_owned(), whole(entry.value)));
    let rest = entries.len().saturating_sub(SHOWN);
    Value::Table(shown.chain((rest > 0).then(|| ("and".to_owned(), format!("{rest} more").into()))).collect())
}

/// A key as TOML has it: in quotes unless it is a bare key.
pub(super) fn spelled_key(key: &str) -> String {
    match key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-') {
        true if !key.is_empty() => key.to_owned(),
        _ => spelled(&Value::from(key)),
    }
}

/// toml itself would write a string with line ends on several lines.
pub(super) fn spelled(value: &Value) -> String {
    match value {
        Value::String(text) => serde_json::Value::from(text.as_str()).to_string(),
        Value::Array(items) => format!("[{}]", items.iter().map(spelled).collect::<Vec<_>>().join(", ")),
        Value::Table(table) => {
            let pairs: Vec<_> =
                table.iter().map(|(name, value)| format!("{} = {}", spelled_key(name), spelled(value))).collect();
            format!("{{ {} }}", pairs.join(", "))
        }
        other => other.to_string(),
    }
}
