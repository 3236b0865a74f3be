//! Netblocks: what folding and masking make of an address, and a set that finds the most specific netblock around one.
//!
//! The netblocks of a set are flattened once, for each family, into disjoint ranges that
//! cover its whole address space, in order, each with the netblock that decides in it.
//! So a look-up is one search, however deep netblocks are nested. Nothing
//! can be added later: a new set is built beside the old one and swapped in whole.
//!
//! An IPv4-mapped IPv6 address (`::ffff:192.0.2.1`) is the IPv4 client that it
//! stands for. It is folded wherever addresses come in, and in netblocks, so that no
//! client has two addresses and `::/0` never covers an IPv4 client.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Netblocks, each with what is said of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetblockTable<T> {
    entries: Box<[(IpNet, T)]>,
    v4: Ranges<u32>,
    v6: Ranges<u128>,
}

impl<T> FromIterator<(IpNet, T)> for NetblockTable<T> {
    /// Builds the set, at most 4,294,967,295 netblocks. Host bits are ignored;
    /// of equal netblocks the last one counts.
    fn from_iter<I: IntoIterator<Item = (IpNet, T)>>(netblocks: I) -> Self {
        let canonical = |(netblock, value)| (canonical(netblock), value);
        let entries: Box<[_]> = netblocks.into_iter().map(canonical).collect();
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (entry, (netblock, _)) in (0..).zip(&entries) {
            match netblock {
                IpNet::V4(netblock) => v4.push(BlockRange {
                    first: netblock.network().to_bits(),
                    last: netblock.broadcast().to_bits(),
                    entry,
                }),
                IpNet::V6(netblock) => v6.push(BlockRange {
                    first: netblock.network().to_bits(),
                    last: netblock.broadcast().to_bits(),
                    entry,
                }),
            }
        }
        Self { entries, v4: Ranges::new(v4), v6: Ranges::new(v6) }
    }
}

impl<T> Default for NetblockTable<T> {
    fn default() -> Self {
        Self::from_iter([])
    }
}

impl<T> NetblockTable<T> {
    /// The longest netblock that contains the address, and what is said of it.
    #[inline]
    pub fn lookup(&self, address: IpAddr) -> Option<(&IpNet, &T)> {
        // Most limits have no netblocks of their own.
        if self.entries.is_empty() { None } else { self.search(address) }
    }

    fn search(&self, address: IpAddr) -> Option<(&IpNet, &T)> {
        let entry = match address.to_canonical() {
            IpAddr::V4(address) => self.v4.lookup(address.to_bits()),
            IpAddr::V6(address) => self.v6.lookup(address.to_bits()),
        };
        let (netblock, value) = self.entries.get(entry? as usize)?;
        Some((netblock, value))
    }

    /// All netblocks, in the order in which they were given.
    pub fn entries(&self) -> &[(IpNet, T)] {
        &self.entries
    }

    /// Netblocks given, duplicates included.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no address is in any netblock.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// Ranges that follow each other and cover all addresses of type `A`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Ranges<A> {
    /// The last level says where each range begins; it ends before the next one.
    /// Each level before has the first of every `A::BLOCK` starts of its next
    /// level, so that a search reads one block of each and not the whole of any.
    levels: Box<[Box<[A]>]>,
    /// The entry that decides in each range, or `NONE`.
    deciders: Box<[u32]>,
}

/// No netblock decides here.
const NONE: u32 = u32::MAX;

/// A netblock of the input, by its first and last address.
#[derive(Clone, Copy)]
struct BlockRange<A> {
    first: A,
    last: A,
    entry: u32,
}

impl<A: Bits> Ranges<A> {
    fn new(mut spans: Vec<BlockRange<A>>) -> Self {
        // Outer netblocks before the inner ones, and the last of equal ones last.
        spans.sort_unstable_by(|a, b| (a.first, b.last, a.entry).cmp(&(b.first, a.last, b.entry)));
        let mut ranges = Vec::with_capacity(2 * spans.len() + 1);
        // The netblocks around the current place, from the outermost to the innermost.
        let mut around: Vec<BlockRange<A>> = Vec::new();
        push(&mut ranges, A::MIN, NONE);
        for span in spans {
            leave(&mut ranges, &mut around, |inner| inner.last < span.first);
            push(&mut ranges, span.first, span.entry);
            around.push(span);
        }
        leave(&mut ranges, &mut around, |_| true);
        let starts = ranges.iter().map(|(start, _)| *start).collect();
        Self { levels: levels(starts), deciders: ranges.iter().map(|(_, decider)| *decider).collect() }
    }

    fn lookup(&self, address: A) -> Option<u32> {
        let mut at = 0;
        for level in &self.levels {
            let block = at * A::BLOCK;
            let starts = &level[block..level.len().min(block + A::BLOCK)];
            // The first start of a block is never beyond the address, and that of
            // the first block is the lowest address.
            // Counting so few takes no branches, and less time than a binary search.
            at = block + starts.iter().filter(|start| **start <= address).count() - 1;
        }
        Some(self.deciders[at]).filter(|decider| *decider != NONE)
    }
}

/// Puts levels above the starts of ranges until the first one is a single block.
fn levels<A: Bits>(starts: Box<[A]>) -> Box<[Box<[A]>]> {
    let mut levels = vec![starts];
    while levels[0].len() > A::BLOCK {
        levels.insert(0, levels[0].iter().step_by(A::BLOCK).copied().collect());
    }
    levels.into()
}

/// Ends the innermost netblocks for which `left` is true; after each, the one around it decides.
fn leave<A: Bits>(ranges: &mut Vec<(A, u32)>, around: &mut Vec<BlockRange<A>>, left: impl Fn(&BlockRange<A>) -> bool) {
    while let Some(inner) = around.pop_if(|inner| left(inner)) {
        // Nothing comes after a netblock that ends with the address space.
        if let Some(start) = inner.last.next() {
            push(ranges, start, around.last().map_or(NONE, |outer| outer.entry));
        }
    }
}

/// Lets `decider` decide from `start` on, which is not before the last start.
fn push<A: Bits>(ranges: &mut Vec<(A, u32)>, start: A, decider: u32) {
    if ranges.last().is_some_and(|(last, _)| *last == start) {
        ranges.pop();
    }
    if ranges.last().is_none_or(|(_, before)| *before != decider) {
        ranges.push((start, decider));
    }
}

/// An address as a number.
trait Bits: Copy + Ord {
    const MIN: Self;

    /// How many are read at once: one or two cache lines full, as measured.
    const BLOCK: usize;

    fn next(self) -> Option<Self>;
}

impl Bits for u32 {
    const MIN: Self = 0;
    const BLOCK: usize = 16;

    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
}

impl Bits for u128 {
    const MIN: Self = 0;
    const BLOCK: usize = 8;

    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
}

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
    use std::net::{Ipv4Addr, Ipv6Addr};

    use prefix_trie::joint::JointPrefixMap;
    use proptest::prelude::*;

    use super::*;

    fn netblocks(texts: &[&str]) -> NetblockTable<usize> {
        texts.iter().enumerate().map(|(place, text)| (text.parse().unwrap(), place)).collect()
    }

    fn decider(netblocks: &NetblockTable<usize>, address: &str) -> Option<String> {
        netblocks.lookup(address.parse().unwrap()).map(|(netblock, _)| netblock.to_string())
    }

    #[test]
    fn the_most_specific_netblock_decides() {
        let netblocks = netblocks(&["10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "10.1.2.3/32", "2001:db8::/32"]);
        let decider = |address| decider(&netblocks, address).unwrap_or_default();
        assert_eq!(decider("9.255.255.255"), "");
        assert_eq!(decider("10.0.0.0"), "10.0.0.0/8");
        assert_eq!(decider("10.1.0.0"), "10.1.0.0/16");
        assert_eq!(decider("10.1.2.2"), "10.1.2.0/24");
        assert_eq!(decider("10.1.2.3"), "10.1.2.3/32");
        assert_eq!(decider("10.1.2.4"), "10.1.2.0/24");
        assert_eq!(decider("10.1.3.0"), "10.1.0.0/16");
        assert_eq!(decider("10.255.255.255"), "10.0.0.0/8");
        assert_eq!(decider("11.0.0.0"), "");
        assert_eq!(decider("2001:db8:ffff::"), "2001:db8::/32");
        assert_eq!(decider("2001:db9::"), "");
    }

    #[test]
    fn the_ends_of_the_address_space_are_inside() {
        let netblocks = netblocks(&["0.0.0.0/32", "255.255.255.255/32", "::/128", "ffff::/16"]);
        for address in ["0.0.0.0", "255.255.255.255", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"] {
            assert!(decider(&netblocks, address).is_some(), "{address}");
        }
        for address in ["0.0.0.1", "255.255.255.254", "::1", "fffe::"] {
            assert_eq!(decider(&netblocks, address), None, "{address}");
        }
    }

    #[test]
    fn all_of_ipv6_does_not_cover_ipv4() {
        let ipv6 = netblocks(&["::/0"]);
        assert_eq!(decider(&ipv6, "192.0.2.1"), None);
        assert_eq!(decider(&ipv6, "::ffff:192.0.2.1"), None);
        assert_eq!(decider(&ipv6, "::1").unwrap(), "::/0");
        let ipv4 = netblocks(&["0.0.0.0/0"]);
        assert_eq!(decider(&ipv4, "::1"), None);
        assert_eq!(decider(&ipv4, "::ffff:192.0.2.1").unwrap(), "0.0.0.0/0");
    }

    #[test]
    fn mapped_netblocks_and_host_bits_are_folded() {
        let netblocks = netblocks(&["::ffff:192.0.2.99/120"]);
        assert_eq!(decider(&netblocks, "192.0.2.1").unwrap(), "192.0.2.0/24");
        assert_eq!(decider(&netblocks, "::ffff:192.0.2.1").unwrap(), "192.0.2.0/24");
        assert_eq!(decider(&netblocks, "192.0.3.1"), None);
    }

    #[test]
    fn the_last_of_equal_netblocks_counts() {
        let netblocks = netblocks(&["10.0.0.1/8", "192.0.2.0/24", "10.0.0.2/8"]);
        let (_, place) = netblocks.lookup("10.9.9.9".parse().unwrap()).unwrap();
        assert_eq!(*place, 2);
    }

    #[test]
    fn nothing_is_in_an_empty_set() {
        let none = netblocks(&[]);
        assert!(none.is_empty());
        assert_eq!(decider(&none, "0.0.0.0"), None);
        assert_eq!(decider(&none, "::"), None);
    }

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

    /// Addresses with few bits set: so netblocks nest, touch and coincide.
    fn address() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            prop::collection::vec(0..32u32, 0..4)
                .prop_map(|bits| { Ipv4Addr::from_bits(bits.into_iter().fold(0, |all, bit| all | 1 << bit)).into() }),
            prop::collection::vec(0..128u32, 0..4)
                .prop_map(|bits| { Ipv6Addr::from_bits(bits.into_iter().fold(0, |all, bit| all | 1 << bit)).into() }),
            any::<u8>().prop_map(|low| Ipv4Addr::from_bits(u32::MAX << 8 | u32::from(low)).to_ipv6_mapped().into()),
            any::<u32>().prop_map(|bits| Ipv4Addr::from_bits(bits).into()),
            any::<u128>().prop_map(|bits| Ipv6Addr::from_bits(bits).into()),
        ]
    }

    fn netblock() -> impl Strategy<Value = IpNet> {
        (address(), 0..=128u8).prop_map(|(address, length)| {
            let longest = if address.is_ipv4() { 32 } else { 128 };
            IpNet::new(address, length.min(longest)).unwrap()
        })
    }

    /// The edges of every netblock and their neighbours, where mistakes would show.
    fn edges(netblocks: &[IpNet]) -> impl Iterator<Item = IpAddr> {
        let around = |address: IpAddr| match address {
            IpAddr::V4(address) => {
                [-1, 0, 1].map(|by| Ipv4Addr::from_bits(address.to_bits().wrapping_add_signed(by)).into())
            }
            IpAddr::V6(address) => {
                [-1, 0, 1].map(|by| Ipv6Addr::from_bits(address.to_bits().wrapping_add_signed(by)).into())
            }
        };
        netblocks.iter().flat_map(|netblock| [netblock.network(), netblock.broadcast()]).flat_map(around)
    }

    proptest! {
        #[test]
        fn lookups_agree_with_a_scan_and_a_trie(
            list in prop::collection::vec(netblock(), 0..100),
            others in prop::collection::vec(address(), 0..50),
        ) {
            let netblocks: NetblockTable<usize> = list.iter().copied().zip(0..).collect();
            let mut trie = JointPrefixMap::new();
            for (netblock, place) in list.iter().zip(0..) {
                trie.insert(canonical(*netblock), place);
            }
            for address in edges(&list).chain(others) {
                let folded = address.to_canonical();
                let found = netblocks.lookup(address).map(|(netblock, place)| (*netblock, *place));
                let scanned = list.iter().map(|netblock| canonical(*netblock)).zip(0..)
                    .filter(|(netblock, _)| netblock.contains(&folded))
                    .max_by_key(|(netblock, place)| (netblock.prefix_len(), *place));
                prop_assert_eq!(found, scanned);
                let in_trie = trie.get_lpm(&folded.into()).map(|(netblock, place)| (netblock, *place));
                prop_assert_eq!(found, in_trie);
            }
        }
    }
}
