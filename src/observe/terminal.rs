//! Standard output and standard error: text for people with its colours, JSON for programs.

use std::fmt::Display;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::process::ExitCode;

use serde::Serialize;

use crate::observe::log::encode::{escape_json, needs_escape};
use crate::sysexits;

/// Prints text on standard output and says how the process is to exit: with `code`, also when the pipe is closed, for
/// then the reader has what it wanted. That it cannot be written otherwise, as to a full disk, is an error.
pub fn print(text: &str, code: u8) -> ExitCode {
    let mut output = io::stdout().lock();
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            fail(sysexits::IO_ERROR, &format!("standard output: {error}"))
        }
        _ => ExitCode::from(code),
    }
}

/// Says why the program does not do what it was asked, and how it exits.
pub fn fail(code: u8, error: &dyn Display) -> ExitCode {
    print_error(&format!("connshaper: {error}"));
    ExitCode::from(code)
}

/// Writes lines to standard error. Where nobody can read them, the exit code says the same: `eprintln` would panic.
pub fn print_error(lines: &str) {
    let lines: String = lines.lines().map(|line| escape(line) + "\n").collect();
    let _ = io::stderr().write_all(lines.as_bytes());
}

/// A text that a terminal shows and does not obey: control characters and the like as bytes in hexadecimal, as in the
/// log.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match needs_escape(c) {
            true => escaped.extend(c.encode_utf8(&mut [0; 4]).bytes().map(|byte| format!("\\x{byte:02x}"))),
            false => escaped.push(c),
        }
    }
    escaped
}

/// A value as indented JSON, which no terminal obeys either.
pub fn json(value: &impl Serialize) -> String {
    let text = serde_json::to_string_pretty(value).expect("a value with string keys");
    escape_json(&text) + "\n"
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_reaches_a_terminal_with_a_character_it_obeys() {
        assert_eq!(escape("root\x1b[2J\u{9b}1m\u{202e}\n"), "root\\x1b[2J\\xc2\\x9b1m\\xe2\\x80\\xae\\x0a");
        let text = json(&["\x1b[2J\x7f\u{9b}\u{202e} caf\u{e9}"]);
        assert!(text.chars().all(|c| c == '\n' || !needs_escape(c)), "{text:?}");
        let read: [String; 1] = serde_json::from_str(&text).unwrap();
        assert_eq!(read, ["\x1b[2J\x7f\u{9b}\u{202e} caf\u{e9}"]);
    }
}
