//! A private memcached.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::fs::chown;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use nix::unistd::{User, geteuid};

use super::{Dir, Namespace, Port, Process, connect, until};

/// A running memcached. It can be frozen, killed, and started again at the same address.
pub struct Memcached {
    process: Process,
    place: Place,
    options: &'static [&'static str],
}

enum Place {
    Inet(Port),
    Unix(Dir),
    /// At an address of a network namespace, reached by `nsenter`.
    Namespace(String),
}

impl Memcached {
    /// Starts one on a free port.
    pub fn start() -> Self {
        Self::start_in(Place::Inet(Port::new()))
    }

    /// Starts one on a unix socket.
    pub fn start_on_unix_socket() -> Self {
        let dir = Dir::new();
        if geteuid().is_root() {
            // memcached makes the socket after it has become this user.
            let user = User::from_name(USER).unwrap().expect("a user for memcached");
            chown(dir.path(), Some(user.uid.as_raw()), None).unwrap();
        }
        Self::start_in(Place::Unix(dir))
    }

    /// Starts one on a free port with further options.
    pub fn start_with(options: &'static [&'static str]) -> Self {
        let place = Place::Inet(Port::new());
        Self { process: run(&place, options), place, options }
    }

    /// Starts one at a certain place.
    pub fn start_at(address: SocketAddr) -> Self {
        Self::start_in(Place::Inet(Port::at(address)))
    }

    /// Starts one in a namespace, at 10.9.8.2:11211.
    pub fn start_within(namespace: &Namespace) -> Self {
        Self::start_in(Place::Namespace(namespace.id()))
    }

    fn start_in(place: Place) -> Self {
        Self { process: run(&place, &[]), place, options: &[] }
    }

    /// The value of `memcached_server`.
    pub fn server(&self) -> String {
        match &self.place {
            Place::Inet(port) => port.address().to_string(),
            Place::Unix(_) => self.place.endpoint(),
            Place::Namespace(_) => FAR.to_owned(),
        }
    }

    /// The value of `key`.
    pub fn value(&self, key: &str) -> Option<String> {
        let mut connection = BufReader::new(connect(&self.place.endpoint()).unwrap());
        write!(connection.get_mut(), "get {key}\r\n").unwrap();
        let line = read_line(&mut connection);
        if line == "END" {
            return None;
        }
        assert!(line.starts_with(&format!("VALUE {key} ")), "memcached said {line:?}");
        Some(read_line(&mut connection))
    }

    /// Sends a command, with its data block if it has one, and returns the first line of the answer.
    pub fn say(&self, command: &str) -> String {
        let mut connection = BufReader::new(connect(&self.place.endpoint()).unwrap());
        write!(connection.get_mut(), "{command}\r\n").unwrap();
        read_line(&mut connection)
    }

    /// A number out of its statistics.
    #[track_caller]
    pub fn statistic(&self, name: &str) -> u64 {
        let mut connection = BufReader::new(connect(&self.place.endpoint()).unwrap());
        write!(connection.get_mut(), "stats\r\n").unwrap();
        loop {
            let line = read_line(&mut connection);
            assert_ne!(line, "END", "no {name} among the statistics");
            if let Some(number) = line.strip_prefix(&format!("STAT {name} ")) {
                return number.parse().unwrap();
            }
        }
    }

    /// The number of commands on keys, from its statistics.
    pub fn commands(&self) -> u64 {
        let classic = ["cmd_get", "cmd_set", "cmd_touch", "incr_hits", "incr_misses", "decr_hits", "decr_misses"];
        classic.iter().chain(&["cmd_meta"]).map(|name| self.statistic(name)).sum()
    }

    /// Stores keys of the size of counters until it says that there is no more room.
    pub fn fill(&self) {
        self.store(u32::MAX);
    }

    /// The same, with at most this number of keys.
    pub fn store(&self, keys: u32) {
        let mut connection = BufReader::new(connect(&self.place.endpoint()).unwrap());
        for number in 0..keys {
            write!(connection.get_mut(), "set filling:{number:012} 0 0 2\r\n10\r\n").unwrap();
            if read_line(&mut connection) != "STORED" {
                return;
            }
        }
    }

    /// Freezes it: its connections stay open and it answers nothing.
    pub fn freeze(&self) {
        self.process.freeze();
    }

    /// Continues it after `freeze`.
    pub fn thaw(&self) {
        self.process.thaw();
    }

    /// Kills it; its data is lost.
    pub fn kill(&mut self) {
        self.process.signal(Signal::SIGKILL);
        self.process.wait();
    }

    /// Starts it again after `kill`, empty, at the same address.
    pub fn start_again(&mut self) {
        self.process = run(&self.place, self.options);
    }
}

/// The user that memcached changes to when root starts it.
const USER: &str = "nobody";

/// The address of a server in a namespace.
const FAR: &str = "10.9.8.2:11211";

fn run(place: &Place, options: &[&str]) -> Process {
    let mut command = match place {
        Place::Inet(_) | Place::Unix(_) => Command::new("memcached"),
        Place::Namespace(id) => {
            let mut command = Command::new("nsenter");
            command.args(["--net", "--target", id, "memcached"]);
            command
        }
    };
    command.args(["-m", "8", "-t", "1", "-U", "0"]).args(options).stdin(Stdio::null()).stdout(Stdio::null());
    match place {
        Place::Inet(port) => {
            let at = port.address();
            command.args(["-l", &at.ip().to_string(), "-p", &at.port().to_string()]);
        }
        Place::Unix(dir) => {
            command.arg("-s").arg(socket_in(dir)).args(["-a", "0666"]);
        }
        Place::Namespace(_) => {
            command.args(["-l", "10.9.8.2"]);
        }
    }
    if geteuid().is_root() {
        command.args(["-u", USER]);
    }
    let mut process = Process::start(&mut command, Signal::SIGKILL);
    until("a memcached that listens", || {
        if let Some(status) = process.ended() {
            panic!("memcached ended with {status}");
        }
        if let Place::Namespace(id) = place {
            // Only the namespace reaches this address.
            let listens = Command::new("nsenter").args(["--net", "--target", id, "ss", "-Hltn"]).output().unwrap();
            return String::from_utf8_lossy(&listens.stdout).contains(FAR).then_some(());
        }
        connect(&place.endpoint()).ok().map(drop)
    });
    process
}

impl Place {
    fn endpoint(&self) -> String {
        match self {
            Self::Inet(port) => port.endpoint(),
            Self::Unix(dir) => format!("unix:{}", socket_in(dir).display()),
            Self::Namespace(_) => panic!("the server is in a network namespace"),
        }
    }
}

fn socket_in(dir: &Dir) -> PathBuf {
    dir.join("memcached")
}

fn read_line(connection: &mut impl BufRead) -> String {
    let mut line = String::new();
    connection.read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}
