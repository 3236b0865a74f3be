//! What the store is asked for one request, and what it says.

use super::key::Key;

/// One counter to hit, or to read.
#[derive(Clone, Copy, Debug)]
pub struct Operation<'a> {
    /// The counter.
    pub key: Key<'a>,
    /// What is added to it; 0: nothing, it is read.
    pub amount: u32,
    /// Seconds it lives from its first hit on.
    pub exptime: u32,
    /// Beyond this it is kept longest where room is short.
    pub threshold: u32,
}

/// What the store says of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counter {
    /// Hits in the window, this one included; 0 where there is no such counter.
    pub count: u32,
    /// Seconds until the window ends, rounded up.
    pub left: u32,
    /// What was added to it; less than was asked when it coalesced with an earlier hit.
    pub added: u32,
}
