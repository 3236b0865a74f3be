//! What `connshaper top` asks once a second: the daemon's state, and its busiest clients.

use serde_json::{Value, json};

use super::show::object;
use super::{Arguments, Control, Problem, status};
use crate::net::clock::Now;
use crate::store::local::listing::busiest;

/// The most clients that can be asked for.
const MOST: u64 = 500;

/// The state, with the clients that have the most hits.
pub async fn answer(control: &Control, arguments: &Arguments, now: Now) -> Result<Value, Problem> {
    let number = arguments.number("clients", 1..=MOST)?;
    let rules = control.service.rules.load_full();
    let clients = busiest(rules.store.table(), number as usize, now).await;
    let latency = control.service.statistics.store_latency.histogram();
    let mut answer = status::answer(control, now);
    answer["busiest"] = clients.iter().filter_map(|client| object(&rules.policy, client)).collect();
    answer["latency"] = json!({ "median": latency.quantile(0.5), "p99": latency.quantile(0.99) });
    Ok(answer)
}
