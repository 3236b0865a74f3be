//! Reading the logs of Postfix: `advise` and `replay`.

pub mod advise;
pub mod replay;
