//! One limit: the keys that may stand at the top level and in every `[limit.NAME]`.

use std::time::Duration;

use super::super::keys;
use super::super::settings::Settings;
use super::super::source::Span;
use super::{DAY, MILLISECOND, SECOND, conditions, netblocks};
use crate::config::diagnostics::quoted;
use crate::config::resolve::penalties::Patience;
use crate::config::resolve::reply as answer;
use crate::config::resolve::reply::Answer;
use crate::config::resolve::{penalties as ladder, threshold as amount};
use crate::policy::limit::{Counts, Window};
use crate::policy::per::{KeyField, KeySpec};
use crate::policy::{Limit, key, limit};

/// What a limit takes from outside of its own table.
#[derive(Clone)]
pub(super) struct Surroundings {
    pub name: String,
    /// The place of the name.
    pub span: Span,
    pub key_prefix: String,
    /// Nothing at all is enforced.
    pub log_only: bool,
    /// Classes of main.cf that an action may name.
    pub classes: Vec<String>,
    pub patience: Patience,
    /// What it takes where it says nothing itself: the top level's values.
    pub exptime: u32,
    pub ipv4_prefix_length: u8,
    pub ipv6_prefix_length: u8,
    pub answer: Answer,
}

/// Reads a limit.
pub(super) fn read(s: &Settings, around: &Surroundings) -> Limit {
    let counts = s.choice("count", &Counts::WORDS).unwrap_or(Counts::Connections);
    let seconds = |time: Duration| time.as_secs() as u32;
    let exptime = s.duration("exptime", SECOND..=365 * DAY, SECOND).map_or(around.exptime, seconds);
    let (delay, ban, forget_after) = ladder::read(s, exptime, around.patience);
    let (action, stress_action) = answer::read(s, &around.answer, counts, &around.classes);
    let log_only = s.truth("log_only").unwrap_or(false) || around.log_only;
    let per = per(s).unwrap_or_else(KeySpec::client);
    Limit {
        id: 0,
        memory_id: 0,
        key_prefix: key::limit_prefix(&around.key_prefix, &around.name, counts, log_only),
        name: around.name.clone(),
        counts,
        conditions: conditions::read(s),
        threshold: threshold(s, counts, around).unwrap_or(10),
        stress_threshold: s.value("stress_threshold").and_then(|_| amount::read(s, "stress_threshold", counts)),
        exptime,
        window: s.choice("window", &Window::WORDS).unwrap_or(Window::Fixed),
        ipv4_prefix_length: s.integer("ipv4_prefix_length", 1..=32).map_or(around.ipv4_prefix_length, |n| n as u8),
        ipv6_prefix_length: s.integer("ipv6_prefix_length", 1..=128).map_or(around.ipv6_prefix_length, |n| n as u8),
        netblocks: match &*around.name {
            // They decide about the program's lists too.
            limit::TOP => Default::default(),
            _ => netblocks::of_limit(s, counts, &per),
        },
        per,
        coalesce: s
            .duration("coalesce", Duration::ZERO..=10 * SECOND, MILLISECOND)
            .map_or(0, |time| time.as_millis() as u32),
        count_refused: s.truth("count_refused").unwrap_or(true),
        log_only,
        delay,
        ban,
        forget_after,
        action,
        stress_action,
    }
}

fn threshold(s: &Settings, counts: Counts, around: &Surroundings) -> Option<u32> {
    if s.value("threshold").is_none() {
        if around.name != limit::TOP {
            let problem = format!("limit `{}` has no `threshold`", around.name);
            s.diagnostics.error::<()>(&around.span, problem, "say how much it allows, as in `threshold = 10`");
        }
        return None;
    }
    if !s.is_zero("threshold") {
        return amount::read(s, "threshold", counts);
    }
    let remedy = "write a number from 1; to refuse certain clients whatever they do, put them into `blacklist`";
    let problem = format!("a `threshold` of 0 would refuse every client{}", s.whose());
    s.diagnostics.error(&s.span("threshold")?, problem, remedy)
}

fn per(s: &Settings) -> Option<KeySpec> {
    let words = match s.value("per")?.get_ref().as_array().is_some_and(|list| list.is_empty()) {
        true => Vec::new(),
        false => s.one_or_more("per")?,
    };
    let mut per = KeySpec(Default::default());
    for (word, span) in words {
        match KeyField::WORDS.iter().find(|(known, _)| *known == word) {
            Some((_, field)) if per.0.contains(field) => {
                let problem = format!("{} stands twice in {}", quoted(&word), s.named("per"));
                s.diagnostics.error::<()>(&span, problem, "keep one of them");
            }
            Some((_, field)) => per.0.push(*field),
            None => {
                let known = KeyField::WORDS.map(|(word, _)| word);
                let remedy = match keys::nearest(&word, known.into_iter()) {
                    Some(word) => format!("did you mean \"{word}\"?"),
                    None => format!("write some of {}", known.join(", ")),
                };
                let problem = format!("{} cannot be {}", s.named("per"), quoted(&word));
                s.diagnostics.error::<()>(&span, problem, remedy);
            }
        }
    }
    Some(per)
}
