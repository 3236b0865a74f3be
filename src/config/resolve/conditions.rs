//! `match` and `unless`: conditions on the attributes of a request.

use std::sync::Arc;

use regex::bytes::{Regex, RegexBuilder};
use toml::de::DeValue;

use super::super::diagnostics::quoted;
use super::super::keys;
use super::super::settings::{SettingEntry, TableSettings, with_article};
use super::super::source::Span;
use super::limit::at;
use crate::net::origin::{CountryCode, as_number};
use crate::policy::attribute::Attribute;
use crate::policy::conditions::{Condition, Pattern, Test};
use crate::policy::door::Door;
use crate::policy::key_field::KeyField;
use crate::policy::limit::Conditions;
use crate::policy::spelling::Spellings;

/// The prefix of the path of a file with values.
pub(super) const FILE: &str = "file:";

/// The most memory that a regular expression takes, compiled and while it is matched.
const REGEX_SIZE: usize = 1 << 20;

/// The attributes that a condition at a door can be about: all but `request`, which is always the same.
pub fn condition_attributes(door: Door) -> impl Iterator<Item = Attribute> {
    Attribute::at(door).filter(|attribute| *attribute != Attribute::Request)
}

pub(super) fn read(s: &TableSettings, door: Door, spellings: &Spellings) -> Conditions {
    let list = |key| s.table(key).iter().filter_map(|entry| condition(s, door, entry)).collect();
    Conditions { all: list("match"), none: list("unless"), spellings: spellings.clone() }
}

fn condition(s: &TableSettings, door: Door, entry: &SettingEntry) -> Option<Condition> {
    let Some(attribute) = condition_attributes(door).find(|attribute| attribute.name() == entry.name) else {
        let known: Vec<_> = condition_attributes(door).map(|attribute| attribute.name()).collect();
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
    if let Some(path) = text.strip_prefix(FILE) {
        if path.is_empty() {
            return s.diagnostics.error(span, format!("`{name}` names no file"), "write its path behind `file:`");
        }
        // Its values are read later.
        return Some(Pattern::Listed(Arc::default()));
    }
    if text == "/" || text == "//" {
        let remedy = "write it between slashes, as in \"/^dyn-/\", or true for any value";
        return s.diagnostics.error(span, "an empty regular expression", remedy);
    }
    if let Some(expression) = text.strip_prefix('/').and_then(|text| text.strip_suffix('/')) {
        return regex(s, expression, span).map(Pattern::Regex);
    }
    // Every path begins with `/`.
    if text.starts_with('/') && attribute != Attribute::Path {
        s.diagnostics
            .warn(span, format!("{} is compared as it stands: a regular expression also ends with `/`", quoted(text)));
    }
    if matches!(attribute, Attribute::ClientAddress | Attribute::ServerAddress) {
        return s.netblock(text, span).map(Pattern::Netblock);
    }
    let pattern = text_pattern(attribute, text);
    s.diagnostics.noted(span, pattern.map_err(|(problem, remedy)| (format!("`{name}` {problem}"), remedy)))
}

/// The pattern that a text stands for. `Err`: problem and remedy, for forms of other programs that no value has.
pub(in crate::config) fn text_pattern(attribute: Attribute, text: &str) -> Result<Pattern, (String, String)> {
    if attribute == Attribute::Country {
        return CountryCode::new(text).map(|code| Pattern::Text(code.as_str().into())).ok_or_else(|| {
            let problem = format!("is a code of two letters, and {} is none", quoted(text));
            (problem, "write it as in \"DE\" or \"NZ\", of ISO 3166; false for a country that is not known".to_owned())
        });
    }
    if attribute == Attribute::Asn
        && let Some(number) = as_number(text)
    {
        return Ok(Pattern::Text(number.to_string().into()));
    }
    if is_number(attribute) {
        return comparison(text).ok_or_else(|| {
            let problem = format!("is a number, and {} compares with none", quoted(text));
            (problem, "write it as in 50, \">50\", \">=50\", \"<50\", \"<=50\" or \"1..50\"".to_owned())
        });
    }
    let (is_mail, is_host) = (attribute.is_mail_address(), attribute.is_host_name());
    // In the spelling in which values are compared with it; the case of ASCII letters makes no difference.
    let spelled = |field, text: &str| Spellings::default().spelled(field, text).into();
    let whole = |text: &str| Pattern::Text(spelled(KeyField::Whole(attribute), text));
    let domain_of = |text: &str| spelled(KeyField::HostDomain(attribute), text);
    if !is_mail && !is_host {
        return Ok(whole(text));
    }
    let problem = |what: &str| format!("is never {}: {what}", quoted(text));
    if let Some(rest) = text.strip_prefix('!') {
        let remedy = format!("write {rest:?} under `unless`; or under `match`, if this is `unless`");
        return Err((problem("`!` negates nothing here"), remedy));
    }
    if is_map(text) {
        let remedy = "write the values themselves, as in [\"a\", \"b\"], or a regular expression, as in \"/^a/\"";
        return Err((problem("tables of Postfix are not read"), remedy.to_owned()));
    }
    if text.contains(',') {
        let values: Vec<String> = text.split(',').map(|value| format!("{:?}", value.trim())).collect();
        return Err((problem("a list has brackets"), format!("write [{}]", values.join(", "))));
    }
    if text.contains(['*', '?']) {
        return Err((problem("`*` and `?` stand for themselves"), without_globs(text, is_mail)));
    }
    match (text.strip_prefix('@'), text.strip_prefix('.').filter(|domain| !domain.is_empty())) {
        (Some(domain), _) if is_mail && !domain.is_empty() => Ok(Pattern::MailDomain(domain_of(domain))),
        (Some(domain), _) if is_host => {
            Err((problem("a host name has no `@`"), format!("write \"{domain}\", or \".{domain}\" with all below it")))
        }
        (_, Some(domain)) => Ok(Pattern::Below(domain_of(domain))),
        _ => Ok(whole(text)),
    }
}

/// A number, a bound for it, or two.
fn comparison(text: &str) -> Option<Pattern> {
    let number = |digits: &str| digits.trim().parse::<u64>().ok();
    if text.bytes().all(|byte| byte.is_ascii_digit()) || text.eq_ignore_ascii_case("unknown") {
        return Some(Pattern::Text(text.into()));
    }
    if let Some((least, most)) = text.split_once("..") {
        return number(least)
            .zip(number(most))
            .filter(|(least, most)| least <= most)
            .map(|(a, b)| Pattern::Range(a, b));
    }
    let range = |least: Option<u64>, most: Option<u64>| Some(Pattern::Range(least?, most?));
    if let Some(rest) = text.strip_prefix(">=") {
        range(number(rest), Some(u64::MAX))
    } else if let Some(rest) = text.strip_prefix("<=") {
        range(Some(0), number(rest))
    } else if let Some(rest) = text.strip_prefix('>') {
        range(number(rest)?.checked_add(1), Some(u64::MAX))
    } else if let Some(rest) = text.strip_prefix('<') {
        range(Some(0), number(rest)?.checked_sub(1))
    } else {
        None
    }
}

/// The remedy for a text with `*` or `?`.
fn without_globs(text: &str, is_mail: bool) -> String {
    let rest = |prefix: &str| text.strip_prefix(prefix).filter(|rest| !rest.is_empty() && !rest.contains(['*', '?']));
    if let Some(domain) = rest("*@").filter(|_| is_mail) {
        return format!("write \"@{domain}\"");
    }
    if let Some(domain) = rest("*@*.").filter(|_| is_mail).or(rest("*.")) {
        return format!("write \".{domain}\"");
    }
    if text == "*" {
        return "write true for any value".to_owned();
    }
    let expression = regex::escape(text).replace(r"\*", ".*").replace(r"\?", ".");
    format!("write a regular expression, as in '/^{expression}$/'")
}

/// Whether a text is the type and the name of one of Postfix's tables.
fn is_map(text: &str) -> bool {
    const TYPES: &str = "btree cdb cidr dbm environ hash inline ldap lmdb memcache mongodb mysql nisplus pcre pgsql \
                         pipemap proxy regexp sdbm socketmap sqlite static texthash unionmap";
    text.split_once(':').is_some_and(|(word, _)| TYPES.split(' ').any(|known| known == word))
}

fn regex(s: &TableSettings, expression: &str, span: &Span) -> Option<Regex> {
    let remedy = r"write one in the syntax of the regex crate: like Perl's, without look-around and back-references; `\\` for one `\`";
    let wrong = |reason| (format!("{} is not a valid regular expression: {reason}", quoted(expression)), remedy);
    s.diagnostics.noted(span, compile(expression).map_err(wrong))
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
    matches!(attribute, ClientPort | ServerPort | RecipientCount | Size | EncryptionKeysize | Asn)
}
