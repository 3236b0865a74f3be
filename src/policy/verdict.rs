//! What we answer, with its reason. Log line, statistics and reply are all made from it.

use std::net::IpAddr;

use super::limit::{Limit, LimitId};
use super::template::Values;

/// What the store says of one key after a hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hit {
    /// Hits in the window, this one included.
    pub count: u32,
    /// Seconds until the window ends, rounded up.
    pub left: u32,
}

/// What a session was counted for by one limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// The limit.
    pub limit: LimitId,
    /// What the store said; `None` when it was away and nothing counted in its place.
    pub hit: Option<Hit>,
    /// It was judged to pass, and that stands.
    pub passed: bool,
}

/// The answer to one request.
#[must_use]
#[derive(Clone, Copy, Debug)]
pub enum Verdict<'p> {
    /// `DUNNO`.
    Pass(Pass),
    /// The limit's action.
    Refuse(Refusal<'p>),
    /// The store is away, and `on_store_failure` is `defer`: a temporary refusal whatever the
    /// limit's action is, for this is our trouble, not the client's.
    Defer,
}

/// Why a client passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// Postfix does not know the address, so there is nothing to count by.
    UnknownClient,
    /// The client is on the whitelist; it is not counted.
    Whitelisted,
    /// No limit is exceeded.
    WithinLimits,
    /// The store was away, and `on_store_failure` is `dunno`.
    StoreAway,
}

impl Pass {
    /// The word for it in the log.
    pub fn reason(self) -> &'static str {
        match self {
            Self::UnknownClient => "unknown_client",
            Self::Whitelisted => "whitelisted",
            Self::WithinLimits => "within_limits",
            Self::StoreAway => "store_away",
        }
    }
}

/// A refusal, and what it is made of.
#[derive(Clone, Copy, Debug)]
pub struct Refusal<'p> {
    /// Who is refused.
    pub client: IpAddr,
    /// The limit that is exceeded.
    pub limit: &'p Limit,
    /// How far.
    pub hit: Hit,
}

impl Refusal<'_> {
    /// What the action's placeholders stand for.
    pub fn values(&self) -> Values<'_> {
        let Limit { name, threshold, .. } = self.limit;
        Values { client: self.client, limit: name, count: self.hit.count, threshold: *threshold, left: self.hit.left }
    }
}
