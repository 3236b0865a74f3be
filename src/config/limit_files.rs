//! Files that limits take thresholds and values of their conditions from. They are read, and read again, like list files.

use std::path::PathBuf;
use std::sync::Arc;

use super::Config;
use super::diagnostics::{ConfigError, ConfigWarning, Diagnostic};
use super::lists::{FileStamp, ListErrors, kept_as_it_was};
use super::{source, threshold_file, value_file};
use crate::policy::Limit;
use crate::policy::attribute::Attribute;
use crate::policy::conditions::{Pattern, Test};
use crate::policy::value_list::ValueList;

/// A file of a limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitFile {
    pub path: PathBuf,
    /// The place of its limit among those of the configuration.
    pub limit: usize,
    pub purpose: FilePurpose,
    /// Number of its entries.
    pub entries: usize,
    /// Its stamp when it was read.
    pub stamp: Option<FileStamp>,
}

/// The part of a limit that a file gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilePurpose {
    /// Thresholds of single keys: the list at this place of its [`crate::policy::thresholds::Thresholds`].
    Thresholds { place: usize },
    /// Values of a condition, `match` or `unless`: those in place of so many files before.
    Condition { is_unless: bool, attribute: Attribute, number: usize },
}

impl FilePurpose {
    /// The key that names the file.
    pub fn word(self) -> &'static str {
        match self {
            Self::Thresholds { .. } => "thresholds",
            Self::Condition { is_unless: false, .. } => "match",
            Self::Condition { is_unless: true, .. } => "unless",
        }
    }
}

impl LimitFile {
    pub(super) fn new(path: PathBuf, limit: usize, purpose: FilePurpose) -> Self {
        Self { path, limit, purpose, entries: 0, stamp: None }
    }

    /// Takes what another limit, or the same, had from the same file. Returns whether it could.
    fn keep(&self, limit: &mut Limit, before: &Self, old: &Limit) -> bool {
        // Its keys would be in another spelling.
        if limit.spellings != old.spellings {
            return false;
        }
        match (self.purpose, before.purpose) {
            (FilePurpose::Thresholds { place }, FilePurpose::Thresholds { place: before }) => {
                let (Some(own), Some(old)) = (&mut limit.thresholds, &old.thresholds) else { return false };
                if own.field != old.field {
                    return false;
                }
                own.lists[place].clone_from(&old.lists[before]);
                true
            }
            (
                FilePurpose::Condition { is_unless, attribute, number },
                FilePurpose::Condition { is_unless: was_unless, attribute: of, number: before },
            ) if attribute == of => {
                let old = patterns(old, was_unless, of).iter().filter_map(Pattern::list).nth(before);
                let Some((values, old)) = values(limit, is_unless, attribute, number).zip(old) else { return false };
                values.clone_from(old);
                true
            }
            _ => false,
        }
    }
}

/// The patterns that a condition of a limit compares an attribute with.
fn patterns(limit: &Limit, is_unless: bool, attribute: Attribute) -> &[Pattern] {
    let conditions = if is_unless { &limit.conditions.none } else { &limit.conditions.all };
    match conditions.iter().find(|condition| condition.attribute == attribute).map(|condition| &condition.test) {
        Some(Test::AnyOf(patterns)) => patterns,
        _ => &[],
    }
}

/// The values that a condition of a limit takes from a file.
fn values(limit: &mut Limit, is_unless: bool, attribute: Attribute, number: usize) -> Option<&mut Arc<ValueList>> {
    let conditions = if is_unless { &mut limit.conditions.none } else { &mut limit.conditions.all };
    let condition = conditions.iter_mut().find(|condition| condition.attribute == attribute)?;
    let Test::AnyOf(patterns) = &mut condition.test else { return None };
    let mut listed = patterns.iter_mut().filter_map(|pattern| match pattern {
        Pattern::Listed(list) => Some(list),
        _ => None,
    });
    listed.nth(number)
}

/// Reads the files, and puts what they say into their limits. `Err`: what is wrong in which of them.
pub(super) fn read(files: &mut [LimitFile], limits: &mut [Limit]) -> Result<Vec<ConfigWarning>, ListErrors> {
    let (mut errors, mut warnings) = (ListErrors::default(), Vec::new());
    for (number, file) in files.iter_mut().enumerate() {
        let (source, stamp) = match source::read_list(&file.path) {
            Ok(read) => read,
            Err((problem, remedy)) => {
                errors.unread.push((number, problem, remedy));
                continue;
            }
        };
        file.stamp = Some(stamp);
        let limit = &mut limits[file.limit];
        let diagnostics = match file.purpose {
            FilePurpose::Thresholds { place } => {
                let Some(own) = &mut limit.thresholds else { continue };
                let (list, diagnostics) = threshold_file::read(&source, own.field, limit.counts, &limit.spellings);
                file.entries = list.len();
                own.lists[place] = Arc::new(list);
                diagnostics
            }
            FilePurpose::Condition { is_unless, attribute, number } => {
                let Some(values) = values(limit, is_unless, attribute, number) else { continue };
                let (list, diagnostics) = value_file::read(&source, attribute);
                file.entries = list.length;
                *values = Arc::new(list);
                diagnostics
            }
        };
        errors.take(diagnostics, &mut warnings);
    }
    errors.or(warnings)
}

impl Config {
    /// Reads the files of the limits again.
    pub(super) fn read_limit_files_again(&mut self) -> Result<(), ConfigError> {
        let warnings = read(&mut self.limit_files, &mut self.policy.limits)
            .map_err(|errors| unread(errors, |number| self.limit_files[number].path.clone()))?;
        self.warnings.extend(warnings);
        Ok(())
    }

    /// Keeps every file of a limit as it is in force that has lost all or more than half of its entries since, as
    /// [`Self::keep_lists_that_shrank`] keeps lists.
    pub fn keep_limit_files_that_shrank(&mut self, in_force: &Self) {
        if self.list_may_shrink {
            return;
        }
        for file in &mut self.limit_files {
            let limit = &mut self.policy.limits[file.limit];
            let is_it = |before: &&LimitFile| {
                let old = &in_force.policy.limits[before.limit];
                (&before.path, before.purpose.word(), &old.name) == (&file.path, file.purpose.word(), &limit.name)
            };
            let Some(before) = in_force.limit_files.iter().find(is_it) else { continue };
            let has_shrunk = 2 * file.entries < before.entries;
            if has_shrunk && file.keep(limit, before, &in_force.policy.limits[before.limit]) {
                self.warnings.push(kept_as_it_was("file", &file.path, before.entries, file.entries));
                file.entries = before.entries;
            }
        }
    }
}

/// Mistakes in files that were read again, which no line of the configuration names then.
pub(super) fn unread(errors: ListErrors, path: impl Fn(usize) -> PathBuf) -> ConfigError {
    let ListErrors { unread, in_files } = errors;
    let whole = |(place, problem, remedy): (usize, String, String)| Diagnostic {
        path: path(place),
        snippet: None,
        problem,
        remedy,
    };
    ConfigError {
        diagnostics: unread.into_iter().map(whole).chain(in_files.diagnostics).collect(),
        more: in_files.more,
    }
}
