//! The Postfix front door: the policy protocol, policy connections, inetd.

pub mod acceptor;
pub mod query;
pub mod connection;
pub mod decoder;
pub mod error;
pub mod inetd;
pub mod suspended;
