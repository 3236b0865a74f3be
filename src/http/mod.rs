//! The HTTP front door: metrics.

pub mod metrics;
pub mod server;
