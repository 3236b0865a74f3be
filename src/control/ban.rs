//! `connshaper ban CLIENT|PREFIX [for DURATION]`: refused for a while, on every host that shares the store.

use clap::Args;
use serde::{Deserialize, Serialize};

use super::commands::{ControlCommand, Logged, Record};
use super::overriding::{OverrideAnswer, OverrideArgs};
use super::{Control, Problem};
use crate::engine::target::Target;
use crate::net::clock::Now;
use crate::observe::terminal::Paint;
use crate::policy::overrides::OverrideKind;

/// Refuse a client or a prefix for a while
#[derive(Clone, Debug, PartialEq, Eq, Args, Serialize, Deserialize)]
#[command(after_help = "\
Examples:
  connshaper ban 198.51.100.7
  connshaper ban 198.51.100.0/24 for 2h

It holds on every host that shares the store. The whitelist is stronger.")]
pub struct BanArgs {
    #[command(flatten)]
    #[serde(flatten)]
    pub words: OverrideArgs,
}

impl From<Target> for BanArgs {
    fn from(target: Target) -> Self {
        Self { words: OverrideArgs::new(target) }
    }
}

impl ControlCommand for BanArgs {
    type Answer = OverrideAnswer;

    /// Sessions that were let in stay in.
    async fn run(&self, control: &Control, user: &str, now: Now) -> Result<OverrideAnswer, Problem> {
        self.words.set(control, user, OverrideKind::Ban, now).await
    }

    fn show(answer: &OverrideAnswer, _: Paint) -> String {
        answer.summary.show()
    }

    fn logged() -> Logged<Self> {
        Logged::Always(Record {
            arguments: |command, line| command.words.log(line),
            done: |answer| &answer.summary.done,
        })
    }
}
