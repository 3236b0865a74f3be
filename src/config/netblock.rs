//! Netblocks: an address, or an address and a prefix length.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::net::netblock::canonical;

/// A netblock as it was written.
pub(super) struct Netblock {
    /// The network, its host bits cleared, IPv4-mapped IPv6 as IPv4.
    pub net: IpNet,
    /// Whether host bits were set.
    pub host_bits: bool,
}

/// Reads `192.0.2.1`, `192.0.2.0/24`, `2001:db8::/32`. `Err` says what is wrong and what to write.
pub(super) fn parse(text: &str) -> Result<Netblock, (String, String)> {
    let text = text.trim();
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (text, None),
    };
    let Ok(ip) = address.parse::<IpAddr>() else {
        let remedy = match beginning(text) {
            Some(net) => format!("write {net}"),
            None => WRITE.to_owned(),
        };
        return Err(("not an address or netblock".into(), remedy));
    };
    let most = if ip.is_ipv4() { 32 } else { 128 };
    let Some(length) = length else {
        return Ok(netblock(ip, most));
    };
    match length.parse::<u8>() {
        Ok(bits) if bits <= most => Ok(netblock(ip, bits)),
        Ok(_) => Err((format!("a prefix length of {length} is too long"), format!("write a length from 0 to {most}"))),
        Err(_) => Err((
            "the prefix length is not a number".into(),
            match length.parse().map(|mask| IpNet::with_netmask(ip, mask)) {
                Ok(Ok(net)) => format!("write {}", net.trunc()),
                _ => WRITE.to_owned(),
            },
        )),
    }
}

pub(super) const WRITE: &str = "write an address, as in 192.0.2.1 or 2001:db8::1, \
                     or a netblock, as in 192.0.2.0/24 or 2001:db8::/32";

/// Reads the beginning of an address, as connection_shaper's whitelists have
/// them: `192.168.1.`, `10.0.0`, `10`, `2001:db8:`.
pub(super) fn beginning(text: &str) -> Option<IpNet> {
    if text.contains(':') {
        return beginning_v6(text);
    }
    let parts: Vec<&str> = text.strip_suffix('.').unwrap_or(text).split('.').collect();
    if parts.len() > 3 {
        return None;
    }
    let mut octets = [0; 4];
    for (octet, part) in octets.iter_mut().zip(&parts) {
        // A sign or a leading zero is no part of an address.
        if !part.bytes().all(|b| b.is_ascii_digit()) || (part.len() > 1 && part.starts_with('0')) {
            return None;
        }
        *octet = part.parse().ok()?;
    }
    let net = Ipv4Net::new(Ipv4Addr::from(octets), 8 * parts.len() as u8);
    net.ok().map(IpNet::V4)
}

fn beginning_v6(text: &str) -> Option<IpNet> {
    let parts: Vec<&str> = text.strip_suffix(':').unwrap_or(text).split(':').collect();
    if parts.len() > 7 {
        return None;
    }
    let mut groups = [0; 8];
    for (group, part) in groups.iter_mut().zip(&parts) {
        if part.is_empty() || part.len() > 4 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        *group = u16::from_str_radix(part, 16).ok()?;
    }
    let net = Ipv6Net::new(Ipv6Addr::from(groups), 16 * parts.len() as u8);
    net.ok().map(IpNet::V6)
}

fn netblock(ip: IpAddr, bits: u8) -> Netblock {
    let written = IpNet::new(ip, bits).expect("the callers checked the length");
    Netblock { net: canonical(written), host_bits: written.addr() != written.network() }
}

/// Pairs of places in the list: a netblock, and an earlier or wider one that covers it.
pub(super) fn covered(nets: &[IpNet]) -> Vec<(usize, usize)> {
    let mut order: Vec<usize> = (0..nets.len()).collect();
    // A network sorts directly before everything inside it.
    order.sort_by_key(|&place| (nets[place], place));
    let mut pairs = Vec::new();
    let mut wide: Option<usize> = None;
    for place in order {
        match wide {
            Some(cover) if nets[cover].contains(&nets[place]) => pairs.push((place, cover)),
            _ => wide = Some(place),
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> String {
        parse(text).ok().unwrap().net.to_string()
    }

    #[test]
    fn netblocks_lose_their_host_bits_and_their_mapping() {
        assert_eq!(net("192.0.2.1"), "192.0.2.1/32");
        assert_eq!(net("192.0.2.1/24"), "192.0.2.0/24");
        assert_eq!(net("2001:db8::1/32"), "2001:db8::/32");
        assert_eq!(net("::ffff:192.0.2.1"), "192.0.2.1/32");
        assert_eq!(net("::ffff:10.0.0.0/104"), "10.0.0.0/8");
        assert_eq!(net("::/0"), "::/0");
        assert!(parse("192.0.2.1/24").ok().unwrap().host_bits);
        assert!(!parse("192.0.2.0/24").ok().unwrap().host_bits);
    }

    #[test]
    fn wrong_netblocks_say_what_to_write() {
        let remedy = |text| parse(text).err().unwrap().1;
        assert_eq!(remedy("192.168.1."), "write 192.168.1.0/24");
        assert_eq!(remedy("10.1.2.3/255.255.255.0"), "write 10.1.2.0/24");
        assert_eq!(remedy("192.0.2.0/33"), "write a length from 0 to 32");
        assert_eq!(remedy("mail.example.org"), WRITE);
        assert_eq!(remedy(""), WRITE);
    }

    #[test]
    fn beginnings_of_addresses_are_prefixes() {
        let read = |text| beginning(text).map(|net| net.to_string());
        assert_eq!(read("192.168.1.").as_deref(), Some("192.168.1.0/24"));
        assert_eq!(read("10.0.0").as_deref(), Some("10.0.0.0/24"));
        assert_eq!(read("10").as_deref(), Some("10.0.0.0/8"));
        assert_eq!(read("2001:db8:").as_deref(), Some("2001:db8::/32"));
        assert_eq!(read("2001:db8").as_deref(), Some("2001:db8::/32"));
        for text in ["", ".", "256", "1..2", "+1", "01", "1.2.3.4", "2001::", ":", "::1", "x"] {
            assert_eq!(read(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_covered_netblock_is_found_in_any_order() {
        let nets = ["10.1.0.0/16", "::1/128", "10.0.0.0/8", "192.0.2.1/32", "192.0.2.1/32"];
        let nets: Vec<IpNet> = nets.iter().map(|text| text.parse().unwrap()).collect();
        assert_eq!(covered(&nets), [(0, 2), (4, 3)]);
    }
}
