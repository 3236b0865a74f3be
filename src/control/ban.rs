//! `connshaper ban CLIENT|PREFIX|KEY [for DURATION] [because REASON]`: refused for a while, on every host that shares the store.

use clap::Args;
use serde::{Deserialize, Serialize};

use super::commands::{ControlCommand, Logged, Record};
use super::overriding::{OverrideAnswer, OverrideArgs};
use super::{Control, Problem};
use crate::engine::target::Target;
use crate::net::clock::Now;
use crate::observe::terminal::Paint;
use crate::policy::overrides::OverrideKind;

/// Refuse a client, a prefix or a key for a while
#[derive(Clone, Debug, PartialEq, Eq, Args, Serialize, Deserialize)]
#[command(after_help = "\
Examples:
  connshaper ban 198.51.100.7
  connshaper ban 198.51.100.0/24 for 2h
  connshaper ban login joe@example.com for 2h because \"Account suspended, call us\"
  connshaper ban sender_domain=example.net

It holds on every host that shares the store. For clients the whitelist is stronger;
a login, a sender or another key is refused from any address.")]
pub struct BanArgs {
    #[command(flatten)]
    #[serde(flatten)]
    pub arguments: OverrideArgs,
}

impl From<Target> for BanArgs {
    fn from(target: Target) -> Self {
        Self { arguments: OverrideArgs::new(target) }
    }
}

impl ControlCommand for BanArgs {
    type Answer = OverrideAnswer;

    /// A message that was let in goes on.
    async fn run(&self, control: &Control, user: &str, now: Now) -> Result<OverrideAnswer, Problem> {
        self.arguments.set(control, user, OverrideKind::Ban, now).await
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
