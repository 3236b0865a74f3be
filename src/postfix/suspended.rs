//! Policy connections that are suspended while another process is to take them over, and their state in the form in
//! which it does.

use std::mem;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::engine::delay_permits::DelayedReplies;
use crate::net::lock;
use crate::net::shutdown::Shutdown;
use crate::net::stream::Stream;
use crate::postfix::connection::{ConnectionState, PolicyConnection, ReplyBytes};
use crate::postfix::decoder::{REQUEST_TIME, RequestDecoder};

/// The suspended connections; a clone shares them.
#[derive(Clone, Debug, Default)]
pub struct SuspendedConnections(Arc<Mutex<SuspendedState>>);

#[derive(Debug, Default)]
struct SuspendedState {
    suspended: Vec<PolicyConnection<Stream>>,
    /// The hand-over failed; connections suspended later resume with this signal.
    given_up: Option<Shutdown>,
}

impl SuspendedConnections {
    /// Suspends one; returns it if it is to be resumed.
    pub fn put(&self, suspended: PolicyConnection<Stream>) -> Option<(PolicyConnection<Stream>, Shutdown)> {
        let mut state = self.lock();
        match state.given_up.clone() {
            Some(stop) => Some((suspended, stop)),
            None => {
                state.suspended.push(suspended);
                None
            }
        }
    }

    /// Takes all of them.
    pub fn empty(&self) -> Vec<PolicyConnection<Stream>> {
        mem::take(&mut self.lock().suspended)
    }

    /// Begins suspension.
    pub fn open(&self) {
        self.lock().given_up = None;
    }

    /// Ends suspension: returns the suspended connections. `put` returns later ones.
    pub fn give_up(&self, stop: Shutdown) -> Vec<PolicyConnection<Stream>> {
        self.lock().given_up = Some(stop);
        self.empty()
    }

    fn lock(&self) -> MutexGuard<'_, SuspendedState> {
        lock(&self.0)
    }
}

impl ConnectionState {
    /// All of it, for the new program of an upgrade.
    pub fn save(&self) -> SavedConnection {
        let milliseconds = |time: Duration| time.as_millis() as u64;
        let due = self
            .due
            .as_ref()
            .map(|(end, permit)| (milliseconds(end.saturating_duration_since(Instant::now())), permit.key_hash()));
        SavedConnection {
            answered: self.answered,
            input: self.input.to_vec(),
            output: self.output.rest().to_vec(),
            due,
            begun: self.begun.map(|begun| milliseconds(begun.elapsed())),
        }
    }

    /// Takes that over; a place among the delayed replies is kept.
    pub fn restore(saved: &SavedConnection, delayed: &Arc<DelayedReplies>) -> Self {
        let now = Instant::now();
        let begun = saved.begun.map(|ago| Duration::from_millis(ago).min(REQUEST_TIME));
        Self {
            answered: saved.answered,
            input: saved.input[..].into(),
            output: ReplyBytes::Made(saved.output[..].into()),
            due: saved.due.map(|(left, key)| (now + Duration::from_millis(left), delayed.restore(key))),
            begun: begun.map(|ago| now.checked_sub(ago).unwrap_or(now)),
            decoder: RequestDecoder::default(),
        }
    }
}

/// The state of a connection in the form in which it is handed over.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedConnection {
    answered: bool,
    input: Vec<u8>,
    output: Vec<u8>,
    /// Milliseconds until the answer is sent, and the key of its delay.
    due: Option<(u64, u64)>,
    /// Milliseconds since the request began.
    begun: Option<u64>,
}
