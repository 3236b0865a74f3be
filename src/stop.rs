//! The word to stop: waited for once, looked at often.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

/// Whether we are to stop; a clone hears the same word.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    token: CancellationToken,
    /// The token locks a mutex to answer, which every request would pay for.
    said: Arc<AtomicBool>,
}

impl Stop {
    /// Says the word.
    pub fn say(&self) {
        self.said.store(true, Ordering::Release);
        self.token.cancel();
    }

    /// Whether it was said.
    pub fn said(&self) -> bool {
        self.said.load(Ordering::Acquire)
    }

    /// Waits for it.
    pub fn heard(&self) -> WaitForCancellationFuture<'_> {
        self.token.cancelled()
    }
}
