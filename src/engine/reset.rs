//! Resets counters and remembered refusals, as an administrator asked on this host or on another.

use ipnet::IpNet;

use crate::engine::service::Service;
use crate::engine::target::{Target, TargetCounter};
use crate::net::clock::Now;
use crate::policy::key::KeyPart;
use crate::policy::{CountRecord, Key, Policy};
use crate::store::local::listing::within;

/// The keys of all their counters.
pub fn keys<'c>(counted: &'c [TargetCounter<'_>], now: Now) -> Vec<Key<'c>> {
    counted.iter().flat_map(|one| one.kinds(now).into_iter().map(|kind| one.key(kind))).collect()
}

/// Another host has reset a target, in the store too: forgets what this process remembers of it.
pub async fn forget_here(service: &Service, target: Target, now: Now) {
    let rules = service.rules.load_full();
    let mut targets = vec![target];
    if let Target::Netblock(netblock) = targets[0] {
        let (clients, _) = within(rules.store.table(), netblock, now).await;
        targets.extend(clients.iter().map(|client| Target::Client(client.address)));
    }
    let mut counted: Vec<_> = targets.iter().flat_map(|target| rules.policy.counters_of(target)).collect();
    keys(&counted, now).iter().for_each(|key| rules.store.forget_here(key));
    if let Target::Key(_) = targets[0] {
        // Keys that have the target among their fields: the other host may not know all that this one does.
        let (mut found, _) = service.named_keys.counters_of(&rules, &targets[0], now).await;
        let rest = found.split_off(counted.len());
        rules.store.reset(keys(&rest, now).into_iter(), now).await;
        counted.extend(rest);
    }
    counted.iter().for_each(|one| service.named_keys.forget(one.limit.id, &one.part));
    clear_refusals(service, &rules.policy, &targets[0], &counted);
}

/// Clears the refusals that sessions remember: of a netblock's clients and of clients counted together with it, and
/// those for keys that are no addresses.
pub fn clear_refusals(service: &Service, policy: &Policy, target: &Target, counted: &[TargetCounter<'_>]) -> usize {
    // A client of a /64 is refused for all of the /64.
    let wide =
        target.netblock().map(|netblock| policy.counters_of(&Target::Client(netblock.addr()))).unwrap_or_default();
    let wide = wide.into_iter().filter_map(|counted| match counted.part {
        KeyPart::Client { address, prefix_length } => IpNet::new(address, prefix_length).ok(),
        KeyPart::Text(_) => None,
    });
    let around: Vec<IpNet> = wide.chain(target.netblock()).collect();
    let is_reset = |limit, part: &KeyPart| counted.iter().any(|one| (one.limit.id, &one.part) == (limit, part));
    service.sessions.forget_held(|held| is_reset(held.limit, &held.part));
    let keys: Vec<_> = counted.iter().map(|one| (one.limit.memory_id, CountRecord::key_hash(&one.part))).collect();
    service.sessions.clear_refusals(|client, count| {
        around.iter().any(|netblock| netblock.contains(&client)) || keys.contains(&(count.limit, count.key))
    })
}
