//! One netblock, and what folding and masking make of an address.
//!
//! An IPv4-mapped IPv6 address (`::ffff:192.0.2.1`) is the IPv4 client that it
//! stands for. It is folded wherever addresses come in, so that no client has two
//! addresses.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Masks an address to `v4` bits (at most 32) or `v6` bits (at most 128), by its
/// family after folding, and says how many bits were kept.
pub fn mask(address: IpAddr, v4: u8, v6: u8) -> (IpAddr, u8) {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            let length = v4.min(32);
            let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            (IpAddr::V4((address.to_bits() & mask).into()), length)
        }
        IpAddr::V6(address) => {
            let length = v6.min(128);
            let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            (IpAddr::V6((address.to_bits() & mask).into()), length)
        }
    }
}

/// An address or a netblock, as its text says; a single address has no length there.
pub fn parse(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

/// The network that a netblock means: host bits cleared, and IPv4 if all of its
/// addresses are IPv4-mapped.
pub fn canonical(netblock: IpNet) -> IpNet {
    let netblock = netblock.trunc();
    let IpNet::V6(mapped) = netblock else {
        return netblock;
    };
    fold(mapped).map_or(netblock, IpNet::V4)
}

fn fold(netblock: Ipv6Net) -> Option<Ipv4Net> {
    let length = netblock.prefix_len().checked_sub(96)?;
    Ipv4Net::new(netblock.network().to_ipv4_mapped()?, length).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(address: &str, v4: u8, v6: u8) -> String {
        let (address, length) = mask(address.parse().unwrap(), v4, v6);
        format!("{address}/{length}")
    }

    #[test]
    fn each_family_is_masked_to_its_own_length() {
        assert_eq!(masked("192.0.2.129", 32, 64), "192.0.2.129/32");
        assert_eq!(masked("192.0.2.129", 25, 64), "192.0.2.128/25");
        assert_eq!(masked("192.0.2.129", 0, 64), "0.0.0.0/0");
        assert_eq!(masked("2001:db8:1:2:3::4", 32, 64), "2001:db8:1:2::/64");
        assert_eq!(masked("2001:db8:1:2:3::4", 32, 128), "2001:db8:1:2:3::4/128");
        assert_eq!(masked("2001:db8:1:2:3::4", 32, 0), "::/0");
    }

    #[test]
    fn a_length_beyond_the_family_is_the_whole_address() {
        assert_eq!(masked("192.0.2.129", 64, 64), "192.0.2.129/32");
        assert_eq!(masked("2001:db8::1", 32, 255), "2001:db8::1/128");
    }

    #[test]
    fn a_mapped_address_is_the_ipv4_client_it_stands_for() {
        assert_eq!(masked("::ffff:192.0.2.129", 24, 64), "192.0.2.0/24");
    }

    #[test]
    fn a_netblock_of_mapped_addresses_is_ipv4() {
        let canonical = |text: &str| canonical(text.parse().unwrap()).to_string();
        assert_eq!(canonical("::ffff:192.0.2.129/120"), "192.0.2.0/24");
        assert_eq!(canonical("::ffff:0:0/96"), "0.0.0.0/0");
        assert_eq!(canonical("::ffff:0:0/95"), "::fffe:0:0/95");
        assert_eq!(canonical("::/0"), "::/0");
        assert_eq!(canonical("192.0.2.129/24"), "192.0.2.0/24");
        assert_eq!(canonical("2001:db8::1/32"), "2001:db8::/32");
    }
}
