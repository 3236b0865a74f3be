//! Where policy connections are put that another process is to take over.

use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::listener::Peer;
use crate::net::shutdown::Shutdown;
use crate::net::stream::Stream;
use crate::postfix::connection::ConnectionState;
use crate::session::SessionHandle;

/// A connection that nobody serves at the moment.
#[derive(Debug)]
pub struct SuspendedConnection<S> {
    /// To the other end.
    pub stream: S,
    /// Who is there.
    pub peer: Peer,
    /// Its place in the sessions.
    pub session: SessionHandle,
    /// What else is known of it.
    pub state: ConnectionState,
}

/// Connections that nobody serves at the moment; a clone is the same place.
#[derive(Clone, Debug, Default)]
pub struct SuspendedConnections(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    parked: Vec<SuspendedConnection<Stream>>,
    /// Nobody takes them over after all: whoever comes late is to go on, and to heed this.
    given_up: Option<Shutdown>,
}

impl SuspendedConnections {
    /// Puts one down, or says that it is to be gone on with.
    pub fn put(&self, parked: SuspendedConnection<Stream>) -> Option<(SuspendedConnection<Stream>, Shutdown)> {
        let mut state = self.lock();
        match state.given_up.clone() {
            Some(stop) => Some((parked, stop)),
            None => {
                state.parked.push(parked);
                None
            }
        }
    }

    /// All that are there.
    pub fn empty(&self) -> Vec<SuspendedConnection<Stream>> {
        mem::take(&mut self.lock().parked)
    }

    /// From here on connections can be put down.
    pub fn open(&self) {
        self.lock().given_up = None;
    }

    /// From here on they are to be gone on with. Returns those that were put down.
    pub fn give_up(&self, stop: Shutdown) -> Vec<SuspendedConnection<Stream>> {
        self.lock().given_up = Some(stop);
        self.empty()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Whole after any panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
