//! What every shared store needs around its servers. Nothing here knows which store that is.

pub mod backend;
pub mod breaker;
pub mod count;
pub mod listing;
pub mod login;
pub mod losses;
pub mod over_limit;
pub mod queue;
pub mod rank;
pub mod server;
