//! The decision: what to count, and what the counts mean. Pure.

pub mod action;
pub mod netblock;
pub mod netblocks;
