//! `connshaper reload`: the configuration is read again, as at SIGHUP, and the result reported.

use clap::Args;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::commands::{ControlCommand, Logged, Record};
use super::text::Summary;
use super::{Control, Problem};
use crate::net::clock::Now;
use crate::observe::terminal::Paint;
use crate::sysexits;

/// Reload the configuration and report the result
#[derive(Clone, Debug, Default, PartialEq, Eq, Args, Serialize, Deserialize)]
#[command(after_help = "\
The same as SIGHUP, with an answer. Exit codes: 0 in force, 69 no daemon answers, 78
the configuration is wrong, and the one before it stays in force.")]
pub struct ReloadArgs {}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadAnswer {
    #[serde(flatten)]
    pub summary: Summary,
}

impl ControlCommand for ReloadArgs {
    type Answer = ReloadAnswer;

    async fn run(&self, control: &Control, _: &str, _: Now) -> Result<ReloadAnswer, Problem> {
        let stopping = || Problem::unavailable("the daemon is about to stop");
        let (sender, outcome) = oneshot::channel();
        control.reload.send(sender).await.map_err(|_| stopping())?;
        match outcome.await.map_err(|_| stopping())? {
            Ok(notes) => {
                let done = "the configuration is in force".to_owned();
                Ok(ReloadAnswer { summary: Summary { done, notes } })
            }
            Err(error) => Err(Problem { error, code: sysexits::CONFIG }),
        }
    }

    fn needs_daemon() -> bool {
        true
    }

    fn show(&self, answer: &ReloadAnswer, _: Paint) -> String {
        answer.summary.show()
    }

    fn logged() -> Logged<Self> {
        Logged::Always(Record { arguments: |_, _| {}, done: |answer| &answer.summary.done })
    }
}
