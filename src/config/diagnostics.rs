//! What is found wrong or odd while a file is read, collected.

use std::cell::RefCell;

use super::error::{ConfigError, ConfigWarning, Diagnostic};
use super::source::{Source, Span};

/// What is found wrong or odd while a source is read. The readers of a file and of the tables in it
/// all write here.
pub(super) struct Diagnostics<'s> {
    pub source: &'s Source,
    noted: RefCell<Noted>,
}

#[derive(Default)]
struct Noted {
    mistakes: Vec<(usize, Diagnostic)>,
    more: usize,
    warnings: Vec<(usize, ConfigWarning)>,
}

impl<'s> Diagnostics<'s> {
    /// More than this nobody reads, and each costs a walk through the text.
    const KEPT: usize = 50;

    pub fn new(source: &'s Source) -> Self {
        Self { source, noted: RefCell::default() }
    }

    /// Notes a mistake. Returns `None`, so that a reader can end with it.
    pub fn error<T>(&self, span: &Span, problem: impl Into<String>, remedy: impl Into<String>) -> Option<T> {
        let mut noted = self.noted.borrow_mut();
        let problem = problem.into();
        // What is read for two purposes is wrong once.
        if noted.mistakes.iter().any(|(offset, mistake)| *offset == span.start && mistake.problem == problem) {
            return None;
        }
        if noted.mistakes.len() >= Self::KEPT {
            noted.more += 1;
            return None;
        }
        let mistake = Diagnostic {
            path: self.source.path.clone(),
            snippet: Some(self.source.spot(span)),
            problem,
            remedy: remedy.into(),
        };
        noted.mistakes.push((span.start, mistake));
        None
    }

    /// Notes something odd.
    pub fn warn(&self, span: &Span, text: impl Into<String>) {
        let mut noted = self.noted.borrow_mut();
        let text = match noted.warnings.len() {
            ..Self::KEPT => text.into(),
            Self::KEPT => "and more like these, which are not shown".to_owned(),
            _ => return,
        };
        let (line, column) = self.source.place(span.start);
        let warning = ConfigWarning { path: self.source.path.clone(), line, column, text };
        noted.warnings.push((span.start, warning));
    }

    /// Whether there was no mistake so far.
    pub fn are_harmless(&self) -> bool {
        self.noted.borrow().mistakes.is_empty()
    }

    /// Whether further warnings would not be kept.
    pub fn is_full(&self) -> bool {
        self.noted.borrow().warnings.len() > Self::KEPT
    }

    /// The warnings, or the error when there was a mistake.
    pub fn finish(self) -> Result<Vec<ConfigWarning>, ConfigError> {
        let Noted { mut mistakes, more, mut warnings } = self.noted.into_inner();
        mistakes.sort_by_key(|(offset, _)| *offset);
        warnings.sort_by_key(|(offset, _)| *offset);
        if mistakes.is_empty() {
            return Ok(warnings.into_iter().map(|(_, w)| w).collect());
        }
        Err(ConfigError { diagnostics: mistakes.into_iter().map(|(_, m)| m).collect(), more })
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
