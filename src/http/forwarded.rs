//! The client of a request that a web server asks about: from a header that it sets, read from the right.
//!
//! Every proxy adds at the right the address that connected to it. What stands left of the first address that is not
//! one of ours, the client itself may have written.

use std::net::{IpAddr, SocketAddr};

use axum::http::HeaderMap;
use ipnet::IpNet;

use crate::listener::Peer;
use crate::policy::request::address;

/// Addresses that are looked at. No site has as many proxies in a row.
const MAX_HOPS: usize = 32;

/// The client; `None`: the web server does not say. A peer that is no proxy of ours is the client itself.
pub fn client(peer: Peer, headers: &HeaderMap, header: &str, proxies: &[IpNet]) -> Option<IpAddr> {
    let is_ours = |address: IpAddr| proxies.iter().any(|netblock| netblock.contains(&address));
    if let Some(peer) = peer.ip().filter(|peer| !is_ours(*peer)) {
        return Some(peer);
    }
    let mut last = None;
    let values = headers.get_all(header).into_iter().rev();
    let hops = values.flat_map(|value| value.as_bytes().rsplit(|byte| *byte == b','));
    for hop in hops.take(MAX_HOPS) {
        match hop_address(hop.trim_ascii()) {
            Some(address) if is_ours(address) => last = Some(address),
            // A hop that is not an address is not a trusted proxy.
            client => return client.or(last),
        }
    }
    last
}

/// An address, with a port or in brackets as some proxies write it.
fn hop_address(hop: &[u8]) -> Option<IpAddr> {
    if let Some(address) = address(hop) {
        return Some(address);
    }
    let hop = str::from_utf8(hop).ok()?;
    if let Ok(socket) = hop.parse::<SocketAddr>() {
        return Some(socket.ip().to_canonical());
    }
    address(hop.strip_prefix('[')?.strip_suffix(']')?.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "x-forwarded-for";

    fn asked(peer: &str, values: &[&str]) -> Option<String> {
        let peer = if peer == "unix" { Peer::Unix } else { Peer::inet(format!("{peer}:4711").parse().unwrap()) };
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(HEADER, value.parse().unwrap());
        }
        let proxies = ["127.0.0.0/8", "10.0.0.0/8"].map(|netblock| netblock.parse().unwrap());
        client(peer, &headers, HEADER, &proxies).map(|client| client.to_string())
    }

    #[test]
    fn the_first_address_from_the_right_that_is_not_ours_is_the_client() {
        let cases: [(&[&str], Option<&str>); 11] = [
            (&["192.0.2.7"], Some("192.0.2.7")),
            (&["192.0.2.7, 10.0.0.3"], Some("192.0.2.7")),
            // Addresses that a client made up stand left of its own.
            (&["198.51.100.1, 192.0.2.7"], Some("192.0.2.7")),
            (&["127.0.0.1, 192.0.2.7, 10.0.0.3, 10.0.0.4"], Some("192.0.2.7")),
            (&["198.51.100.1", "192.0.2.7", "10.0.0.3"], Some("192.0.2.7")),
            (&["10.0.0.9, 10.0.0.3"], Some("10.0.0.9")),
            (&["192.0.2.7:50123"], Some("192.0.2.7")),
            (&["[2001:db8::7]:50123, 10.0.0.3"], Some("2001:db8::7")),
            (&["[2001:db8::7]"], Some("2001:db8::7")),
            (&["192.0.2.7, unknown, 10.0.0.3"], Some("10.0.0.3")),
            (&["unknown"], None),
        ];
        for (values, expected) in cases {
            assert_eq!(asked("127.0.0.1", values).as_deref(), expected, "{values:?}");
        }
        assert_eq!(asked("unix", &["::ffff:192.0.2.7"]).as_deref(), Some("192.0.2.7"));
        assert_eq!(asked("127.0.0.1", &[]), None);
    }

    #[test]
    fn nobody_else_is_believed() {
        assert_eq!(asked("198.51.100.9", &["192.0.2.7"]).as_deref(), Some("198.51.100.9"));
    }

    #[test]
    fn a_long_list_is_read_for_a_while() {
        let long = ["10.0.0.1"; 1000].join(",");
        assert_eq!(asked("127.0.0.1", &[&format!("192.0.2.7,{long}")]).as_deref(), Some("10.0.0.1"));
    }
}
