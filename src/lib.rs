//! connshaper: a Postfix policy daemon that limits how often an SMTP client may connect.
//!
//! The way of a request:
//!
//! ```text
//! Postfix -> listener -> connection -> codec -> session -> policy -> store
//!            accepts     one policy    bytes    which      plan      counts, in
//!                        connection    to       SMTP                 one round trip
//!                           |          Request  session              |
//! Postfix <- connection <- codec <------------------------ policy <--+
//!            waits, if     Reply                           judge
//!            it has to
//! ```
//!
//! `decision` takes a request through the last three, and tells the log. `policy`
//! decides and does nothing else: it is handed the time and the counts, and reads
//! no clock, no socket and no file. Whatever a stranger can make grow has a bound
//! with a name, in the file that keeps it.

#![forbid(unsafe_code)]

pub mod sysexits;
pub mod net;
pub mod snapshot;
pub mod observe;
pub mod policy;
pub mod session;
pub mod store;
pub mod listener;
pub mod engine;
pub mod config;
pub mod postfix;
pub mod http;
pub mod control;
pub mod daemon;
pub mod maillog;
pub mod cli;
