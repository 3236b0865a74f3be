//! `connshaper unban CLIENT|PREFIX|KEY`: lifts every ban, of an administrator or of a limit.

use clap::Args;
use serde::{Deserialize, Serialize};

use super::ban::netblock_text;
use super::commands::{ControlCommand, Logged, Record};
use super::disallow::LiftAnswer;
use super::text::Summary;
use super::{Control, Problem};
use crate::engine::overrides::{Change, Propagation};
use crate::engine::reading::Reading;
use crate::engine::target::Target;
use crate::net::clock::Now;
use crate::observe::log::{Event, Severity};
use crate::observe::terminal::Paint;
use crate::policy::overrides::OverrideKind;
use crate::policy::{BLACKLIST, CounterKind};

/// Lift the bans of a client, a prefix or a key
#[derive(Clone, Debug, PartialEq, Eq, Args, Serialize, Deserialize)]
#[command(after_help = "\
The user who gave the command is logged.")]
pub struct UnbanArgs {
    /// An address, a netblock, or a key as the log shows it, like sender=joe@example.org
    #[arg(value_name = "CLIENT")]
    pub target: Target,
}

impl ControlCommand for UnbanArgs {
    type Answer = LiftAnswer;

    /// What was counted stays counted, so a client that is still over is refused for that.
    async fn run(&self, control: &Control, _: &str, now: Now) -> Result<LiftAnswer, Problem> {
        let target = &self.target;
        let service = &control.service;
        // Another host may have banned it a moment ago.
        service.overrides.refresh(service, now).await;
        let rules = service.rules.load_full();
        let counted = rules.policy.counted(target);
        let mut lifted = 0;
        for one in counted.iter().filter(|one| one.limit.ban.is_some()) {
            let reading = Reading::of(&rules.store, one, now).await;
            if reading.is_some_and(|reading| reading.banned > 0) {
                lifted += 1;
                service.log.event(Event::Unban, Severity::Info, "UNBANNED", now, |line| {
                    line.field("key", &one.part).field("limit", &one.limit.name);
                });
            }
        }
        let keys = counted.iter().filter(|one| one.limit.ban.is_some());
        let keys: Vec<_> = keys.flat_map(|one| [one.key(CounterKind::Ban), one.key(CounterKind::Violations)]).collect();
        let mut notes = Vec::new();
        if !keys.is_empty() && !rules.store.reset(keys.into_iter(), now).await {
            notes.push(format!("{} is down: a limit's ban stays there", rules.store.name()));
        }
        if let Some(netblock) = target.netblock() {
            let words = rules.policy.overrides().list();
            let bans = || words.iter().filter(|word| word.kind == OverrideKind::Ban);
            if bans().any(|word| word.netblock == netblock) {
                lifted += 1;
                service.log.event(Event::Unban, Severity::Info, "UNBANNED", now, |line| {
                    line.field("key", &netblock_text(netblock)).field("limit", BLACKLIST);
                });
                let reach = service.overrides.change(service, Change::Remove(netblock), now).await?;
                notes.extend(Propagation::note(&reach));
            }
            let around = bans().filter(|word| word.netblock != netblock && word.netblock.contains(&netblock));
            notes.extend(around.map(|word| {
                let around = word.netblock;
                format!("{around} is banned by {}: unban that, or allow {target} for a while", word.by)
            }));
            let sessions = service.sessions.clear_refusals(|client, _| netblock.contains(&client));
            if sessions > 0 {
                notes.push(format!("sessions that are no longer refused: {sessions}"));
            }
        }
        for one in &counted {
            if let Some(reading) = Reading::of(&rules.store, one, now).await.filter(|read| read.count > one.threshold) {
                let (limit, count, threshold) = (&one.limit.name, reading.count, one.threshold);
                notes.push(format!("it is still over limit {limit}, {count} of {threshold}: reset it to let it in"));
            }
        }
        let done = match lifted {
            0 => format!("{target} had no ban of its own"),
            number => format!("{target}: bans lifted: {number}"),
        };
        Ok(LiftAnswer { summary: Summary { done, notes }, lifted })
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
