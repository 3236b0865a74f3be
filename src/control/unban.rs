//! `connshaper unban CLIENT|PREFIX|KEY`: lifts every ban, of an administrator or of a limit.

use clap::Args;
use serde::{Deserialize, Serialize};

use super::commands::{ControlCommand, Logged, Record};
use super::overriding::LiftAnswer;
use super::text::lasting;
use super::{Control, Problem};
use crate::engine::bans::{lift, limit_bans};
use crate::engine::overrides::Change;
use crate::engine::reading::Reading;
use crate::engine::target::Target;
use crate::net::clock::Now;
use crate::observe::terminal::Paint;
use crate::policy::CountRecord;
use crate::policy::overrides::OverrideKind;

/// Lift the bans of a client, a prefix or a key
#[derive(Clone, Debug, PartialEq, Eq, Args, Serialize, Deserialize)]
#[command(after_help = "\
The user who gave the command is logged.")]
pub struct UnbanArgs {
    /// An address, a netblock, or a key or a part of one: login joe@example.org, sender=joe@example.org
    #[arg(value_name = "CLIENT")]
    pub target: Target,
}

impl ControlCommand for UnbanArgs {
    type Answer = LiftAnswer;

    /// The counts stay, so a client that is still over its limit is refused for that.
    async fn run(&self, control: &Control, _: &str, now: Now) -> Result<LiftAnswer, Problem> {
        let target = &self.target;
        let service = &control.service;
        // Another host may have banned it a moment ago.
        service.overrides.refresh(service, now).await;
        let rules = service.rules.load_full();
        let target = &rules.policy.canonical_target(target);
        let found = limit_bans(service, &rules, target, now).await;
        let was = found.bans.iter().map(|(one, reading)| {
            format!("{} was banned by limit {} for {} more", one.part, one.limit.name, lasting(reading.banned))
        });
        let mut was: Vec<String> = was.collect();
        let bans: Vec<_> = found.bans.into_iter().map(|(counted, _)| counted).collect();
        let (is_done, mut changes) = lift(service, &rules, &bans, now).await;
        let mut notes = Vec::new();
        if !is_done {
            notes.push(format!("{} is down: a limit's ban stays there", rules.store.name()));
        }
        if found.more > 0 {
            notes.push(format!("{} further clients of it are banned by limits; repeat it", found.more));
        }
        if matches!(target, Target::Netblock(_)) && !rules.store.lists_all() {
            let store = rules.store.name();
            notes.push(format!("{store} cannot list its keys: limits' bans that this daemon knows are lifted"));
        }
        if let Ok(of) = target.to_override() {
            let overrides = rules.policy.overrides().list();
            let bans = || overrides.iter().filter(|entry| entry.kind == OverrideKind::Ban && entry.left(now) > 0);
            let within = || bans().filter(|entry| of.contains(&entry.target));
            was.extend(within().map(|entry| LiftAnswer::was(entry, now)));
            changes.extend(within().map(|entry| Change::Remove(entry.target.clone())));
            let around = bans().filter(|entry| entry.target != of && entry.target.contains(&of));
            notes.extend(around.map(|entry| {
                let around = &entry.target;
                format!("{around} is banned by {}: unban that, or allow {target} for a while", entry.by)
            }));
        }
        let keys: Vec<_> = bans.iter().map(|one| (one.limit.memory_id, CountRecord::key_hash(&one.part))).collect();
        let sessions = service.sessions.clear_refusals(|client, count| match target.netblock() {
            Some(netblock) => netblock.contains(&client),
            None => keys.contains(&(count.limit, count.key)),
        });
        if sessions > 0 {
            notes.push(format!("sessions that are no longer refused: {sessions}"));
        }
        if !changes.is_empty() {
            notes.extend(service.overrides.change(service, changes, now).await?.note());
        }
        for one in service.named_keys.counters_of(&rules, target, now).await.0.into_iter().chain(bans) {
            let reading = Reading::of(&rules.store, &one, now).await;
            if let Some(reading) = reading.filter(|reading| reading.count > one.threshold) {
                let (limit, key, count, threshold) = (&one.limit.name, &one.part, reading.count, one.threshold);
                let note = format!("{key} is still over limit {limit}, {count} of {threshold}: reset it to let it in");
                if !notes.contains(&note) {
                    notes.push(note);
                }
            }
        }
        let done = match was.len() {
            0 => format!("{target} had no ban of its own"),
            number => format!("{target}: bans lifted: {number}"),
        };
        Ok(LiftAnswer::new(done, notes, was))
    }

    fn show(&self, answer: &LiftAnswer, _: Paint) -> String {
        answer.show()
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
