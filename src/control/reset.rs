//! `connshaper reset CLIENT|PREFIX|KEY`: counters, violations and bans are forgotten.

use std::collections::HashSet;

use clap::Args;
use serde::{Deserialize, Serialize};

use super::commands::{ControlCommand, Logged, Record};
use super::text::{Summary, allowed};
use super::{Control, Problem};
use crate::engine::bans::{announce_lifted, limit_bans};
use crate::engine::overrides::{Change, Reset};
use crate::engine::reading::Reading;
use crate::engine::reset::{clear_refusals, keys};
use crate::engine::target::{Target, TargetCounter};
use crate::net::clock::Now;
use crate::observe::terminal::Paint;

/// Forget all that is counted for a client, a prefix or a key, and let it in
#[derive(Clone, Debug, PartialEq, Eq, Args, Serialize, Deserialize)]
#[command(after_help = "\
Sessions that were refused go on. Other hosts that share the store follow within a
second. The user who gave the command is logged.")]
pub struct ResetArgs {
    /// An address, a netblock, or a key or a part of one: login joe@example.org, sender=joe@example.org
    #[arg(value_name = "CLIENT")]
    pub target: Target,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResetAnswer {
    #[serde(flatten)]
    pub summary: Summary,
    /// Keys for which something was counted.
    pub keys: usize,
    /// Their counts; empty for a netblock.
    pub counters: Vec<ResetCounter>,
    /// Sessions that are no longer refused.
    pub sessions: usize,
}

/// The count of a key before it was reset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResetCounter {
    pub limit: String,
    pub key: String,
    pub count: u64,
    /// None: it is not limited.
    pub threshold: Option<u64>,
    /// Seconds a ban had left; 0: there was none.
    pub banned: u32,
}

impl ResetCounter {
    fn of(counted: &TargetCounter<'_>, reading: &Reading) -> Self {
        let unit = u64::from(counted.limit.counts.unit());
        Self {
            limit: counted.limit.name.clone(),
            key: counted.part.to_string(),
            count: u64::from(reading.count) * unit,
            threshold: counted.allowed(),
            banned: reading.banned,
        }
    }
}

impl ControlCommand for ResetArgs {
    type Answer = ResetAnswer;

    async fn run(&self, control: &Control, user: &str, now: Now) -> Result<ResetAnswer, Problem> {
        let service = &control.service;
        let rules = service.rules.load_full();
        let target = &rules.policy.canonical_target(&self.target);
        let store = rules.store.name();
        let (mut counted, others) = service.named_keys.counters_of(&rules, target, now).await;
        let mut notes = Vec::new();
        if others > 0 {
            notes.push(format!("{others} further keys of it were counted, and are not reset; repeat it"));
        }
        let found = limit_bans(service, &rules, target, now).await;
        let bans: Vec<_> = found.bans.into_iter().map(|(counted, _)| counted).collect();
        if let Target::Netblock(netblock) = target {
            let (clients, more) = rules.store.clients_within(rules.policy.limits(), *netblock, now).await;
            counted.extend(clients.iter().flat_map(|client| rules.policy.counters_of(&Target::Client(client.address))));
            // A ban outlasts the window, so its client need not be among those.
            counted.extend(bans.iter().cloned());
            let mut seen = HashSet::new();
            counted.retain(|one| seen.insert((one.limit.id, one.part.clone())));
            if more + found.more > 0 {
                let more = more.max(found.more);
                notes.push(format!("{more} further clients of it were counted, and are not reset; repeat it"));
            }
            if !rules.store.lists_all() {
                notes.push(format!("{store} cannot list its keys: the clients that this daemon has seen are reset"));
            }
        }
        let mut counters = Vec::new();
        let mut keys_there = counted.len();
        if !matches!(target, Target::Netblock(_)) {
            for one in &counted {
                let reading = Reading::of(&rules.store, one, now).await;
                let is_there = |it: &Reading| it.count + it.violations + it.bans + it.banned > 0;
                counters.extend(reading.filter(is_there).map(|reading| ResetCounter::of(one, &reading)));
            }
            keys_there = counters.len();
            if counted.is_empty() {
                notes.push(format!("no limit counts by what {target} is, and no key that was counted lately has it"));
            }
        }
        if !rules.store.reset(keys(&counted, now).into_iter(), now).await {
            notes.push(format!("{store} is down: its counters stay as they are"));
        }
        counted.iter().for_each(|one| service.named_keys.forget(one.limit.id, &one.part));
        let sessions = clear_refusals(service, &rules.policy, target, &counted);
        let mut changes = vec![Change::Reset(Reset::new(target.clone(), user.to_owned(), now))];
        changes.extend(announce_lifted(service, &bans, now));
        notes.extend(service.overrides.change(service, changes, now).await?.note());
        let done = match (keys_there, sessions) {
            (0, 0) => format!("nothing was counted for {target}"),
            (keys, sessions) => format!("{target}: keys reset: {keys}, sessions no longer refused: {sessions}"),
        };
        Ok(ResetAnswer { summary: Summary { done, notes }, keys: keys_there, counters, sessions })
    }

    fn show(&self, answer: &ResetAnswer, _: Paint) -> String {
        let was = answer.counters.iter().map(|counter| {
            let ResetCounter { limit, key, count, threshold, banned } = counter;
            let banned = if *banned > 0 { ", banned" } else { "" };
            format!("  limit {limit}: {key} was at {count} of {}{banned}\n", allowed(*threshold))
        });
        answer.summary.show() + &was.collect::<String>()
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
