//! `thresholds`: thresholds of their own for single keys of a limit.

use std::sync::Arc;

use toml::de::DeValue;

use super::super::settings::{SettingEntry, TableSettings};
use super::super::source::Span;
use super::super::threshold_key;
use super::limit::amount;
use crate::policy::attribute::Attribute;
use crate::policy::key::KeySpec;
use crate::policy::key_field::KeyField;
use crate::policy::limit::CountKind;
use crate::policy::spelling::Spellings;
use crate::policy::thresholds::{ThresholdList, ThresholdListBuilder, Thresholds, UNLIMITED};

/// The thresholds of single keys of a limit; files are read later.
pub(super) fn read(
    s: &TableSettings,
    counts: CountKind,
    per: &KeySpec,
    spellings: &Spellings,
) -> Option<Box<Thresholds>> {
    let key = ["thresholds", "thresholds_file"].into_iter().find(|key| s.sets(key))?;
    let field = field(s, key, per)?;
    let table = s.table("thresholds");
    let lists = if table.is_empty() { Vec::new() } else { vec![Arc::new(list(s, field, counts, spellings, &table))] };
    Some(Box::new(Thresholds { field, lists }))
}

/// The part of a limit's key that its thresholds speak of: the login, sender, recipient or domain, else the only part
/// beside the client.
fn field(s: &TableSettings, key: &str, per: &KeySpec) -> Option<KeyField> {
    let span = s.name_span(key).unwrap_or_default();
    let error = |problem: String, remedy: &str| s.diagnostics.error(&span, problem, remedy);
    let named = s.named(key);
    let others: Vec<KeyField> = per.0.iter().copied().filter(|field| *field != KeyField::Client).collect();
    let is_of_mail = |field: &&KeyField| field.is_of_mail() && **field != KeyField::Whole(Attribute::Instance);
    let of_mail: Vec<KeyField> = others.iter().filter(is_of_mail).copied().collect();
    match (of_mail.as_slice(), others.as_slice()) {
        ([field], _) | ([], [field]) => Some(*field),
        ([], []) if per.0.is_empty() => error(
            format!("{named} has no keys: all clients share one counter"),
            "write how much they may in `threshold`",
        ),
        ([], []) => error(
            format!("{named} is about logins, senders and domains, and the limit counts by client"),
            "write addresses into `netblocks`, or what the limit counts by into `per`, as in `per = \"sasl_username\"`",
        ),
        (several @ [_, _, ..], _) | ([], several) => {
            let words: Vec<&str> = several.iter().map(|field| field.word()).collect();
            let remedy = "write a limit for each of them, and the thresholds of its keys there";
            error(format!("the keys of {named} may each be a {}", words.join(" or a ")), remedy)
        }
    }
}

fn list(
    s: &TableSettings,
    field: KeyField,
    counts: CountKind,
    spellings: &Spellings,
    table: &[SettingEntry],
) -> ThresholdList {
    let source = s.diagnostics.source;
    let mut builder = ThresholdListBuilder::default();
    let mut spans: Vec<Span> = Vec::new();
    for entry in table {
        let key = threshold_key::key(field, entry.name, spellings);
        let Some(key) = s.diagnostics.noted(&entry.span, key) else { continue };
        let threshold = match entry.value.get_ref() {
            DeValue::Integer(number) if number.as_str() == "-1" => Some(UNLIMITED),
            DeValue::Integer(number) if number.as_str() == "0" => Some(0),
            _ => amount(s, &format!("the threshold of \"{}\"", entry.name), entry.value, counts),
        };
        if let Some(threshold) = threshold {
            builder.add(&key, threshold, source.place(entry.span.start).0 as u32, None);
            spans.push(entry.span.clone());
        }
    }
    let name = table.first().map(|entry| source.path_at(entry.span.start).display().to_string()).unwrap_or_default();
    builder.finish(&name, Vec::new(), |key, line, first| {
        let span = spans.iter().rev().find(|span| source.place(span.start).0 == line as usize);
        let problem = format!("\"{key}\" stands in line {first} too, and has another threshold there");
        s.diagnostics.error::<()>(&span.cloned().unwrap_or_default(), problem, "keep one of the two");
    })
}
