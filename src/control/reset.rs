//! `connshaper reset CLIENT|PREFIX|KEY`: counters, violations and bans are forgotten.

use ipnet::IpNet;
use serde_json::{Value, json};

use super::show::within;
use super::{Arguments, Control, Problem};
use crate::engine::overrides::{Change, KeyReset, RESET_TOLD};
use crate::engine::service::Service;
use crate::net::clock::Now;
use crate::policy::overrides::{Kind, Word};
use crate::policy::per::Part;
use crate::policy::{Count, Counted, Key, Policy, Target};

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
    let pardoned = pardon(service, &rules.policy, &target, &counted);
    let (ends, by) = (now.unix() + RESET_TOLD, user.to_owned());
    let change = match (target.netblock(), &target) {
        (Some(netblock), _) => Change::Say(Word { netblock, kind: Kind::Reset, ends, by }),
        (None, target) => Change::Forget(KeyReset { key: target.to_string(), ends, by }),
    };
    notes.extend(service.words.change(service, change, now).await?.note());
    let number = counted.len();
    Ok(json!({
        "done": format!("{target}: keys reset: {number}, sessions no longer refused: {pardoned}"),
        "keys": number,
        "sessions": pardoned,
        "notes": notes,
    }))
}

/// All counters of these.
fn keys<'c>(counted: &'c [Counted<'_>], now: Now) -> Vec<Key<'c>> {
    counted.iter().flat_map(|one| one.purposes(now).into_iter().map(|purpose| one.key(purpose))).collect()
}

/// Another host has reset a target: what this process remembers of it goes too. The store has been told.
pub async fn forget_here(service: &Service, target: Target, now: Now) {
    let rules = service.rules.load_full();
    let mut targets = vec![target];
    if let Target::Netblock(netblock) = targets[0] {
        let (clients, _) = within(rules.store.table(), netblock, now).await;
        targets.extend(clients.iter().map(|client| Target::Client(client.address)));
    }
    let counted: Vec<_> = targets.iter().flat_map(|target| rules.policy.counted(target)).collect();
    keys(&counted, now).iter().for_each(|key| rules.store.forget_here(key));
    pardon(service, &rules.policy, &targets[0], &counted);
}

/// Drops the refusals that sessions remember: all those of a netblock's clients and of clients counted together
/// with it, and those for what was counted under a key that is no address.
fn pardon(service: &Service, policy: &Policy, target: &Target, counted: &[Counted<'_>]) -> usize {
    // A client of a /64 is refused for all of the /64.
    let wide = target.netblock().map(|netblock| policy.counted(&Target::Client(netblock.addr()))).unwrap_or_default();
    let wide = wide.into_iter().filter_map(|counted| match counted.part {
        Part::Client { address, prefix_length } => IpNet::new(address, prefix_length).ok(),
        Part::Text(_) => None,
    });
    let around: Vec<IpNet> = wide.chain(target.netblock()).collect();
    let keys: Vec<_> = counted.iter().map(|one| (one.limit.memory_id, Count::key(&one.part))).collect();
    service.sessions.pardon(|client, count| {
        around.iter().any(|netblock| netblock.contains(&client)) || keys.contains(&(count.limit, count.key))
    })
}
