//! The upgrade: a new program takes the place of the old one in the same process, with all sockets and counts.
//!
//! `preflight` tests beforehand whether the new program starts. `send` writes
//! the state of the daemon into a memfd. `transport` sends that and every open
//! socket, with SCM_RIGHTS, into one end of a socket pair. `exec` makes the
//! other end standard input and calls execve(2). In the new program `receive`
//! reads all of it. A socket that waits in the pair stays open.

pub mod exec;
pub mod preflight;
pub mod receive;
pub mod send;
pub mod transport;

use std::ffi::OsString;

use serde::{Deserialize, Serialize};

/// The program that hands over.
#[derive(Serialize, Deserialize)]
struct HandoverOrigin {
    version: String,
    /// Since when no request is answered, on the monotonic clock.
    begun: u64,
    secret: [u64; 2],
}

/// The file of a unix socket.
#[derive(Serialize, Deserialize)]
struct SavedSocketFile {
    path: OsString,
    device: u64,
    inode: u64,
}

/// Kinds and versions of the sections that are handed over beside the counts.
mod kind {
    /// The program that hands over, and the time since which no request is answered.
    pub const ORIGIN: (u16, u16) = (16, 2);
    /// The files of unix sockets, by the place of their listener.
    pub const LISTENERS: (u16, u16) = (17, 2);
    /// The sessions.
    pub const SESSIONS: (u16, u16) = (18, 7);
    /// The state of each connection, in their order.
    pub const CONNECTIONS: (u16, u16) = (19, 2);
    /// The numbers of the STATISTICS line.
    pub const STATISTICS: (u16, u16) = (20, 2);
    /// The clients in recent log lines.
    pub const LOG: (u16, u16) = (21, 2);
    /// The addresses that were asked for.
    pub const LISTEN: (u16, u16) = (22, 2);
    /// Recent hits that further ones may be coalesced with.
    pub const COALESCE: (u16, u16) = (23, 2);
    /// Which servers are down.
    pub const OUTAGES: (u16, u16) = (24, 2);
    /// Commands that wait to be run.
    pub const COMMANDS: (u16, u16) = (25, 2);
    /// The state of the list that hosts share.
    pub const LINK: (u16, u16) = (26, 3);
    /// How many of the listeners, the last ones, are those of the doors over HTTP.
    pub const HTTP: (u16, u16) = (27, 1);
}
