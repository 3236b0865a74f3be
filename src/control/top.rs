//! The request of `connshaper top` once a second: the daemon's state, and its busiest clients or the keys of a limit.

use clap::Args;
use serde::{Deserialize, Serialize};

use super::commands::ControlCommand;
use super::listing::{KeyStatus, Listing};
use super::origin::OriginStatus;
use super::show::ClientStatus;
use super::status::StatusAnswer;
use super::{Control, Problem};
use crate::net::clock::Now;
use crate::observe::terminal::Paint;
use crate::store::local::listing::busiest;

/// The most clients, or keys, that can be asked for.
const MAX_LISTED_CLIENTS: usize = 500;

/// The word for the keys of all limits.
pub const ALL: &str = "all";

/// Watch the busiest clients of the running daemon, or the keys nearest to a limit
#[derive(Clone, Debug, PartialEq, Eq, Args, Serialize, Deserialize)]
#[command(after_help = "\
Keys: tab goes on from the busiest clients to the keys of all limits that are
nearest to them or over them, then to those of each limit, and shift with tab
back; up and down select a client or a key; s, c, l and a sort by the share of
its limit, count, seconds left and key; b bans it for an hour, u lifts its
bans, r resets it; q ends.
Without a terminal a line is printed each second; with --json one object, once.

Examples:
  connshaper top
  connshaper top users
  connshaper top all")]
pub struct TopArgs {
    /// Begin with the keys of this limit, or of all of them
    #[arg(value_name = "LIMIT|all")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<String>,
    /// More than any terminal has lines.
    #[arg(skip = 200_usize)]
    pub clients: usize,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TopAnswer {
    #[serde(flatten)]
    pub status: StatusAnswer,
    /// The clients with the most hits.
    pub busiest: Vec<ClientStatus>,
    /// Keys of the limit that was asked for, those nearest to it or over it first, as this daemon has counted them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<Vec<KeyStatus>>,
    pub latency: StoreLatency,
}

/// Seconds that requests waited for a shared store; none where none did.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct StoreLatency {
    pub median: Option<f64>,
    pub p99: Option<f64>,
}

impl ControlCommand for TopArgs {
    type Answer = TopAnswer;

    async fn run(&self, control: &Control, _: &str, now: Now) -> Result<TopAnswer, Problem> {
        let rules = control.service.rules.load_full();
        let most = self.clients.min(MAX_LISTED_CLIENTS);
        let status = StatusAnswer::of(control, now).await;
        let keys = match &self.limit {
            None => None,
            // A limit may have that name.
            Some(word) if word == ALL && !status.limits.contains(word) => {
                Some(Listing::nearest(&control.service, &rules, "", most, now).await?)
            }
            Some(limit) => Some(Listing::nearest(&control.service, &rules, limit, most, now).await?),
        };
        let clients = busiest(rules.store.table(), most, |_| true, now).await;
        let latency = control.service.statistics.store_latency.histogram();
        Ok(TopAnswer {
            status,
            busiest: clients.iter().filter_map(|client| ClientStatus::of(&rules.policy, client)).collect(),
            keys,
            latency: StoreLatency { median: latency.quantile(0.5), p99: latency.quantile(0.99) },
        })
    }

    fn needs_daemon() -> bool {
        true
    }

    /// One line, as where there is no terminal to draw on.
    fn show(&self, answer: &TopAnswer, _: Paint) -> String {
        let status = &answer.status;
        let first = |key: &str, count: u64, threshold: u64, origin: &Option<OriginStatus>| {
            let origin = origin.as_ref().map(|origin| format!(" ({origin})")).unwrap_or_default();
            format!("{key} {count}/{threshold}{origin}")
        };
        let (word, first): (_, Vec<String>) = match &answer.keys {
            None => {
                let busiest = answer.busiest.iter().take(3);
                (
                    "busiest",
                    busiest.map(|client| first(&client.key, client.count, client.threshold, &client.origin)).collect(),
                )
            }
            Some(keys) => (
                "nearest",
                keys.iter().take(3).map(|key| first(&key.key, key.count, key.threshold, &key.origin)).collect(),
            ),
        };
        format!(
            "requests/s {:.1}  refused/s {:.1}  store {}  clients {}  {word} {}\n",
            status.queries_per_second,
            status.refusals_per_second,
            status.store.state,
            status.clients,
            first.join(", "),
        )
    }
}
