//! A private memcached.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use nix::unistd::{User, geteuid};

use super::{Dir, Namespace, Port, Process, Stream, certificates, connect, until};

/// A running memcached. It can be frozen, killed, and started again at the same address.
pub struct Memcached {
    process: Process,
    place: Place,
    options: Vec<String>,
    /// Where it speaks without TLS, if it speaks TLS elsewhere.
    plain: Option<Port>,
    /// Its files.
    dir: Option<Dir>,
    /// It wants the login of [`Memcached::start_with_login`].
    wants_login: bool,
}

/// User and password, and a password that is another.
pub const LOGIN: (&str, &str, &str) = ("counter", "not-so-secret", "quite-another");

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
        give_to_memcached(dir.path());
        Self::start_in(Place::Unix(dir))
    }

    /// Starts one on a free port with further options.
    pub fn start_with(options: &'static [&'static str]) -> Self {
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        Self::start_as(Place::Inet(Port::new()), options)
    }

    /// One that answers after a login only.
    pub fn start_with_login() -> Self {
        let (dir, (user, password, _)) = (Dir::new(), LOGIN);
        let file = dir.write("logins", &format!("{user}:{password}\n"));
        dir.write("password", &format!("{password}\n"));
        give_to_memcached(dir.path());
        let options = vec!["-Y".to_owned(), file.display().to_string()];
        Self { dir: Some(dir), wants_login: true, ..Self::start_as(Place::Inet(Port::new()), options) }
    }

    /// One that speaks TLS, and wants certificates of its own authority. The tests themselves ask it without TLS.
    pub fn start_with_tls() -> Self {
        let (dir, tls, plain) = (Dir::new(), Port::new(), Port::new());
        certificates::make(&dir);
        for file in ["ca.crt", "server.crt", "server.key"] {
            give_to_memcached(&dir.join(file));
        }
        give_to_memcached(dir.path());
        let path = |file: &str| dir.join(file).display().to_string();
        let files = format!(
            "ssl_chain_cert={},ssl_key={},ssl_ca_cert={},ssl_verify_mode=2",
            path("server.crt"),
            path("server.key"),
            path("ca.crt")
        );
        let options =
            vec!["-l".to_owned(), format!("notls:{}", plain.address()), "-Z".to_owned(), "-o".to_owned(), files];
        Self { dir: Some(dir), plain: Some(plain), ..Self::start_as(Place::Inet(tls), options) }
    }

    /// The lines of a configuration that choose it.
    pub fn config(&self) -> String {
        let path = |name: &str| self.dir.as_ref().unwrap().join(name).display().to_string();
        match (&self.place, self.wants_login, self.plain.is_some()) {
            (_, true, _) => format!(
                "memcached_server = {:?}\nmemcached_username = {:?}\nmemcached_password_file = {:?}\n",
                self.server(),
                LOGIN.0,
                path("password")
            ),
            (Place::Inet(port), _, true) => format!(
                "memcached_server = \"localhost:{}\"\nmemcached_tls = true\nmemcached_ca_file = {:?}\n\
                 memcached_certificate_file = {:?}\nmemcached_key_file = {:?}\n",
                port.address().port(),
                path("ca.crt"),
                path("client.crt"),
                path("client.key")
            ),
            _ => format!("memcached_server = {:?}\n", self.server()),
        }
    }

    /// A file of its directory.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.as_ref().expect("a directory").join(name)
    }

    /// A connection of the test's own, logged in.
    fn connect(&self) -> BufReader<Box<dyn Stream>> {
        let endpoint = self.plain.as_ref().map_or_else(|| self.place.endpoint(), Port::endpoint);
        let mut connection = BufReader::new(connect(&endpoint).unwrap());
        if self.wants_login {
            let text = format!("{} {}", LOGIN.0, LOGIN.1);
            write!(connection.get_mut(), "set login 0 0 {}\r\n{text}\r\n", text.len()).unwrap();
            assert_eq!(read_line(&mut connection), "STORED");
        }
        connection
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
        Self::start_as(place, Vec::new())
    }

    fn start_as(place: Place, options: Vec<String>) -> Self {
        Self { process: run(&place, &options), place, options, plain: None, dir: None, wants_login: false }
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
        let mut connection = self.connect();
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
        let mut connection = self.connect();
        write!(connection.get_mut(), "{command}\r\n").unwrap();
        read_line(&mut connection)
    }

    /// A number out of its statistics.
    #[track_caller]
    pub fn statistic(&self, name: &str) -> u64 {
        let mut connection = self.connect();
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
        let mut connection = self.connect();
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
        self.process = run(&self.place, &self.options);
    }
}

/// The user that memcached changes to when root starts it.
const USER: &str = "nobody";

/// Lets memcached read or write a file, which it does after it has become its user.
fn give_to_memcached(path: &Path) {
    if geteuid().is_root() {
        let user = User::from_name(USER).unwrap().expect("a user for memcached");
        chown(path, Some(user.uid.as_raw()), None).unwrap();
    }
}

/// The address of a server in a namespace.
const FAR: &str = "10.9.8.2:11211";

fn run(place: &Place, options: &[String]) -> Process {
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
            command.args(["-l", &port.address().to_string()]);
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
