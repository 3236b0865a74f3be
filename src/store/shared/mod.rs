//! What every shared store needs around its servers.

pub mod ask;
pub mod bans;
pub mod breaker;
pub mod coalesce;
pub mod counter;
pub mod over_limit;
pub mod rank;
pub mod replica;
pub mod report;
