//! `connshaper revoke LIMIT KEY`: takes the last hit back.

use clap::Args;
use serde::{Deserialize, Serialize};

use super::commands::{ControlCommand, Logged, Record};
use super::hit::CounterArgs;
use super::{Control, Problem};
use crate::engine::reading::Reading;
use crate::net::clock::Now;
use crate::observe::terminal::Paint;
use crate::policy::Refund;

/// Take the last hit back
#[derive(Clone, Debug, PartialEq, Eq, Args, Serialize, Deserialize)]
#[command(after_help = "\
The user who gave the command is logged.")]
pub struct RevokeArgs {
    #[command(flatten)]
    #[serde(flatten)]
    pub counter: CounterArgs,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokeAnswer {
    pub done: String,
    pub limit: String,
    pub key: String,
    /// None: the store is down.
    pub count: Option<u32>,
    pub threshold: u32,
}

impl ControlCommand for RevokeArgs {
    type Answer = RevokeAnswer;

    /// Down to none. The window goes on as it was.
    async fn run(&self, control: &Control, _: &str, now: Now) -> Result<RevokeAnswer, Problem> {
        let rules = control.service.rules.load_full();
        let counted = self.counter.counted(&rules.policy)?;
        let kind = counted.purposes(now)[0];
        let (limit, part, amount) = (counted.limit, counted.part.clone(), self.counter.amount);
        rules.store.take_back(&Refund { limit, part, kind, amount }, now);
        // Sent behind it on the same connection, so it finds it done.
        let count = Reading::of(&rules.store, &counted, now).await.map(|reading| reading.count);
        let left = count.map_or_else(|| format!("unknown, {} is down", rules.store.name()), |count| count.to_string());
        Ok(RevokeAnswer {
            done: format!("{} {}: {left} of {}", limit.name, counted.part, counted.threshold),
            limit: limit.name.clone(),
            key: counted.part.to_string(),
            count,
            threshold: counted.threshold,
        })
    }

    fn show(answer: &RevokeAnswer, _: Paint) -> String {
        format!("{}\n", answer.done)
    }

    fn logged() -> Logged<Self> {
        Logged::Limited(Record {
            arguments: |command, line| command.counter.describe(line),
            done: |answer| &answer.done,
        })
    }
}
