//! A sentence that describes a limit.

use std::time::Duration;

use super::counted;
use crate::config::{EffectiveSetting, units};
use crate::policy::attribute::Attribute;
use crate::policy::calendar::Period;
use crate::policy::conditions::{Condition, Pattern, Test};
use crate::policy::door::{Door, DoorSet};
use crate::policy::key_field::KeyField;
use crate::policy::limit::{self, Ban, CountKind, Limit, Window};

/// The sentence: the key, the conditions, the number, the time, and the answer over the limit.
pub(super) fn sentence(limit: &Limit, settings: &[EffectiveSetting]) -> String {
    let word = |key: &str| {
        let setting = settings.iter().find(|setting| setting.key == key);
        setting.and_then(|setting| setting.value.as_ref()?.as_str()).unwrap_or_default()
    };
    let door =
        if limit.door == Door::Smtp { String::new() } else { format!("At the {} door: ", limit.door.into_str()) };
    let name = if limit.name == limit::TOP { String::new() } else { format!("{}: ", limit.name) };
    let length = || units::words(Duration::from_secs(limit.exptime.into()));
    let span = match &limit.window {
        Window::Fixed => format!("in {}", length()),
        Window::Sliding | Window::Exact => format!("in any {}", length()),
        Window::Calendar(calendar) => {
            let begins = match calendar.period() {
                Period::Hour => "the full hour",
                Period::Day => "midnight",
                Period::Week => "Monday 00:00",
                Period::Month => "the first of the month",
            };
            format!("in each {} from {begins} on ({})", calendar.period().into_str(), calendar.zone_name())
        }
    };
    let mut text = format!(
        "{name}{door}{who}{whom} may {what} {span}; the next {over}",
        who = who(limit),
        whom = whom(limit),
        what = what(limit.counts, limit.threshold),
        over = over(limit, &answer(limit, word("action"))),
    );
    text += &stress(limit, word("stress_action"));
    if limit.coalesce > 0 {
        let time = units::words(Duration::from_millis(limit.coalesce.into()));
        text += &format!("; what comes within {time} of another counts as one with it");
    }
    if limit.per.may_be_left_out() {
        let words: Vec<&str> = limit.per.0.iter().map(|field| field.word()).collect();
        let counted = if limit.count_absent { "counted together" } else { "not counted" };
        text += &format!("; what has no {} is {counted}", words.join(" and no "));
    }
    if !limit.count_refused {
        text += "; what is refused does not stay counted";
    }
    let own = |number, noun| {
        let has = if number == 1 { "has a threshold of its own" } else { "have thresholds of their own" };
        format!("; {} {has}", counted(number, noun))
    };
    if !limit.netblocks.is_empty() {
        text += &own(limit.netblocks.len(), "netblock");
    }
    if let Some(thresholds) = &limit.thresholds {
        let keys = thresholds.lists.iter().map(|list| list.len()).sum();
        text += &format!("{} by {}", own(keys, "key"), thresholds.field.word());
    }
    if limit.log_only {
        text += "; this is only logged";
    }
    format!("{text}.")
}

/// The key of the counters.
fn who(limit: &Limit) -> String {
    let (v4, v6) = (limit.ipv4_prefix_length, limit.ipv6_prefix_length);
    let part = |field: &KeyField| match field {
        KeyField::Client => format!("client (IPv4 /{v4}, IPv6 /{v6})"),
        KeyField::Whole(Attribute::Asn) => "autonomous system".to_owned(),
        field => field.word().to_owned(),
    };
    match limit.per.0.as_slice() {
        [] => "All clients together".to_owned(),
        [KeyField::Client] => format!("A {}", part(&KeyField::Client)),
        [field] => format!("Each {}", part(field)),
        fields => format!("Each combination of {}", fields.iter().map(part).collect::<Vec<_>>().join(" and ")),
    }
}

/// The conditions.
fn whom(limit: &Limit) -> String {
    let list = |conditions: &[Condition], word: &str, between: &str| match conditions {
        [] => String::new(),
        conditions => format!(" {word} {}", conditions.iter().map(condition).collect::<Vec<_>>().join(between)),
    };
    let conditions = &limit.conditions;
    list(&conditions.all, "where", " and ") + &list(&conditions.none, "unless", " or ")
}

/// How many values of a condition a sentence holds; a longer list was made by a program.
const SHOWN: usize = 10;

fn condition(condition: &Condition) -> String {
    let name = condition.attribute.name();
    match &condition.test {
        Test::Present => format!("{name} is present"),
        Test::Absent => format!("{name} is empty"),
        Test::AnyOf(patterns) => {
            let mut text = name.to_owned();
            let mut before = "";
            for (place, pattern) in patterns.iter().take(SHOWN).enumerate() {
                let (verb, value) = words(pattern);
                // `is 25 or 587`, not `is 25 or is 587`.
                let verb = if verb == before { "" } else { verb };
                let or = if place == 0 { "" } else { " or" };
                text += &format!("{or}{verb} {value}");
                before = words(pattern).0;
            }
            if let Some(more @ 1..) = patterns.len().checked_sub(SHOWN) {
                text += &format!(" or {more} others");
            }
            text
        }
    }
}

fn words(pattern: &Pattern) -> (&'static str, String) {
    match pattern {
        Pattern::Text(text) => (" is", text.to_string()),
        Pattern::Netblock(net) if net.prefix_len() == net.max_prefix_len() => (" is", net.addr().to_string()),
        Pattern::Netblock(net) => (" is in", net.to_string()),
        Pattern::Range(least, u64::MAX) => (" is", format!("at least {least}")),
        Pattern::Range(0, most) => (" is", format!("at most {most}")),
        Pattern::Range(least, most) => (" is", format!("from {least} to {most}")),
        Pattern::MailDomain(domain) => (" is", format!("in @{domain}")),
        Pattern::Below(domain) => (" is", format!("in or below {domain}")),
        Pattern::Listed(list) => (" is", format!("one of {} in {}", list.length, list.source)),
        Pattern::Regex(regex) => (" matches", format!("/{regex}/")),
    }
}

/// The number of hits that are allowed, in words.
fn what(counts: CountKind, threshold: u32) -> String {
    let number = |noun| counted(threshold as usize, noun);
    match (counts, threshold) {
        (CountKind::Connections, 1) => "connect once".to_owned(),
        (CountKind::Connections, _) => format!("connect {}", number("time")),
        (CountKind::Messages, _) => format!("send {}", number("message")),
        (CountKind::Recipients, _) => format!("name {}", number("recipient")),
        (CountKind::Requests, _) => format!("cause {}", number("request")),
        (CountKind::Clients, _) => format!("have {}", number("different client")),
        (CountKind::Bytes, kib) => format!("send {}", units::size_words(kib)),
        (CountKind::Logins, _) => format!("log in {}", number("time")),
        (CountKind::FailedLogins, _) => format!("fail to log in {}", number("time")),
        (CountKind::FailedPasswords, _) => format!("try {}", number("wrong password")),
    }
}

/// The answer to a refused request.
fn answer(limit: &Limit, action: &str) -> String {
    match limit.door {
        Door::Smtp => format!("answered {action}"),
        Door::Login => "refused".to_owned(),
        Door::Web => format!("answered {}", limit.action.status_text()),
    }
}

/// The effect on a request over the limit.
fn over(limit: &Limit, action: &str) -> String {
    let mut text = match limit.delay {
        None => format!("is {action}"),
        Some(delay) if delay.initial == delay.max => {
            format!("waits {}, and passes", units::words(delay.max))
        }
        Some(delay) => format!(
            "waits {}, each further one twice as long up to {}, and passes",
            units::words(delay.initial),
            units::words(delay.max)
        ),
    };
    if let Some(delay) = limit.delay {
        text += &format!("; when {} of a key wait already, it is {action}", delay.max_concurrent);
    }
    if let Some(ban) = limit.ban {
        text += &banned(ban);
        if limit.ban_doors != DoorSet::only(limit.door) {
            let doors: Vec<_> = limit.ban_doors.doors().map(|door| door.into_str()).collect();
            text += &format!(", at the doors {}", doors.join(", "));
        }
    }
    if limit.delay.is_some() || limit.ban.is_some() {
        let time = units::words(Duration::from_secs(limit.forget_after.into()));
        text += &format!("; all is forgotten after {time} within the limit");
    }
    text
}

fn banned(ban: Ban) -> String {
    let time = |seconds: u32| units::words(Duration::from_secs(seconds.into()));
    let after = match ban.threshold {
        1 => "a violation brings".to_owned(),
        number => format!("{number} violations bring"),
    };
    let growth = match ban.max > ban.time {
        true => format!(", each further one twice as long up to {}", time(ban.max)),
        false => String::new(),
    };
    format!("; {after} a ban of {}{growth}", time(ban.time))
}

/// The changes while Postfix reports stress.
fn stress(limit: &Limit, action: &str) -> String {
    let threshold = limit.stress_threshold.map(|threshold| match limit.counts {
        CountKind::Bytes => format!("{} are allowed", units::size_words(threshold)),
        _ => format!("{threshold} are allowed"),
    });
    let action = limit.stress_action.as_ref().map(|_| format!("the answer is {action}"));
    let parts: Vec<String> = threshold.into_iter().chain(action).collect();
    match parts.as_slice() {
        [] => String::new(),
        parts => format!("; while Postfix reports stress, {}", parts.join(" and ")),
    }
}
