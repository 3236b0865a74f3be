//! Limits: the keys that may stand at the top level and in every `[limit.NAME]`.

use std::time::Duration;

use jiff::tz::TimeZone;
use strum::VariantArray;
use toml::Spanned;
use toml::de::DeValue;

use super::super::diagnostics::quoted;
use super::super::effective::Origin;
use super::super::origin_files::{self, OriginFile};
use super::super::settings::{TableSettings, integer, with_article};
use super::super::units::{self, spell};
use super::super::{keys, source::Span};
use super::{conditions, netblocks, reply, thresholds, window};
use crate::net::origin::OriginKind;
use crate::policy::attribute::Attribute;
use crate::policy::conditions::Condition;
use crate::policy::door::{Door, DoorSet};
use crate::policy::key::{self, KeySpec};
use crate::policy::key_field::KeyField;
use crate::policy::limit::{self, Ban, Conditions, CountKind, CounterLimitId, Delay, Limit, SessionLimitId};
use crate::policy::spelling::Spellings;

/// Settings of the whole program that every limit has.
pub(super) struct Program {
    pub key_prefix: String,
    pub log_only: bool,
    /// Whether the store's sliding windows are exact.
    pub slides_exactly: bool,
    /// Restriction classes that an action may name.
    pub classes: Vec<String>,
    /// Of calendar windows.
    pub zone: TimeZone,
    pub timeouts: Timeouts,
    pub spellings: Spellings,
    /// Databases of where clients are from, with the spans of their names.
    pub databases: Vec<(OriginFile, Span)>,
}

/// How long Postfix waits for an answer, and how much of that the store may take before a session is delayed.
#[derive(Clone, Copy)]
pub(super) struct Timeouts {
    pub postfix: Duration,
    pub store: Duration,
}

impl Timeouts {
    /// The longest delay that leaves Postfix two seconds.
    fn longest_delay(self) -> Duration {
        const SECOND: Duration = Duration::from_secs(1);
        self.postfix.saturating_sub((2 * SECOND).max(self.store + SECOND))
    }
}

/// The door as a message adds it, unless it is Postfix's.
pub(super) fn at(door: Door) -> String {
    match door {
        Door::Smtp => String::new(),
        door => format!(" at the {} door", door.into_str()),
    }
}

/// The limit of this name. `span` is that of the name.
pub(super) fn read(s: &TableSettings, program: &Program, name: &str, span: &Span) -> Limit {
    let door = s.variant("door");
    let counts = counts(s, door);
    let (window, exptime) = window::read(s, program);
    let ban = ban(s);
    let longest = exptime.max(ban.map_or(0, |ban| ban.max));
    let log_only = s.get::<bool>("log_only") || program.log_only;
    let per = per(s, door);
    let conditions = conditions::read(s, door, &program.spellings);
    check_databases(s, program, &per, &conditions);
    let (action, stress_action) = reply::actions(s, counts, &per, &program.classes);
    let ban_doors = ban_doors(s, door, &per);
    if counts == CountKind::Clients {
        check_clients(s);
    }
    let own_amount = |key| s.toml(key).and_then(|toml| amount(s, &s.named(key), toml, counts));
    let limit = Limit {
        id: CounterLimitId(0),
        memory_id: SessionLimitId(0),
        key_prefix: key::limit_prefix(&program.key_prefix, name, counts, door, log_only),
        name: name.to_owned(),
        door,
        ban_doors,
        counts,
        spellings: program.spellings.clone(),
        conditions,
        threshold: threshold(s, counts, name, span),
        thresholds: thresholds::read(s, counts, &per, &program.spellings),
        stress_threshold: own_amount("stress_threshold"),
        exptime,
        exptime_change: None,
        window,
        ipv4_prefix_length: s.get("ipv4_prefix_length"),
        ipv6_prefix_length: s.get("ipv6_prefix_length"),
        whitelist_exempts: s
            .get::<Option<bool>>("whitelist_exempts")
            .unwrap_or_else(|| !per.0.iter().any(|field| field.is_of_mail())),
        netblocks: match name {
            // The netblocks of the top level are part of the program's lists.
            limit::TOP => Default::default(),
            _ => netblocks::of_limit(s, counts, &per),
        },
        count_absent: s.get("count_absent"),
        per,
        coalesce: s.get::<Duration>("coalesce").as_millis() as u32,
        count_refused: s.get("count_refused"),
        count_unsent: s.get("count_unsent"),
        alert: s.get("alert"),
        alert_threshold: own_amount("alert_threshold"),
        log_only,
        delay: delay(s, door, program.timeouts),
        ban,
        forget_after: s.get::<Option<Duration>>("forget_after").map_or(longest, seconds),
        action,
        stress_action,
    };
    if limit.counts == CountKind::Recipients && limit.is_about_late_recipients() {
        check_late_recipients(s);
    }
    limit
}

/// Recipients that a condition chooses are counted one by one, which is at RCPT.
fn check_late_recipients(s: &TableSettings) {
    let key = ["match", "unless"].into_iter().find(|key| s.sets(key)).unwrap_or("match");
    let problem = format!("{} holds at DATA only, where Postfix names none of several recipients", s.named(key));
    let remedy = "leave out `protocol_state` and `recipient_count`: recipients are counted at RCPT, and with \
                  `count_unsent = false` they go back if the message is not sent; or count messages";
    s.error::<()>(key, problem, remedy);
}

/// Which spellings of a mailbox are one.
pub(super) fn spellings(s: &TableSettings) -> Spellings {
    let delimiters = s.get::<String>("recipient_delimiter");
    // A letter would cut names, and every address has an `@`.
    if let Some(wrong) = delimiters.chars().find(|letter| !letter.is_ascii_punctuation() || *letter == '@') {
        let problem = format!("`recipient_delimiter` cannot have {}", quoted(&wrong.to_string()));
        s.error::<()>("recipient_delimiter", problem, "write it as in main.cf: \"+\", \"-\" or \"+-\"");
    }
    Spellings { delimiters: delimiters.into(), canonical_senders: s.get("canonical_senders") }
}

/// Notes settings that exclude counting different clients: the first hit of a client is remembered, so it must
/// have been counted, in one window.
fn check_clients(s: &TableSettings) {
    let error = |key: &str, what: &str, remedy: &str| {
        let problem = format!("{} cannot be {what} where `count` is \"clients\"", s.named(key));
        s.error::<()>(key, problem, remedy);
    };
    if s.get::<String>("window") != "fixed" {
        error("window", "another than fixed", "remove it, or write `window = \"fixed\"`");
    }
    if !s.get::<Duration>("coalesce").is_zero() {
        error("coalesce", "set", "remove it: a client counts once however often it comes");
    }
    if !s.get::<bool>("count_refused") {
        error("count_refused", "false", "remove it: a client that was refused has used the key too");
    }
}

pub(super) fn seconds(duration: Duration) -> u32 {
    duration.as_secs() as u32
}

fn threshold(s: &TableSettings, counts: CountKind, name: &str, span: &Span) -> u32 {
    // Any number will do: a wrong configuration is never in force.
    const WRONG: u32 = 1;
    if !s.sets("threshold") && name != limit::TOP {
        let problem = format!("limit `{name}` has no `threshold`");
        s.diagnostics.error::<()>(span, problem, "say how much it allows, as in `threshold = 10`");
        return WRONG;
    }
    let Some(toml) = s.toml("threshold") else { return WRONG };
    if integer(toml.get_ref()) == Some(0) {
        let remedy = "write a number from 1; to refuse certain clients whatever they do, put them into `blacklist`";
        let problem = format!("a `threshold` of 0 would refuse every client{}", s.owner());
        return s.error("threshold", problem, remedy).unwrap_or(WRONG);
    }
    amount(s, &s.named("threshold"), toml, counts).unwrap_or(WRONG)
}

/// A threshold from 1: a number, or a size where the limit counts bytes. `named` is what messages call it.
pub(super) fn amount(s: &TableSettings, named: &str, toml: &Spanned<DeValue>, counts: CountKind) -> Option<u32> {
    const MOST: u64 = super::LARGEST_THRESHOLD;
    let error = |problem, remedy: &str| s.diagnostics.error(&toml.span(), problem, remedy);
    let bytes = counts == CountKind::Bytes;
    let wanted = if bytes { "a size" } else { "a whole number" };
    let number = match toml.get_ref() {
        number @ DeValue::Integer(_) => integer(number),
        DeValue::String(text) if bytes => match units::size(text) {
            Some(bytes) => Some(bytes),
            None => {
                let problem = format!("{} is not a valid size", quoted(text));
                return error(problem, "write it as in \"500KB\", \"100MB\" or \"1GiB\"");
            }
        },
        other => {
            let problem = format!("{named} is {wanted}, not {}", with_article(other.type_str()));
            let example = if bytes { "\"100MB\"" } else { "10" };
            return error(problem, &format!("write {wanted}, as in {example}"));
        }
    };
    match number.map(|number| number.div_ceil(counts.unit().into())) {
        Some(amount @ 1..=MOST) => Some(amount as u32),
        _ => {
            let most = if bytes { "\"1000000000KiB\"".to_owned() } else { MOST.to_string() };
            error(format!("{named} is out of bounds"), &format!("write {wanted} from 1 to {most}"))
        }
    }
}

/// The kind of count, which must exist at the door.
fn counts(s: &TableSettings, door: Door) -> CountKind {
    if s.origin("count") == Origin::Default {
        return CountKind::usual(door);
    }
    let text: String = s.get("count");
    let known = CountKind::VARIANTS.iter().filter(|counts| counts.is_at(door));
    if let Some(counts) = known.clone().find(|counts| counts.into_str() == text) {
        return *counts;
    }
    let words: Vec<String> = known.map(|counts| format!("\"{}\"", counts.into_str())).collect();
    let problem = format!("{} cannot be {}{}", s.named("count"), quoted(&text), at(door));
    let usual = CountKind::usual(door);
    s.error("count", problem, format!("write {}", words.join(" or "))).unwrap_or(usual)
}

/// The doors at which the bans of a limit hold: its own, and those of `ban_doors`.
fn ban_doors(s: &TableSettings, door: Door, per: &KeySpec) -> DoorSet {
    let mut doors = vec![door];
    for (word, span) in s.strings("ban_doors").unwrap_or_default() {
        let Some(other) = Door::ALL.into_iter().find(|known| known.into_str() == word) else {
            let known = Door::ALL.map(|door| format!("\"{}\"", door.into_str()));
            let problem = format!("{} cannot be {}", s.named("ban_doors"), quoted(word));
            s.diagnostics.error::<()>(span, problem, format!("write some of {}", known.join(", ")));
            continue;
        };
        if other != door && !per.is_client() {
            let problem = format!(
                "a ban of limit{} can hold at another door only if it is of a client",
                s.owner().trim_start_matches(" of limit")
            );
            s.diagnostics.error::<()>(span, problem, "write `per = \"client\"`, or leave the other doors out");
        }
        doors.push(other);
    }
    doors.into_iter().collect()
}

fn per(s: &TableSettings, door: Door) -> KeySpec {
    let mut per = KeySpec(Default::default());
    for (word, span) in s.strings("per").unwrap_or_default() {
        match KeyField::of_word(word) {
            Some(field) if per.0.contains(&field) => {
                let problem = format!("{} stands twice in {}", quoted(word), s.named("per"));
                s.diagnostics.error::<()>(span, problem, "keep one of them");
            }
            Some(field) if field.is_at(door) => per.0.push(field),
            _ => {
                let known: Vec<_> =
                    KeyField::WORDS.iter().filter(|(_, field)| field.is_at(door)).map(|(word, _)| *word).collect();
                let remedy = match keys::nearest(word, known.iter().copied()) {
                    Some(word) => format!("did you mean \"{word}\"?"),
                    None => format!("write some of {}", known.join(", ")),
                };
                let problem = format!("{} cannot be {}{}", s.named("per"), quoted(word), at(door));
                s.diagnostics.error::<()>(span, problem, remedy);
            }
        }
    }
    per
}

/// Checks that there is a database for each attribute of origin that a limit uses.
fn check_databases(s: &TableSettings, program: &Program, per: &KeySpec, conditions: &Conditions) {
    for (key, kind) in origin_files::KEYS {
        let attribute = match kind {
            OriginKind::Asn => Attribute::Asn,
            OriginKind::Country => Attribute::Country,
        };
        let has_it = program.databases.iter().any(|(file, _)| file.kind == kind);
        let is_about = |conditions: &[Condition]| conditions.iter().any(|condition| condition.attribute == attribute);
        let asked = [
            ("per", per.0.contains(&KeyField::Whole(attribute))),
            ("match", is_about(&conditions.all)),
            ("unless", is_about(&conditions.none)),
        ];
        for (asks, _) in asked.into_iter().filter(|(_, asks)| *asks && !has_it) {
            let span = s.name_span(asks).unwrap_or_default();
            let problem = format!("{} asks for `{}`, and no database says it", s.named(asks), attribute.name());
            let remedy = format!("set `{key}` at the top level to the path of a MaxMind DB file");
            s.diagnostics.error::<()>(&span, problem, remedy);
        }
    }
}

/// The delays of a limit. Only Postfix's time-out is known.
fn delay(s: &TableSettings, door: Door, timeouts: Timeouts) -> Option<Delay> {
    let longest = longest_delay(s, timeouts, Some("initial_delay").filter(|_| door == Door::Smtp));
    let initial = s.get::<Option<Duration>>("initial_delay")?;
    if initial > longest.max {
        let max = spell(longest.max);
        let problem = format!("{} is longer than `max_delay`, which is {max}", s.named("initial_delay"));
        let remedy = match s.sets("max_delay") {
            true => format!("write at most {max}, or a longer `max_delay`"),
            false => format!("write at most {max}, or `max_delay = \"{}\"` as well", spell(initial)),
        };
        s.error::<()>("initial_delay", problem, remedy);
    }
    Some(Delay { initial, ..longest })
}

/// A delay of `max_delay`. `cause` is the key that delays sessions, if there is one and this table sets it.
pub(super) fn longest_delay(s: &TableSettings, timeouts: Timeouts, cause: Option<&str>) -> Delay {
    let (max, most) = (s.get("max_delay"), timeouts.longest_delay());
    let span = cause.and_then(|key| s.value_span(key)).map(|span| s.value_span("max_delay").unwrap_or(span));
    if let Some(span) = span.filter(|_| max > most) {
        let problem = format!(
            "{} is {}, and Postfix waits {} for an answer: with less than two seconds left it may ask again, \
             and the client pass",
            s.named("max_delay"),
            spell(max),
            spell(timeouts.postfix)
        );
        let remedy = format!(
            "write at most {}; or raise smtpd_policy_service_timeout in main.cf, and `policy_timeout` with it",
            spell(most)
        );
        s.diagnostics.error::<()>(&span, problem, remedy);
    }
    Delay { initial: max, max, max_concurrent: s.get("max_concurrent") }
}

fn ban(s: &TableSettings) -> Option<Ban> {
    let time = s.get::<Option<Duration>>("ban_time")?;
    let max = s.get::<Option<Duration>>("ban_max").unwrap_or(time);
    if max < time {
        let problem = format!("{} is shorter than `ban_time`", s.named("ban_max"));
        s.error::<()>("ban_max", problem, "write a longer one, or remove it: then every ban lasts `ban_time`");
    }
    Some(Ban { time: seconds(time), threshold: s.get("ban_threshold"), max: seconds(max) })
}

/// The tables `[limit.NAME]`, in the order of the file: each with its name and the span of that.
pub(super) fn named<'t, 's>(s: &TableSettings<'t, 's>) -> Vec<(&'t str, Span, TableSettings<'t, 's>)> {
    /// More cannot be read by people, nor looked at for every request.
    const MOST: usize = 100;
    let mut limits = Vec::new();
    for entry in s.table("limit") {
        let error = |problem, remedy: &str| s.diagnostics.error::<()>(&entry.span, problem, remedy);
        let DeValue::Table(table) = entry.value.get_ref() else {
            let found = with_article(entry.value.get_ref().type_str());
            let problem = format!("{} is {found}, not a limit", quoted(entry.name));
            error(problem, "a limit has a name: write `[limit.NAME]` above its keys");
            continue;
        };
        if s.diagnostics.noted(&entry.span, check_name(entry.name)).is_none() {
            continue;
        }
        if limits.len() == MOST {
            error(format!("more than {MOST} limits"), "one limit can cover many clients: see `per` and `netblocks`");
            break;
        }
        limits.push((entry.name, entry.span, s.limit(entry.name, table)));
    }
    limits
}

/// Whether a limit can have this name. `Err`: problem and remedy.
fn check_name(name: &str) -> Result<(), (String, &'static str)> {
    if [limit::TOP, crate::policy::BLACKLIST].contains(&name) {
        let problem = format!("`{name}` is not a valid name for a limit: logs use it for something else");
        return Err((problem, "write another name, or the keys at the top level, which is the limit `connections`"));
    }
    let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    match name.len() {
        1..=32 if name.bytes().all(good) => Ok(()),
        _ => {
            let remedy = "write 1 to 32 letters, digits, `_` and `-`, as in `[limit.daily]`";
            Err((format!("{} is not a valid name for a limit", quoted(name)), remedy))
        }
    }
}
