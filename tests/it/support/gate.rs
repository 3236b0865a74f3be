//! A relay before a memcached that fails in a chosen way and counts connections and commands.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// A kind of failure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// No failure.
    None,
    /// Every answer is delayed by this time.
    Slow(Duration),
    /// Answers are kept back until the fault is another.
    Held,
    /// It closes its sending side and keeps reading: a half-closed connection.
    HalfClosed,
    /// It answers every command with this text.
    Nonsense(&'static str),
}

/// A running gate. Each thread ends with its connection; the listening thread ends with the tests.
pub struct Gate {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    to: SocketAddr,
    fault: Mutex<Fault>,
    /// The open connections from the daemons.
    clients: Mutex<Vec<TcpStream>>,
    connections: AtomicUsize,
    commands: AtomicUsize,
}

impl Gate {
    /// A gate before the server at `HOST:PORT`.
    pub fn to(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            to: server.parse().unwrap(),
            fault: Mutex::new(Fault::None),
            clients: Mutex::default(),
            connections: AtomicUsize::new(0),
            commands: AtomicUsize::new(0),
        });
        let serving = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming() {
                serving.serve(client.unwrap());
            }
        });
        Self { address, shared }
    }

    /// The value of `memcached_server`.
    pub fn server(&self) -> String {
        self.address.to_string()
    }

    /// Fails in this way from now on.
    pub fn set(&self, fault: Fault) {
        *self.shared.fault.lock().unwrap() = fault;
        if fault == Fault::HalfClosed {
            for client in self.shared.clients.lock().unwrap().drain(..) {
                let _ = client.shutdown(Shutdown::Write);
            }
        }
    }

    /// Connections so far.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Commands so far, including probes; each is a line.
    pub fn commands(&self) -> usize {
        self.shared.commands.load(Ordering::SeqCst)
    }
}

impl Shared {
    fn fault(&self) -> Fault {
        *self.fault.lock().unwrap()
    }

    fn serve(self: &Arc<Self>, client: TcpStream) {
        self.connections.fetch_add(1, Ordering::SeqCst);
        let Ok(server) = TcpStream::connect(self.to) else { return };
        client.set_nodelay(true).unwrap();
        server.set_nodelay(true).unwrap();
        let clone = |stream: &TcpStream| stream.try_clone().unwrap();
        match self.fault() {
            Fault::HalfClosed => client.shutdown(Shutdown::Write).unwrap(),
            _ => self.clients.lock().unwrap().push(clone(&client)),
        }
        let (questions, answers) = ((clone(&client), clone(&server)), (server, client));
        let (asking, answering) = (Arc::clone(self), Arc::clone(self));
        thread::spawn(move || asking.ask(questions));
        thread::spawn(move || answering.answer(answers));
    }

    fn ask(&self, (mut client, mut server): (TcpStream, TcpStream)) {
        let mut buffer = [0; 16 * 1024];
        while let Ok(length @ 1..) = client.read(&mut buffer) {
            let lines = buffer[..length].iter().filter(|byte| **byte == b'\n').count();
            self.commands.fetch_add(lines, Ordering::SeqCst);
            let passed = match self.fault() {
                Fault::Nonsense(text) => client.write_all(text.as_bytes()),
                _ => server.write_all(&buffer[..length]),
            };
            if passed.is_err() {
                break;
            }
        }
        let _ = server.shutdown(Shutdown::Both);
    }

    fn answer(&self, (mut server, mut client): (TcpStream, TcpStream)) {
        let mut buffer = [0; 16 * 1024];
        while let Ok(length @ 1..) = server.read(&mut buffer) {
            if let Fault::Slow(time) = self.fault() {
                thread::sleep(time);
            }
            while self.fault() == Fault::Held {
                thread::sleep(Duration::from_millis(1));
            }
            if client.write_all(&buffer[..length]).is_err() {
                break;
            }
        }
        let _ = client.shutdown(Shutdown::Both);
    }
}
