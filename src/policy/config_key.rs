//! A key of the configuration: where it may stand, what it takes, its default, and what it is about; and how modules
//! that `config` imports read the values of their own keys, without knowing of files and TOML.

use std::fmt::Display;
use std::ops::Range;
use std::path::PathBuf;

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

/// The values in force, each read by the function for the kind of its key, and where to note what is wrong with them.
pub trait KeyValues {
    fn number(&self, key: &str) -> u64;

    fn flag(&self, key: &str) -> bool;

    /// `None`: it is unset.
    fn text(&self, key: &str) -> Option<String>;

    /// The strings of a list, with their places in the file.
    fn entries(&self, key: &str) -> &[(String, Range<usize>)];

    /// Notes a mistake in the value of a key: what is wrong, and what to write.
    fn error(&self, key: &str, problem: &str, remedy: &str);

    /// The same of an entry.
    fn error_in(&self, entry: &Range<usize>, problem: &str, remedy: &str);

    /// Notes that an entry, shown as `text`, is not a valid `what`.
    fn invalid(&self, entry: &Range<usize>, text: &str, what: &str, remedy: &str);

    /// Notes that a key makes no sense, if the file sets it. The text goes on behind the key's name.
    fn warn(&self, key: &str, text: &str);

    /// The same of an entry. The text is all that is said.
    fn warn_in(&self, entry: &Range<usize>, text: &str);
}

/// Reads each entry of a list; `what` is what it should be. `Err` says what to write.
pub fn read_entries<T: PartialEq + Display>(
    s: &dyn KeyValues,
    key: &str,
    what: &str,
    read: impl Fn(&str) -> Result<T, String>,
) -> Vec<T> {
    let mut entries = Vec::new();
    for (text, span) in s.entries(key) {
        match read(text) {
            Ok(entry) if entries.contains(&entry) => s.warn_in(span, &format!("{entry} is named twice")),
            Ok(entry) => entries.push(entry),
            Err(remedy) => s.invalid(span, text, what, &remedy),
        }
    }
    entries
}

/// The path of a file, which is absolute.
pub fn read_path(s: &dyn KeyValues, key: &str, example: &str) -> Option<PathBuf> {
    let path = PathBuf::from(s.text(key)?);
    if !path.is_absolute() || path.file_name().is_none() {
        let problem = format!("`{key}` is not the absolute path of a file");
        s.error(key, &problem, &format!("write it as in `{key} = \"{example}\"`"));
    }
    Some(path)
}
