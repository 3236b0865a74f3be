//! Errors of TOML syntax, in an administrator's words.
//!
//! The toml crate names what its grammar expected. Here the usual mistake behind it
//! is named, and what to write. A message that is not known here is passed on as it is.

use super::diagnostics::ConfigError;
use super::source::{ConfigText, Span};
use super::{keys, units};
use crate::config::diagnostics::{Diagnostics, quoted};

/// The errors of the text that begins at an offset.
pub(super) fn explain(source: &ConfigText, start: usize, errors: &[toml::de::Error]) -> ConfigError {
    let remarks = Diagnostics::new(source);
    let mut explained: Option<usize> = None;
    let span = |error: &toml::de::Error| {
        let span = error.span().unwrap_or(0..0);
        span.start + start..span.end + start
    };
    let mut errors: Vec<_> = errors.iter().map(|error| (span(error), error)).collect();
    // toml reports errors in lines before errors in values.
    errors.sort_by_key(|(span, _)| span.start);
    for (span, error) in errors {
        // A further error in the same line is mostly a consequence of the first.
        if explained.is_some_and(|earlier| source.same_line(earlier, span.start)) {
            continue;
        }
        explained = Some(span.start);
        let (problem, remedy) = usual_mistake(source, &span, error.message());
        remarks.error::<()>(&span, problem, remedy);
        // An array that does not end takes the rest of the file with it.
        if error.message().contains("array") {
            break;
        }
    }
    remarks.finish().expect_err("toml gave at least one error")
}

fn usual_mistake(source: &ConfigText, span: &Span, message: &str) -> (String, String) {
    let line = source.line(span.start);
    let is = |beginning: &str| message.starts_with(beginning);
    let (problem, remedy) = if line.contains(['\u{201c}', '\u{201d}']) {
        ("typographic quotes are not TOML quotes", "write \"straight\" ones")
    } else if is("duplicate key") {
        let problem = format!("{} is set twice", quoted(&source.text[span.clone()]));
        return (problem, "keep one of the lines".into());
    } else if is("key with no value") || is("invalid unquoted key") || is("unquoted keys") {
        return ("this is not a `key = value` line".into(), assignment(line));
    } else if is("string values must be quoted") || is("invalid float") || is("invalid bool") {
        return unquoted(line);
    } else if message.contains("array") {
        ("the list does not end well", "put `,` between entries and `]` after the last")
    } else if is("invalid basic string") || is("invalid literal string") {
        ("the string does not end in this line", "put a quote after it")
    } else if is("missing escaped value") {
        ("`\\` begins an escape sequence", "write `\\\\` for one `\\`")
    } else if is("unexpected key or value") {
        ("something stands after the value", "write one key and value per line")
    } else if is("unexpected leading zero") {
        ("a number with a leading zero", "remove the zero, or put the value in quotes")
    } else {
        (message, "write lines as in `threshold = 10`; connshaper.toml(5) has examples")
    };
    (problem.to_owned(), remedy.to_owned())
}

/// The remedy for a line that is not `key = value`.
fn assignment(line: &str) -> String {
    let split = |c: char| c == ':' || c.is_whitespace();
    match line.trim().split_once(split) {
        Some((key, value)) if keys::find(key).is_some() && !value.trim().is_empty() => {
            let value = value.trim_start_matches([':', '=', ' ', '\t']);
            format!("write {}", quoted(&format!("{key} = {value}")))
        }
        _ => "write it as in `threshold = 10`; a comment begins with `#`".into(),
    }
}

/// The problem with a variable of the environment.
pub(super) const NO_VARIABLES: &str = "variables of the environment are not replaced here";

/// The remedy for it.
pub(super) const WRITE_VALUE: &str = "write the value itself, or have a program write the file";

/// Whether a text has a variable as shells know them: `$NAME` or `${NAME}`.
pub(super) fn has_variable(text: &str) -> bool {
    text.split('$').skip(1).any(|rest| {
        let name = rest.strip_prefix('{').unwrap_or(rest);
        name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
    })
}

/// Problem and remedy for a value that is neither a number nor in quotes.
fn unquoted(line: &str) -> (String, String) {
    let (key, value) = line.split_once('=').unwrap_or(("", line));
    let (key, value) = (key.trim(), value.trim());
    let number = keys::find(key).and_then(|key| key.default);
    let number = number.filter(|default| default.starts_with(|c: char| c.is_ascii_digit()));
    let word = |c: char| c.is_ascii_alphanumeric() || "_.:/-{}%".contains(c);
    let (problem, remedy) = match number {
        _ if value.starts_with('$') => (NO_VARIABLES, WRITE_VALUE.to_owned()),
        _ if value.is_empty() => {
            let remedy = "write one after the `=`, or remove the line";
            ("a key without a value", remedy.to_owned())
        }
        Some(default) if units::duration(value).is_err() => {
            ("a value that is not a number", format!("write a number, as in `{key} = {default}`"))
        }
        _ if value.len() <= 100 && value.chars().all(word) => ("a value without quotes", format!("write \"{value}\"")),
        _ => ("a value without quotes", "put it in quotes".to_owned()),
    };
    (problem.to_owned(), remedy)
}
