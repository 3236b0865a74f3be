//! `connshaper revoke LIMIT KEY`: takes the last hit back.

use clap::Args;
use serde::{Deserialize, Serialize};

use super::commands::{ControlCommand, Logged, Record};
use super::hit::CounterArgs;
use super::{Control, Problem};
use crate::engine::reading::{Reading, window_counters};
use crate::net::clock::Now;
use crate::observe::terminal::Paint;
use crate::policy::Refund;

/// Take the last hit back
#[derive(Clone, Debug, PartialEq, Eq, Args, Serialize, Deserialize)]
#[command(after_help = "\
Of a sliding window too, the newest hits are taken back. The user who gave the command
is logged.
Exit codes: 0 taken back, 1 there was no hit in the window, 64 there is no such limit,
69 no daemon answers.")]
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
    /// Hits taken back.
    pub revoked: u32,
    /// Hits left in the window.
    pub count: u32,
    pub threshold: u32,
}

impl ControlCommand for RevokeArgs {
    type Answer = RevokeAnswer;

    /// Takes from the newest slot of a sliding window on, down to no hits. The window goes on as it was.
    async fn run(&self, control: &Control, _: &str, now: Now) -> Result<RevokeAnswer, Problem> {
        let rules = control.service.rules.load_full();
        let counted = self.counter.target_counter(&rules.policy)?;
        let down = || Problem::unavailable(format!("{} is down: nothing was taken back", rules.store.name()));
        let counters = window_counters(&rules.store, &counted, now).await.ok_or_else(down)?;
        let mut left = self.counter.amount;
        for (kind, count) in counters {
            let amount = left.min(count);
            if amount > 0 {
                let part = counted.part.clone();
                rules.store.take_back(&Refund { limit: counted.limit, part, kind, amount }, now);
                left -= amount;
            }
        }
        let revoked = self.counter.amount - left;
        // Sent on the same connection as what was taken back, so after it.
        let reading = Reading::of(&rules.store, &counted, now).await.ok_or_else(down)?;
        let (limit, key, count, threshold) =
            (counted.limit.name.clone(), counted.part.to_string(), reading.count, counted.threshold);
        let what = match revoked {
            0 => "no hit in the window, so none was taken back".to_owned(),
            _ if left > 0 => format!("only {revoked} of {} hits taken back", self.counter.amount),
            _ => format!("hits taken back: {revoked}"),
        };
        Ok(RevokeAnswer {
            done: format!("{limit} {key}: {what}; {count} of {threshold}"),
            limit,
            key,
            revoked,
            count,
            threshold,
        })
    }

    fn show(&self, answer: &RevokeAnswer, _: Paint) -> String {
        format!("{}\n", answer.done)
    }

    /// Tells a script: 1 when there was no hit to take back.
    fn exit_code(answer: &RevokeAnswer) -> u8 {
        u8::from(answer.revoked == 0)
    }

    fn logged() -> Logged<Self> {
        Logged::Limited(Record {
            arguments: |command, line| command.counter.describe(line),
            done: |answer| &answer.done,
        })
    }
}
