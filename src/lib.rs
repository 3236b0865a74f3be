//! connshaper: a Postfix policy daemon that limits how often an SMTP client may connect.

#![forbid(unsafe_code)]

pub mod address;
pub mod clock;
pub mod codec;
pub mod config;
pub mod listener;
pub mod log;
pub mod notify;
pub mod policy;
pub mod store;
