//! connshaper: a Postfix policy daemon that limits how often an SMTP client may connect.

#![forbid(unsafe_code)]

pub mod acceptor;
pub mod address;
pub mod check;
pub mod cli;
pub mod clock;
pub mod codec;
pub mod config;
pub mod connection;
pub mod daemon;
pub mod descriptors;
pub mod inetd;
pub mod listener;
pub mod log;
pub mod notify;
pub mod policy;
pub mod query;
pub mod service;
pub mod session;
pub mod signals;
pub mod statistics;
pub mod stop;
pub mod store;
pub mod stream;
