//! `connshaper disallow CLIENT|PREFIX|KEY`: an administrator's allowance ends before its time.

use clap::Args;
use serde::{Deserialize, Serialize};

use super::commands::{ControlCommand, Logged, Record};
use super::overriding::LiftAnswer;
use super::{Control, Problem};
use crate::engine::overrides::{Change, Propagation};
use crate::engine::target::Target;
use crate::net::clock::Now;
use crate::observe::terminal::Paint;
use crate::policy::overrides::OverrideKind;

/// Remove an allowance before it expires
#[derive(Clone, Debug, PartialEq, Eq, Args, Serialize, Deserialize)]
#[command(after_help = "\
The user who gave the command is logged.")]
pub struct DisallowArgs {
    /// An address, a netblock, or a key or a part of one: login joe@example.org, sender=joe@example.org
    #[arg(value_name = "CLIENT")]
    pub target: Target,
}

impl ControlCommand for DisallowArgs {
    type Answer = LiftAnswer;

    /// Ends it on every host that shares the store. Sessions that were let in stay in.
    async fn run(&self, control: &Control, _: &str, now: Now) -> Result<LiftAnswer, Problem> {
        let target = &control.service.rules.load().policy.canonical_target(&self.target);
        let of = target.to_override().map_err(Problem::usage)?;
        let service = &control.service;
        // Another host may have allowed it a moment ago.
        service.overrides.refresh(service, now).await;
        let overrides = service.rules.load().policy.overrides().list();
        let allowances = || overrides.iter().filter(|entry| entry.kind == OverrideKind::Allow);
        let was = allowances().filter(|entry| entry.target == of && entry.left(now) > 0);
        let was: Vec<String> = was.map(|entry| LiftAnswer::was(entry, now)).collect();
        let mut notes = Vec::new();
        if !was.is_empty() {
            let reach = service.overrides.change(service, vec![Change::Remove(of.clone())], now).await?;
            notes.extend(Propagation::note(&reach));
        }
        let around = allowances().filter(|entry| entry.target != of && entry.target.contains(&of));
        notes.extend(around.map(|entry| {
            let around = &entry.target;
            format!("{around} is allowed by {}: disallow that, or ban {target} for a while", entry.by)
        }));
        let done = match was.is_empty() {
            false => format!("{target} is no longer allowed"),
            true => format!("{target} had no allowance of its own"),
        };
        Ok(LiftAnswer::new(done, notes, was))
    }

    fn show(&self, answer: &LiftAnswer, _: Paint) -> String {
        answer.show()
    }

    fn logged() -> Logged<Self> {
        Logged::Always(Record {
            arguments: |command, line| {
                line.field("target", &command.target);
            },
            done: |answer| &answer.summary.done,
        })
    }
}
