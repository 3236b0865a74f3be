//! IPv6 addresses that carry an IPv4 address by a transition mechanism.
//!
//! Behind a NAT64 every IPv4 client has an address of one prefix. Masked like others all of them would be one client,
//! and no netblock of IPv4 would contain any of them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// The lengths that a NAT64 prefix may have, RFC 6052.
const NAT64_LENGTHS: [u8; 6] = [32, 40, 48, 56, 64, 96];

/// 6to4, RFC 3056, and Teredo, RFC 4380.
const SIX_TO_FOUR: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16);
const TEREDO: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 32);

/// The prefixes whose addresses are taken for the IPv4 addresses in them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EmbeddedIpv4(Vec<Ipv6Net>);

impl EmbeddedIpv4 {
    /// Of these prefixes. `Err`: the first one that cannot have IPv4 addresses in it.
    pub fn new(prefixes: impl IntoIterator<Item = IpNet>) -> Result<Self, IpNet> {
        let prefix = |net| match net {
            IpNet::V6(prefix) if prefix == SIX_TO_FOUR || NAT64_LENGTHS.contains(&prefix.prefix_len()) => Ok(prefix),
            other => Err(other),
        };
        prefixes.into_iter().map(prefix).collect::<Result<_, _>>().map(Self)
    }

    /// The IPv4 address in an address of these prefixes; any other address as it is.
    pub fn fold(&self, address: IpAddr) -> IpAddr {
        let IpAddr::V6(carrier) = address else { return address };
        let Some(prefix) = self.0.iter().find(|prefix| prefix.contains(&carrier)) else { return address };
        let carried = carried(prefix, carrier);
        // No client has one of these, and some lists exempt them.
        let is_nobody = carried.is_loopback()
            || carried.is_unspecified()
            || carried.is_link_local()
            || carried.is_multicast()
            || carried.is_broadcast();
        if is_nobody { address } else { carried.into() }
    }

    /// The same of a netblock that is a part of a prefix with a length of 96.
    pub fn fold_netblock(&self, netblock: IpNet) -> IpNet {
        let IpNet::V6(part) = netblock else { return netblock };
        let is_in = |prefix: &&Ipv6Net| prefix.prefix_len() == 96 && part.prefix_len() > 96 && prefix.contains(&part);
        let whole = part.prefix_len() == 128;
        match self.0.iter().find(is_in) {
            _ if whole => self.fold(IpAddr::V6(part.addr())).into(),
            Some(prefix) => {
                let carried = carried(prefix, part.network());
                Ipv4Net::new(carried, part.prefix_len() - 96).map_or(netblock, IpNet::V4)
            }
            None => netblock,
        }
    }

    /// Whether a netblock is one of the prefixes, or contains one: then it has no client of that prefix.
    pub fn covers(&self, netblock: &IpNet) -> bool {
        matches!(netblock, IpNet::V6(netblock) if self.0.iter().any(|prefix| netblock.contains(prefix)))
    }
}

fn carried(prefix: &Ipv6Net, carrier: Ipv6Addr) -> Ipv4Addr {
    let octets = carrier.octets();
    if *prefix == TEREDO {
        // So that no translator on the way finds it.
        let [.., a, b, c, d] = octets;
        return Ipv4Addr::new(!a, !b, !c, !d);
    }
    // Octet 8 is always 0.
    let first = usize::from(prefix.prefix_len()) / 8;
    let mut places = (first..16).filter(|place| *place != 8 || *prefix == SIX_TO_FOUR);
    Ipv4Addr::from(std::array::from_fn(|_| places.next().map_or(0, |place| octets[place])))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefixes(texts: &[&str]) -> EmbeddedIpv4 {
        EmbeddedIpv4::new(texts.iter().map(|text| text.parse().unwrap())).unwrap()
    }

    #[test]
    fn every_form_of_rfc_6052_and_6to4_and_teredo_is_read() {
        // The examples of RFC 6052, section 2.4.
        for (prefix, address) in [
            ("2001:db8::/32", "2001:db8:c000:221::"),
            ("2001:db8:100::/40", "2001:db8:1c0:2:21::"),
            ("2001:db8:122::/48", "2001:db8:122:c000:2:2100::"),
            ("2001:db8:122:300::/56", "2001:db8:122:3c0:0:221::"),
            ("2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100::"),
            ("2001:db8:122:344::/96", "2001:db8:122:344::192.0.2.33"),
            ("64:ff9b::/96", "64:ff9b::192.0.2.33"),
            ("64:ff9b:1:abcd::/96", "64:ff9b:1:abcd::192.0.2.33"),
            ("2002::/16", "2002:c000:221:1::7"),
            ("2001::/32", "2001:0:4136:e378:8000:63bf:3fff:fdde"),
        ] {
            let address: IpAddr = address.parse().unwrap();
            let folded = prefixes(&[prefix]).fold(address);
            assert_eq!(folded.to_string(), "192.0.2.33", "{prefix} {address}");
            assert_eq!(EmbeddedIpv4::default().fold(address), address, "unless the prefix is named");
        }
    }

    #[test]
    fn other_addresses_and_addresses_of_nobody_stay_as_they_are() {
        let nat64 = prefixes(&["64:ff9b::/96"]);
        for address in
            ["192.0.2.1", "2001:db8::1", "64:ff9b:1::192.0.2.1", "64:ff9b::7f00:1", "64:ff9b::", "64:ff9b::e000:1"]
        {
            let address: IpAddr = address.parse().unwrap();
            assert_eq!(nat64.fold(address), address);
        }
        assert_eq!(EmbeddedIpv4::new(["64:ff9b::/95".parse().unwrap()]), Err("64:ff9b::/95".parse().unwrap()));
        assert!(EmbeddedIpv4::new(["192.0.2.0/24".parse().unwrap()]).is_err());
    }

    #[test]
    fn a_netblock_within_a_prefix_is_that_of_ipv4_and_all_of_it_is_not() {
        let nat64 = prefixes(&["64:ff9b::/96"]);
        let fold = |text: &str| nat64.fold_netblock(text.parse().unwrap()).to_string();
        assert_eq!(fold("64:ff9b::192.0.2.0/120"), "192.0.2.0/24");
        assert_eq!(fold("64:ff9b::192.0.2.1/128"), "192.0.2.1/32");
        assert_eq!(fold("64:ff9b::/96"), "64:ff9b::/96");
        assert_eq!(fold("2001:db8::/32"), "2001:db8::/32");
        assert!(nat64.covers(&"64:ff9b::/96".parse().unwrap()) && !nat64.covers(&"64:ff9b::/97".parse().unwrap()));
    }
}
