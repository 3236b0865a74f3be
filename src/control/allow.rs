//! `connshaper allow CLIENT|PREFIX for DURATION`: passes uncounted for a while, on every host that shares the store.

use clap::Args;
use serde::{Deserialize, Serialize};

use super::ban::{OverrideAnswer, OverrideTime, set};
use super::commands::{ControlCommand, Logged, Record};
use super::{Control, Problem};
use crate::engine::target::Target;
use crate::net::clock::Now;
use crate::observe::terminal::Paint;
use crate::policy::overrides::OverrideKind;

/// Let a client or a prefix pass uncounted for a while
#[derive(Clone, Debug, PartialEq, Eq, Args, Serialize, Deserialize)]
#[command(after_help = "\
Example:
  connshaper allow 198.51.100.0/24 for 2h

It holds on every host that shares the store, whatever lists, bans and limits say.")]
pub struct AllowArgs {
    /// An address or a netblock
    #[arg(value_name = "CLIENT")]
    pub target: Target,
    /// The word before the duration
    #[arg(value_name = "for", value_parser = ["for"], hide_possible_values = true)]
    #[serde(skip)]
    preposition: String,
    /// For how long: 90s, 2h, 1d
    #[arg(value_name = "DURATION")]
    pub seconds: OverrideTime,
}

impl ControlCommand for AllowArgs {
    type Answer = OverrideAnswer;

    async fn run(&self, control: &Control, user: &str, now: Now) -> Result<OverrideAnswer, Problem> {
        set(control, user, &self.target, OverrideKind::Allow, self.seconds, now).await
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
