//! What is in force, key by key, for people to read.

use ipnet::IpNet;
use serde_json::Value;

use super::keys::Key;

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

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// The line of the file that sets it.
    Line(usize),
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
    pub(super) fn netblocks<'a>(list: impl Iterator<Item = &'a IpNet>) -> Value {
        const SHOWN: usize = 20;
        let mut list = list.fuse();
        let shown: Vec<_> = list.by_ref().take(SHOWN).map(IpNet::to_string).collect();
        let (shown, rest) = (shown.into_iter(), list.count());
        shown.chain((rest > 0).then(|| format!("and {rest} more"))).collect()
    }

    /// The value in TOML, on one line.
    pub fn spell(&self) -> String {
        let Value::Array(items) = &self.value else {
            return self.value.to_string();
        };
        let items: Vec<String> = items.iter().map(Value::to_string).collect();
        format!("[{}]", items.join(", "))
    }
}
