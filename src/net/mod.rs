//! What knows nothing of mail or limits: addresses, netblocks, streams, name resolution, the clock, shutdown.

pub mod address;
pub mod clock;
pub mod netblock;
pub mod netblock_table;
pub mod recent_map;
pub mod resolve;
pub mod secret;
pub mod shutdown;
pub mod signals;
pub mod stream;
