//! anvil(8): the limits of Postfix's own in main.cf, or in what `postconf -n` prints.

use std::collections::BTreeMap;

use super::super::name;
use super::draft::{Draft, LimitDraft};
use super::{ConvertError, FileSettings};
use crate::net::netblock;

/// The limits that have a counterpart: parameter, what is counted, name, and the reply code of Postfix.
const LIMITS: [(&str, &str, &str, &str); 3] = [
    ("smtpd_client_connection_rate_limit", "connections", "rate", "421"),
    ("smtpd_client_message_rate_limit", "messages", "messages", "450"),
    ("smtpd_client_recipient_rate_limit", "recipients", "recipients", "450"),
];

/// Limits that only smtpd itself can enforce.
const STAYS: [(&str, &str); 3] = [
    ("smtpd_client_connection_count_limit", "connections at the same time"),
    ("smtpd_client_new_tls_session_rate_limit", "TLS handshakes"),
    ("smtpd_client_auth_rate_limit", "AUTH commands"),
];

const EXCEPTIONS: [&str; 2] = ["smtpd_client_event_limit_exceptions", "smtpd_client_connection_limit_exceptions"];

pub(super) fn is_it(text: &str) -> bool {
    let of_postfix = |name: &str| name.starts_with("smtpd_") || name.starts_with("anvil_") || name == "mynetworks";
    parameters(text).0.keys().any(|name| of_postfix(name))
}

/// Line and value of every parameter, continuation lines joined. The last one counts.
fn parameters(text: &str) -> FileSettings {
    let mut found = BTreeMap::new();
    let mut last: Option<String> = None;
    for (index, line) in text.lines().enumerate() {
        if line.trim().is_empty() || line.trim_start().starts_with('#') {
            continue;
        }
        if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = last.as_ref().and_then(|name| found.get_mut(name)) {
                *value = format!("{value} {}", line.trim());
            }
            continue;
        }
        last = None;
        if let Some((name, value)) = line.split_once('=') {
            let name = name.trim();
            if !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
                found.insert(name.to_owned(), (index + 1, value.trim().to_owned()));
                last = Some(name.to_owned());
            }
        }
    }
    FileSettings(found)
}

pub(super) fn read(text: &str, draft: &mut Draft) -> Result<(), ConvertError> {
    let parameters = parameters(text);
    let find = |name: &str| parameters.find(name).map(|(line, value)| (line, expanded(value, &parameters)));
    let unit = match find("anvil_rate_time_unit") {
        None => 60,
        Some((line, value)) => {
            let wrong = || (line, format!("anvil_rate_time_unit cannot be {value}"), "write it as in 60s".to_owned());
            let unit = seconds(&value).ok_or_else(wrong)?;
            draft.carried(line, format!("anvil_rate_time_unit: exptime = {unit}"));
            unit
        }
    };
    for (name, counts, own_name, code) in LIMITS {
        let Some((line, value)) = find(name) else { continue };
        let wrong = |_| (line, format!("{name} is not a whole number"), "write one".to_owned());
        let number: i64 = value.parse().map_err(wrong)?;
        if number == 0 {
            draft.carried(line, format!("{name} is 0: no limit"));
            continue;
        }
        let mut limit = LimitDraft::new(Some(line), own_name, format!("{name} = {number}"));
        limit.set("threshold", number).set("exptime", unit);
        if counts != "connections" {
            limit.set("count", counts);
        }
        prefixes(&find, &mut limit);
        draft.limit(limit);
        draft.carried(line, format!("{name}: {number} {counts} in {unit} seconds"));
        draft.differs(
            line,
            format!("{name}: anvil answered {code}; the answer is DEFER_IF_PERMIT, and `action` says what else"),
        );
        draft.differs(line, format!("{name}: once it is limited here, set it to 0 in main.cf"));
    }
    for (name, what) in STAYS {
        if let Some((line, value)) = find(name).filter(|(_, value)| value != "0") {
            draft.missing(line, format!("{name} = {value}: only smtpd sees {what}; leave it in main.cf"));
        }
    }
    exceptions(&find, draft);
    if !draft.has_limits() {
        draft.missing(None, "no rate limit of anvil is set; what follows is connshaper's default");
    } else if find("smtpd_client_connection_rate_limit").is_none_or(|(_, value)| value == "0") {
        draft.differs(None, "connections are not limited, as before: the first limit stands at the top level");
    }
    let ours = |name: &str| {
        LIMITS.iter().any(|(known, ..)| *known == name)
            || STAYS.iter().any(|(known, _)| *known == name)
            || EXCEPTIONS.contains(&name)
            || name == "anvil_rate_time_unit"
            || name.starts_with("smtpd_client_ip")
    };
    let others = parameters.0.keys().filter(|name| !ours(name)).count();
    if others > 0 {
        draft.missing(None, format!("{others} other parameters, which are about something else"));
    }
    Ok(())
}

/// `smtpd_client_ipv4_prefix_length` and its sibling, of Postfix 3.8 and newer.
fn prefixes(find: &impl Fn(&str) -> Option<(usize, String)>, limit: &mut LimitDraft) {
    for family in ["ipv4", "ipv6"] {
        let name = format!("smtpd_client_{family}_prefix_length");
        let own = format!("{family}_prefix_length");
        if let Some(bits) = find(&name).and_then(|(_, value)| value.parse::<i64>().ok()) {
            limit.set(&own, bits);
        }
    }
}

fn exceptions(find: &impl Fn(&str) -> Option<(usize, String)>, draft: &mut Draft) {
    let Some((line, list)) = EXCEPTIONS.iter().find_map(|name| find(name)) else {
        draft.differs(
            None,
            "mynetworks is exempt from anvil: have permit_mynetworks before check_policy_service in main.cf",
        );
        return;
    };
    draft.exempt_nobody(Some(line), "smtpd_client_event_limit_exceptions");
    for word in list.split([',', ' ', '\t']).filter(|word| !word.is_empty()) {
        let plain = word.replace(['[', ']'], "");
        let address = netblock::parse(&plain).is_some();
        match address || matches!(name::parse(&plain), Some(Ok(_))) {
            true => {
                draft.push(Some(line), "whitelist", plain.as_str(), "");
                draft.carried(line, format!("whitelist has {plain}"));
            }
            false if word == "$mynetworks" => {
                draft.differs(line, "$mynetworks: have permit_mynetworks before check_policy_service in main.cf");
            }
            false => draft.missing(
                line,
                format!("{word}: the whitelist has addresses, netblocks and names; a file of them is whitelist_file"),
            ),
        }
    }
}

/// Without `$name`s, as far as the file says what they are.
fn expanded(value: &str, parameters: &FileSettings) -> String {
    let mut value = value.to_owned();
    // A name may be made of names; one that is made of itself ends here.
    for _ in 0..10 {
        let known = parameters.0.iter().find(|(name, _)| value.contains(&format!("${name}")));
        let Some((name, (_, own))) = known else { break };
        value = value.replace(&format!("${name}"), own);
    }
    value
}

fn seconds(text: &str) -> Option<i64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let factor = match text[digits..].trim() {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        "w" => 604_800,
        _ => return None,
    };
    text[..digits].parse::<i64>().ok()?.checked_mul(factor)
}
