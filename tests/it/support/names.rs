//! Host names of a test, and a name server that may hang.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use super::Dir;

/// Mount namespaces in which host names are resolved as the test configures it.
pub struct Names(Dir);

impl Names {
    /// Names of a file like /etc/hosts, without a name server.
    pub fn of_hosts(hosts: &str) -> Self {
        Self::new(hosts, "files", "")
    }

    /// Names from this name server.
    pub fn of_server(server: &NameServer) -> Self {
        // The longest time-out of the resolver.
        Self::new("", "dns", &format!("nameserver {}\noptions timeout:30 attempts:5\n", server.address))
    }

    fn new(hosts: &str, source: &str, resolver: &str) -> Self {
        let dir = Dir::new();
        dir.write("hosts", hosts);
        dir.write("nsswitch.conf", &format!("hosts: {source}\n"));
        dir.write("resolv.conf", resolver);
        Self(dir)
    }

    /// Replaces the names.
    pub fn set_hosts(&self, hosts: &str) {
        // In place: the mount is of the file, not of its name.
        self.0.write("hosts", hosts);
    }

    /// The shell command that runs "$0" with "$@" in such a namespace.
    pub fn enter(&self) -> String {
        let mount = |name| format!("mount --bind {} /etc/{name}", self.0.join(name).display());
        let mounts = ["hosts", "nsswitch.conf", "resolv.conf"].map(mount).join(" && ");
        format!("exec unshare --mount sh -c '{mounts} && exec \"$0\" \"$@\"' \"$0\" \"$@\"")
    }
}

/// The behaviour of a name server.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// Every name is 127.0.0.1.
    Answers,
    /// Queries are kept until it answers again.
    Hangs,
}

/// A name server at a loopback address of its own.
pub struct NameServer {
    address: Ipv4Addr,
    socket: Arc<UdpSocket>,
    state: Arc<Mutex<State>>,
}

struct State {
    mood: Mood,
    kept: Vec<(Vec<u8>, SocketAddr)>,
    queries: usize,
}

impl NameServer {
    pub fn new(mood: Mood) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let own = std::process::id().wrapping_mul(16).wrapping_add(NUMBER.fetch_add(1, Ordering::Relaxed)) & 0xffff;
        let address = Ipv4Addr::from_bits(0x7f35_0000 | own);
        let socket = UdpSocket::bind((address, 53)).unwrap_or_else(|error| panic!("{address}, port 53: {error}"));
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let state = Arc::new(Mutex::new(State { mood, kept: Vec::new(), queries: 0 }));
        let server = Self { address, socket: Arc::new(socket), state };
        let (socket, state) = (Arc::clone(&server.socket), Arc::clone(&server.state));
        thread::spawn(move || {
            let mut buffer = [0; 512];
            while Arc::strong_count(&state) > 1 {
                match socket.recv_from(&mut buffer) {
                    Ok((length, from)) => state.lock().unwrap().take(&socket, buffer[..length].to_vec(), from),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(error) => panic!("cannot read queries: {error}"),
                }
            }
        });
        server
    }

    /// Changes its behaviour.
    pub fn set(&self, mood: Mood) {
        let mut state = self.state.lock().unwrap();
        state.mood = mood;
        if mood == Mood::Answers {
            state.kept.drain(..).for_each(|(query, from)| answer(&self.socket, &query, from));
        }
    }

    /// Queries so far.
    pub fn queries(&self) -> usize {
        self.state.lock().unwrap().queries
    }
}

impl State {
    fn take(&mut self, socket: &UdpSocket, query: Vec<u8>, from: SocketAddr) {
        self.queries += 1;
        match self.mood {
            Mood::Answers => answer(socket, &query, from),
            Mood::Hangs => self.kept.push((query, from)),
        }
    }
}

/// By RFC 1035, section 4.
fn answer(socket: &UdpSocket, query: &[u8], to: SocketAddr) {
    const A: [u8; 2] = [0, 1];
    const RECORD: [u8; 16] = [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 127, 0, 0, 1];
    let name = query[12..].iter().position(|byte| *byte == 0).expect("a name that ends") + 13;
    let has_address = query[name..name + 2] == A;
    let counts = [0, 1, 0, u8::from(has_address), 0, 0, 0, 0];
    let mut answer = [&query[..2], &[0x81, 0x80], &counts, &query[12..name + 4]].concat();
    if has_address {
        answer.extend(RECORD);
    }
    // The resolver may have given up.
    let _ = socket.send_to(&answer, to);
}
