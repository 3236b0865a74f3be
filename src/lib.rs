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

// The way of a request, in its order.
pub mod listener;
pub mod acceptor;
pub mod stream;
pub mod connection;
pub mod codec;
pub mod decision;
pub mod session;
pub mod policy;
pub mod store;
pub mod waiting;

// What it is served by.
pub mod service;
pub mod config;
pub mod log;
pub mod statistics;
pub mod state;
pub mod clock;
pub mod secret;
pub mod generations;
pub mod address;
pub mod stop;
pub mod parking;

// How it is watched and administered while it runs.
pub mod control;
pub mod history;
pub mod diagnosis;
pub mod metrics;
pub mod terminal;
pub mod top;

// The programs: the daemon, and what else the command line can ask for.
pub mod daemon;
pub mod housekeeping;
pub mod signals;
pub mod upgrade;
pub mod descriptors;
pub mod notify;
pub mod inetd;
pub mod check;
pub mod query;
pub mod doctor;
pub mod advise;
pub mod replay;
pub mod cli;
