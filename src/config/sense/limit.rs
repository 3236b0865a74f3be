//! Keys of one limit that do not fit together.

use super::super::settings::Settings;
use super::super::source::Span;
use crate::policy::Limit;
use crate::policy::limit::Counts;

/// More connections than one client can make: Postfix itself accepts fewer.
const MOST_PER_SECOND: u32 = 10_000;

/// Looks at the keys a limit sets, knowing what all of them come to. `place` is that of its name.
pub(in crate::config) fn examine_limit(limit: &Limit, s: &Settings, place: &Span) {
    let _ = place;
    let odd = |key: &str, text: &str| {
        if let Some(span) = s.name(key) {
            s.remarks.odd(&span, format!("{} {text}", s.named(key)));
        }
    };
    if limit.counts == Counts::Connections && limit.threshold / limit.exptime.max(1) > MOST_PER_SECOND {
        odd("threshold", "will never be reached: no client connects that often in `exptime`");
    }
    // What further limits take from the top level may have an effect there.
    if s.value("limit").is_none()
        && s.string("action").is_some_and(|(action, _)| action.trim().contains(char::is_whitespace))
    {
        for key in ["text", "enhanced_status_code"] {
            odd(key, "has no effect: `action` has a text of its own");
        }
    }
}
