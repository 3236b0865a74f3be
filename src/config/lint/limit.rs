//! Keys of one limit that do not fit together, and limits that say the same.

use super::super::Config;
use super::super::settings::Settings;
use super::super::source::Span;
use crate::config::diagnostics::Diagnostics;
use crate::policy::Limit;
use crate::policy::attribute::Attribute;
use crate::policy::conditions::{Pattern, Test};
use crate::policy::key::KeyField;
use crate::policy::limit::{self, Counts};

/// More connections than one client can make: Postfix itself accepts fewer.
const MOST_PER_SECOND: u32 = 10_000;

/// What `protocol_state` can be; the last one is not documented, but sent.
const STATES: [&str; 10] =
    ["CONNECT", "EHLO", "HELO", "MAIL", "RCPT", "DATA", "END-OF-MESSAGE", "VRFY", "ETRN", "XCLIENT"];

/// Looks at the keys a limit sets, knowing what all of them come to.
pub(in crate::config) fn examine_limit(limit: &Limit, s: &Settings) {
    let odd = |key: &str, text: &str| {
        if let Some(span) = s.name(key) {
            s.diagnostics.warn(&span, format!("{} {text}", s.named(key)));
        }
    };
    if limit.counts == Counts::Connections && limit.threshold / limit.exptime.max(1) > MOST_PER_SECOND {
        odd("threshold", "will never be reached: no client connects that often in `exptime`");
    }
    // What further limits take from the top level may have an effect there.
    let alone = s.value("limit").is_none();
    if alone && s.string("action").is_some_and(|(action, _)| action.trim().contains(char::is_whitespace)) {
        for key in ["text", "enhanced_status_code"] {
            odd(key, "has no effect: `action` has a text of its own");
        }
    }
    examine_ladder(limit, s, &odd);
    if limit.stress_threshold.is_some_and(|stressed| stressed > limit.threshold) {
        odd("stress_threshold", "has no effect: `threshold` is lower");
    }
    examine_key(limit, s, &odd);
    examine_conditions(limit, &odd);
}

/// Steps over the limit that are never taken.
fn examine_ladder(limit: &Limit, s: &Settings, odd: &impl Fn(&str, &str)) {
    let top = limit.name == limit::TOP;
    let blacklist_waits = top && s.string("blacklist_action").is_some_and(|(action, _)| action == "delay");
    if limit.delay.is_none() && !blacklist_waits {
        for key in ["max_delay", "max_concurrent"] {
            odd(key, "has no effect without `initial_delay`: nobody waits");
        }
    }
    if limit.ban.is_none() {
        for key in ["ban_threshold", "ban_max"] {
            odd(key, "has no effect without `ban_time`: nobody is banned");
        }
    }
    if limit.ban.is_none() && limit.delay.is_none() {
        odd("forget_after", "has no effect without `initial_delay` or `ban_time`: nothing is remembered");
    }
}

/// Keys that the first request of a session does not say, or that are not what a client is.
fn examine_key(limit: &Limit, s: &Settings, odd: &impl Fn(&str, &str)) {
    let of_mail = |field: &KeyField| {
        let (KeyField::Whole(attribute) | KeyField::MailDomain(attribute)) = field else { return false };
        matches!(attribute, Attribute::Sender | Attribute::Recipient)
    };
    if limit.counts == Counts::Connections && limit.per.0.iter().any(of_mail) {
        let text = "looks at the first sender or recipient of a connection only: \
                    set `count` to \"messages\" or \"recipients\" to have all of them counted";
        odd("per", text);
    }
    if !limit.per.0.contains(&KeyField::Client) {
        for key in ["ipv4_prefix_length", "ipv6_prefix_length"] {
            // At the top level further limits may take it.
            if s.value("limit").is_none() {
                odd(key, "has no effect: `per` does not have the client");
            }
        }
    }
}

/// Conditions that never hold, and states in which nothing can be counted.
fn examine_conditions(limit: &Limit, odd: &impl Fn(&str, &str)) {
    let conditions = limit.conditions.all.iter().chain(&limit.conditions.none);
    for condition in conditions.filter(|condition| condition.attribute == Attribute::ProtocolState) {
        let Test::AnyOf(patterns) = &condition.test else { continue };
        for pattern in patterns {
            let Pattern::Text(text) = pattern else { continue };
            let required = limit.conditions.all.contains(condition);
            if required && limit.counts == Counts::Bytes && !patterns.iter().any(is_end_of_message) {
                odd("match", "is never fulfilled where bytes are known: that is at END-OF-MESSAGE");
            }
            if !STATES.iter().any(|state| state.eq_ignore_ascii_case(text)) {
                let key = if required { "match" } else { "unless" };
                odd(key, &format!("names a `protocol_state` that there is not: the states are {}", STATES.join(", ")));
            }
        }
    }
    let exclusive = limit.conditions.none.iter().any(|condition| limit.conditions.all.contains(condition));
    if exclusive {
        odd("unless", "has a condition that is in `match` too, so the limit is about nothing");
    }
}

fn is_end_of_message(pattern: &Pattern) -> bool {
    !matches!(pattern, Pattern::Text(text) if !text.eq_ignore_ascii_case("END-OF-MESSAGE"))
}

/// Looks for limits that say exactly the same.
pub(in crate::config) fn examine_equals(config: &Config, places: &[Span], remarks: &Diagnostics) {
    let alike = |limit: &Limit| Limit { name: String::new(), key_prefix: String::new(), ..limit.clone() };
    let limits: Vec<Limit> = config.limits.iter().map(alike).collect();
    // The top level's netblocks are not part of its limit.
    let first = usize::from(!config.lists.rates.is_empty());
    for (place, limit) in limits.iter().enumerate().skip(first + 1) {
        if let Some(earlier) = (first..place).find(|earlier| limits[*earlier] == *limit) {
            let (name, earlier) = (&config.limits[place].name, &config.limits[earlier].name);
            let text = format!("limit `{name}` says the same as `{earlier}`, so it has no effect");
            remarks.warn(&places[place - 1], text);
        }
    }
}
