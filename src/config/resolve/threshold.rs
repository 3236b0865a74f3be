//! How much a limit allows: a number, or a size where it counts bytes.

use toml::Spanned;
use toml::de::DeValue;

use super::super::settings::{Settings, a};
use super::super::units;
use crate::config::diagnostics::quoted;
use crate::policy::limit::Counts;

/// The most a window can allow, in units of what is counted.
const MOST: u64 = 1_000_000_000;

/// Reads the amount of a key.
pub(super) fn read(s: &Settings, key: &'static str, counts: Counts) -> Option<u32> {
    of(s, &s.named(key), s.value(key)?, counts)
}

/// Reads an amount from 1. `named` is what messages call it.
pub(super) fn of(s: &Settings, named: &str, value: &Spanned<DeValue>, counts: Counts) -> Option<u32> {
    let span = value.span();
    let bytes = counts == Counts::Bytes;
    let wanted = if bytes { "a size" } else { "a whole number" };
    let number = match value.get_ref() {
        DeValue::Integer(integer) => i128::from_str_radix(integer.as_str(), integer.radix()).ok(),
        DeValue::String(text) if bytes => match units::size(text) {
            Some(bytes) => Some(i128::from(bytes)),
            None => {
                let problem = format!("{} is no size", quoted(text));
                return s.diagnostics.error(&span, problem, "write it as in \"500KB\", \"100MB\" or \"1GiB\"");
            }
        },
        other => {
            let problem = format!("{named} is {wanted}, not {}", a(other.type_str()));
            let example = if bytes { "\"100MB\"" } else { "10" };
            return s.diagnostics.error(&span, problem, format!("write {wanted}, as in {example}"));
        }
    };
    let unit = u64::from(counts.unit());
    let amount = number.and_then(|number| u64::try_from(number).ok()).map(|number| number.div_ceil(unit));
    match amount {
        Some(amount @ 1..=MOST) => Some(amount as u32),
        _ => {
            let most = if bytes { "\"1000000000KiB\"".to_owned() } else { MOST.to_string() };
            s.diagnostics.error(&span, format!("{named} is out of bounds"), format!("write {wanted} from 1 to {most}"))
        }
    }
}
