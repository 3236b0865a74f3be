//! Lists of clients in a prefix, out of a shared store that can list its keys.
//!
//! Where the store cannot, or is down, they are those that this process has seen.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::backend::{Backend, KeyQuery, ListedKey};
use crate::net::clock::Now;
use crate::net::netblock;
use crate::policy::{CounterKind, Limit};
use crate::store::Store;
use crate::store::local::TableEntry;
use crate::store::local::listing::{self, ListedClient, MAX_LISTED};

impl Store {
    /// Whether the clients of a prefix are all that are counted, not only those that this process has seen.
    pub fn lists_all(&self) -> bool {
        self.backend.as_ref().is_none_or(|backend| {
            backend.lists_keys() && !self.servers().iter().any(|server| server.down_for.is_some())
        })
    }

    /// The clients of a netblock that have hits, those with the most first, and how many more there are.
    pub async fn clients_within(&self, limits: &[Limit], netblock: IpNet, now: Now) -> (Vec<ListedClient>, usize) {
        match self.list(limits, netblock, |limit| limit.window.counter(now), now).await {
            Some(listed) => listed,
            None => listing::within(&self.table, netblock, now).await,
        }
    }

    /// The bans of clients in a netblock, and how many more there are.
    pub async fn bans_within(&self, limits: &[Limit], netblock: IpNet, now: Now) -> (Vec<ListedClient>, usize) {
        match self.list(limits, netblock, |_| CounterKind::ActiveBan, now).await {
            Some(listed) => listed,
            None => listing::bans_within(&self.table, netblock, now).await,
        }
    }

    /// `None`: the store cannot list its keys at present.
    async fn list(
        &self,
        limits: &[Limit],
        netblock: IpNet,
        kind: impl Fn(&Limit) -> CounterKind,
        now: Now,
    ) -> Option<(Vec<ListedClient>, usize)> {
        let backend: &dyn Backend = self.backend.as_deref().filter(|backend| backend.lists_keys())?;
        let (mut found, mut more) = (Vec::new(), 0);
        for limit in limits.iter().filter(|limit| limit.per.is_client()) {
            let kind = kind(limit);
            let Some(suffix) = kind.suffix() else { continue };
            let ends = suffix.clone();
            let wanted = Arc::new(move |rest: &str| client_within(rest, netblock, &ends).is_some());
            let query = KeyQuery { prefix: limit.key_prefix.clone(), wanted, most: MAX_LISTED };
            let listing = backend.list_keys(query, now).await.ok()?;
            more += listing.more;
            found.extend(listing.keys.into_iter().filter_map(|ListedKey { key, count, left }| {
                let rest = key.strip_prefix(limit.key_prefix.as_str())?;
                let (address, prefix_length) = client_within(rest, netblock, &suffix)?;
                let left_ms = match kind {
                    CounterKind::Calendar(window) => window.left_ms(now),
                    _ => u64::from(left) * 1000,
                };
                let hit = TableEntry { count, left_ms };
                Some(ListedClient { limit: limit.id, address, prefix_length, hit, over: count > limit.threshold })
            }));
        }
        more += listing::shorten(&mut found, MAX_LISTED);
        Some((found, more))
    }
}

/// The client of a key, after the prefix of its limit, if it is one of several in a netblock and the key ends with
/// that.
fn client_within(rest: &str, netblock: IpNet, wanted: &str) -> Option<(IpAddr, u8)> {
    let (part, suffix) = rest.find('!').map_or((rest, ""), |at| rest.split_at(at));
    if suffix != wanted {
        return None;
    }
    let client = netblock::parse(part)?;
    let is_within = netblock.contains(&client) && client.prefix_len() > netblock.prefix_len();
    is_within.then(|| (client.addr(), client.prefix_len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_of_a_client_of_the_netblock_or_of_none() {
        let within = |rest: &str, netblock: &str| {
            let suffix = if rest.ends_with("!hits") { "!hits" } else { "" };
            client_within(rest, netblock.parse().unwrap(), suffix)
                .map(|(address, length)| format!("{address}/{length}"))
        };
        assert_eq!(within("198.51.100.7", "198.51.100.0/24").as_deref(), Some("198.51.100.7/32"));
        assert_eq!(within("2001:db8:1::/64!hits", "2001:db8::/32").as_deref(), Some("2001:db8:1::/64"));
        assert_eq!(within("2001:db8::/64", "2001:db8::/64"), None, "that is all of it");
        for rest in ["198.51.100.7!ban", "198.51.101.7", "daily/198.51.100.7", "sender=a", "!overrides", ""] {
            assert_eq!(within(rest, "198.51.100.0/24"), None, "{rest}");
        }
    }
}
