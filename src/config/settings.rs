//! The values of one table of a TOML file, typed and complete.
//!
//! [`KEYS`] says what each key takes and its default. All values are typed in one loop over
//! toml's own tree instead of a derived `Deserialize`: so every value keeps its span, and
//! one run finds every mistake, not only the first.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

use ipnet::IpNet;
use strum::VariantArray;
use toml::Spanned;
use toml::de::{DeArray, DeString, DeTable, DeValue};

use super::diagnostics::{Diagnostics, quoted};
use super::effective::Origin;
use super::keys::{self, ConfigKey, KEYS, KeyScope};
use super::source::Span;
use crate::policy::config_key::KeyValues;
use crate::policy::name_patterns::NamePattern;

/// Every default as the line of a file that sets it, so that defaults are typed like any other value.
static DEFAULTS: LazyLock<DeTable<'static>> = LazyLock::new(|| {
    static TEXT: LazyLock<String> = LazyLock::new(|| {
        let line = |key: &ConfigKey| Some(format!("{} = {}\n", key.name, key.default?));
        KEYS.iter().filter_map(line).collect()
    });
    DeTable::parse(&TEXT).expect("defaults are TOML").into_inner()
});

/// The values of the top level or of a limit. Mistakes are noted in the diagnostics of their file.
pub(super) struct TableSettings<'t, 's> {
    pub diagnostics: &'t Diagnostics<'s>,
    /// The limit, as messages add it to a key; empty at the top level.
    owner: String,
    values: BTreeMap<&'static str, Setting<'t, 's>>,
    /// The spans of name and value of every key that this table sets, even to a wrong value.
    spans: BTreeMap<&'static str, (Span, Span)>,
}

#[derive(Clone)]
struct Setting<'t, 's> {
    value: Value<'t, 's>,
    toml: &'t Spanned<DeValue<'s>>,
    origin: Origin,
}

/// A value of one of the [`Kind`]s.
#[derive(Clone)]
pub(super) enum Value<'t, 's> {
    Integer(u64),
    Duration(Duration),
    Boolean(bool),
    String(String),
    Strings(Vec<(String, Span)>),
    Netblocks(Vec<(IpNet, Span)>),
    /// Netblocks, and names.
    Clients(Vec<(IpNet, Span)>, Vec<(NamePattern, Span)>),
    Table(&'t DeTable<'s>),
    Threshold,
}

impl<'t, 's> TableSettings<'t, 's> {
    /// The top level of a file.
    pub fn top(diagnostics: &'t Diagnostics<'s>, table: &'t DeTable<'s>) -> Self {
        Self::read(diagnostics, String::new(), table, None)
    }

    /// The limit of this name in the same file.
    pub fn limit(&self, name: &str, table: &'t DeTable<'s>) -> Self {
        Self::read(self.diagnostics, format!(" of limit `{name}`"), table, Some(self))
    }

    fn read(diagnostics: &'t Diagnostics<'s>, owner: String, table: &'t DeTable<'s>, top: Option<&Self>) -> Self {
        let mut settings = Self { diagnostics, owner, values: BTreeMap::new(), spans: BTreeMap::new() };
        let belongs_here = |key: &&ConfigKey| top.is_none() || key.is_of_limit();
        for (name, _) in table {
            if !KEYS.iter().filter(belongs_here).any(|key| key.name == name.get_ref()) {
                settings.refuse(name.get_ref(), &name.span(), belongs_here);
            }
        }
        for key in KEYS.iter().filter(belongs_here) {
            if let Some((name, toml)) = table.get_key_value(key.name) {
                settings.spans.insert(key.name, (name.span(), toml.span()));
                // A wrong value is noted, and the next one that would be in force stands in for it.
                if let Some(value) = settings.typed(key, toml) {
                    let origin = Origin::of(diagnostics.source, name.span().start);
                    settings.values.insert(key.name, Setting { value, toml, origin });
                    continue;
                }
            }
            let above = top.and_then(|top| top.values.get(key.name)).filter(|_| key.scope == KeyScope::Inherited);
            if let Some(setting) = above {
                let origin = if setting.origin == Origin::Default { Origin::Default } else { Origin::TopLevel };
                settings.values.insert(key.name, Setting { origin, ..setting.clone() });
            } else if let Some(toml) = DEFAULTS.get(key.name) {
                let value = settings.typed(key, toml).expect("a default is of its key's kind");
                settings.values.insert(key.name, Setting { value, toml, origin: Origin::Default });
            }
        }
        settings
    }

    /// Takes the values for those of another file, from which the table was made: `place` gives the spans of name and
    /// value there of the keys that it sets itself.
    pub fn relocate(&mut self, place: impl Fn(&str) -> Option<(Span, Span)>) {
        self.spans.clear();
        for (key, setting) in self.values.iter_mut().filter(|(_, setting)| setting.origin != Origin::Default) {
            setting.origin = Origin::ConnectionShaper;
            if let Some((name, value)) = place(key) {
                setting.origin = Origin::Line { line: self.diagnostics.source.place(name.start).0 };
                self.spans.insert(*key, (name, value));
            }
        }
    }

    /// Replaces the netblocks of a list by the same with other spans.
    pub fn set_netblocks(&mut self, key: &str, netblocks: Vec<(IpNet, Span)>) {
        if let Some(setting) = self.values.get_mut(key) {
            setting.value = Value::Netblocks(netblocks);
        }
    }

    fn refuse(&self, name: &str, span: &Span, belongs_here: impl Fn(&&ConfigKey) -> bool) {
        if keys::find(name).is_some() {
            // A key below a table's header belongs to the table, which is easily forgotten.
            let problem = format!("`{name}` is not a key{}", self.owner);
            let remedy = "write it above the first `[table]`, where the keys of the whole program stand";
            self.diagnostics.error::<()>(span, problem, remedy);
            return;
        }
        let remedy = match keys::nearest(name, KEYS.iter().filter(belongs_here).map(|key| key.name)) {
            Some(key) => format!("did you mean `{key}`?"),
            None => "remove it; connshaper.toml(5) lists every key".to_owned(),
        };
        let problem = format!("unknown key {}{}", quoted(name), self.owner);
        self.diagnostics.error::<()>(span, problem, remedy);
    }

    /// The value in force. `T` fits the key's kind, and is an `Option` where the key has no default.
    pub fn get<T: FromValue>(&self, key: &str) -> T {
        T::from_value(key, self.setting(key).map(|setting| setting.value.clone()))
    }

    /// The entries of a list, with their spans if the list is this file's own.
    pub fn strings(&self, key: &str) -> Option<&[(String, Span)]> {
        match &self.setting(key)?.value {
            Value::Strings(list) => Some(list),
            _ => unreachable!("{key} is not a list of strings"),
        }
    }

    /// The netblocks of a list, likewise.
    pub fn netblocks(&self, key: &str) -> &[(IpNet, Span)] {
        match self.setting(key).map(|setting| &setting.value) {
            Some(Value::Netblocks(list) | Value::Clients(list, _)) => list,
            _ => unreachable!("{key} is not a list of netblocks"),
        }
    }

    /// The names of a list, likewise.
    pub fn names(&self, key: &str) -> &[(NamePattern, Span)] {
        match self.setting(key).map(|setting| &setting.value) {
            Some(Value::Clients(_, names)) => names,
            _ => &[],
        }
    }

    /// The entries of a table, in the order of the file.
    pub fn table(&self, key: &str) -> Vec<SettingEntry<'t, 's>> {
        match self.setting(key).map(|setting| &setting.value) {
            Some(Value::Table(table)) => entries(table),
            None => Vec::new(),
            _ => unreachable!("{key} is not a table"),
        }
    }

    /// The value as it stands in the file, or the default.
    pub fn toml(&self, key: &str) -> Option<&'t Spanned<DeValue<'s>>> {
        self.setting(key).map(|setting| setting.toml)
    }

    /// One word of a few.
    pub fn choice<T: Clone>(&self, key: &'static str, words: &[(&str, T)]) -> T {
        let text: String = self.get(key);
        let find = |text: &str| words.iter().find(|(word, _)| *word == text).map(|(_, choice)| choice.clone());
        find(&text).unwrap_or_else(|| {
            self.refuse_word::<()>(key, &text, words.iter().map(|(word, _)| word));
            find(default_word(key)).expect("the default is one of the words")
        })
    }

    /// One of the words of an enum.
    pub fn variant<T: VariantArray + Copy + Into<&'static str>>(&self, key: &'static str) -> T {
        let words: Vec<_> = T::VARIANTS.iter().map(|variant| ((*variant).into(), *variant)).collect();
        self.choice(key, &words)
    }

    /// Notes that a key takes other words.
    pub fn refuse_word<'w, T>(&self, key: &str, word: &str, known: impl Iterator<Item = &'w &'w str>) -> Option<T> {
        let known: Vec<String> = known.map(|word| format!("\"{word}\"")).collect();
        let problem = format!("{} cannot be {}", self.named(key), quoted(word));
        self.error(key, problem, format!("write {}", known.join(" or ")))
    }

    fn setting(&self, key: &str) -> Option<&Setting<'t, 's>> {
        debug_assert!(keys::find(key).is_some(), "{key} is not in the table");
        self.values.get(key)
    }

    /// The origin of the value in force.
    pub fn origin(&self, key: &str) -> Origin {
        self.setting(key).map_or(Origin::Default, |setting| setting.origin)
    }

    /// Whether this table sets the key, to whatever value.
    pub fn sets(&self, key: &str) -> bool {
        self.spans.contains_key(key)
    }

    /// The span of a key's name, if this table sets it.
    pub fn name_span(&self, key: &str) -> Option<Span> {
        self.spans.get(key).map(|(name, _)| name.clone())
    }

    /// The span of a key's value, if this table sets it.
    pub fn value_span(&self, key: &str) -> Option<Span> {
        self.spans.get(key).map(|(_, value)| value.clone())
    }

    /// The span of a value that is known not to be a default.
    pub fn span(&self, key: &str) -> Span {
        self.value_span(key).unwrap_or_default()
    }

    /// A key as messages name it.
    pub fn named(&self, key: &str) -> String {
        format!("`{key}`{}", self.owner)
    }

    /// The limit, as messages add it to a key.
    pub fn owner(&self) -> &str {
        &self.owner
    }

    /// Notes a mistake in the value of a key.
    pub fn error<T>(&self, key: &str, problem: impl Into<String>, remedy: impl Into<String>) -> Option<T> {
        self.diagnostics.error(&self.span(key), problem, remedy)
    }

    /// Notes that a key makes no sense, if this table sets it.
    pub fn warn(&self, key: &str, text: &str) {
        if let Some(span) = self.name_span(key) {
            self.diagnostics.warn(&span, format!("{} {text}", self.named(key)));
        }
    }

    /// The same for several keys.
    pub fn warn_each(&self, keys: &[&str], text: &str) {
        keys.iter().for_each(|key| self.warn(key, text));
    }
}

impl KeyValues for TableSettings<'_, '_> {
    fn number(&self, key: &str) -> u64 {
        self.get(key)
    }

    fn flag(&self, key: &str) -> bool {
        self.get(key)
    }

    fn text(&self, key: &str) -> Option<String> {
        self.get(key)
    }

    fn entries(&self, key: &str) -> &[(String, Span)] {
        self.strings(key).unwrap_or_default()
    }

    fn error(&self, key: &str, problem: &str, remedy: &str) {
        self.error::<()>(key, problem, remedy);
    }

    fn error_in(&self, entry: &Span, problem: &str, remedy: &str) {
        self.diagnostics.error::<()>(entry, problem, remedy);
    }

    fn invalid(&self, entry: &Span, text: &str, what: &str, remedy: &str) {
        self.diagnostics.error::<()>(entry, format!("{} is not a valid {what}", quoted(text)), remedy);
    }

    fn warn(&self, key: &str, text: &str) {
        self.warn(key, text);
    }

    fn warn_in(&self, entry: &Span, text: &str) {
        self.diagnostics.warn(entry, text);
    }
}

/// The default of a key that takes a list.
pub(super) fn default_list(key: &ConfigKey) -> Option<DeArray<'static>> {
    DEFAULTS.get(key.name).and_then(|default| default.get_ref().as_array()).cloned()
}

/// The default of a key that takes a word.
pub(super) fn default_word(key: &str) -> &'static str {
    DEFAULTS.get(key).and_then(|default| default.get_ref().as_str()).expect("the key has a default that is a word")
}

/// A type that values of a kind are read as.
pub(super) trait FromValue: Sized {
    fn from_value(key: &str, value: Option<Value>) -> Self;
}

macro_rules! from_value {
    ($($kind:ident: $($type:ty),+;)+) => { $($(
        impl FromValue for $type {
            fn from_value(key: &str, value: Option<Value>) -> Self {
                match value {
                    Some(Value::$kind(value)) => value as $type,
                    _ => unreachable!("{key} is used as what it is not, or has no default"),
                }
            }
        }
    )+)+ };
}

from_value! {
    Integer: u8, u16, u32, u64, usize;
    Duration: Duration;
    Boolean: bool;
    String: String;
}

impl<T: FromValue> FromValue for Option<T> {
    fn from_value(key: &str, value: Option<Value>) -> Self {
        value.map(|value| T::from_value(key, Some(value)))
    }
}

/// A whole number that is not negative.
pub(super) fn integer(value: &DeValue) -> Option<u64> {
    let integer = value.as_integer()?;
    u64::try_from(i128::from_str_radix(integer.as_str(), integer.radix()).ok()?).ok()
}

/// A key of a table with its value.
pub(super) struct SettingEntry<'t, 's> {
    pub name: &'t str,
    pub span: Span,
    pub value: &'t Spanned<DeValue<'s>>,
}

/// The entries of a table, in the order of the file.
pub(super) fn entries<'t, 's>(table: &'t DeTable<'s>) -> Vec<SettingEntry<'t, 's>> {
    let entry =
        |(name, value): (&'t Spanned<DeString<'s>>, _)| SettingEntry { name: name.get_ref(), span: name.span(), value };
    let mut entries: Vec<_> = table.iter().map(entry).collect();
    entries.sort_by_key(|entry| entry.span.start);
    entries
}

pub(super) fn with_article(word: &str) -> String {
    let article = if word.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("{article} {word}")
}
