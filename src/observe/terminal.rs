//! How text for people is set off, where a terminal can show it.

use std::io::IsTerminal;

/// Whether headings and warnings are coloured.
#[derive(Clone, Copy, Debug)]
pub struct Paint(pub bool);

impl Paint {
    /// Coloured on a terminal, unless `NO_COLOR` is set.
    pub fn of(output: &impl IsTerminal) -> Self {
        Self(output.is_terminal() && std::env::var_os("NO_COLOR").is_none())
    }

    /// A heading.
    pub fn bold(self, text: &str) -> String {
        self.set(1, text)
    }

    /// Something to heed.
    pub fn warning(self, text: &str) -> String {
        self.set(33, text)
    }

    /// Something bad.
    pub fn bad(self, text: &str) -> String {
        self.set(31, text)
    }

    /// Something good.
    pub fn good(self, text: &str) -> String {
        self.set(32, text)
    }

    fn set(self, attribute: u8, text: &str) -> String {
        if self.0 { format!("\x1b[{attribute}m{text}\x1b[0m") } else { text.to_owned() }
    }
}
