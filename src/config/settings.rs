//! The keys and values of one table of a TOML file, taken out one by one and typed.
//!
//! Works on toml's own tree instead of a derived `Deserialize`: that way every
//! value keeps its place, and one run finds every mistake, not the first one.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::keys::{self, KEYS, Key};
use super::source::Span;
use super::units;
use crate::config::diagnostics::{Diagnostics, quoted};

/// What a table sets. What is wrong with it is noted in the remarks on its file.
pub(super) struct Settings<'t, 's> {
    pub diagnostics: &'t Diagnostics<'s>,
    /// What follows a key in a message: of what it is, unless it stands at the top level.
    whose: String,
    values: BTreeMap<&'t str, &'t Spanned<DeValue<'s>>>,
    pub names: BTreeMap<String, Span>,
}

impl<'t, 's> Settings<'t, 's> {
    /// The keys at the top level of a file.
    pub fn top(remarks: &'t Diagnostics<'s>, table: &'t DeTable<'s>) -> Self {
        Self::new(remarks, String::new(), table, |_| true)
    }

    /// The keys of a limit, which has this name.
    pub fn of_limit(remarks: &'t Diagnostics<'s>, name: &str, table: &'t DeTable<'s>) -> Self {
        Self::new(remarks, format!(" of limit `{name}`"), table, Key::is_of_limit)
    }

    fn new(
        remarks: &'t Diagnostics<'s>,
        whose: String,
        table: &'t DeTable<'s>,
        may_stand_here: impl Fn(&Key) -> bool,
    ) -> Self {
        let mut settings = Self { diagnostics: remarks, whose, values: BTreeMap::new(), names: BTreeMap::new() };
        for (key, value) in table {
            let name: &str = key.get_ref();
            match keys::find(name) {
                Some(known) if may_stand_here(known) => {
                    settings.names.insert(name.to_owned(), key.span());
                    settings.values.insert(name, value);
                }
                Some(_) => {
                    // What follows a table's header belongs to the table, which is easily forgotten.
                    let problem = format!("`{name}` is no key{}", settings.whose);
                    let remedy = "write it above the first `[table]`, where the keys of the whole program stand";
                    remarks.error::<()>(&key.span(), problem, remedy);
                }
                None => settings.refuse_unknown(name, &key.span(), &may_stand_here),
            }
        }
        settings
    }

    fn refuse_unknown(&self, name: &str, span: &Span, may_stand_here: impl Fn(&Key) -> bool) {
        let known = KEYS.iter().filter(|key| may_stand_here(key)).map(|key| key.name);
        let remedy = match keys::nearest(name, known) {
            Some(key) => format!("did you mean `{key}`?"),
            None => "remove it; connshaper.toml(5) lists every key".to_owned(),
        };
        let problem = format!("unknown key {}{}", quoted(name), self.whose);
        self.diagnostics.error::<()>(span, problem, remedy);
    }

    /// A key as messages name it.
    pub fn named(&self, key: &str) -> String {
        format!("`{key}`{}", self.whose)
    }

    /// What follows a key in a message; nothing at the top level.
    pub fn whose(&self) -> &str {
        &self.whose
    }

    /// The place of a key's name, if the table sets it.
    pub fn name(&self, key: &str) -> Option<Span> {
        self.names.get(key).cloned()
    }

    /// The place of a key's value, if the table sets it.
    pub fn span(&self, key: &str) -> Option<Span> {
        self.values.get(key).map(|value| value.span())
    }

    /// Whether the value is the number 0, which for some keys deserves a word of its own.
    pub fn is_zero(&self, key: &'static str) -> bool {
        let number = self.value(key).and_then(|value| value.get_ref().as_integer());
        number.is_some_and(|number| number.as_str().trim_start_matches(['+', '-', '0']).is_empty())
    }

    /// A whole number within bounds.
    pub fn integer(&self, key: &'static str, bounds: RangeInclusive<u64>) -> Option<u64> {
        let value = self.value(key)?;
        let (span, DeValue::Integer(integer)) = (value.span(), value.get_ref()) else {
            return self.wrong_type(key, "a whole number");
        };
        let number = i128::from_str_radix(integer.as_str(), integer.radix()).ok();
        match number.and_then(|n| u64::try_from(n).ok()) {
            Some(number) if bounds.contains(&number) => Some(number),
            _ => {
                let (least, most) = bounds.into_inner();
                let problem = format!("{} is out of bounds", self.named(key));
                let remedy = format!("write a number from {least} to {most}");
                self.diagnostics.error(&span, problem, remedy)
            }
        }
    }

    /// A duration within bounds, in whole units of `step`.
    pub fn duration(&self, key: &'static str, bounds: RangeInclusive<Duration>, step: Duration) -> Option<Duration> {
        let value = self.value(key)?;
        let span = value.span();
        let read = match value.get_ref() {
            DeValue::Integer(integer) => i128::from_str_radix(integer.as_str(), integer.radix())
                .ok()
                .and_then(|seconds| u64::try_from(seconds).ok())
                .map_or(Duration::MAX, Duration::from_secs),
            DeValue::String(text) => match units::duration(text) {
                Ok(duration) => duration,
                Err(remedy) => {
                    let problem = format!("{} is no duration", quoted(text));
                    return self.diagnostics.error(&span, problem, remedy);
                }
            },
            DeValue::Float(_) => {
                let problem = format!("{} is a duration, not a fraction", self.named(key));
                return self.diagnostics.error(&span, problem, units::EXAMPLES);
            }
            _ => return self.wrong_type(key, "a duration"),
        };
        if !bounds.contains(&read) {
            let (least, most) = bounds.into_inner();
            let (least, most) = (units::spell(least), units::spell(most));
            let problem = format!("{} is out of bounds", self.named(key));
            let remedy = format!("write a duration from {least} to {most}");
            return self.diagnostics.error(&span, problem, remedy);
        }
        if read.as_nanos() % step.as_nanos() != 0 {
            let unit = if step.as_secs() == 0 { "milliseconds" } else { "seconds" };
            let problem = format!("{} is not a whole number of {unit}", self.named(key));
            return self.diagnostics.error(&span, problem, "round it");
        }
        Some(read)
    }

    /// `true` or `false`.
    pub fn truth(&self, key: &'static str) -> Option<bool> {
        match self.value(key)?.get_ref() {
            DeValue::Boolean(truth) => Some(*truth),
            _ => self.wrong_type(key, "true or false"),
        }
    }

    /// A table, in the order of the file.
    pub fn table(&self, key: &'static str) -> Vec<Entry<'t, 's>> {
        let Some(value) = self.value(key) else {
            return Vec::new();
        };
        if let DeValue::Table(table) = value.get_ref() {
            return entries(table);
        }
        self.wrong_type::<()>(key, "a table");
        Vec::new()
    }

    /// A string.
    pub fn string(&self, key: &'static str) -> Option<(String, Span)> {
        let value = self.value(key)?;
        match value.get_ref() {
            DeValue::String(text) => Some((text.to_string(), value.span())),
            _ => self.wrong_type(key, "a string"),
        }
    }

    /// One word of a few.
    pub fn choice<T: Clone>(&self, key: &'static str, words: &[(&str, T)]) -> Option<T> {
        let (text, span) = self.string(key)?;
        if let Some((_, choice)) = words.iter().find(|(word, _)| *word == text) {
            return Some(choice.clone());
        }
        let known: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        let problem = format!("{} cannot be {}", self.named(key), quoted(&text));
        let remedy = format!("write {}", known.join(" or "));
        self.diagnostics.error(&span, problem, remedy)
    }

    /// A list of strings; `None` too when one of them is none.
    pub fn list(&self, key: &'static str) -> Option<Vec<(String, Span)>> {
        let value = self.value(key)?;
        let DeValue::Array(array) = value.get_ref() else {
            return self.wrong_list(key);
        };
        let mut wrong = Vec::new();
        let mut list = Vec::new();
        for item in array.iter() {
            match item.get_ref() {
                DeValue::String(text) => list.push((text.to_string(), item.span())),
                other => wrong.push((item.span(), a(other.type_str()))),
            }
        }
        let complete = wrong.is_empty();
        for (span, found) in wrong {
            let problem = format!("{} is a list of strings, this is {found}", self.named(key));
            self.diagnostics.error::<()>(&span, problem, "put it in quotes");
        }
        complete.then_some(list)
    }

    /// A string, which stands for a list of one, or a list of strings, not empty.
    pub fn one_or_more(&self, key: &'static str) -> Option<Vec<(String, Span)>> {
        let value = self.value(key)?;
        if let DeValue::String(text) = value.get_ref() {
            return Some(vec![(text.to_string(), value.span())]);
        }
        let span = value.span();
        let list = self.list(key)?;
        if list.is_empty() {
            let remedy = "name at least one, or remove the key";
            return self.diagnostics.error(&span, format!("{} is an empty list", self.named(key)), remedy);
        }
        Some(list)
    }

    /// A key's value as it stands there.
    pub fn value(&self, key: &str) -> Option<&'t Spanned<DeValue<'s>>> {
        debug_assert!(keys::find(key).is_some(), "{key} is not in the table");
        self.values.get(key).copied()
    }

    pub fn wrong_type<T>(&self, key: &'static str, wanted: &str) -> Option<T> {
        let value = self.values.get(key)?;
        let (span, found) = (value.span(), a(value.get_ref().type_str()));
        let problem = format!("{} is {wanted}, not {found}", self.named(key));
        let remedy = match (keys::find(key).and_then(|key| key.default), wanted) {
            (Some(default), _) => format!("write it as in `{key} = {default}`"),
            (None, "a table") => "connshaper.toml(5) has examples".to_owned(),
            (None, _) => format!("write it as in `{key} = \"...\"`"),
        };
        self.diagnostics.error(&span, problem, remedy)
    }

    fn wrong_list<T>(&self, key: &'static str) -> Option<T> {
        let value = self.values.get(key)?;
        let DeValue::String(text) = value.get_ref() else {
            return self.wrong_type(key, "a list of strings");
        };
        let items: Vec<String> = text.split(',').map(|item| format!("\"{}\"", item.trim().escape_default())).collect();
        let remedy = format!("write `{key} = [{}]`", items.join(", "));
        let problem = format!("{} is a list, not one string", self.named(key));
        self.diagnostics.error(&value.span(), problem, remedy)
    }
}

/// A key of a table with its value.
pub(super) struct Entry<'t, 's> {
    pub name: &'t str,
    pub span: Span,
    pub value: &'t Spanned<DeValue<'s>>,
}

/// What stands in a table, in the order of the file.
pub(super) fn entries<'t, 's>(table: &'t DeTable<'s>) -> Vec<Entry<'t, 's>> {
    let entry =
        |(name, value): (&'t Spanned<DeString<'s>>, _)| Entry { name: name.get_ref(), span: name.span(), value };
    let mut entries: Vec<_> = table.iter().map(entry).collect();
    entries.sort_by_key(|entry| entry.span.start);
    entries
}

/// A word with its article.
pub(super) fn a(word: &str) -> String {
    let article = if word.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("{article} {word}")
}
