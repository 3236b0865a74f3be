//! `connshaper ban CLIENT|PREFIX [for DURATION]`: refused for a while, on every host that shares the store.

use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::commands::{ControlCommand, Logged, Record};
use super::text::{Summary, lasting};
use super::{Control, Problem};
use crate::config::units;
use crate::engine::ban_events::{lift, limit_bans};
use crate::engine::overrides::Change;
use crate::engine::target::{Listed, Target};
use crate::net::clock::Now;
use crate::observe::terminal::Paint;
use crate::policy::overrides::{Override, OverrideKind};

/// Refuse a client or a prefix for a while
#[derive(Clone, Debug, PartialEq, Eq, Args, Serialize, Deserialize)]
#[command(after_help = "\
Examples:
  connshaper ban 198.51.100.7
  connshaper ban 198.51.100.0/24 for 2h

It holds on every host that shares the store. The whitelist is stronger.")]
pub struct BanArgs {
    /// An address or a netblock
    #[arg(value_name = "CLIENT")]
    pub target: Target,
    /// The word before the duration
    #[arg(value_name = "for", value_parser = ["for"], hide_possible_values = true, requires = "seconds")]
    #[serde(skip)]
    preposition: Option<String>,
    /// For how long: 90s, 2h, 1d; by default one hour
    #[arg(value_name = "DURATION", default_value_t, hide_default_value = true)]
    #[serde(default)]
    pub seconds: OverrideTime,
}

impl BanArgs {
    pub fn new(target: Target) -> Self {
        Self { target, preposition: None, seconds: OverrideTime::default() }
    }
}

/// How long a ban or an allowance lasts, in whole seconds up to a year.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct OverrideTime(u64);

impl Default for OverrideTime {
    fn default() -> Self {
        Self(3600)
    }
}

impl TryFrom<u64> for OverrideTime {
    type Error = &'static str;

    fn try_from(seconds: u64) -> Result<Self, Self::Error> {
        const LONGEST: u64 = 365 * 86_400;
        match seconds {
            1..=LONGEST => Ok(Self(seconds)),
            _ => Err("write whole seconds, from 1s to 365d"),
        }
    }
}

impl From<OverrideTime> for u64 {
    fn from(time: OverrideTime) -> Self {
        time.0
    }
}

impl std::fmt::Display for OverrideTime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for OverrideTime {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let duration = match text.parse() {
            Ok(seconds) => Duration::from_secs(seconds),
            Err(_) => units::duration(text)?,
        };
        // A fraction of a second is none of the seconds that are allowed.
        let seconds = if duration.subsec_nanos() == 0 { duration.as_secs() } else { 0 };
        Ok(Self::try_from(seconds)?)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverrideAnswer {
    #[serde(flatten)]
    pub summary: Summary,
    pub netblock: String,
    pub seconds: u64,
}

impl ControlCommand for BanArgs {
    type Answer = OverrideAnswer;

    /// Sessions that were let in stay in.
    async fn run(&self, control: &Control, user: &str, now: Now) -> Result<OverrideAnswer, Problem> {
        set(control, user, &self.target, OverrideKind::Ban, self.seconds, now).await
    }

    fn show(answer: &OverrideAnswer, _: Paint) -> String {
        answer.summary.show()
    }

    fn logged() -> Logged<Self> {
        Logged::Always(Record {
            arguments: |command, line| {
                line.field("target", &command.target).field("seconds", u64::from(command.seconds));
            },
            done: |answer| &answer.summary.done,
        })
    }
}

/// Sets a ban or an allowance.
pub(super) async fn set(
    control: &Control,
    user: &str,
    target: &Target,
    kind: OverrideKind,
    time: OverrideTime,
    now: Now,
) -> Result<OverrideAnswer, Problem> {
    let service = &control.service;
    let rules = service.rules.load_full();
    let target = &rules.policy.target(target);
    let netblock = netblock(target)?;
    let seconds = u64::from(time);
    let mut notes = Vec::new();
    let mut changes = vec![Change::Set(Override::new(netblock, kind, seconds, user.to_owned(), now))];
    if kind == OverrideKind::Allow {
        // The client passes, so a firewall must not go on to block it, and it is not to be banned when this ends.
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
    let is_exception = |other: &&Override| {
        other.kind != kind && other.netblock != netblock && netblock.contains(&other.netblock) && other.left(now) > 0
    };
    notes.extend(others.iter().filter(is_exception).map(|other| match kind {
        OverrideKind::Allow => {
            let Override { netblock, by, .. } = other;
            format!("{netblock} in it is banned by {by} and stays refused: unban that")
        }
        OverrideKind::Ban => {
            let Override { netblock, by, .. } = other;
            format!("{netblock} in it is allowed by {by} and passes all the same: disallow that")
        }
    }));
    if let (OverrideKind::Ban, Some((white, Listed::White))) = (kind, rules.policy.listed(netblock.addr()))
        && white.contains(&netblock)
    {
        notes.push(format!("{white} is on the whitelist, so it passes all the same"));
    }
    let done = match kind {
        OverrideKind::Ban => "banned",
        OverrideKind::Allow => "allowed",
    };
    let done = format!("{target} is {done} for {}", lasting(seconds));
    Ok(OverrideAnswer { summary: Summary { done, notes }, netblock: netblock.to_string(), seconds })
}

/// The netblock of a target that must have one.
pub(super) fn netblock(target: &Target) -> Result<IpNet, Problem> {
    target.netblock().ok_or_else(|| Problem::usage(format!("{target} is neither an address nor a netblock")))
}
