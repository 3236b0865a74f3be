//! List files, added to the netblocks of the configuration itself.
//!
//! All of them become one set. Of equal netblocks the milder entry counts: the
//! whitelist before a rate, a rate before the blacklist. The files can be read
//! again without the configuration.

use std::collections::{HashMap, HashSet};
use std::fs::Metadata;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use ipnet::IpNet;

use super::Config;
use super::diagnostics::{ConfigError, ConfigWarning, Diagnostics};
use super::limit_files;
use super::lint;
use super::list_file::{self, ListContent, Reasons};
use super::source;
use crate::policy::Policy;
use crate::policy::lists::{ListEntry, ListIndex, Lists};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListKind {
    White,
    Black,
}

/// A list file as the configuration names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NamedListFile {
    pub path: PathBuf,
    pub kind: ListKind,
}

/// A list file as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListFile {
    pub path: PathBuf,
    pub kind: ListKind,
    /// Number of its netblocks.
    pub netblocks: usize,
    /// Number of its names.
    pub names: usize,
    /// Its stamp when it was read.
    pub stamp: Option<FileStamp>,
}

/// Tells whether a file has changed without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileStamp {
    modified: (i64, i64),
    size: u64,
    inode: u64,
}

impl FileStamp {
    /// `None`: there is no such file, or it cannot be examined.
    pub fn of(path: &Path) -> Option<Self> {
        path.metadata().ok().as_ref().map(Self::from)
    }
}

impl From<&Metadata> for FileStamp {
    fn from(file: &Metadata) -> Self {
        Self { modified: (file.mtime(), file.mtime_nsec()), size: file.size(), inode: file.ino() }
    }
}

/// The lists of the configuration and of its list files.
#[derive(Default)]
pub(super) struct CompleteLists {
    pub lists: Lists,
    /// The lists of the configuration alone, if there are list files.
    pub own: Option<Lists>,
    pub files: Vec<ListFile>,
    pub warnings: Vec<ConfigWarning>,
}

/// Mistakes in list files.
#[derive(Default)]
pub(super) struct ListErrors {
    /// Files that could not be read: the index among the named ones, problem and remedy.
    pub unread: Vec<(usize, String, String)>,
    /// The mistakes in the others.
    pub in_files: ConfigError,
}

impl ListErrors {
    /// Takes over the mistakes in a file, or adds what is to be warned of to `warnings`.
    pub fn take(&mut self, diagnostics: Diagnostics<'_>, warnings: &mut Vec<ConfigWarning>) {
        match diagnostics.finish() {
            Ok(odd) => warnings.extend(odd),
            Err(error) => self.in_files.append(error),
        }
    }

    /// The value, if nothing is wrong.
    pub fn or<T>(self, value: T) -> Result<T, Self> {
        if self.unread.is_empty() && self.in_files.diagnostics.is_empty() { Ok(value) } else { Err(self) }
    }
}

/// Reads the list files and adds them to the lists of the configuration.
pub(super) fn complete(own: Lists, named: &[NamedListFile]) -> Result<CompleteLists, ListErrors> {
    if named.is_empty() {
        return Ok(CompleteLists { lists: own, own: None, files: Vec::new(), warnings: Vec::new() });
    }
    let mut errors = ListErrors::default();
    let mut sources = Vec::new();
    for (place, NamedListFile { path, kind }) in named.iter().enumerate() {
        match source::read_list(path) {
            Ok((source, stamp)) => sources.push((source, *kind, stamp)),
            Err((problem, remedy)) => errors.unread.push((place, problem, remedy)),
        }
    }
    let mut reasons = Reasons::new(own.reasons.clone());
    let read: Vec<ListContent> =
        sources.iter().map(|(source, kind, _)| list_file::read(source, *kind, &mut reasons)).collect();
    warn_of_conflicts(&own, &read);
    let mut lists = Lists { reasons: reasons.finish(), rates: own.rates.clone(), ..Lists::default() };
    let all = own.netblocks.len() + read.iter().map(|read| read.netblocks.len()).sum::<usize>();
    lists.netblocks.reserve_exact(all);
    let add = |lists: &mut Lists, kind| {
        for read in read.iter().filter(|read| read.kind == kind) {
            lists.netblocks.extend_from_slice(&read.netblocks);
            lists.names.extend_from_slice(&read.names);
        }
    };
    // Of equal netblocks the last one counts.
    add(&mut lists, ListKind::Black);
    lists.netblocks.extend_from_slice(&own.netblocks);
    lists.names.extend_from_slice(&own.names);
    add(&mut lists, ListKind::White);
    let (mut files, mut warnings) = (Vec::new(), Vec::new());
    for (read, (source, kind, stamp)) in read.into_iter().zip(&sources) {
        let (path, netblocks, names) = (source.path.clone(), read.netblocks.len(), read.names.len());
        files.push(ListFile { path, kind: *kind, netblocks, names, stamp: Some(*stamp) });
        errors.take(read.diagnostics, &mut warnings);
    }
    errors.or(CompleteLists { lists, own: Some(own), files, warnings })
}

/// Warns of netblocks that stand on several lists with different meanings.
fn warn_of_conflicts(own: &Lists, read: &[ListContent]) {
    let configured: HashMap<IpNet, ListEntry> = own.netblocks.iter().copied().collect();
    for read in read {
        lint::check_whole_families(&read.netblocks, |place| read.span(place), read.does(), &read.diagnostics);
        for (place, (net, _)) in read.netblocks.iter().enumerate() {
            let text = match (configured.get(net), read.kind) {
                (None, _)
                | (Some(ListEntry::Whitelist), ListKind::White)
                | (Some(ListEntry::Blacklist(_)), ListKind::Black) => {
                    continue;
                }
                (Some(ListEntry::Blacklist(_)), ListKind::White) => format!("{net} is on the blacklist too: it passes"),
                (Some(ListEntry::Whitelist), ListKind::Black) => format!("{net} is on the whitelist too: it passes"),
                (Some(ListEntry::Rate(_)), ListKind::White) => {
                    format!("{net} has a threshold in `netblocks`, which has no effect: it is on the whitelist")
                }
                (Some(ListEntry::Rate(_)), ListKind::Black) => {
                    format!("{net} has a threshold in `netblocks`, so it is not refused")
                }
            };
            read.diagnostics.warn(&read.span(place), text);
        }
    }
    let of = |kind| read.iter().filter(move |read| read.kind == kind);
    let number = |kind| of(kind).map(|read| read.netblocks.len()).sum::<usize>();
    let (few, many, other) = match number(ListKind::White) < number(ListKind::Black) {
        true => (ListKind::White, ListKind::Black, "whitelist"),
        false => (ListKind::Black, ListKind::White, "blacklist"),
    };
    let few: HashSet<IpNet> = of(few).flat_map(|read| read.netblocks.iter().map(|(net, _)| *net)).collect();
    for read in of(many).filter(|_| !few.is_empty()) {
        for (place, (net, _)) in read.netblocks.iter().enumerate() {
            if few.contains(net) {
                read.diagnostics.warn(&read.span(place), format!("{net} is on the {other} too: it passes"));
            }
        }
    }
}

/// Which list files are kept as they are in force, by their place there.
struct KeptFiles<'c> {
    files: &'c [ListFile],
    in_force: &'c [ListFile],
    kept: Vec<Option<usize>>,
}

impl KeptFiles<'_> {
    /// The entries of all lists, in their order: those of kept files from `old`, all others from `new`.
    fn merge<T: Clone>(&self, old: &[T], new: &[T], count: fn(&ListFile) -> usize, kept: impl Fn(&T) -> T) -> Vec<T> {
        let (old_segments, new_segments) =
            (segments(self.in_force, old.len(), count), segments(self.files, new.len(), count));
        let total = |kind| self.files.iter().filter(|file| file.kind == kind).map(count).sum::<usize>();
        let own = total(ListKind::Black)..new.len() - total(ListKind::White);
        let mut merged = Vec::with_capacity(new.len());
        for kind in [ListKind::Black, ListKind::White] {
            if kind == ListKind::White {
                merged.extend_from_slice(&new[own.clone()]);
            }
            for (at, file) in self.files.iter().enumerate().filter(|(_, file)| file.kind == kind) {
                debug_assert_eq!(count(file), new_segments[at].len());
                match self.kept[at] {
                    Some(place) => merged.extend(old[old_segments[place].clone()].iter().map(&kept)),
                    None => merged.extend_from_slice(&new[new_segments[at].clone()]),
                }
            }
        }
        merged
    }
}

/// The range of each file's entries among those of all lists: the configuration's own stand between the blacklists
/// and the whitelists.
fn segments(files: &[ListFile], all: usize, count: fn(&ListFile) -> usize) -> Vec<Range<usize>> {
    let white: usize = files.iter().filter(|file| file.kind == ListKind::White).map(count).sum();
    let (mut black, mut white) = (0, all.saturating_sub(white));
    let segment = |file: &ListFile| {
        let start = match file.kind {
            ListKind::Black => &mut black,
            ListKind::White => &mut white,
        };
        *start += count(file);
        *start - count(file)..*start
    };
    files.iter().map(segment).collect()
}

/// The warning about a file that lost too many entries.
pub(super) fn kept_as_it_was(what: &str, path: &Path, before: usize, now: usize) -> ConfigWarning {
    let text = format!(
        "the {what} shrank from {before} entries to {now}, so it is kept as it was; if it is right, set \
         list_may_shrink = true"
    );
    ConfigWarning { path: path.to_owned(), line: 1, column: 1, text }
}

impl ListFile {
    /// All its entries.
    pub fn entries(&self) -> usize {
        self.netblocks + self.names
    }
}

impl Config {
    /// Keeps every list file as it is in force that has lost all or more than half of its entries since: a download may
    /// have failed, and without a list clients pass or are refused that should not. `in_force` are the files of `policy`.
    pub fn keep_lists_that_shrank(&mut self, in_force: &[ListFile], policy: &Policy) {
        let before = |file: &ListFile| {
            let place = in_force.iter().position(|other| (&other.path, other.kind) == (&file.path, file.kind))?;
            Some(place).filter(|place| 2 * file.entries() < in_force[*place].entries())
        };
        let kept: Vec<Option<usize>> = self.list_files.iter().map(before).collect();
        if self.list_may_shrink || kept.iter().all(Option::is_none) {
            return;
        }
        // Their reasons come behind those that were read now.
        let lists = &mut self.policy.lists;
        let first = lists.reasons.len();
        lists.reasons.extend_from_slice(&policy.reasons);
        let moved = |entry: ListEntry| match entry {
            ListEntry::Blacklist(Some(reason)) => ListEntry::Blacklist(Some(ListIndex::new(first + reason.index()))),
            other => other,
        };
        let files = KeptFiles { files: &self.list_files, in_force, kept };
        let (netblocks, names) = (policy.netblocks.entries(), policy.names.entries());
        lists.netblocks =
            files.merge(netblocks, &lists.netblocks, |file| file.netblocks, |(net, entry)| (*net, moved(*entry)));
        lists.names =
            files.merge(names, &lists.names, |file| file.names, |(name, entry)| (name.clone(), moved(*entry)));
        let kept = files.kept;
        for (file, place) in self.list_files.iter_mut().zip(kept) {
            let Some(before) = place.map(|place| &in_force[place]) else { continue };
            self.warnings.push(kept_as_it_was("list", &file.path, before.entries(), file.entries()));
            (file.netblocks, file.names) = (before.netblocks, before.names);
        }
    }

    /// Reads only the list files, those of limits and databases again: the configuration with their present content, and the
    /// warnings about them alone.
    ///
    /// # Errors
    ///
    /// When a file cannot be read, or something in one is wrong.
    pub fn with_lists_read_again(&self) -> Result<Self, ConfigError> {
        let mut config = self.with_list_files_read_again()?;
        config.read_limit_files_again()?;
        config.read_origin_files_again()?;
        Ok(config)
    }

    fn with_list_files_read_again(&self) -> Result<Self, ConfigError> {
        let Some(own) = &self.own_lists else {
            return Ok(Self { warnings: Vec::new(), ..self.clone() });
        };
        let named = |file: &ListFile| NamedListFile { path: file.path.clone(), kind: file.kind };
        let named: Vec<NamedListFile> = self.list_files.iter().map(named).collect();
        match complete(own.clone(), &named) {
            Ok(CompleteLists { lists, files, warnings, .. }) => {
                let mut config = Self { list_files: files, warnings, ..self.clone() };
                config.policy.lists = lists;
                Ok(config)
            }
            Err(errors) => Err(limit_files::unread(errors, |place| named[place].path.clone())),
        }
    }
}
