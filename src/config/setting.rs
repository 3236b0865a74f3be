//! What is in force, key by key, for people to read.

use serde_json::Value;

use super::keys::{self, Key};

/// One key as it is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The key.
    pub key: &'static str,
    /// Its value as TOML would have it; null: absent.
    pub value: Value,
    /// Where the value comes from.
    pub origin: Origin,
}

/// The keys of a limit as they are in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitSettings {
    /// The limit's name.
    pub name: String,
    /// Every key that may stand in a limit.
    pub settings: Vec<Setting>,
}

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// The line of the file that sets it.
    Line(usize),
    /// The top level, from which a limit has it.
    TopLevel,
    /// The ways of connection_shaper, which come with its form.
    Form,
}

impl Setting {
    pub(super) fn default_of(key: &Key) -> Self {
        let value = key.default.map_or(Value::Null, |text| {
            serde_json::from_str(text).expect("defaults are written so that JSON reads them too")
        });
        Self { key: key.name, value, origin: Origin::Default }
    }

    /// A list of netblocks as a value. Of a long one the beginning: it was made
    /// by a program, and is better read where it stands.
    pub(super) fn shortened(mut list: impl ExactSizeIterator<Item = String>) -> Value {
        const SHOWN: usize = 20;
        let shown: Vec<_> = list.by_ref().take(SHOWN).collect();
        let rest = list.len();
        shown.into_iter().chain((rest > 0).then(|| format!("and {rest} more"))).collect()
    }

    /// Whether the key may stand in a limit.
    pub fn is_of_limit(&self) -> bool {
        keys::find(self.key).is_some_and(Key::is_of_limit)
    }

    /// The value in TOML, on one line.
    pub fn spell(&self) -> String {
        spell(&self.value)
    }
}

fn spell(value: &Value) -> String {
    let key = |key: &String| match key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-') {
        true if !key.is_empty() => key.clone(),
        _ => Value::from(key.as_str()).to_string(),
    };
    match value {
        Value::Array(items) => format!("[{}]", items.iter().map(spell).collect::<Vec<_>>().join(", ")),
        Value::Object(table) => {
            let pairs: Vec<_> = table.iter().map(|(name, value)| format!("{} = {}", key(name), spell(value))).collect();
            format!("{{ {} }}", pairs.join(", "))
        }
        other => other.to_string(),
    }
}
