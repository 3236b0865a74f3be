//! postgrey: its whitelists of clients and of recipients.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};
use toml::Value as Toml;

use super::super::name;
use super::super::resolve::conditions;
use super::ConvertError;
use super::draft::Draft;

pub(super) fn is_it(text: &str) -> bool {
    let mut entries = entries(text).peekable();
    entries.peek().is_some() && entries.all(|(_, entry)| !entry.contains(char::is_whitespace) && !entry.contains('='))
}

/// Each line without its comment.
fn entries(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate();
    let lines = lines.map(|(index, line)| (index + 1, line.split('#').next().unwrap_or_default().trim()));
    lines.filter(|(_, entry)| !entry.is_empty())
}

pub(super) fn read(text: &str, draft: &mut Draft) -> Result<(), ConvertError> {
    let of_recipients = entries(text).any(|(_, entry)| !entry.starts_with('/') && entry.contains('@'));
    let mut recipients: Vec<Toml> = Vec::new();
    for (line, entry) in entries(text) {
        let expression = entry.strip_prefix('/').and_then(|entry| entry.strip_suffix('/'));
        if of_recipients {
            let expression = expression.map_or_else(|| of_recipient(entry), str::to_owned);
            match conditions::compile(&expression) {
                Ok(_) => {
                    recipients.push(format!("/{expression}/").into());
                    draft.carried(line, format!("unless.recipient has {entry}"));
                }
                Err(why) => draft.missing(line, format!("{entry}: {why}")),
            }
            continue;
        }
        // A name stands for all below it too.
        let client = match (netblock(entry), expression) {
            (Some(net), _) => net.to_string(),
            (None, Some(_)) => entry.to_owned(),
            (None, None) => format!(".{}", entry.trim_start_matches('.')),
        };
        match name::parse(&client) {
            Some(Err((problem, _))) => draft.missing(line, format!("{entry}: {problem}")),
            Some(Ok(_)) | None => {
                draft.push(Some(line), "whitelist", client.as_str(), "");
                draft.carried(line, format!("whitelist has {client}"));
            }
        }
    }
    if !recipients.is_empty() {
        draft.insert(None, "unless", "recipient", Toml::Array(recipients));
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
