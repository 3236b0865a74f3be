//! The word to stop: waited for once, looked at often.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

/// Nothing was said.
const GO_ON: u8 = 0;

/// It is the end: what was asked is answered, and connections are closed.
const END: u8 = 1;

/// Another process takes the connections over as they are.
const HAND_OVER: u8 = 2;

/// Whether we are to stop; a clone hears the same word.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    token: CancellationToken,
    /// The token locks a mutex to answer, which every request would pay for.
    said: Arc<AtomicU8>,
}

impl Shutdown {
    /// Says the word: this is the end.
    pub fn trigger(&self) {
        self.set(END);
    }

    /// Says the word: another process goes on with what is open.
    pub fn hand_over(&self) {
        self.set(HAND_OVER);
    }

    /// Whether it was said.
    pub fn is_triggered(&self) -> bool {
        self.said.load(Ordering::Acquire) != GO_ON
    }

    /// Whether it was said for a hand-over.
    pub fn hands_over(&self) -> bool {
        self.said.load(Ordering::Acquire) == HAND_OVER
    }

    /// Waits for it.
    pub fn wait(&self) -> WaitForCancellationFuture<'_> {
        self.token.cancelled()
    }

    fn set(&self, word: u8) {
        self.said.store(word, Ordering::Release);
        self.token.cancel();
    }
}
