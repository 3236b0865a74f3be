//! A key of the configuration: where it may stand, what it takes, its default, and what it is about.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfigKey {
    pub name: &'static str,
    pub kind: ValueKind,
    /// In TOML. `None`: unset by default; `about` says what that means.
    pub default: Option<&'static str>,
    pub about: &'static str,
    pub scope: KeyScope,
}

impl ConfigKey {
    /// Whether it may stand in a `[limit.NAME]`.
    pub fn is_of_limit(&self) -> bool {
        self.scope != KeyScope::Program
    }
}

/// The kind of value of a key. Numbers are bounds, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueKind {
    Integer(u64, u64),
    /// A duration in whole seconds.
    Seconds(u64, u64),
    /// A duration in whole milliseconds.
    Milliseconds(u64, u64),
    Boolean,
    String,
    /// One of these strings.
    Word(&'static [&'static str]),
    /// A list of strings.
    Strings,
    /// A string, which stands for a list of one, or a list of strings.
    StringOrList,
    /// The same, but the list is not empty.
    OneOrMore,
    /// A list of addresses and netblocks.
    Netblocks,
    /// A list of addresses, netblocks and names.
    Clients,
    Table,
    /// A number, or a size where the limit counts bytes. The limit reads it.
    Threshold,
}

impl ValueKind {
    /// The kind in words, for messages.
    pub fn words(self) -> &'static str {
        use ValueKind::*;
        match self {
            Integer(..) | Threshold => "a whole number",
            Seconds(..) | Milliseconds(..) => "a duration",
            Boolean => "true or false",
            String | Word(_) => "a string",
            Table => "a table",
            Strings | StringOrList | OneOrMore | Netblocks | Clients => "a list of strings",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyScope {
    /// At the top level only: it is about the whole program.
    Program,
    /// Also in every `[limit.NAME]`, which has the default where it does not set it.
    Limit,
    /// Also in every `[limit.NAME]`, which has the top level's value where it does not set it.
    Inherited,
}

const fn of(
    scope: KeyScope,
    name: &'static str,
    kind: ValueKind,
    default: &'static str,
    about: &'static str,
) -> ConfigKey {
    let default = if default.is_empty() { None } else { Some(default) };
    ConfigKey { name, kind, default, about, scope }
}

pub const fn key(name: &'static str, kind: ValueKind, default: &'static str, about: &'static str) -> ConfigKey {
    of(KeyScope::Program, name, kind, default, about)
}

pub const fn limit(name: &'static str, kind: ValueKind, default: &'static str, about: &'static str) -> ConfigKey {
    of(KeyScope::Limit, name, kind, default, about)
}

pub const fn inherited(name: &'static str, kind: ValueKind, default: &'static str, about: &'static str) -> ConfigKey {
    of(KeyScope::Inherited, name, kind, default, about)
}
