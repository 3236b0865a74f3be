//! Code that `ban` and `allow` share: their arguments, and how an override is set and ended.

use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};

use super::text::{Summary, lasting};
use super::{Control, Problem};
use crate::config::units;
use crate::engine::bans::{lift, limit_bans};
use crate::engine::overrides::Change;
use crate::engine::target::Target;
use crate::net::clock::Now;
use crate::observe::log::LogRecord;
use crate::policy::Policy;
use crate::policy::lists::Listed;
use crate::policy::override_target::OverrideTarget;
use crate::policy::overrides::{MAX_NOTE, Override, OverrideKind};

/// Whom or what a ban or an allowance is about, for how long and why.
#[derive(Clone, Debug, PartialEq, Eq, Args, Serialize, Deserialize)]
pub struct OverrideArgs {
    /// An address, a netblock, or a key or a part of one: login joe@example.org, sender=joe@example.org
    #[arg(value_name = "CLIENT")]
    pub target: Target,
    /// The word before the duration
    #[arg(value_name = "for", value_parser = ["for"], hide_possible_values = true, requires = "seconds")]
    #[serde(skip)]
    preposition: Option<String>,
    /// For how long: 90s, 2h, 1d; by default one hour
    #[arg(value_name = "DURATION", value_parser = seconds, default_value_t = ONE_HOUR, hide_default_value = true)]
    #[serde(default = "one_hour")]
    pub seconds: u64,
    /// The word before the reason
    #[arg(value_name = "because", value_parser = ["because"], hide_possible_values = true, requires = "note")]
    #[serde(skip)]
    conjunction: Option<String>,
    /// Why: who is refused is told this, and the log
    #[arg(value_name = "REASON", value_parser = checked_note)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// A note on one line, which fits into an SMTP reply.
fn checked_note(note: &str) -> Result<String, String> {
    let is_one = !note.trim().is_empty() && note.chars().count() <= MAX_NOTE && !note.chars().any(char::is_control);
    is_one.then(|| note.trim().to_owned()).ok_or(format!("write one line of 1 to {MAX_NOTE} characters"))
}

/// How many seconds a ban or an allowance lasts by default.
pub const ONE_HOUR: u64 = 3600;

fn one_hour() -> u64 {
    ONE_HOUR
}

/// A duration as it is written, in seconds.
fn seconds(text: &str) -> Result<u64, String> {
    let duration = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => units::duration(text)?,
    };
    // A fraction of a second is refused like zero.
    checked_seconds(if duration.subsec_nanos() == 0 { duration.as_secs() } else { 0 })
}

fn checked_seconds(seconds: u64) -> Result<u64, String> {
    const LONGEST: u64 = 365 * 86_400;
    (1..=LONGEST).contains(&seconds).then_some(seconds).ok_or("write whole seconds, from 1s to 365d".to_owned())
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverrideAnswer {
    #[serde(flatten)]
    pub summary: Summary,
    pub target: String,
    pub seconds: u64,
}

/// The answer of a command that lifts overrides or bans.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiftAnswer {
    #[serde(flatten)]
    pub summary: Summary,
    /// How many.
    pub lifted: usize,
    /// Each of them in a sentence, up to `MAX_TOLD`.
    pub was: Vec<String>,
}

/// The most that are told one by one of what was lifted.
const MAX_TOLD: usize = 20;

impl LiftAnswer {
    pub(super) fn new(done: String, notes: Vec<String>, mut was: Vec<String>) -> Self {
        let lifted = was.len();
        was.truncate(MAX_TOLD);
        Self { summary: Summary { done, notes }, lifted, was }
    }

    pub(super) fn show(&self) -> String {
        let mut text = self.was.iter().map(|was| format!("  {was}\n")).collect::<String>();
        if self.lifted > self.was.len() {
            text += &format!("  and {} more\n", self.lifted - self.was.len());
        }
        self.summary.show() + &text
    }

    /// A sentence about an override that was lifted.
    pub(super) fn was(entry: &Override, now: Now) -> String {
        let Override { target, by, note, .. } = entry;
        let why = note.as_ref().map(|note| format!(": {note}")).unwrap_or_default();
        let what = match entry.kind {
            OverrideKind::Ban => "banned",
            OverrideKind::Allow => "allowed",
        };
        format!("{target} was {what} by {by} for {} more{why}", lasting(entry.left(now)))
    }
}

impl OverrideArgs {
    /// For an hour.
    pub fn new(target: Target) -> Self {
        Self { target, preposition: None, seconds: ONE_HOUR, conjunction: None, note: None }
    }

    /// Fills in the log line.
    pub(super) fn log(&self, line: &mut LogRecord) {
        line.field("target", &self.target).field("seconds", self.seconds);
        if let Some(note) = &self.note {
            line.field("note", note);
        }
    }

    /// Sets a ban or an allowance.
    pub(super) async fn set(
        &self,
        control: &Control,
        user: &str,
        kind: OverrideKind,
        now: Now,
    ) -> Result<OverrideAnswer, Problem> {
        let service = &control.service;
        let rules = service.rules.load_full();
        let target = &rules.policy.canonical_target(&self.target);
        let of = target.to_override().map_err(Problem::usage)?;
        let note = self.note.as_deref().map(checked_note).transpose().map_err(Problem::usage)?;
        let seconds = checked_seconds(self.seconds).map_err(Problem::usage)?;
        let mut notes = Vec::new();
        let entry = Override { note, ..Override::new(of.clone(), kind, seconds, user.to_owned(), now) };
        let mut changes = vec![Change::Set(entry)];
        if kind == OverrideKind::Allow {
            // Lifts its bans too: a firewall must not go on to block it, and no ban may be left when the allowance ends.
            let found = limit_bans(service, &rules, target, now).await;
            let bans: Vec<_> = found.bans.into_iter().map(|(counted, _)| counted).collect();
            let (is_done, events) = lift(service, &rules, &bans, now).await;
            changes.extend(events);
            if !is_done {
                notes.push(format!("{} is down: a limit's ban stays there", rules.store.name()));
            }
            if !bans.is_empty() {
                notes.push(format!("bans of limits lifted: {}", bans.len()));
            }
        }
        // Another host may have changed something inside a moment ago.
        service.overrides.refresh(service, now).await;
        let others = rules.policy.overrides().list();
        let reach = service.overrides.change(service, changes, now).await?;
        notes.extend(reach.note());
        notes.extend(overruled_by(&of, kind, &others, now));
        notes.extend((kind == OverrideKind::Ban).then(|| whitelisted(&rules.policy, &of)).flatten());
        let done = match kind {
            OverrideKind::Ban => "banned",
            OverrideKind::Allow => "allowed",
        };
        let done = format!("{target} is {done} for {}", lasting(seconds));
        Ok(OverrideAnswer { summary: Summary { done, notes }, target: of.to_string(), seconds })
    }
}

/// The exceptions from an override: narrower ones of the other kind.
fn overruled_by(of: &OverrideTarget, kind: OverrideKind, others: &[Override], now: Now) -> Vec<String> {
    let is_exception = |other: &&Override| {
        other.kind != kind && other.target != *of && of.contains(&other.target) && other.left(now) > 0
    };
    let note = |Override { target, by, .. }: &Override| match kind {
        OverrideKind::Allow => format!("{target} in it is banned by {by} and stays refused: unban that"),
        OverrideKind::Ban => format!("{target} in it is allowed by {by} and passes all the same: disallow that"),
    };
    others.iter().filter(is_exception).map(note).collect()
}

/// A note if the whitelist makes a ban have no effect.
fn whitelisted(policy: &Policy, of: &OverrideTarget) -> Option<String> {
    let netblock = of.netblock()?;
    match policy.listed(netblock.addr())? {
        (white, Listed::White) if white.contains(&netblock) => {
            Some(format!("{white} is on the whitelist, so it passes all the same"))
        }
        _ => None,
    }
}
