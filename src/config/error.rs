//! What is wrong with a configuration: the place, the problem, the way out.
//!
//! The readers of both forms collect `Mistake`s, so that an administrator sees
//! all of them at once. Warnings are for what parses but makes no sense.

use std::fmt;
use std::path::{Path, PathBuf};

/// Why a configuration cannot be used: at least one mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// What is wrong, in the order of the file.
    pub diagnostics: Vec<Diagnostic>,
    /// Mistakes beyond those that are kept.
    pub more: usize,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// The file.
    pub path: PathBuf,
    /// Where in it; `None`: the file as a whole, which could not be read.
    pub snippet: Option<Snippet>,
    /// What is wrong.
    pub problem: String,
    /// What to do about it.
    pub remedy: String,
}

/// A stretch of one line of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snippet {
    /// Line, from 1.
    pub line: usize,
    /// Character in the line, from 1.
    pub column: usize,
    /// The line, or what of it is near the spot.
    pub excerpt: String,
    /// Characters of the excerpt before the spot.
    pub indent: usize,
    /// Characters of the spot.
    pub width: usize,
}

/// Something that parses but makes no sense, or means other than it seems.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigWarning {
    /// The file.
    pub path: PathBuf,
    /// Line, from 1.
    pub line: usize,
    /// Character in the line, from 1.
    pub column: usize,
    /// What is odd, and what happens.
    pub text: String,
}

impl ConfigError {
    /// An error that concerns the file as a whole.
    pub(super) fn whole(path: &Path, problem: impl Into<String>, remedy: &str) -> Self {
        let mistake =
            Diagnostic { path: path.to_owned(), snippet: None, problem: problem.into(), remedy: remedy.to_owned() };
        Self { diagnostics: vec![mistake], more: 0 }
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
