//! A threshold of its own for the clients of a netblock.

/// What a netblock's clients may do, and who of them share a counter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Hits a window allows instead of the limit's `threshold`.
    pub threshold: u32,
    /// Who share a counter.
    pub per: RatePer,
}

/// Who of a netblock share a counter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RatePer {
    /// Nobody: each client, masked as any, has its own.
    Ip,
    /// The whole netblock.
    Netblock,
    /// All netblocks of the group of that name.
    Group(String),
}
