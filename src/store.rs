//! Where counts live.

mod shard;
mod sharded;
pub mod subject;
pub mod table;
