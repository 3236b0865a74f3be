//! `connshaper reset CLIENT|PREFIX|KEY`: counters, violations and bans are forgotten.

use serde_json::{Value, json};

use super::{Arguments, Control, Problem};
use crate::engine::overrides::{Change, KeyReset, RESET_TOLD};
use crate::engine::reset::{clear_refusals, keys};
use crate::engine::target::Target;
use crate::net::clock::Now;
use crate::policy::overrides::{Override, OverrideKind};
use crate::store::local::listing::within;

/// Forgets all that is counted for a target, here and in memcached, and drops what sessions remember of refusals.
pub async fn answer(control: &Control, user: &str, arguments: &Arguments, now: Now) -> Result<Value, Problem> {
    let target: Target = arguments.parsed("target")?;
    let service = &control.service;
    let rules = service.rules.load_full();
    let mut counted = rules.policy.counted(&target);
    let mut notes = Vec::new();
    if let Target::Netblock(netblock) = &target {
        let (clients, more) = within(rules.store.table(), *netblock, now).await;
        counted.extend(clients.iter().flat_map(|client| rules.policy.counted(&Target::Client(client.address))));
        if more > 0 {
            notes.push(format!("{more} further clients of it were counted, and are not reset; repeat it"));
        }
        if rules.store.waits() {
            notes.push("memcached cannot list its keys: the clients this daemon has seen are reset".to_owned());
        }
    }
    if !rules.store.reset(keys(&counted, now).into_iter(), now).await {
        notes.push("memcached is away: its counters stay as they are".to_owned());
    }
    let pardoned = clear_refusals(service, &rules.policy, &target, &counted);
    let (ends, by) = (now.unix() + RESET_TOLD, user.to_owned());
    let change = match (target.netblock(), &target) {
        (Some(netblock), _) => Change::Set(Override { netblock, kind: OverrideKind::Reset, ends, by }),
        (None, target) => Change::Reset(KeyReset { key: target.to_string(), ends, by }),
    };
    notes.extend(service.overrides.change(service, change, now).await?.note());
    let number = counted.len();
    Ok(json!({
        "done": format!("{target}: keys reset: {number}, sessions no longer refused: {pardoned}"),
        "keys": number,
        "sessions": pardoned,
        "notes": notes,
    }))
}
