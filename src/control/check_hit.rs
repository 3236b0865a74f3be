//! `connshaper check-hit LIMIT KEY`: whether a hit would be one too many. Counts nothing.

use clap::Args;
use serde::{Deserialize, Serialize};

use super::commands::ControlCommand;
use super::hit::{CountStatus, CounterArgs};
use super::{Control, Problem};
use crate::engine::counting::{checks_of, preview};
use crate::net::clock::Now;
use crate::observe::terminal::Paint;
use crate::policy::SessionRecord;

/// Say whether a hit would be one too many; counts nothing
#[derive(Clone, Debug, PartialEq, Eq, Args, Serialize, Deserialize)]
#[command(after_help = "\
Example, in a script before a login:
  if connshaper check-hit logins joe; then ask_for_password; fi

Exit codes: 0 the next hit would be within the limit, 1 it would be over, 64 there is
no such limit, 69 no daemon answers.")]
pub struct CheckHitArgs {
    #[command(flatten)]
    #[serde(flatten)]
    pub counter: CounterArgs,
}

impl ControlCommand for CheckHitArgs {
    type Answer = CountStatus;

    async fn run(&self, control: &Control, _: &str, now: Now) -> Result<CountStatus, Problem> {
        let rules = control.service.rules.load_full();
        let counted = self.counter.target_counter(&rules.policy)?;
        let checks = checks_of(counted.clone(), self.counter.amount);
        let readings = preview(&rules.store, &checks, now).await;
        let found = checks.checks[0].reading(&readings, now);
        let decision = rules.policy.judge(&checks, &readings, &SessionRecord::admitted(), now);
        Ok(CountStatus::of(&counted, &decision, found.hit))
    }

    fn show(&self, answer: &CountStatus, paint: Paint) -> String {
        answer.show("the next hit would be ", paint)
    }

    fn exit_code(answer: &CountStatus) -> u8 {
        u8::from(answer.over)
    }
}
