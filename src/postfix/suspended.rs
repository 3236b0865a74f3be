//! Policy connections that are suspended while another process is to take them over.

use std::mem;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::listener::Peer;
use crate::net::lock;
use crate::net::shutdown::Shutdown;
use crate::net::stream::Stream;
use crate::postfix::connection::ConnectionState;
use crate::session::SessionHandle;

/// A connection that is not served at the moment.
#[derive(Debug)]
pub struct SuspendedConnection<S> {
    pub stream: S,
    pub peer: Peer,
    pub session: SessionHandle,
    pub state: ConnectionState,
}

/// The suspended connections; a clone shares them.
#[derive(Clone, Debug, Default)]
pub struct SuspendedConnections(Arc<Mutex<SuspendedState>>);

#[derive(Debug, Default)]
struct SuspendedState {
    suspended: Vec<SuspendedConnection<Stream>>,
    /// The hand-over failed; connections suspended later resume with this signal.
    given_up: Option<Shutdown>,
}

impl SuspendedConnections {
    /// Suspends one; returns it if it is to be resumed.
    pub fn put(&self, suspended: SuspendedConnection<Stream>) -> Option<(SuspendedConnection<Stream>, Shutdown)> {
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
    pub fn empty(&self) -> Vec<SuspendedConnection<Stream>> {
        mem::take(&mut self.lock().suspended)
    }

    /// Begins suspension.
    pub fn open(&self) {
        self.lock().given_up = None;
    }

    /// Ends suspension: returns the suspended connections. `put` returns later ones.
    pub fn give_up(&self, stop: Shutdown) -> Vec<SuspendedConnection<Stream>> {
        self.lock().given_up = Some(stop);
        self.empty()
    }

    fn lock(&self) -> MutexGuard<'_, SuspendedState> {
        lock(&self.0)
    }
}
