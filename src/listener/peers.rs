//! Access control for TCP: the peers that may connect.
//!
//! A policy client is trusted, so a host that reaches the port
//! could fill counts and refuse others' mail. On a unix socket the rights of
//! its file decide instead.

use ipnet::IpNet;

use super::Peer;
use crate::net::address::Address;

/// The netblocks whose hosts may connect over TCP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peers(Vec<IpNet>);

impl Peers {
    /// The hosts of these netblocks and no other.
    pub fn new(netblocks: Vec<IpNet>) -> Self {
        Self(netblocks)
    }

    /// Whether a peer may connect.
    pub fn admit(&self, peer: &Peer) -> bool {
        peer.ip().is_none_or(|ip| self.0.iter().any(|netblock| netblock.contains(&ip)))
    }

    /// Follows an address and a comma in the warning that all other hosts are excluded there.
    pub const EXCLUDES: &str = "which other hosts can reach, but `allow_peers` admits none: name them there";

    /// Whether an address is reachable by other hosts although none of them may connect.
    pub fn exclude_others_at(&self, place: &Address) -> bool {
        place.is_beyond_loopback() && self.are_of_this_host()
    }

    /// Whether all of them are loopback addresses.
    fn are_of_this_host(&self) -> bool {
        self.0.iter().all(|netblock| netblock.network().is_loopback() && netblock.broadcast().is_loopback())
    }

    /// The netblocks, as configured.
    pub fn netblocks(&self) -> &[IpNet] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers(netblocks: &[&str]) -> Peers {
        Peers::new(netblocks.iter().map(|netblock| netblock.parse().unwrap()).collect())
    }

    fn admits(peers: &Peers, address: &str) -> bool {
        peers.admit(&Peer::inet(format!("{address}:4711").parse().unwrap()))
    }

    #[test]
    fn hosts_of_the_netblocks_may_ask_and_no_others() {
        let peers = peers(&["127.0.0.0/8", "::1/128"]);
        assert!(admits(&peers, "127.0.0.1") && admits(&peers, "127.9.9.9") && admits(&peers, "[::1]"));
        assert!(!admits(&peers, "192.0.2.1") && !admits(&peers, "[2001:db8::1]"));
    }

    #[test]
    fn ipv4_through_an_ipv6_socket_is_ipv4() {
        let site = peers(&["192.0.2.0/24"]);
        assert!(admits(&site, "[::ffff:192.0.2.1]") && !admits(&site, "[::ffff:198.51.100.1]"));
        assert!(!admits(&peers(&["::/0"]), "192.0.2.1"));
    }

    #[test]
    fn a_unix_socket_is_guarded_by_its_file() {
        assert!(peers(&[]).admit(&Peer::Unix));
    }

    #[test]
    fn other_hosts_are_told_from_this_one() {
        assert!(peers(&["127.0.0.0/8", "::1/128"]).are_of_this_host() && peers(&["127.0.0.1/32"]).are_of_this_host());
        assert!(
            !peers(&["127.0.0.0/8", "192.0.2.0/24"]).are_of_this_host() && !peers(&["0.0.0.0/0"]).are_of_this_host()
        );
    }
}
