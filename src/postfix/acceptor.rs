//! Accepts the policy connections of one listener until shutdown, from peers that may ask, up to `max_connections`.

use std::sync::Arc;

use tokio_util::task::TaskTracker;

use crate::engine::service::Service;
use crate::listener::{Listener, refused_peer};
use crate::net::clock::Now;
use crate::net::shutdown::Shutdown;
use crate::net::stream::Stream;
use crate::observe::log::Severity;
use crate::observe::statistics::add;
use crate::postfix::connection::PolicyConnection;
use crate::postfix::suspended::SuspendedConnections;
use crate::session::SessionPeer;

/// What accepting needs.
#[derive(Clone, Debug)]
pub struct Acceptor {
    pub service: Arc<Service>,
    pub stop: Shutdown,
    /// The open connections, of all listeners.
    pub connections: TaskTracker,
    pub max_connections: usize,
    /// Connections that another process is to take over.
    pub suspended: SuspendedConnections,
}

impl Acceptor {
    /// Accepts until the stop. Dropping the listener then closes it, and removes the file of its socket.
    pub async fn accept(self, mut listener: Listener) -> Listener {
        loop {
            let Self { service, stop, connections, max_connections, .. } = &self;
            let (stream, peer) = tokio::select! {
                accepted = listener.accept(&service.log) => accepted,
                () = stop.wait() => return listener,
            };
            if !service.rules.load().peers.admit(&peer) {
                add(&service.statistics.refused_peers, 1);
                refused_peer(&service.log, &peer, Now::read());
                continue;
            }
            if connections.len() >= *max_connections {
                // Better than to let it wait in the backlog: Postfix tries again in a second, and waits no longer than that.
                add(&service.statistics.connections_rejected, 1);
                service.log.limited(Severity::Warning, "TOO_MANY_CONNECTIONS", Now::read(), |line| {
                    line.field("peer", &peer).field("max_connections", max_connections);
                });
                continue;
            }
            let session_peer = SessionPeer { address: peer.ip(), process: stream.process() };
            self.serve(PolicyConnection::new(stream, peer, service.sessions.attach(session_peer)));
        }
    }

    /// Serves a connection, which may have been served before.
    pub fn serve(&self, mut connection: PolicyConnection<Stream>) {
        let (service, mut stop, suspended) = (Arc::clone(&self.service), self.stop.clone(), self.suspended.clone());
        self.connections.spawn(async move {
            while let Some(paused) = connection.serve(&service, stop).await {
                match suspended.put(paused) {
                    Some(again) => (connection, stop) = again,
                    None => return,
                }
            }
        });
    }
}
