//! What is found wrong or odd while a file is read, collected.

use super::error::{ConfigError, ConfigWarning, Mistake};
use super::source::{Source, Span};

/// What is found wrong or odd while a source is read.
pub(super) struct Remarks<'s> {
    pub source: &'s Source,
    mistakes: Vec<(usize, Mistake)>,
    more: usize,
    warnings: Vec<(usize, ConfigWarning)>,
}

impl<'s> Remarks<'s> {
    /// More than this nobody reads, and each costs a walk through the text.
    const KEPT: usize = 50;

    pub fn new(source: &'s Source) -> Self {
        Self { source, mistakes: Vec::new(), more: 0, warnings: Vec::new() }
    }

    /// Notes a mistake. Returns `None`, so that a reader can end with it.
    pub fn wrong<T>(&mut self, span: &Span, problem: impl Into<String>, remedy: impl Into<String>) -> Option<T> {
        if self.mistakes.len() >= Self::KEPT {
            self.more += 1;
            return None;
        }
        let mistake = Mistake {
            path: self.source.path.clone(),
            spot: Some(self.source.spot(span)),
            problem: problem.into(),
            remedy: remedy.into(),
        };
        self.mistakes.push((span.start, mistake));
        None
    }

    /// Notes something odd.
    pub fn odd(&mut self, span: &Span, text: impl Into<String>) {
        let text = match self.warnings.len() {
            ..Self::KEPT => text.into(),
            Self::KEPT => "and more like these, which are not shown".to_owned(),
            _ => return,
        };
        let (line, column) = self.source.place(span.start);
        let warning = ConfigWarning { path: self.source.path.clone(), line, column, text };
        self.warnings.push((span.start, warning));
    }

    /// Whether further warnings would not be kept.
    pub fn is_full(&self) -> bool {
        self.warnings.len() > Self::KEPT
    }

    /// The warnings, or the error when there was a mistake.
    pub fn finish(mut self) -> Result<Vec<ConfigWarning>, ConfigError> {
        self.mistakes.sort_by_key(|(offset, _)| *offset);
        self.warnings.sort_by_key(|(offset, _)| *offset);
        if self.mistakes.is_empty() {
            return Ok(self.warnings.into_iter().map(|(_, w)| w).collect());
        }
        Err(ConfigError { mistakes: self.mistakes.into_iter().map(|(_, m)| m).collect(), more: self.more })
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
