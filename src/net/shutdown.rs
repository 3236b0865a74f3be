//! The shutdown signal: waited for once, looked at often.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};

use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

/// Not triggered.
const GO_ON: u8 = 0;

/// It is the end: what was asked is answered, and connections are closed.
const END: u8 = 1;

/// Another process takes the connections over as they are.
const HAND_OVER: u8 = 2;

/// Whether we are to stop; a clone shares the signal.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    token: CancellationToken,
    /// The token locks a mutex to answer, which every request would pay for.
    state: Arc<AtomicU8>,
}

impl Shutdown {
    /// Triggers it: this is the end.
    pub fn trigger(&self) {
        self.set(END);
    }

    /// Triggers it: another process goes on with what is open.
    pub fn hand_over(&self) {
        self.set(HAND_OVER);
    }

    /// Whether it was triggered.
    pub fn is_triggered(&self) -> bool {
        self.state.load(Ordering::Acquire) != GO_ON
    }

    /// Whether it was triggered for a hand-over.
    pub fn hands_over(&self) -> bool {
        self.state.load(Ordering::Acquire) == HAND_OVER
    }

    /// Waits for it.
    pub fn wait(&self) -> WaitForCancellationFuture<'_> {
        self.token.cancelled()
    }

    fn set(&self, state: u8) {
        self.state.store(state, Ordering::Release);
        self.token.cancel();
    }
}

/// The shutdown signal, as one connection waits for it.
pub struct ShutdownListener<'w, 's> {
    stop: &'s Shutdown,
    triggered: Pin<&'w mut WaitForCancellationFuture<'s>>,
    registered: bool,
}

impl<'w, 's> ShutdownListener<'w, 's> {
    /// Of this signal; `triggered` is the wait for it.
    pub fn new(stop: &'s Shutdown, triggered: Pin<&'w mut WaitForCancellationFuture<'s>>) -> Self {
        Self { stop, triggered, registered: false }
    }

    /// Whether another process goes on with what is left.
    pub fn hands_over(&self) -> bool {
        self.stop.hands_over()
    }

    /// Waits until it is triggered.
    pub async fn wait(&mut self) {
        poll_fn(|context| self.poll(context)).await;
    }

    /// Has the task that polls woken when it is triggered.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        // The task's waker never changes, so once is enough to be woken.
        if self.registered && !self.stop.is_triggered() {
            return Poll::Pending;
        }
        self.registered = true;
        self.triggered.as_mut().poll(context)
    }
}
