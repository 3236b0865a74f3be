//! A limit: what is counted, per what, and how much is allowed.
//!
//! A window starts at the first hit of a key and ends `exptime` later whatever
//! happens in between; nothing in this program ever extends or resets it.

use std::fmt::{self, Write};
use std::net::IpAddr;

use ipnet::IpNet;

use super::action::Action;
use super::netblock::mask;
use crate::config::Config;

/// Tells limits apart within one process; the smaller stands earlier in the file.
pub type LimitId = u16;

/// `threshold` hits per `exptime`.
#[derive(Clone, Debug)]
pub struct Limit {
    /// Its place.
    pub id: LimitId,
    /// Its name, in logs and answers.
    pub name: String,
    /// What its keys begin with in a shared store.
    pub key_prefix: String,
    /// Hits a window allows; the next is over.
    pub threshold: u32,
    /// Length of a window in seconds.
    pub exptime: u32,
    /// Bits of an IPv4 client's address that are counted together.
    pub ipv4_prefix_length: u8,
    /// The same for IPv6.
    pub ipv6_prefix_length: u8,
    /// What is answered over it.
    pub action: Action,
}

impl Limit {
    /// connection_shaper's one limit, which stands at the top level of the configuration.
    pub fn connections(config: &Config) -> Self {
        Self {
            id: 0,
            name: "connections".to_owned(),
            key_prefix: config.store.key_prefix.clone(),
            threshold: config.threshold,
            exptime: config.exptime.as_secs() as u32,
            ipv4_prefix_length: config.ipv4_prefix_length,
            ipv6_prefix_length: config.ipv6_prefix_length,
            action: config.action.clone(),
        }
    }

    /// What a client's hit is counted under.
    pub fn key(&self, client: IpAddr) -> Key<'_> {
        let (address, prefix_length) = mask(client, self.ipv4_prefix_length, self.ipv6_prefix_length);
        Key { limit: self, address, prefix_length }
    }
}

/// One counter: a limit and a masked client address.
#[derive(Clone, Copy, Debug)]
pub struct Key<'p> {
    /// The limit it counts for.
    pub limit: &'p Limit,
    /// The client's address with the bits after the prefix cleared.
    pub address: IpAddr,
    /// How many bits are left.
    pub prefix_length: u8,
}

impl Key<'_> {
    /// What is counted together.
    pub fn netblock(&self) -> IpNet {
        IpNet::new_assert(self.address, self.prefix_length)
    }

    /// Appends the key as a shared store names it: the bare address where all of it counts (so the
    /// counters of connection_shaper are ours), else the prefix. At most 250 bytes, no blanks.
    pub fn write(&self, output: &mut impl Write) -> fmt::Result {
        output.write_str(&self.limit.key_prefix)?;
        write!(output, "{self}")
    }
}

impl fmt::Display for Key<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = if self.address.is_ipv4() { 32 } else { 128 };
        match self.prefix_length {
            length if length == whole => write!(f, "{}", self.address),
            length => write!(f, "{}/{length}", self.address),
        }
    }
}
