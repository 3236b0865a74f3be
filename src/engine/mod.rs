//! One request from its session to its decision, and what follows from it.

pub mod named_keys;
pub mod bans;
pub mod counting;
pub mod daily;
pub mod decide;
pub mod delay_permits;
pub mod diagnosis;
pub mod sessionless;
pub mod limit_use;
pub mod overrides;
pub mod reading;
pub mod report;
pub mod reset;
pub mod service;
pub mod target;
pub mod top_keys;

pub use service::ServiceSettings;
