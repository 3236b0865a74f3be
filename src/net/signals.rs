//! The signals that the main thread handles, and how every other thread leaves them to it.

use nix::sys::signal::{SigSet, Signal};

/// Reload, stop and upgrade.
pub const HANDLED: [Signal; 4] = [Signal::SIGHUP, Signal::SIGTERM, Signal::SIGINT, Signal::SIGUSR2];

/// Blocks these signals in the calling thread. Every thread but the main one starts with this.
pub fn block_signals() {
    // It fails for invalid arguments only.
    let _ = HANDLED.into_iter().collect::<SigSet>().thread_block();
}
