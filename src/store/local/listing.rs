//! Lists of the clients in the table, for `show`, `reset` and `top`.

use std::net::IpAddr;

use ipnet::IpNet;
use tokio::task::yield_now;

use super::{CounterId, Table, TableEntry};
use crate::net::clock::Now;
use crate::policy::limit::CounterLimitId;
use crate::store::local::shard::SHARDS;

/// The most clients of a prefix that are listed: those with the most hits.
pub const MAX_LISTED: usize = 1000;

/// Shards that are looked at before requests get their turn.
const SHARDS_AT_ONCE: usize = 8;

/// A client's window, or its ban.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListedClient {
    pub limit: CounterLimitId,
    pub address: IpAddr,
    pub prefix_length: u8,
    pub hit: TableEntry,
    /// Whether it was over its limit at its last hit.
    pub over: bool,
}

impl Table {
    /// Shows the windows of clients in one of the `SHARDS`. Keys that are not addresses are kept as hashes only, so they
    /// cannot be listed.
    pub fn clients(&self, shard: usize, now: u64, mut show: impl FnMut(ListedClient)) {
        self.entries(shard, now, |key, entry| {
            if !key.is_ban() {
                ListedClient::of(key, entry, now).into_iter().for_each(&mut show);
            }
        });
    }

    /// Shows the bans of clients in one of the `SHARDS`.
    fn banned_clients(&self, shard: usize, now: u64, mut show: impl FnMut(ListedClient)) {
        self.entries(shard, now, |key, entry| {
            if key.is_ban() && entry.count > 0 {
                ListedClient::of(key, entry, now).into_iter().for_each(&mut show);
            }
        });
    }

    fn entries(&self, shard: usize, now: u64, mut show: impl FnMut(CounterId, super::Entry)) {
        self.narrow.show(shard, now, |key, entry| show(CounterId::Narrow(key), entry));
        self.middle.show(shard, now, |key, entry| show(CounterId::Middle(key), entry));
        self.wide.show(shard, now, |key, entry| show(CounterId::Wide(key), entry));
    }
}

impl ListedClient {
    fn of(key: CounterId, entry: super::Entry, now: u64) -> Option<Self> {
        let (limit, address, prefix_length) = key.as_client()?;
        Some(Self { limit, address, prefix_length, hit: TableEntry::of(entry, now), over: entry.over })
    }

    /// Whether it is one of several clients in a netblock.
    fn is_within(&self, netblock: IpNet) -> bool {
        netblock.contains(&self.address) && self.prefix_length > netblock.prefix_len()
    }
}

/// How many bans are in force, of clients and of other keys, of limits that `counts` accepts.
pub async fn count_bans(table: &Table, counts: impl Fn(CounterLimitId) -> bool, now: Now) -> usize {
    let mut number = 0;
    for shard in 0..SHARDS {
        table.entries(shard, now.monotonic, |key, entry| {
            number += usize::from(key.is_ban() && entry.count > 0 && counts(key.limit()));
        });
        if shard % SHARDS_AT_ONCE == 0 {
            yield_now().await;
        }
    }
    number
}

/// The bans of clients in a netblock, at most [`MAX_LISTED`], and how many more there are.
pub async fn bans_within(table: &Table, netblock: IpNet, now: Now) -> (Vec<ListedClient>, usize) {
    let (mut found, mut more) = (Vec::new(), 0);
    for shard in 0..SHARDS {
        table.banned_clients(shard, now.monotonic, |client| match client.is_within(netblock) {
            true if found.len() < MAX_LISTED => found.push(client),
            true => more += 1,
            false => {}
        });
        if shard % SHARDS_AT_ONCE == 0 {
            yield_now().await;
        }
    }
    found.sort_by_key(|client| client.address);
    (found, more)
}

/// Every ban of a client that is in force.
pub async fn all_bans(table: &Table, now: Now) -> Vec<ListedClient> {
    let mut found = Vec::new();
    for shard in 0..SHARDS {
        table.banned_clients(shard, now.monotonic, |client| found.push(client));
        if shard % SHARDS_AT_ONCE == 0 {
            yield_now().await;
        }
    }
    found
}

/// The clients with the most hits, at most `number`, of limits that `counts` accepts.
pub async fn busiest(
    table: &Table,
    number: usize,
    counts: impl Fn(CounterLimitId) -> bool,
    now: Now,
) -> Vec<ListedClient> {
    let mut found = Vec::new();
    for shard in 0..SHARDS {
        table.clients(shard, now.monotonic, |client| {
            if counts(client.limit) {
                found.push(client);
            }
        });
        if found.len() > 4 * number + SHARDS {
            shorten(&mut found, number);
        }
        if shard % SHARDS_AT_ONCE == 0 {
            yield_now().await;
        }
    }
    shorten(&mut found, number);
    found
}

/// The clients of a netblock in the table, those with the most hits first, and how many more there are.
pub async fn within(table: &Table, netblock: IpNet, now: Now) -> (Vec<ListedClient>, usize) {
    let (mut found, mut more) = (Vec::new(), 0);
    for shard in 0..SHARDS {
        table.clients(shard, now.monotonic, |client| {
            if client.is_within(netblock) {
                found.push(client);
            }
        });
        if found.len() > 2 * MAX_LISTED {
            more += shorten(&mut found, MAX_LISTED);
        }
        if shard % SHARDS_AT_ONCE == 0 {
            yield_now().await;
        }
    }
    more += shorten(&mut found, MAX_LISTED);
    (found, more)
}

/// Keeps those with the most hits. Returns how many go.
pub fn shorten(found: &mut Vec<ListedClient>, most: usize) -> usize {
    found.sort_by_key(|client| (std::cmp::Reverse(client.hit.count), client.address));
    let more = found.len().saturating_sub(most);
    found.truncate(most);
    more
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_client_is_listed_as_it_was_counted_and_no_text_is() {
        let table = Table::new(1000);
        let clients = [("192.0.2.1", 32), ("192.0.2.0", 24), ("2001:db8::", 64), ("2001:db8::1", 128)];
        for (address, length) in clients {
            table.hit(CounterId::client(CounterLimitId(3), address.parse().unwrap(), length), 7, 60_000, 5, 0);
        }
        table.hit(CounterId::text(CounterLimitId(3), 1 << 70), 1, 60_000, 5, 0);
        table.hit(CounterId::client(CounterLimitId(3), [192, 0, 2, 9].into(), 32), 1, 1_000, 5, 0);
        let mut listed = BTreeSet::new();
        for shard in 0..SHARDS {
            table.clients(shard, 30_000, |client| {
                assert_eq!(
                    (client.limit, client.hit.count, client.hit.left_ms, client.over),
                    (CounterLimitId(3), 7, 30_000, true)
                );
                assert!(listed.insert((client.address.to_string(), client.prefix_length)));
            });
        }
        assert_eq!(listed, clients.map(|(address, length)| (address.to_owned(), length)).into());
    }
}
