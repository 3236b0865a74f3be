//! The breaker before a server, as the status and the metrics tell of it.

use std::time::Duration;

/// Whether a server is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Breaker {
    /// It is.
    Closed,
    /// It is away, and left alone.
    Open,
    /// It is away, and being tried: by a probe, not by requests.
    HalfOpen,
}

impl Breaker {
    /// Every state.
    pub const ALL: [Self; 3] = [Self::Closed, Self::Open, Self::HalfOpen];

    /// Its word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// How a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Its address.
    pub server: String,
    /// Whether it is asked.
    pub breaker: Breaker,
    /// For how long it has been away; nothing where it is not.
    pub away: Option<Duration>,
}
