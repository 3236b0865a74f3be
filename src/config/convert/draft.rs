//! The TOML that a conversion writes, key by key, with the remarks about where each comes from.
//!
//! Values of other programs can be what ours cannot: a regular expression of Perl, a number out of bounds. What the
//! reader of the configuration refuses is therefore taken out again, and remarked on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use strum::VariantArray;
use toml::Value;

use super::super::diagnostics::{ConfigError, quoted};
use super::super::effective::{spelled, spelled_key};
use super::super::keys::{self, KEYS, KeyScope};
use super::super::{Loaded, resolve};
use super::{Conversion, Kind, Remark, RemarkKind};
use crate::policy::key::KeySpec;
use crate::policy::key_field::KeyField;
use crate::policy::limit::{self, CountKind};

pub(super) struct Draft {
    path: PathBuf,
    kind: Kind,
    /// Keys of the whole program.
    program: Vec<DraftEntry>,
    /// The first one stands at the top level.
    limits: Vec<LimitDraft>,
    /// The lines of list items and table rows, by key and item.
    parts: BTreeMap<(String, String), Option<usize>>,
    remarks: Vec<Remark>,
}

/// A limit that is being written.
#[derive(Clone, Default)]
pub(super) struct LimitDraft {
    /// The line of the file that says it.
    line: Option<usize>,
    name: String,
    comment: String,
    entries: Vec<DraftEntry>,
}

#[derive(Clone)]
struct DraftEntry {
    line: Option<usize>,
    comment: String,
    key: String,
    value: Value,
}

/// The entry that a line of the written text belongs to.
#[derive(Clone, Copy)]
enum DraftPlace {
    /// A key of the program, and which item of its list or row of its table.
    Program(usize, Option<usize>),
    Limit(usize),
}

/// The text as far as it is written.
#[derive(Default)]
struct Page {
    text: String,
    places: BTreeMap<usize, DraftPlace>,
    lines: usize,
}

impl Page {
    fn line(&mut self, place: Option<DraftPlace>, line: impl AsRef<str>) {
        self.lines += 1;
        self.text += line.as_ref();
        self.text.push('\n');
        if let Some(place) = place {
            self.places.insert(self.lines, place);
        }
    }

    fn comment(&mut self, comment: &str) {
        for line in comment.lines() {
            self.line(None, format!("# {}", line.trim()));
        }
    }

    /// `KEY = VALUE`, a long list on several lines.
    fn setting(&mut self, key: &str, value: &Value, place: impl Fn(Option<usize>) -> DraftPlace) {
        const SHORT: usize = 5;
        match value {
            Value::Array(items) if items.len() > SHORT => {
                self.line(Some(place(None)), format!("{key} = ["));
                for (index, item) in items.iter().enumerate() {
                    self.line(Some(place(Some(index))), format!("    {},", spelled(item)));
                }
                self.line(Some(place(None)), "]");
            }
            value => self.line(Some(place(None)), format!("{key} = {}", spelled(value))),
        }
    }
}

impl LimitDraft {
    pub fn new(line: Option<usize>, name: impl Into<String>, comment: impl Into<String>) -> Self {
        Self { line, name: name.into(), comment: comment.into(), entries: Vec::new() }
    }

    /// Sets a key. The last value counts.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) -> &mut Self {
        self.set_with(key, value, "")
    }

    pub fn set_with(&mut self, key: &str, value: impl Into<Value>, comment: &str) -> &mut Self {
        self.entries.retain(|entry| entry.key != key);
        let (key, value) = (key.to_owned(), value.into());
        self.entries.push(DraftEntry { line: self.line, comment: comment.to_owned(), key, value });
        self
    }

    fn value(&self, key: &str) -> Option<&Value> {
        self.entries.iter().find(|entry| entry.key == key).map(|entry| &entry.value)
    }

    /// The word for what it counts.
    pub fn counted(&self) -> &'static str {
        self.counts().into_str()
    }

    fn counts(&self) -> CountKind {
        let word = self.value("count").and_then(Value::as_str);
        let known = CountKind::VARIANTS.iter().find(|counts| Some(counts.into_str()) == word);
        known.copied().unwrap_or(CountKind::Connections)
    }

    /// The key of its counters.
    fn per(&self) -> KeySpec {
        let words: Vec<&str> = match self.value("per") {
            None => return KeySpec::client(),
            Some(Value::Array(words)) => words.iter().filter_map(Value::as_str).collect(),
            Some(word) => word.as_str().into_iter().collect(),
        };
        KeySpec(words.into_iter().filter_map(KeyField::of_word).collect())
    }
}

impl Draft {
    pub fn new(path: &Path, kind: Kind) -> Self {
        let (program, limits, parts, remarks) = (Vec::new(), Vec::new(), BTreeMap::new(), Vec::new());
        Self { path: path.to_owned(), kind, program, limits, parts, remarks }
    }

    /// Sets a key of the whole program. The last value counts.
    pub fn set(&mut self, line: Option<usize>, key: &str, value: impl Into<Value>, comment: &str) {
        self.program.retain(|entry| entry.key != key);
        let (key, value) = (key.to_owned(), value.into());
        self.program.push(DraftEntry { line, comment: comment.to_owned(), key, value });
    }

    /// Sets a key of the whole program to the value of a line.
    pub fn carry(&mut self, line: usize, key: &str, value: impl Into<Value>, text: impl Into<String>) {
        self.set(Some(line), key, value, "");
        self.carried(line, text);
    }

    /// Empties the whitelist: the program exempted no other client.
    pub fn exempt_nobody(&mut self, line: Option<usize>, comment: &str) {
        self.set(line, "whitelist", Vec::<Value>::new(), comment);
    }

    /// Adds to a list of the whole program.
    pub fn push(&mut self, line: Option<usize>, key: &str, value: impl Into<String>, comment: &str) {
        if !self.is_set(key) {
            self.set(line, key, Vec::<Value>::new(), comment);
        }
        let list = self.program.iter_mut().find(|entry| entry.key == key);
        if let Some(DraftEntry { value: Value::Array(list), .. }) = list {
            let value = Value::String(value.into());
            self.parts.insert((key.to_owned(), spelled(&value)), line);
            if !list.contains(&value) {
                list.push(value);
            }
        }
    }

    /// Adds to a table of the whole program.
    pub fn insert(&mut self, line: Option<usize>, key: &str, name: &str, value: Value) {
        if !self.is_set(key) {
            self.set(line, key, toml::Table::new(), "");
        }
        let table = self.program.iter_mut().find(|entry| entry.key == key);
        if let Some(DraftEntry { value: Value::Table(table), .. }) = table {
            self.parts.insert((key.to_owned(), name.to_owned()), line);
            table.insert(name.to_owned(), value);
        }
    }

    pub fn is_set(&self, key: &str) -> bool {
        self.program.iter().any(|entry| entry.key == key)
    }

    pub fn has_limits(&self) -> bool {
        !self.limits.is_empty()
    }

    /// Adds a limit, under a name that no other one has.
    pub fn limit(&mut self, mut limit: LimitDraft) {
        let good = |c: char| if c.is_ascii_alphanumeric() || c == '_' || c == '-' { c } else { '_' };
        let base: String = limit.name.to_lowercase().chars().map(good).take(28).collect();
        let base = match base.as_str() {
            "" => "limit".to_owned(),
            limit::TOP | crate::policy::BLACKLIST => format!("{base}_"),
            _ => base,
        };
        let free = |name: &String| !self.limits.iter().any(|limit| limit.name == *name);
        let numbered = (2..).map(|number| format!("{base}_{number}"));
        limit.name = std::iter::once(base.clone()).chain(numbered).find(free).unwrap_or(base);
        self.limits.push(limit);
    }

    pub fn carried(&mut self, line: impl Into<Option<usize>>, text: impl Into<String>) {
        self.remark(line.into(), RemarkKind::Carried, text.into());
    }

    pub fn differs(&mut self, line: impl Into<Option<usize>>, text: impl Into<String>) {
        self.remark(line.into(), RemarkKind::Differs, text.into());
    }

    pub fn missing(&mut self, line: impl Into<Option<usize>>, text: impl Into<String>) {
        self.remark(line.into(), RemarkKind::Missing, text.into());
    }

    fn remark(&mut self, line: Option<usize>, outcome: RemarkKind, text: String) {
        self.remarks.push(Remark { path: self.path.clone(), line, outcome, text });
    }

    /// Writes it, without what is not valid.
    pub fn finish(mut self) -> Result<Conversion, ConfigError> {
        // At the top level log_only holds for every limit.
        let log_only = |limit: &LimitDraft| limit.value("log_only").is_some();
        if let Some(first) = self.limits.iter().position(|limit| !log_only(limit)) {
            self.limits[..=first].rotate_right(1);
        }
        loop {
            let Page { text, places, .. } = self.write();
            let Err(error) = Loaded::parse(&self.path, &text) else {
                self.remarks.sort_by_key(|remark| remark.line.unwrap_or(usize::MAX));
                return Ok(Conversion { kind: self.kind, toml: text, remarks: self.remarks });
            };
            let Some(wrong) = error.diagnostics.first() else { return Err(error) };
            let spot = wrong.snippet.as_ref().filter(|_| wrong.path == self.path);
            let place = match spot.and_then(|spot| places.get(&spot.line)) {
                Some(place) => *place,
                // A mistake in a list file.
                None => match self.program.iter().position(|entry| entry.key.ends_with("_file")) {
                    Some(index) => DraftPlace::Program(index, None),
                    None => return Err(error),
                },
            };
            self.take_out(place, &format!("{}: {}", wrong.problem, wrong.remedy));
        }
    }

    fn take_out(&mut self, place: DraftPlace, why: &str) {
        let (line, what) = match place {
            DraftPlace::Limit(index) => {
                let limit = self.limits.remove(index);
                (limit.line, format!("the limit {}", quoted(&limit.name)))
            }
            DraftPlace::Program(index, part) => {
                let entry = &mut self.program[index];
                let (line, key) = (entry.line, entry.key.clone());
                let part = match (&mut entry.value, part) {
                    (Value::Array(items), Some(at)) => Some((spelled(&items[at]), spelled(&items.remove(at)))),
                    (Value::Table(rows), Some(at)) => {
                        let name = rows.keys().nth(at).cloned();
                        name.and_then(|name| {
                            Some((name.clone(), format!("{name} = {}", spelled(&rows.remove(&name)?))))
                        })
                    }
                    _ => None,
                };
                match part {
                    Some((name, part)) => {
                        let own = self.parts.get(&(key.clone(), name)).copied();
                        (own.flatten().or(line), format!("{part} of {key}"))
                    }
                    None => {
                        let entry = self.program.remove(index);
                        (line, format!("{key} = {}", spelled(&entry.value)))
                    }
                }
            }
        };
        if line.is_some() {
            self.remarks.retain(|remark| remark.line != line || remark.outcome != RemarkKind::Carried);
        }
        self.missing(line, format!("{what}: {why}"));
    }

    fn write(&self) -> Page {
        let mut page = Page::default();
        page.comment(&format!("Converted by connshaper convert --from {}.", self.kind.into_str()));
        if let Some(top) = self.limits.first() {
            page.line(None, "");
            page.comment(&top.comment);
            for entry in &top.entries {
                page.comment(&entry.comment);
                page.setting(&entry.key, &entry.value, |_| DraftPlace::Limit(0));
            }
        }
        // Tables come behind all other keys of the top level.
        let is_table = |entry: &DraftEntry| matches!(entry.value, Value::Table(_));
        for (index, entry) in self.program.iter().enumerate().filter(|(_, entry)| !is_table(entry)) {
            page.line(None, "");
            page.comment(&entry.comment);
            page.setting(&entry.key, &entry.value, |part| DraftPlace::Program(index, part));
        }
        for (index, entry) in self.program.iter().enumerate() {
            let Value::Table(rows) = &entry.value else { continue };
            page.line(None, "");
            page.comment(&entry.comment);
            page.line(Some(DraftPlace::Program(index, None)), format!("[{}]", entry.key));
            for (row, (name, value)) in rows.iter().enumerate() {
                page.setting(&spelled_key(name), value, |_| DraftPlace::Program(index, Some(row)));
            }
        }
        for (index, limit) in self.limits.iter().enumerate().skip(1) {
            page.line(None, "");
            page.comment(&limit.comment);
            page.line(Some(DraftPlace::Limit(index)), format!("[limit.{}]", limit.name));
            for entry in limit.entries.iter().chain(&self.not_inherited(limit)) {
                page.comment(&entry.comment);
                page.setting(&entry.key, &entry.value, |_| DraftPlace::Limit(index));
            }
        }
        page
    }

    /// Keys that a limit would inherit from the top level, where the first limit stands, but that need their defaults.
    fn not_inherited(&self, limit: &LimitDraft) -> Vec<DraftEntry> {
        let Some(top) = self.limits.first() else { return Vec::new() };
        let inherited = KEYS.iter().filter(|key| key.scope == KeyScope::Inherited);
        let set = inherited.filter(|key| top.value(key.name).is_some() && limit.value(key.name).is_none());
        // An action with a text of its own needs none.
        let whole = limit.value("action").and_then(Value::as_str).is_some_and(|action| action.contains(' '));
        let set = set.filter(|key| !(whole && ["text", "enhanced_status_code"].contains(&key.name)));
        let default = |key: &keys::ConfigKey| match resolve::reply::default_text(limit.counts(), &limit.per()) {
            Some(text) if key.name == "text" => Some(Value::from(text)),
            _ => key.default.and_then(|default| default.parse::<Value>().ok()),
        };
        set.filter_map(|key| {
            let value = default(key)?;
            Some(DraftEntry { line: None, comment: String::new(), key: key.name.to_owned(), value })
        })
        .collect()
    }
}
