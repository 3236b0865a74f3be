//! `connshaper disallow CLIENT|PREFIX`: an administrator's allowance ends before its time.

use clap::Args;
use serde::{Deserialize, Serialize};

use super::commands::{ControlCommand, Logged, Record};
use super::overriding::{LiftAnswer, override_target};
use super::text::Summary;
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
    /// An address or a netblock
    #[arg(value_name = "CLIENT")]
    pub target: Target,
}

impl ControlCommand for DisallowArgs {
    type Answer = LiftAnswer;

    /// Ends it on every host that shares the store. Sessions that were let in stay in.
    async fn run(&self, control: &Control, _: &str, now: Now) -> Result<LiftAnswer, Problem> {
        let target = &control.service.rules.load().policy.target(&self.target);
        let of = override_target(target)?;
        let service = &control.service;
        // Another host may have allowed it a moment ago.
        service.overrides.refresh(service, now).await;
        let overrides = service.rules.load().policy.overrides().list();
        let allowances = || overrides.iter().filter(|entry| entry.kind == OverrideKind::Allow);
        let is_allowed = allowances().any(|entry| entry.target == of);
        let mut notes = Vec::new();
        if is_allowed {
            let reach = service.overrides.change(service, vec![Change::Remove(of.clone())], now).await?;
            notes.extend(Propagation::note(&reach));
        }
        let around = allowances().filter(|entry| entry.target != of && entry.target.contains(&of));
        notes.extend(around.map(|entry| {
            let around = &entry.target;
            format!("{around} is allowed by {}: disallow that, or ban {target} for a while", entry.by)
        }));
        let done = match is_allowed {
            true => format!("{target} is no longer allowed"),
            false => format!("{target} had no allowance of its own"),
        };
        Ok(LiftAnswer { summary: Summary { done, notes }, lifted: usize::from(is_allowed) })
    }

    fn show(answer: &LiftAnswer, _: Paint) -> String {
        answer.summary.show()
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
