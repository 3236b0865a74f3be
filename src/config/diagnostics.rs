//! Mistakes and warnings with their place in a file, and what to do about them.
//!
//! The readers of both forms collect all of them, so that an administrator sees
//! them at once. Warnings are for what parses but makes no sense.

use std::cell::RefCell;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};

use super::source::{ConfigText, Span};

/// The mistakes and warnings about one source. All its readers write here.
pub(super) struct Diagnostics<'s> {
    pub source: &'s ConfigText,
    noted: RefCell<Noted>,
}

#[derive(Default)]
struct Noted {
    errors: Vec<(usize, Diagnostic)>,
    more: usize,
    warnings: Vec<(usize, ConfigWarning)>,
}

impl<'s> Diagnostics<'s> {
    /// More are not read by people, and each costs a walk through the text.
    const KEPT: usize = 50;

    pub fn new(source: &'s ConfigText) -> Self {
        Self { source, noted: RefCell::default() }
    }

    /// Notes a mistake. Returns `None`, so that a reader can return it.
    pub fn error<T>(&self, span: &Span, problem: impl Into<String>, remedy: impl Into<String>) -> Option<T> {
        let mut noted = self.noted.borrow_mut();
        let problem = problem.into();
        // A value that is read for two purposes is wrong once.
        if noted.errors.iter().any(|(offset, error)| *offset == span.start && error.problem == problem) {
            return None;
        }
        if noted.errors.len() >= Self::KEPT {
            noted.more += 1;
            return None;
        }
        let error = Diagnostic {
            path: self.source.path_at(span.start).to_owned(),
            snippet: Some(self.source.snippet(span)),
            problem,
            remedy: remedy.into(),
        };
        noted.errors.push((span.start, error));
        None
    }

    /// The value that was read, or a note of what is wrong: problem and remedy.
    pub fn noted<T>(&self, span: &Span, read: Result<T, (impl Into<String>, impl Into<String>)>) -> Option<T> {
        match read {
            Ok(value) => Some(value),
            Err((problem, remedy)) => self.error(span, problem, remedy),
        }
    }

    pub fn warn(&self, span: &Span, text: impl Into<String>) {
        let mut noted = self.noted.borrow_mut();
        let text = match noted.warnings.len() {
            ..Self::KEPT => text.into(),
            Self::KEPT => "and more like these, which are not shown".to_owned(),
            _ => return,
        };
        let (line, column) = self.source.place(span.start);
        let path = self.source.path_at(span.start).to_owned();
        let warning = ConfigWarning { path, line, column, text };
        noted.warnings.push((span.start, warning));
    }

    pub fn has_errors(&self) -> bool {
        !self.noted.borrow().errors.is_empty()
    }

    /// Whether further warnings would not be kept.
    pub fn is_full(&self) -> bool {
        self.noted.borrow().warnings.len() > Self::KEPT
    }

    /// The warnings, or the error when there was a mistake.
    pub fn finish(self) -> Result<Vec<ConfigWarning>, ConfigError> {
        let Noted { mut errors, more, mut warnings } = self.noted.into_inner();
        errors.sort_by_key(|(offset, _)| *offset);
        warnings.sort_by_key(|(offset, _)| *offset);
        if errors.is_empty() {
            return Ok(warnings.into_iter().map(|(_, w)| w).collect());
        }
        Err(ConfigError { diagnostics: errors.into_iter().map(|(_, m)| m).collect(), more })
    }
}

/// Text of the file as a message may repeat it: short, and nothing that moves a cursor.
pub(super) fn quoted(text: &str) -> String {
    const LONGEST: usize = 60;
    let mut clean = String::new();
    for c in text.chars().take(LONGEST) {
        match c {
            '\\' | '"' | '\'' => clean.push(c),
            _ => clean.extend(c.escape_debug()),
        }
    }
    let cut = if text.chars().nth(LONGEST).is_some() { "..." } else { "" };
    format!("`{clean}{cut}`")
}

/// Why a configuration cannot be used: at least one mistake.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ConfigError {
    /// In the order of the file.
    #[serde(rename = "errors")]
    pub diagnostics: Vec<Diagnostic>,
    /// Number of further mistakes, which are not kept.
    pub more: usize,
}

/// A mistake.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    #[serde(serialize_with = "lossy")]
    pub path: PathBuf,
    /// `None`: the file as a whole, which could not be read.
    #[serde(flatten)]
    pub snippet: Option<Snippet>,
    pub problem: String,
    pub remedy: String,
}

/// A part of one line of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Snippet {
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// The line, or its part around the column.
    #[serde(skip)]
    pub excerpt: String,
    /// Characters of the excerpt before the column.
    #[serde(skip)]
    pub indent: usize,
    /// Characters that the carets mark.
    #[serde(skip)]
    pub width: usize,
}

/// Something that parses but makes no sense, or means other than it seems.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ConfigWarning {
    #[serde(serialize_with = "lossy")]
    pub path: PathBuf,
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    pub text: String,
}

/// A path in JSON, which need not be UTF-8.
pub(super) fn lossy<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.to_string_lossy())
}

impl ConfigError {
    /// An error that concerns the file as a whole.
    pub(super) fn whole(path: &Path, problem: impl Into<String>, remedy: &str) -> Self {
        let mistake =
            Diagnostic { path: path.to_owned(), snippet: None, problem: problem.into(), remedy: remedy.to_owned() };
        Self { diagnostics: vec![mistake], more: 0 }
    }

    /// Adds the mistakes of another file.
    pub(super) fn append(&mut self, other: Self) {
        self.diagnostics.extend(other.diagnostics);
        self.more += other.more;
    }

    /// Whether the file could not be read at all.
    pub fn is_unreadable(&self) -> bool {
        self.diagnostics.iter().any(|mistake| mistake.snippet.is_none())
    }

    /// The first mistake on one line, for a log.
    pub fn summary(&self) -> String {
        let Some(first) = self.diagnostics.first() else {
            return String::new();
        };
        match self.diagnostics.len() - 1 + self.more {
            0 => first.headline(),
            others => format!("{} (and {others} more)", first.headline()),
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mistake) in self.diagnostics.iter().enumerate() {
            let gap = if index == 0 { "" } else { "\n\n" };
            write!(f, "{gap}{mistake}")?;
        }
        if self.more > 0 {
            write!(f, "\n\nand {} more", self.more)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

impl Diagnostic {
    fn headline(&self) -> String {
        let path = self.path.display();
        match &self.snippet {
            Some(spot) => format!("{path}:{}:{}: {}", spot.line, spot.column, self.problem),
            None => format!("{path}: {}", self.problem),
        }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.headline())?;
        let gutter = match &self.snippet {
            Some(spot) => spot.line.to_string().len(),
            None => 0,
        };
        if let Some(spot) = &self.snippet {
            let (indent, carets) = (" ".repeat(spot.indent), "^".repeat(spot.width));
            writeln!(f, "{:gutter$} |", "")?;
            writeln!(f, "{} | {}", spot.line, spot.excerpt)?;
            writeln!(f, "{:gutter$} | {indent}{carets}", "")?;
        }
        write!(f, "{:gutter$} = help: {}", "", self.remedy)
    }
}

impl fmt::Display for ConfigWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        write!(f, "{path}:{}:{}: {}", self.line, self.column, self.text)
    }
}
