//! postgrey: its whitelists of clients and of recipients.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};
use toml::Value as Toml;

use super::super::resolve::conditions;
use super::Refused;
use super::draft::Draft;

pub(super) fn is_it(text: &str) -> bool {
    let mut entries = entries(text).peekable();
    entries.peek().is_some() && entries.all(|(_, entry)| !entry.contains(char::is_whitespace) && !entry.contains('='))
}

/// What is left of every line without its comment.
fn entries(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate();
    let lines = lines.map(|(index, line)| (index + 1, line.split('#').next().unwrap_or_default().trim()));
    lines.filter(|(_, entry)| !entry.is_empty())
}

pub(super) fn read(text: &str, draft: &mut Draft) -> Result<(), Refused> {
    let mut conditions: [(&str, Vec<Toml>); 2] = [("client_name", Vec::new()), ("recipient", Vec::new())];
    let of_recipients = entries(text).any(|(_, entry)| !entry.starts_with('/') && entry.contains('@'));
    for (line, entry) in entries(text) {
        if let Some(net) = netblock(entry).filter(|_| !of_recipients) {
            draft.push(Some(line), "whitelist", net.to_string(), "");
            draft.carried(line, format!("whitelist has {net}"));
            continue;
        }
        let expression = match (entry.strip_prefix('/').and_then(|entry| entry.strip_suffix('/')), of_recipients) {
            (Some(expression), _) => expression.to_owned(),
            (None, true) => of_recipient(entry),
            (None, false) => format!("(^|[.]){}$", escaped(entry)),
        };
        if let Err(why) = conditions::compile(&expression) {
            draft.missing(line, format!("{entry}: {why}"));
            continue;
        }
        let (attribute, list) = &mut conditions[usize::from(of_recipients)];
        list.push(format!("/{expression}/").into());
        draft.carried(line, format!("unless.{attribute} has {entry}"));
    }
    let conditions = conditions.into_iter().filter(|(_, list)| !list.is_empty());
    for (attribute, list) in conditions {
        draft.insert(None, "unless", attribute, Toml::Array(list));
    }
    draft.differs(None, "the limit is connshaper's default: postgrey has none, it delays the first mail of everyone");
    Ok(())
}

/// `192.0.2.1`, `192.0.2.0/24`, `192.0.2`, and `192.0`, which postgrey reads as a /24 as well.
fn netblock(entry: &str) -> Option<IpNet> {
    if let Ok(net) = entry.parse::<IpNet>() {
        return Some(net.trunc());
    }
    if let Ok(address) = entry.parse::<IpAddr>() {
        return Some(address.into());
    }
    let octets: Vec<u8> = entry.split('.').map(str::parse).collect::<Result<_, _>>().ok()?;
    let address = match octets[..] {
        [a, b, c] => Ipv4Addr::new(a, b, c, 0),
        [a, b] => Ipv4Addr::new(a, b, 0, 0),
        _ => return None,
    };
    Ipv4Net::new(address, 24).ok().map(IpNet::V4)
}

/// `user@domain` with its extensions, `user@`, or `domain`.
fn of_recipient(entry: &str) -> String {
    match entry.split_once('@') {
        Some((user, "")) => format!("^{}([+][^@]+)?@", escaped(user)),
        Some((user, domain)) => format!("^{}([+][^@]+)?@{}$", escaped(user), escaped(domain)),
        None => format!("[@.]{}$", escaped(entry)),
    }
}

/// Dots in brackets are better read than behind backslashes, which TOML would double.
fn escaped(text: &str) -> String {
    regex::escape(text).replace("\\.", "[.]").replace("\\-", "-")
}
