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
use super::diagnostics::{ConfigError, ConfigWarning, Diagnostic};
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
    pub diagnostics: Vec<Diagnostic>,
    pub more: usize,
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
    let mut lists = Lists { netblocks: Vec::new(), reasons: reasons.finish(), rates: own.rates.clone() };
    let all = own.netblocks.len() + read.iter().map(|read| read.netblocks.len()).sum::<usize>();
    lists.netblocks.reserve_exact(all);
    let add = |lists: &mut Lists, kind| {
        for read in read.iter().filter(|read| read.kind == kind) {
            lists.netblocks.extend_from_slice(&read.netblocks);
        }
    };
    // Of equal netblocks the last one counts.
    add(&mut lists, ListKind::Black);
    lists.netblocks.extend_from_slice(&own.netblocks);
    add(&mut lists, ListKind::White);
    let (mut files, mut warnings) = (Vec::new(), Vec::new());
    for (read, (source, kind, stamp)) in read.into_iter().zip(&sources) {
        let (path, netblocks) = (source.path.clone(), read.netblocks.len());
        files.push(ListFile { path, kind: *kind, netblocks, stamp: Some(*stamp) });
        match read.diagnostics.finish() {
            Ok(odd) => warnings.extend(odd),
            Err(error) => {
                errors.diagnostics.extend(error.diagnostics);
                errors.more += error.more;
            }
        }
    }
    if !errors.unread.is_empty() || !errors.diagnostics.is_empty() {
        return Err(errors);
    }
    Ok(CompleteLists { lists, own: Some(own), files, warnings })
}

/// Warns of netblocks that stand on several lists with different meanings.
fn warn_of_conflicts(own: &Lists, read: &[ListContent]) {
    let said: HashMap<IpNet, ListEntry> = own.netblocks.iter().copied().collect();
    for read in read {
        lint::check_whole_families(&read.netblocks, |place| read.span(place), read.does(), &read.diagnostics);
        for (place, (net, _)) in read.netblocks.iter().enumerate() {
            let text = match (said.get(net), read.kind) {
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

/// Where the entries of each file are in the set of all.
fn segments(files: &[ListFile], all: usize) -> Vec<Range<usize>> {
    let of = |kind| files.iter().filter(move |file| file.kind == kind).map(|file| file.netblocks);
    // As they were added: the configuration's own stand between the two.
    let (mut black, mut white) = (0, all.saturating_sub(of(ListKind::White).sum()));
    let segment = |file: &ListFile| {
        let start = match file.kind {
            ListKind::Black => &mut black,
            ListKind::White => &mut white,
        };
        *start += file.netblocks;
        *start - file.netblocks..*start
    };
    files.iter().map(segment).collect()
}

impl Config {
    /// Keeps every list file as it is in force that has lost all or more than half of its netblocks since: a download
    /// may have failed, and a list that is gone lets everyone in, or nobody. `files` are those in force.
    pub fn keep_lists_that_shrank(&mut self, files: &[ListFile], in_force: &Policy) {
        let before = |file: &ListFile| {
            let place = files.iter().position(|other| (&other.path, other.kind) == (&file.path, file.kind))?;
            Some(place).filter(|place| 2 * file.netblocks < files[*place].netblocks)
        };
        let shrunk: Vec<Option<usize>> = self.list_files.iter().map(before).collect();
        if self.list_may_shrink || shrunk.iter().all(Option::is_none) {
            return;
        }
        let (old, new) = (in_force.netblocks.entries(), std::mem::take(&mut self.policy.lists.netblocks));
        let (old_segments, segments) = (segments(files, old.len()), segments(&self.list_files, new.len()));
        let reasons = &mut self.policy.lists.reasons;
        let mut places = HashMap::new();
        let mut kept = |entry: &(IpNet, ListEntry)| match entry {
            (net, ListEntry::Blacklist(Some(reason))) => {
                let place = *places.entry(reason.index()).or_insert_with(|| {
                    reasons.push(in_force.reasons[reason.index()].clone());
                    ListIndex::new(reasons.len() - 1)
                });
                (*net, ListEntry::Blacklist(Some(place)))
            }
            other => *other,
        };
        let mut netblocks = Vec::new();
        let mut add = |kind| {
            for ((file, segment), old_place) in self.list_files.iter().zip(&segments).zip(&shrunk) {
                match old_place {
                    _ if file.kind != kind => {}
                    Some(place) => netblocks.extend(old[old_segments[*place].clone()].iter().map(&mut kept)),
                    None => netblocks.extend_from_slice(&new[segment.clone()]),
                }
            }
            netblocks.len()
        };
        let own = add(ListKind::Black);
        add(ListKind::White);
        let of = |kind| self.list_files.iter().filter(move |file| file.kind == kind).map(|file| file.netblocks);
        let (black, white) = (of(ListKind::Black).sum::<usize>(), of(ListKind::White).sum::<usize>());
        netblocks.splice(own..own, new[black..new.len() - white].iter().copied());
        self.policy.lists.netblocks = netblocks;
        for (file, place) in self.list_files.iter_mut().zip(shrunk) {
            let Some(place) = place else { continue };
            let netblocks = std::mem::replace(&mut file.netblocks, files[place].netblocks);
            let text = format!(
                "the list shrank from {} netblocks to {netblocks}, so it is kept as it was; if it is right, set \
                 list_may_shrink = true",
                file.netblocks
            );
            self.warnings.push(ConfigWarning { path: file.path.clone(), line: 1, column: 1, text });
        }
    }

    /// Reads only the list files again: the configuration with their present content, and the warnings about
    /// them alone.
    ///
    /// # Errors
    ///
    /// When a list file cannot be read, or something in one is wrong.
    pub fn with_lists_read_again(&self) -> Result<Self, ConfigError> {
        let Some(own) = &self.own_lists else {
            return Ok(Self { warnings: Vec::new(), ..self.clone() });
        };
        let named = |file: &ListFile| NamedListFile { path: file.path.clone(), kind: file.kind };
        let named: Vec<NamedListFile> = self.list_files.iter().map(named).collect();
        match complete(own.clone(), &named) {
            Ok(CompleteLists { lists, own, files, warnings }) => {
                let mut config = Self { own_lists: own, list_files: files, warnings, ..self.clone() };
                config.policy.lists = lists;
                Ok(config)
            }
            Err(ListErrors { unread, diagnostics, more }) => {
                let whole = |(place, problem, remedy): (usize, String, String)| {
                    let path: &PathBuf = &named[place].path;
                    Diagnostic { path: path.clone(), snippet: None, problem, remedy }
                };
                Err(ConfigError { diagnostics: unread.into_iter().map(whole).chain(diagnostics).collect(), more })
            }
        }
    }
}
