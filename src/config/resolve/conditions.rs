//! `match` and `unless`: conditions on the attributes of a request.

use regex::bytes::{Regex, RegexBuilder};
use toml::de::DeValue;

use super::super::diagnostics::quoted;
use super::super::keys;
use super::super::settings::{SettingEntry, TableSettings, with_article};
use super::super::source::Span;
use super::limit::at;
use crate::policy::attribute::Attribute;
use crate::policy::conditions::{Condition, Conditions, Pattern, Test};
use crate::policy::door::Door;

/// The most memory that a regular expression takes, compiled and while it is matched.
const REGEX_SIZE: usize = 1 << 20;

/// The attributes that a condition at a door can be about: all but `request`, which is always the same.
pub fn attributes(door: Door) -> impl Iterator<Item = Attribute> {
    Attribute::at(door).filter(|attribute| *attribute != Attribute::Request)
}

pub(super) fn read(s: &TableSettings, door: Door) -> Conditions {
    let list = |key| s.table(key).iter().filter_map(|entry| condition(s, door, entry)).collect();
    Conditions { all: list("match"), none: list("unless") }
}

fn condition(s: &TableSettings, door: Door, entry: &SettingEntry) -> Option<Condition> {
    let Some(attribute) = attributes(door).find(|attribute| attribute.name() == entry.name) else {
        let known: Vec<_> = attributes(door).map(|attribute| attribute.name()).collect();
        let remedy = match keys::nearest(entry.name, known.iter().copied()) {
            Some(name) => format!("did you mean `{name}`?"),
            None if door != Door::Smtp => format!("write one of {}", known.join(", ")),
            None => "write one as Postfix names it, as in `sasl_username` or `server_port`".to_owned(),
        };
        let problem = format!("{} is not an attribute of a request{}{}", quoted(entry.name), at(door), s.owner());
        return s.diagnostics.error(&entry.span, problem, remedy);
    };
    let test = match entry.value.get_ref() {
        DeValue::Boolean(true) => Test::Present,
        DeValue::Boolean(false) => Test::Absent,
        DeValue::Array(items) if items.is_empty() => {
            let problem = format!("`{}` has an empty list", entry.name);
            return s.diagnostics.error(&entry.value.span(), problem, "name a value, or write false for an empty one");
        }
        DeValue::Array(items) => {
            let patterns: Vec<_> =
                items.iter().filter_map(|item| pattern(s, attribute, item.get_ref(), &item.span())).collect();
            Test::AnyOf(patterns)
        }
        value => Test::AnyOf(vec![pattern(s, attribute, value, &entry.value.span())?]),
    };
    Some(Condition { attribute, test })
}

fn pattern(s: &TableSettings, attribute: Attribute, value: &DeValue, span: &Span) -> Option<Pattern> {
    let name = attribute.name();
    let text = match value {
        DeValue::String(text) => text,
        DeValue::Integer(number) if is_number(attribute) && number.radix() == 10 => {
            return Some(Pattern::Text(number.as_str().into()));
        }
        other => {
            let problem = format!("`{name}` cannot be {}", with_article(other.type_str()));
            return s.diagnostics.error(
                span,
                problem,
                "put a value in quotes; true means that there is one, false that there is none",
            );
        }
    };
    if text.is_empty() {
        return s.diagnostics.error(
            span,
            format!("`{name}` is compared with nothing"),
            "write false for an empty value",
        );
    }
    if text == "/" || text == "//" {
        let remedy = "write it between slashes, as in \"/^dyn-/\", or true for any value";
        return s.diagnostics.error(span, "an empty regular expression", remedy);
    }
    if let Some(expression) = text.strip_prefix('/').and_then(|text| text.strip_suffix('/')) {
        return regex(s, expression, span).map(Pattern::Regex);
    }
    // Every path begins so.
    if text.starts_with('/') && attribute != Attribute::Path {
        s.diagnostics
            .warn(span, format!("{} is compared as it stands: a regular expression also ends with `/`", quoted(text)));
    }
    if !matches!(attribute, Attribute::ClientAddress | Attribute::ServerAddress) {
        return Some(Pattern::Text(text.as_ref().into()));
    }
    s.netblock(text, span).map(Pattern::Netblock)
}

fn regex(s: &TableSettings, expression: &str, span: &Span) -> Option<Regex> {
    match compile(expression) {
        Ok(regex) => Some(regex),
        Err(reason) => {
            let problem = format!("{} is not a valid regular expression: {reason}", quoted(expression));
            let remedy = r"write one in the syntax of the regex crate: like Perl's, without look-around and back-references; `\\` for one `\`";
            s.diagnostics.error(span, problem, remedy)
        }
    }
}

/// A regular expression as conditions have it. `Err`: what is wrong with it.
pub(in crate::config) fn compile(expression: &str) -> Result<Regex, String> {
    let built =
        RegexBuilder::new(expression).case_insensitive(true).size_limit(REGEX_SIZE).dfa_size_limit(REGEX_SIZE).build();
    built.map_err(|error| {
        // Several lines with a picture of the place; the last one says what it is.
        let error = error.to_string();
        let last = error.trim_end().lines().last().unwrap_or_default();
        last.trim().trim_start_matches("error: ").trim_end_matches('.').to_lowercase()
    })
}

/// Whether its values are numbers, which need no quotes.
fn is_number(attribute: Attribute) -> bool {
    use Attribute::*;
    matches!(attribute, ClientPort | ServerPort | RecipientCount | Size | EncryptionKeysize)
}
