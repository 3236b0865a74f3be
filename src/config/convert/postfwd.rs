//! postfwd: rules whose action is `rate()`, `size()` or `rcpt()`, with the items that choose their requests.
//!
//! A rule that only lets requests pass is an exemption of the limits below it. The other rules are about something
//! else. A limit whose rule has an item that nothing here knows would hold for too many requests: it is log-only.

use std::collections::BTreeMap;

use toml::Value as Toml;

use super::super::condition_attributes;
use super::super::resolve::conditions;
use super::ConvertError;
use super::draft::{Draft, LimitDraft};
use crate::policy::door::Door;
use crate::policy::key_field::KeyField;

pub(super) fn is_it(text: &str) -> bool {
    rules(text).iter().any(|rule| {
        rule.items.iter().any(|item| item.name == "action")
            && rule.items.iter().any(|item| item.name == "id" || rate(&item.value).is_some())
    })
}

struct Rule {
    line: usize,
    items: Vec<Item>,
}

/// `name OPERATOR value`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Item {
    name: String,
    operator: String,
    value: String,
}

/// The limit in an action.
struct ActionLimit<'r> {
    command: &'static str,
    item: &'r str,
    most: &'r str,
    seconds: &'r str,
    action: &'r str,
}

pub(super) fn read(text: &str, draft: &mut Draft) -> Result<(), ConvertError> {
    let mut exempt: BTreeMap<String, Vec<Toml>> = BTreeMap::new();
    for rule in rules(text) {
        let find = |name: &str| rule.items.iter().rfind(|item| item.name == name).map(|item| item.value.as_str());
        let Some(action) = find("action") else { continue };
        let id = find("id").unwrap_or("rule");
        if let Some(rate) = rate(action) {
            limit(&rule, id, &rate, &exempt, draft);
        } else if ["dunno", "permit", "ok"].contains(&action.to_lowercase().as_str()) {
            exemption(&rule, id, &mut exempt, draft);
        } else {
            draft.missing(rule.line, format!("{id}: {action} is not a limit"));
        }
    }
    match draft.has_limits() {
        true => {
            let comment = "postfwd exempts clients by its rules only.";
            if !draft.is_set("whitelist") {
                draft.exempt_nobody(None, comment);
            }
        }
        false => draft.missing(None, "no rule has an action rate(), size() or rcpt() that can be converted"),
    }
    Ok(())
}

/// A rule that lets requests pass: clients on the whitelist, or what no limit below is about.
fn exemption(rule: &Rule, id: &str, exempt: &mut BTreeMap<String, Vec<Toml>>, draft: &mut Draft) {
    let RuleConditions { wanted, unwanted, unknown } = conditions_of(rule);
    let mut wanted = wanted.into_iter();
    match (wanted.next(), wanted.next()) {
        (Some((name, values)), None) if unwanted.is_empty() && unknown.is_empty() => {
            draft.carried(rule.line, format!("{id}: unless.{name} of the limits below"));
            exempt.entry(name).or_default().extend(values);
        }
        _ => draft.missing(rule.line, format!("{id}: the requests that it lets pass are limited below all the same")),
    }
}

fn limit(rule: &Rule, id: &str, rate: &ActionLimit, exempt: &BTreeMap<String, Vec<Toml>>, draft: &mut Draft) {
    let line = rule.line;
    let per = match rate.item.trim_start_matches("$$").to_lowercase().as_str() {
        "client_address" => "client".to_owned(),
        item => item.to_owned(),
    };
    if KeyField::of_word(&per).is_none() {
        let known = KeyField::WORDS.map(|(word, _)| word).join(", ");
        return draft.missing(line, format!("{id}: a counter per {per}; there are {known}"));
    }
    let (Ok(most), Ok(seconds)) = (rate.most.parse::<i64>(), rate.seconds.parse::<i64>()) else {
        return draft.missing(line, format!("{id}: {}/{} are not two whole numbers", rate.most, rate.seconds));
    };
    let Some(action) = answer(rate.action) else {
        return draft.missing(line, format!("{id}: {} is an action of postfwd, not of Postfix", rate.action));
    };
    let mut limit = LimitDraft::new(Some(line), id, format!("{id}: {}({}/{most}/{seconds})", rate.command, rate.item));
    match rate.command {
        "size" => limit.set("threshold", format!("{most}B")).set("count", "bytes"),
        "rcpt" => limit.set("threshold", most).set("count", "recipients"),
        _ => limit.set("threshold", most).set("count", "requests"),
    };
    // postfwd did not count what was over.
    limit.set("exptime", seconds).set("per", per.as_str()).set("count_refused", false).set("action", action.as_str());
    if per == "client" {
        limit.set("ipv6_prefix_length", 128);
    }
    let RuleConditions { wanted, mut unwanted, unknown } = conditions_of(rule);
    for (name, values) in exempt {
        unwanted.entry(name.clone()).or_default().extend(values.iter().cloned());
    }
    let table = |conditions: BTreeMap<String, Vec<Toml>>| {
        Toml::Table(conditions.into_iter().map(|(name, values)| (name, Toml::Array(values))).collect())
    };
    if !wanted.is_empty() {
        limit.set("match", table(wanted));
    }
    if !unwanted.is_empty() {
        limit.set("unless", table(unwanted));
    }
    draft.carried(line, format!("{id}: {} {} in {seconds} seconds per {per}", most, limit.counted()));
    if action != rate.action {
        draft.differs(line, format!("{id}: the answer is {action}"));
    }
    if rate.action.to_uppercase().starts_with("REJECT") {
        draft.differs(line, format!("{id}: REJECT returns the mail to its sender at once; DEFER_IF_PERMIT would not"));
    }
    if !unknown.is_empty() {
        limit.set_with("log_only", true, "For more requests than its rule: see what it would refuse first.");
        let unknown = unknown.iter().map(|item| format!("{}{}{}", item.name, item.operator, item.value));
        draft.missing(line, format!("{id}: {}; so the limit is log_only", unknown.collect::<Vec<_>>().join("; ")));
    }
    draft.limit(limit);
}

/// The conditions of a rule. Items of one name are alternatives.
#[derive(Default)]
struct RuleConditions {
    wanted: BTreeMap<String, Vec<Toml>>,
    unwanted: BTreeMap<String, Vec<Toml>>,
    unknown: Vec<Item>,
}

fn conditions_of(rule: &Rule) -> RuleConditions {
    let mut found = RuleConditions::default();
    for item in &rule.items {
        if ["id", "action"].contains(&item.name.as_str()) || is_stage(item) {
            continue;
        }
        match test(item) {
            Some((values, true)) => found.wanted.entry(item.name.clone()).or_default().extend(values),
            Some((values, false)) => found.unwanted.entry(item.name.clone()).or_default().extend(values),
            None => found.unknown.push(item.clone()),
        }
    }
    found
}

/// Whether an item only names the stage at which sizes or recipients are known: limits know it themselves.
fn is_stage(item: &Item) -> bool {
    item.name == "protocol_state" && ["END-OF-MESSAGE", "DATA"].contains(&item.value.to_uppercase().as_str())
}

/// The values of an item, and whether they are wanted.
fn test(item: &Item) -> Option<(Vec<Toml>, bool)> {
    let known = condition_attributes(Door::Smtp).any(|attribute| attribute.name() == item.name);
    let references = ["$$", "file:", "lfile:", "table:", "ltable:", "!!"];
    if !known || references.iter().any(|reference| item.value.contains(reference)) {
        return None;
    }
    let address = ["client_address", "server_address"].contains(&item.name.as_str());
    let number =
        ["client_port", "server_port", "recipient_count", "size", "encryption_keysize"].contains(&item.name.as_str());
    let wanted = !item.operator.starts_with('!');
    let expression = match item.operator.as_str() {
        "==" | "!=" => false,
        "=~" | "~=" | "!~" => true,
        // The plain sign is CIDR for addresses, at least for numbers, and a regular expression for the rest.
        "=" if address => false,
        "=" if !number => true,
        _ => return None,
    };
    let values: Vec<Toml> = match (address, expression) {
        (true, true) => return None,
        (true, false) => item.value.split(',').map(|net| Toml::from(net.trim())).collect(),
        (false, false) => vec![item.value.as_str().into()],
        (false, true) => {
            let expression = item.value.trim_start_matches('/').trim_end_matches('/');
            conditions::compile(expression).ok()?;
            vec![format!("/{expression}/").into()]
        }
    };
    Some((values, wanted))
}

/// `rate(client_address/3/300/450 4.7.1 sorry)`.
fn rate(action: &str) -> Option<ActionLimit<'_>> {
    let (command, rest) = action.split_once('(')?;
    let arguments = rest.trim_end().strip_suffix(')')?;
    let word = command.trim().to_lowercase();
    let command = ["rate", "size", "rcpt"].into_iter().find(|known| *known == word.trim_end_matches("5321"))?;
    let mut parts = arguments.splitn(4, '/').map(str::trim);
    Some(ActionLimit {
        command,
        item: parts.next()?,
        most: parts.next()?,
        seconds: parts.next()?,
        action: parts.next()?,
    })
}

/// The action as we have it: variables of postfwd by our names, or without them.
fn answer(action: &str) -> Option<String> {
    let word = action.split([' ', '(']).next().unwrap_or_default().to_lowercase();
    let own = [
        "jump", "score", "set", "note", "wait", "quit", "ask", "mail", "sendmail", "file", "exec", "rate", "size",
        "rcpt",
    ];
    if own.contains(&word.as_str()) || ["dunno", "ok", "permit", ""].contains(&word.as_str()) {
        return None;
    }
    let mut text = action.replace('{', "{{").replace('}', "}}");
    for (variable, ours) in [("$$ratecount", "{count}"), ("$$client_address", "{client}")] {
        text = text.replace(variable, ours);
    }
    // The other variables have no value here.
    let mut plain = String::new();
    let mut rest = text.as_str();
    while let Some(at) = rest.find("$$") {
        plain += &rest[..at];
        let after = rest[at + 2..].trim_start_matches('(');
        let end = after.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(after.len());
        plain += &format!("({})", &after[..end]);
        rest = after[end..].trim_start_matches(')');
    }
    Some(plain + rest)
}

/// The rules of a file, macros in place.
fn rules(text: &str) -> Vec<Rule> {
    let mut macros: BTreeMap<String, String> = BTreeMap::new();
    let mut rules = Vec::new();
    for (line, text) in joined(text) {
        let text = text.trim();
        if let Some((name, body)) = definition(text) {
            let body = filled(body, &macros);
            macros.insert(name.to_owned(), body);
            continue;
        }
        let items: Vec<Item> = filled(text, &macros).split(';').filter_map(item).collect();
        if !items.is_empty() {
            rules.push(Rule { line, items });
        }
    }
    rules
}

/// Lines without comments, joined: a rule goes on in lines that are indented, a macro up to a line that begins with `}`.
fn joined(text: &str) -> Vec<(usize, String)> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    let mut continued = false;
    for (index, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().replace('"', "");
        if line.trim().is_empty() {
            continue;
        }
        let indented = line.starts_with([' ', '\t']);
        let (line, continues) = match line.trim_end().strip_suffix('\\') {
            Some(line) => (line.to_owned(), true),
            None => (line, false),
        };
        match lines.last_mut() {
            Some((_, last)) if continued => *last += &line,
            Some((_, last)) if indented || line.starts_with('}') => {
                // The first item stands behind the brace, the last before the other.
                let gap =
                    if last.trim_end().ends_with(['{', ';']) || line.trim().starts_with('}') { " " } else { " ; " };
                *last += &format!("{gap}{}", line.trim());
            }
            _ => lines.push((index + 1, line.clone())),
        }
        continued = continues;
    }
    lines
}

/// `&&NAME { ITEMS }`.
fn definition(text: &str) -> Option<(&str, &str)> {
    let (name, rest) = text.strip_prefix("&&")?.split_once('{')?;
    let body = rest.trim_end_matches([' ', ';', '\t']).strip_suffix('}')?;
    Some((name.trim(), body.trim()))
}

/// The text with the bodies of its macros.
fn filled(text: &str, macros: &BTreeMap<String, String>) -> String {
    let mut text = text.to_owned();
    // Longer names first: one may be the beginning of another.
    let mut names: Vec<&String> = macros.keys().collect();
    names.sort_by_key(|name| std::cmp::Reverse(name.len()));
    for name in names {
        text = text.replace(&format!("&&{name}"), &macros[name]);
    }
    text
}

fn item(text: &str) -> Option<Item> {
    const OPERATORS: [&str; 11] = ["==", "=~", "~=", "!=", "!~", ">=", "<=", "=>", "=<", "!>", "!<"];
    let text = text.trim();
    let at = text.find(['=', '~', '!', '<', '>'])?;
    let operator = OPERATORS.into_iter().find(|operator| text[at..].starts_with(operator)).unwrap_or("=");
    let (name, value) = (text[..at].trim(), text.get(at + operator.len()..)?.trim());
    if name.is_empty() || name.contains(char::is_whitespace) {
        return None;
    }
    Some(Item { name: name.to_lowercase(), operator: operator.to_owned(), value: value.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_go_on_in_indented_lines_and_have_their_macros_filled_in() {
        let text = "&&NETS {\n\tclient_address=192.0.2.0/24\n\tclient_address=198.51.100.1 # one\n\tclient_name~=(-.+){4}\n}\n\
                    id=A ; &&NETS ; action=dunno\nid=B\n\tsender==x@example.org\n\taction=rate(sender/3/60/450 no)\n";
        let rules = rules(text);
        let shown = |rule: &Rule| {
            let item = |item: &Item| format!("{}{}{}", item.name, item.operator, item.value);
            rule.items.iter().map(item).collect::<Vec<_>>().join("; ")
        };
        assert_eq!(
            shown(&rules[0]),
            "id=A; client_address=192.0.2.0/24; client_address=198.51.100.1; client_name~=(-.+){4}; action=dunno"
        );
        assert_eq!(shown(&rules[1]), "id=B; sender==x@example.org; action=rate(sender/3/60/450 no)");
        assert_eq!((rules[0].line, rules[1].line), (6, 7));
    }
}
