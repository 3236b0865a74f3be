//! The control socket: what an administrator asks of the running daemon, and changes in it.
//!
//! A request is one line of JSON, and so is its answer; both are Rust types that the daemon and the program share.
//! Each command is a file below: its arguments, which are the request, its answer, and how people are shown that.
//! `commands` has the list of them. `socket` is the server, in the daemon, and `client` the client.

pub mod allow;
pub mod ban;
pub mod check_hit;
pub mod client;
pub mod commands;
pub mod disallow;
pub mod explain;
pub mod hit;
pub mod listing;
pub mod on_file;
pub mod origin;
pub mod overriding;
pub mod preview;
pub mod reload;
pub mod report;
pub mod reset;
pub mod revoke;
pub mod show;
pub mod socket;
pub mod status;
pub mod text;
pub mod top;
pub mod unban;

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::TaskTracker;

use crate::engine::overrides::TooMany;
use crate::engine::service::Service;
use crate::net::clock::Now;
use crate::sysexits;

/// The state that commands work on.
#[derive(Debug)]
pub struct Control {
    pub service: Arc<Service>,
    pub connections: TaskTracker,
    /// Has the daemon read its configuration again.
    pub reload: mpsc::Sender<Reload>,
    /// When the daemon began to serve.
    pub started: Now,
}

/// The channel for the result of a reload: notes for the administrator, or why the old configuration stays in force.
pub type Reload = oneshot::Sender<Result<Vec<String>, String>>;

/// Why a command was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// For people to read.
    pub error: String,
    /// The exit code of the program, of sysexits(3).
    pub code: u8,
}

impl Problem {
    /// The command or its arguments are wrong.
    pub fn usage(error: impl Into<String>) -> Self {
        Self { error: error.into(), code: sysexits::USAGE }
    }

    /// The command cannot be done at present.
    pub fn unavailable(error: impl Into<String>) -> Self {
        Self { error: error.into(), code: sysexits::UNAVAILABLE }
    }
}

impl From<TooMany> for Problem {
    fn from(error: TooMany) -> Self {
        Self::unavailable(error.to_string())
    }
}
