//! `connshaper allow CLIENT|PREFIX|KEY [for DURATION] [because REASON]`: passes uncounted for a while, on every host that shares the store.

use clap::Args;
use serde::{Deserialize, Serialize};

use super::commands::{ControlCommand, Logged, Record};
use super::overriding::{OverrideAnswer, OverrideArgs};
use super::{Control, Problem};
use crate::net::clock::Now;
use crate::observe::terminal::Paint;
use crate::policy::overrides::OverrideKind;

/// Let a client, a prefix or a key pass uncounted for a while
#[derive(Clone, Debug, PartialEq, Eq, Args, Serialize, Deserialize)]
#[command(after_help = "\
Examples:
  connshaper allow 198.51.100.0/24 for 2h
  connshaper allow login joe@example.com for 2h because newsletter

It holds on every host that shares the store, whatever lists, limits and
their bans say. A ban of something else that a request has is stronger.")]
pub struct AllowArgs {
    #[command(flatten)]
    #[serde(flatten)]
    pub arguments: OverrideArgs,
}

impl ControlCommand for AllowArgs {
    type Answer = OverrideAnswer;

    async fn run(&self, control: &Control, user: &str, now: Now) -> Result<OverrideAnswer, Problem> {
        self.arguments.set(control, user, OverrideKind::Allow, now).await
    }

    fn show(&self, answer: &OverrideAnswer, _: Paint) -> String {
        answer.summary.show()
    }

    fn logged() -> Logged<Self> {
        Logged::Always(Record {
            arguments: |command, line| command.arguments.log(line),
            done: |answer| &answer.summary.done,
        })
    }
}
