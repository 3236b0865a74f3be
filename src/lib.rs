//! connshaper: a Postfix policy daemon that limits how often an SMTP client may connect.
//!
//! The way of a request:
//!
//! ```text
//! Postfix -> listener -> postfix::connection -> postfix::decoder    bytes to a Request
//!                                                   |
//!                                            engine::decide
//!                                                   |
//!                                            session             which SMTP session it belongs to
//!                                            policy: plan        which counters to hit
//!                                            store               hits them, in one round trip
//!                                            policy: judge       the Decision: verdict and effects
//!                                            session             remembers it
//!                                                   |
//! Postfix <- postfix::connection <- engine::report                  reply, log, statistics
//! ```
//!
//! Each module below imports only modules that stand before it in the list; `tests/architecture.rs` checks that. A
//! module owns the type of its own settings, and `config` fills it. CONTRIBUTING.md calls these modules rooms.
//!
//! `policy` decides and does nothing else: time and counts are arguments, and it
//! reads no clock, no socket and no file. Everything that a stranger can make grow
//! has a bound with a name, in the file that keeps it: a constant `MAX_...` or
//! `LARGEST_...`, or a key of the configuration, as `max_clients`.
//!
//! The main thread answers Postfix and must not block. The log, HTTP, notifications of
//! systemd and a SQLite file have threads of their own; other work that may block (files,
//! name service, processes) runs in `spawn_blocking`.

#![forbid(unsafe_code)]
// A panic where nobody reads: `observe::terminal` writes instead.
#![deny(clippy::print_stderr, clippy::print_stdout)]

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
