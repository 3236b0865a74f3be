//! connshaper: a Postfix policy daemon that limits how often an SMTP client may connect.

#![forbid(unsafe_code)]

pub mod address;
pub mod check;
pub mod cli;
pub mod clock;
pub mod config;
pub mod log;
pub mod policy;
