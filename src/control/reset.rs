//! `connshaper reset CLIENT|PREFIX|KEY`: counters, violations and bans are forgotten.

use std::collections::HashSet;

use clap::Args;
use serde::{Deserialize, Serialize};

use super::commands::{ControlCommand, Logged, Record};
use super::text::Summary;
use super::{Control, Problem};
use crate::engine::bans::{announce_lifted, limit_bans};
use crate::engine::overrides::{Change, Reset};
use crate::engine::reset::{clear_refusals, keys};
use crate::engine::target::Target;
use crate::net::clock::Now;
use crate::observe::terminal::Paint;

/// Forget all that is counted for a client, a prefix or a key, and let it in
#[derive(Clone, Debug, PartialEq, Eq, Args, Serialize, Deserialize)]
#[command(after_help = "\
Sessions that were refused go on. Other hosts that share the store follow within a
second. The user who gave the command is logged.")]
pub struct ResetArgs {
    /// An address, a netblock, or a key as the log shows it, like sender=joe@example.org
    #[arg(value_name = "CLIENT")]
    pub target: Target,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResetAnswer {
    #[serde(flatten)]
    pub summary: Summary,
    pub keys: usize,
    /// Sessions that are no longer refused.
    pub sessions: usize,
}

impl ControlCommand for ResetArgs {
    type Answer = ResetAnswer;

    async fn run(&self, control: &Control, user: &str, now: Now) -> Result<ResetAnswer, Problem> {
        let service = &control.service;
        let rules = service.rules.load_full();
        let target = &rules.policy.target(&self.target);
        let store = rules.store.name();
        let mut counted = rules.policy.counted(target);
        let mut notes = Vec::new();
        let found = limit_bans(&rules, target, now).await;
        let bans: Vec<_> = found.bans.into_iter().map(|(counted, _)| counted).collect();
        if let Target::Netblock(netblock) = target {
            let (clients, more) = rules.store.clients_within(rules.policy.limits(), *netblock, now).await;
            counted.extend(clients.iter().flat_map(|client| rules.policy.counted(&Target::Client(client.address))));
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
        if !rules.store.reset(keys(&counted, now).into_iter(), now).await {
            notes.push(format!("{store} is down: its counters stay as they are"));
        }
        let sessions = clear_refusals(service, &rules.policy, target, &counted);
        let mut changes = vec![Change::Reset(Reset::new(target.clone(), user.to_owned(), now))];
        changes.extend(announce_lifted(service, &bans, now));
        notes.extend(service.overrides.change(service, changes, now).await?.note());
        let keys = counted.len();
        let done = format!("{target}: keys reset: {keys}, sessions no longer refused: {sessions}");
        Ok(ResetAnswer { summary: Summary { done, notes }, keys, sessions })
    }

    fn show(answer: &ResetAnswer, _: Paint) -> String {
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
