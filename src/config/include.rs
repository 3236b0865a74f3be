//! `include`: further files, as if they stood in the first one.
//!
//! All texts stand one behind the other in one source, so that every place in it has its file and its line.

use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeArray, DeString, DeTable, DeValue};

use super::diagnostics::{ConfigError, Diagnostics, quoted};
use super::keys::{self, ValueKind};
use super::source::{self, ConfigText, LARGEST};
use super::{settings, syntax};

/// Lists to which every file adds.
const LISTS: [&str; 4] = ["whitelist", "blacklist", "whitelist_file", "blacklist_file"];

/// Tables to which every file adds entries.
const TABLES: [&str; 2] = ["limit", "netblocks"];

/// The most files that are included.
const MAX_FILES: usize = 1000;

/// The text with those of the files that it includes; `None`: it includes none.
///
/// # Errors
///
/// When one cannot be read.
pub(super) fn expand(source: &ConfigText) -> Result<Option<ConfigText>, ConfigError> {
    if !source.text.contains("include") {
        return Ok(None);
    }
    let (table, _) = DeTable::parse_recoverable(&source.text);
    // A value that is not a list of strings is an error of the key.
    let Some(DeValue::Array(patterns)) = table.get_ref().get("include").map(Spanned::get_ref) else { return Ok(None) };
    let diagnostics = Diagnostics::new(source);
    let directory = source.path.parent().unwrap_or(Path::new(""));
    let mut all = source.and(Vec::new());
    for pattern in patterns.iter().filter(|pattern| pattern.get_ref().is_str()) {
        let text = pattern.get_ref().as_str().unwrap_or_default();
        let wrong = |problem: String, remedy: &str| diagnostics.error::<()>(&pattern.span(), problem, remedy);
        let paths = match matching(&directory.join(text), text) {
            Ok(paths) => paths,
            Err(problem) => {
                wrong(problem, "write a path, in which * stands for any characters of a name");
                continue;
            }
        };
        for path in paths {
            if all.parts() > MAX_FILES {
                wrong(format!("more than {MAX_FILES} files are included"), "put several into one");
                break;
            }
            match source::read_list(&path) {
                Ok((included, _)) => {
                    included.require_utf8()?;
                    all = all.and(vec![included]);
                }
                Err((problem, remedy)) => drop(wrong(format!("the included {problem}"), &remedy)),
            }
        }
        if all.text.len() as u64 > LARGEST {
            wrong("all files together are larger than 64 MiB".to_owned(), "put netblocks into list files");
            break;
        }
    }
    diagnostics.finish()?;
    Ok((all.parts() > 1).then_some(all))
}

/// The files that a pattern stands for, in the order of their names. A path without `*` stands for itself.
fn matching(pattern: &Path, text: &str) -> Result<Vec<PathBuf>, String> {
    if text.is_empty() || text.contains('\0') {
        return Err("`include` names no file".to_owned());
    }
    if !text.contains(['*', '?', '[']) {
        return Ok(vec![pattern.to_owned()]);
    }
    let wrong = |error: String| format!("{}: {error}", quoted(text));
    let pattern = pattern.to_str().ok_or_else(|| wrong("the path is not UTF-8".to_owned()))?;
    let found = glob::glob(pattern).map_err(|error| wrong(error.to_string()))?;
    found.map(|path| path.map_err(|error| wrong(error.to_string()))).collect()
}

/// The table of all files. Mistakes in putting them together are noted.
///
/// # Errors
///
/// When one is not valid TOML.
pub(super) fn table<'s>(source: &'s ConfigText, diagnostics: &Diagnostics<'s>) -> Result<DeTable<'s>, ConfigError> {
    let mut all: Option<DeTable<'s>> = None;
    for (start, text) in source.texts() {
        let (table, errors) = DeTable::parse_recoverable(text);
        if !errors.is_empty() {
            return Err(syntax::explain(source, start, &errors));
        }
        let table = moved_table(table.into_inner(), start);
        match &mut all {
            None => all = Some(table),
            Some(all) => merge(all, table, diagnostics),
        }
    }
    Ok(all.unwrap_or_default())
}

fn merge<'s>(all: &mut DeTable<'s>, included: DeTable<'s>, diagnostics: &Diagnostics<'s>) {
    for (name, value) in included {
        let key = name.get_ref().to_string();
        if key == "include" {
            let remedy = "name all files in the first one, which may use patterns";
            diagnostics.error::<()>(&name.span(), "an included file includes no others", remedy);
            continue;
        }
        if LISTS.contains(&key.as_str()) {
            add_to_list(all, name, value);
        } else if TABLES.contains(&key.as_str())
            && let DeValue::Table(entries) = value.get_ref()
            && let Some(DeValue::Table(known)) = all.get_mut(key.as_str()).map(Spanned::get_mut)
        {
            for (name, value) in entries.clone() {
                insert(known, name, value, &format!("{key}."), diagnostics);
            }
        } else {
            insert(all, name, value, "", diagnostics);
        }
    }
}

/// Adds a key that must not be there.
fn insert<'s>(
    table: &mut DeTable<'s>,
    name: Spanned<DeString<'s>>,
    value: Spanned<DeValue<'s>>,
    owner: &str,
    diagnostics: &Diagnostics<'s>,
) {
    if let Some((first, _)) = table.get_key_value(name.get_ref().as_ref()) {
        let (path, (line, _)) =
            (diagnostics.source.path_at(first.span().start), diagnostics.source.place(first.span().start));
        let problem = format!("`{owner}{}` is set twice, also in {} line {line}", name.get_ref(), path.display());
        diagnostics.error::<()>(&name.span(), problem, "keep one of the two");
        return;
    }
    table.insert(name, value);
}

/// Adds the entries of a list. Where no file before has the list, they are added to the default.
fn add_to_list<'s>(all: &mut DeTable<'s>, name: Spanned<DeString<'s>>, value: Spanned<DeValue<'s>>) {
    let key = name.get_ref().to_string();
    if !all.contains_key(key.as_str()) {
        let default = keys::find(&key).filter(|key| key.kind == ValueKind::Clients).and_then(settings::default_list);
        let Some(default) = default else {
            all.insert(name, value);
            return;
        };
        all.insert(name.clone(), Spanned::new(name.span(), DeValue::Array(default)));
    }
    let known = all.get_mut(key.as_str()).map(Spanned::get_mut).expect("it was just looked for");
    let is_list = |value: &DeValue| value.is_array() || value.is_str();
    if !is_list(known) {
        // A value of a wrong type is an error of its own.
        return;
    }
    if let DeValue::String(text) = known {
        let first = Spanned::new(name.span(), DeValue::String(text.clone()));
        *known = DeValue::Array(std::iter::once(first).collect());
    }
    let DeValue::Array(list) = known else { return };
    match value.get_ref() {
        DeValue::Array(more) => more.iter().for_each(|entry| list.push(entry.clone())),
        // Anything but a string is an error of the key.
        _ => list.push(value),
    }
}

/// A table whose text begins at an offset.
fn moved_table(table: DeTable<'_>, by: usize) -> DeTable<'_> {
    if by == 0 {
        return table;
    }
    table.into_iter().map(|(name, value)| (shifted(name, by), moved_value(value, by))).collect()
}

fn moved_value(value: Spanned<DeValue<'_>>, by: usize) -> Spanned<DeValue<'_>> {
    let span = value.span();
    let value = match value.into_inner() {
        DeValue::Array(list) => {
            DeValue::Array(list.into_iter().map(|entry| moved_value(entry, by)).collect::<DeArray<'_>>())
        }
        DeValue::Table(table) => DeValue::Table(moved_table(table, by)),
        other => other,
    };
    Spanned::new(span.start + by..span.end + by, value)
}

fn shifted<T>(value: Spanned<T>, by: usize) -> Spanned<T> {
    let span = value.span();
    Spanned::new(span.start + by..span.end + by, value.into_inner())
}
