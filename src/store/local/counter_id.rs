//! The id of a counter: a limit and a client, folded into a few words.
//!
//! An id is only as wide as it has to be, because ten million of them are kept:
//! two words for an IPv4 client, three for an IPv6 network of at most 64 bits,
//! five for anything wider. The first word is a tag that keeps limits, families
//! and prefix lengths apart, so that equal words always mean the same key.

use std::net::IpAddr;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};
use siphasher::sip::SipHasher13;

use crate::net::secret;
use crate::policy::limit::MAX_ID;

/// The key of one counter, in the three widths that slots have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum CounterId {
    /// Tag and one word: IPv4.
    Narrow(#[serde(deserialize_with = "tagged")] [u32; 2]),
    /// Tag and two words: IPv6 networks of at most 64 bits.
    Middle(#[serde(deserialize_with = "tagged")] [u32; 3]),
    /// Tag and four words: longer IPv6 networks, and texts.
    Wide(#[serde(deserialize_with = "tagged")] [u32; 5]),
}

impl CounterId {
    /// A client of a limit: an address and how many of its bits count.
    ///
    /// The address is taken as it is. It must have been masked to `prefix_length`
    /// bits before, with IPv4-mapped IPv6 folded to IPv4, as
    /// [`mask`](crate::net::netblock::mask) does; otherwise addresses of one
    /// network are different keys.
    pub fn client(limit: u16, address: IpAddr, prefix_length: u8) -> Self {
        match address {
            IpAddr::V4(address) => Self::Narrow([tag(limit, prefix_length), address.to_bits()]),
            IpAddr::V6(address) => {
                let tag = tag(limit, IPV6 + prefix_length);
                let [a, b, c, d] = words(address.to_bits());
                // The words alone decide, so that a badly masked address never
                // shares the counter of another one.
                if c == 0 && d == 0 { Self::Middle([tag, a, b]) } else { Self::Wide([tag, a, b, c, d]) }
            }
        }
    }

    /// Any counter of a limit that is not the window of a client, by the hash of its text.
    pub fn text(limit: u16, hash: u128) -> Self {
        let [a, b, c, d] = words(hash);
        Self::Wide([tag(limit, TEXT), a, b, c, d])
    }

    /// The id of a ban, which is found among the others by that.
    #[must_use]
    pub fn of_ban(mut self) -> Self {
        *self.tag_mut() |= BAN;
        self
    }

    /// The same of another limit.
    #[must_use]
    pub fn of_limit(mut self, limit: u16) -> Self {
        let tag = self.tag_mut();
        *tag = u32::from(limit) << 16 | *tag & (BAN | 0xffff);
        self
    }

    fn tag_mut(&mut self) -> &mut u32 {
        match self {
            Self::Narrow(words) => &mut words[0],
            Self::Middle(words) => &mut words[0],
            Self::Wide(words) => &mut words[0],
        }
    }

    pub(crate) fn is_ban(&self) -> bool {
        self.words()[0] & BAN != 0
    }

    /// The limit it belongs to.
    pub fn limit(&self) -> u16 {
        (self.words()[0] >> 16) as u16 & MAX_ID
    }

    /// The limit, address and prefix length; `None`: it was made of a text.
    pub(crate) fn as_client(&self) -> Option<(u16, IpAddr, u8)> {
        let words = self.words();
        let (address, prefix_length) = match ((words[0] >> 8) as u8, words) {
            (length @ 0..=32, [_, bits]) => (IpAddr::from(bits.to_be_bytes()), length),
            (code @ IPV6..=IPV6_END, [_, high @ ..]) => {
                let upper = high.iter().fold(0_u128, |bits, word| bits << 32 | u128::from(*word));
                (IpAddr::V6((upper << (128 - 32 * high.len())).into()), code - IPV6)
            }
            _ => return None,
        };
        Some((self.limit(), address, prefix_length))
    }

    /// What it is made of: two, three or five words.
    pub fn words(&self) -> &[u32] {
        match self {
            Self::Narrow(words) => words,
            Self::Middle(words) => words,
            Self::Wide(words) => words,
        }
    }
}

/// Reads words that begin with a tag.
fn tagged<'de, D: Deserializer<'de>, const N: usize>(deserializer: D) -> Result<[u32; N], D::Error>
where
    [u32; N]: Deserialize<'de>,
{
    let words = <[u32; N]>::deserialize(deserializer)?;
    if words[0] & LOW_BYTE == 0 { Ok(words) } else { Err(D::Error::custom("no counter has such words")) }
}

/// Codes of a tag: up to 32 the prefix length of an IPv4 client, then that of an IPv6 client plus this, then texts.
const IPV6: u8 = 64;
const IPV6_END: u8 = IPV6 + 128;
const TEXT: u8 = 255;

/// In a tag, the bit above the limit's id: a ban.
const BAN: u32 = 1 << 31;

/// The byte of a tag that stays 0: the table keeps a part of the end of the window in it.
pub(crate) const LOW_BYTE: u32 = 0xff;

/// The limit and a code.
fn tag(limit: u16, code: u8) -> u32 {
    u32::from(limit) << 16 | u32::from(code) << 8
}

fn words(bits: u128) -> [u32; 4] {
    [96, 64, 32, 0].map(|shift| (bits >> shift) as u32)
}

/// A hash function of its own for every table.
///
/// Clients choose their addresses. SipHash-1-3 under a random key keeps them
/// from choosing ones that meet in one place of the table.
#[derive(Clone, Copy)]
pub(crate) struct Hashing {
    keys: [u64; 2],
}

impl Hashing {
    pub(crate) fn random() -> Self {
        Self { keys: secret::random() }
    }

    /// With the secret of another table, so that equal texts have equal hashes.
    pub(crate) fn with_secret(keys: [u64; 2]) -> Self {
        Self { keys }
    }

    pub(crate) fn secret(self) -> [u64; 2] {
        self.keys
    }

    /// The hash of a text, so long that no two texts have the same.
    pub(crate) fn text(&self, text: &str) -> u128 {
        let [a, b] = self.keys;
        siphasher::sip128::SipHasher13::new_with_keys(a, b).hash(text.as_bytes()).as_u128()
    }

    pub(crate) fn hashed<const N: usize>(&self, key: [u32; N]) -> Hashed<N> {
        // The length is known when this is compiled, which saves a third of the hash.
        let [a, b] = self.keys;
        let bytes = key.map(u32::to_ne_bytes);
        Hashed { key, hash: SipHasher13::new_with_keys(a, b).hash(bytes.as_flattened()) }
    }

    /// Hashes the words of a key, at most five.
    #[inline]
    pub(crate) fn hash(&self, words: &[u32]) -> u64 {
        let mut bytes = [0; 20];
        for (four, word) in bytes.chunks_exact_mut(4).zip(words) {
            four.copy_from_slice(&word.to_ne_bytes());
        }
        let [a, b] = self.keys;
        SipHasher13::new_with_keys(a, b).hash(&bytes[..4 * words.len()])
    }
}

/// A key with its hash, made once for the choice of the shard and of the slot.
#[derive(Clone, Copy)]
pub(crate) struct Hashed<const N: usize> {
    pub(crate) key: [u32; N],
    pub(crate) hash: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::section::{decode, encode};

    fn client(limit: u16, address: &str, prefix_length: u8) -> CounterId {
        CounterId::client(limit, address.parse().unwrap(), prefix_length)
    }

    #[test]
    fn an_id_is_as_wide_as_it_has_to_be() {
        assert!(matches!(client(0, "192.0.2.1", 32), CounterId::Narrow(_)));
        assert!(matches!(client(0, "2001:db8::", 64), CounterId::Middle(_)));
        assert!(matches!(client(0, "2001:db8::1", 128), CounterId::Wide(_)));
        assert!(matches!(CounterId::text(0, 0), CounterId::Wide(_)));
    }

    #[test]
    fn limits_families_and_prefix_lengths_are_kept_apart() {
        let ids = [
            client(0, "0.0.0.0", 32),
            client(1, "0.0.0.0", 32),
            client(256, "0.0.0.0", 32),
            client(0, "0.0.0.0", 24),
            client(0, "::", 32),
            client(0, "::", 128),
            client(0, "::1", 128),
            client(0, "::1:0:0:0", 128),
            client(0, "0.0.0.0", 32).of_ban(),
            CounterId::text(0, 0).of_ban(),
            CounterId::text(0, 0),
            CounterId::text(0, 1),
            CounterId::text(1, 1),
        ];
        let distinct: std::collections::HashSet<_> = ids.iter().collect();
        assert_eq!(distinct.len(), ids.len());
    }

    #[test]
    fn an_id_that_was_saved_is_the_same_and_of_another_limit_differs_in_that_alone() {
        for address in ["192.0.2.1", "2001:db8::", "2001:db8::1"] {
            let id = client(7, address, 30);
            assert_eq!(decode::<CounterId>(&encode(&id)).unwrap(), id);
            assert_eq!((id.limit(), id.of_limit(513)), (7, client(513, address, 30)));
            let ban = id.of_ban();
            assert_eq!((ban.limit(), ban.of_limit(513)), (7, client(513, address, 30).of_ban()));
        }
        assert!(decode::<CounterId>(&encode(&CounterId::Narrow([1, 0]))).is_err());
    }

    #[test]
    fn every_table_hashes_in_its_own_way() {
        let (one, other) = (Hashing::random(), Hashing::random());
        assert_ne!(one.hash(&[1, 2]), other.hash(&[1, 2]));
        assert_eq!(one.hash(&[1, 2]), one.hash(&[1, 2]));
        assert_ne!(one.hash(&[1, 2]), one.hash(&[2, 1]));
    }
}
