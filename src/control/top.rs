//! What `connshaper top` asks once a second: the daemon's state, and its busiest clients.

use clap::Args;
use serde::{Deserialize, Serialize};

use super::commands::ControlCommand;
use super::show::ClientStatus;
use super::status::StatusAnswer;
use super::{Control, Problem};
use crate::net::clock::Now;
use crate::observe::terminal::Paint;
use crate::store::local::listing::busiest;

/// The most clients that can be asked for.
const MAX_CLIENTS: usize = 500;

/// Watch the busiest clients of the running daemon
#[derive(Clone, Copy, Debug, PartialEq, Eq, Args, Serialize, Deserialize)]
#[command(after_help = "\
Keys: up and down select a client; c, l and a sort by count, seconds left and
address; b bans the client for an hour, u lifts its bans, r resets it; q ends.
Without a terminal a line is printed each second; with --json one object, once.")]
pub struct TopArgs {
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
        let clients = busiest(rules.store.table(), self.clients.min(MAX_CLIENTS), now).await;
        let latency = control.service.statistics.store_latency.histogram();
        Ok(TopAnswer {
            status: StatusAnswer::of(control, now).await,
            busiest: clients.iter().filter_map(|client| ClientStatus::of(&rules.policy, client)).collect(),
            latency: StoreLatency { median: latency.quantile(0.5), p99: latency.quantile(0.99) },
        })
    }

    fn needs_daemon() -> bool {
        true
    }

    /// One line, as where there is no terminal to draw on.
    fn show(answer: &TopAnswer, _: Paint) -> String {
        let status = &answer.status;
        let busiest = answer.busiest.iter().take(3);
        let busiest: Vec<String> =
            busiest.map(|client| format!("{} {}/{}", client.key, client.count, client.threshold)).collect();
        format!(
            "requests/s {:.1}  refused/s {:.1}  store {}  clients {}  busiest {}\n",
            status.queries_per_second,
            status.refusals_per_second,
            status.store.state,
            status.clients,
            busiest.join(", "),
        )
    }
}
