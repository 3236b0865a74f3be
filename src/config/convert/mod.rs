//! Files of other programs as TOML.

mod connection_shaper;

pub use connection_shaper::to_toml;
