//! A TCP relay between Postfix and the daemon: it watches, and loses answers.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use super::PATIENCE;

/// A running relay. Its threads end with the connections they serve, the listening one with the tests.
pub struct Relay {
    address: SocketAddr,
    connections: Receiver<()>,
}

impl Relay {
    /// Passes on everything.
    pub fn to(endpoint: &str) -> Self {
        Self::start(endpoint, 0)
    }

    /// Passes on everything, except what is answered on the first connection.
    pub fn losing_first_answers(endpoint: &str) -> Self {
        Self::start(endpoint, 1)
    }

    fn start(endpoint: &str, deaf_connections: usize) -> Self {
        let to = endpoint.strip_prefix("inet:").and_then(|address| address.parse().ok());
        let to: SocketAddr = to.unwrap_or_else(|| panic!("a relay to {endpoint}"));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, (news, connections)) = (listener.local_addr().unwrap(), channel());
        thread::spawn(move || serve(&listener, to, deaf_connections, &news));
        Self { address, connections }
    }

    /// Where it listens, as main.cf writes it.
    pub fn endpoint(&self) -> String {
        format!("inet:{}", self.address)
    }

    /// Waits for a connection that was not waited for before.
    #[track_caller]
    pub fn wait_for_connection(&self) {
        self.connections.recv_timeout(PATIENCE).expect("a policy connection");
    }
}

fn serve(listener: &TcpListener, to: SocketAddr, deaf_connections: usize, news: &Sender<()>) {
    for (number, client) in listener.incoming().enumerate() {
        let client = client.unwrap();
        let Ok(daemon) = TcpStream::connect(to) else {
            continue;
        };
        let (client_reads, daemon_reads) = (client.try_clone().unwrap(), daemon.try_clone().unwrap());
        thread::spawn(move || pass(client, daemon_reads, true));
        thread::spawn(move || pass(daemon, client_reads, number >= deaf_connections));
        // Nobody may be waiting any more.
        let _ = news.send(());
    }
}

/// Copies until one side is gone, then tells the other.
fn pass(mut from: TcpStream, mut to: TcpStream, heard: bool) {
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        if heard && to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
