//! The servers that are measured, each ready to answer once it is made.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use nix::unistd::geteuid;
use tempfile::TempDir;

use crate::load::Address;
use crate::process::Process;
use crate::request::Requests;

/// The program that all this is about: the one built for the benchmark, unless it was told of another.
pub fn program() -> &'static Path {
    PROGRAM.get().map_or(Path::new(env!("CARGO_BIN_EXE_connshaper")), PathBuf::as_path)
}

/// Another connshaper to measure. Set once, before anything is started.
pub static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

/// A directory for sockets, configurations and logs.
pub struct Place(TempDir);

impl Place {
    pub fn new() -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("connshaper-bench-").tempdir()?;
        // memcached and Postfix are other users.
        fs::set_permissions(directory.path(), Permissions::from_mode(0o1777))?;
        Ok(Self(directory))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) -> anyhow::Result<PathBuf> {
        let path = self.path(name);
        fs::write(&path, text)?;
        Ok(path)
    }
}

/// A policy server that answers.
pub struct Server {
    pub name: &'static str,
    pub address: Address,
    pub process: Process,
    /// The server that keeps its counts.
    pub shared: Option<StoreServer>,
    /// The file that it counts in.
    pub sqlite: Option<PathBuf>,
    /// Another policy server. It may be too slow for all that the others are asked, or unable to do it.
    pub peer: bool,
}

impl Server {
    /// The one all others are compared with: this program under another name.
    pub fn null(place: &Place) -> anyhow::Result<Self> {
        let socket = place.path("null.sock");
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("--null-server").arg(&socket);
        Self::start("null", command, Address::Unix(socket), place)
    }

    /// The same, but busy for a while before each answer: what a server costs that has just so much to do.
    pub fn busy(microseconds: u64, place: &Place) -> anyhow::Result<Self> {
        let socket = place.path("busy.sock");
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("--null-server").arg(&socket).arg("--busy").arg(microseconds.to_string());
        Self::start("busy", command, Address::Unix(socket), place)
    }

    /// connshaper, counting in its own memory.
    pub fn memory(place: &Place) -> anyhow::Result<Self> {
        Self::connshaper("memory", "", place)
    }

    /// connshaper with a memcached of its own.
    pub fn memcached(place: &Place) -> anyhow::Result<Self> {
        let memcached = StoreServer::memcached(place)?;
        let key = format!("memcached_server = 'unix:{}'\n", memcached.socket.display());
        let server = Self::connshaper("memcached", &key, place)?;
        Ok(Self { shared: Some(memcached), ..server })
    }

    /// connshaper with a Redis of its own.
    pub fn redis(place: &Place) -> anyhow::Result<Self> {
        let redis = StoreServer::redis(place)?;
        let key = format!("redis_server = 'unix:{}'\n", redis.socket.display());
        let server = Self::connshaper("redis", &key, place)?;
        Ok(Self { shared: Some(redis), ..server })
    }

    /// connshaper with a SQLite file.
    pub fn sqlite(place: &Place) -> anyhow::Result<Self> {
        let file = place.path("counts.db");
        let key = format!("sqlite_file = '{}'\n", file.display());
        let server = Self::connshaper("sqlite", &key, place)?;
        Ok(Self { sqlite: Some(file), ..server })
    }

    /// connshaper under a name, with `keys` added to its configuration.
    pub fn connshaper(name: &'static str, keys: &str, place: &Place) -> anyhow::Result<Self> {
        let (command, address) = connshaper(name, keys, place)?;
        Self::start(name, command, address, place)
    }

    /// Starts a server and waits until it has answered a request.
    pub fn start(name: &'static str, mut command: Command, address: Address, place: &Place) -> anyhow::Result<Self> {
        let log = place.path(&format!("{name}.log"));
        Self::when_ready(name, Process::start(&mut command, &log)?, address, &log)
    }

    /// Waits until a server that was started has answered a request.
    pub fn when_ready(name: &'static str, mut process: Process, address: Address, log: &Path) -> anyhow::Result<Self> {
        let mut requests = Requests::full();
        process.wait_until(log, || address.ask(&mut requests).ok())?;
        Ok(Self { name, address, process, shared: None, sqlite: None, peer: false })
    }
}

/// The command that starts connshaper, and where it will listen.
pub fn connshaper(name: &str, keys: &str, place: &Place) -> anyhow::Result<(Command, Address)> {
    let socket = place.path(&format!("{name}.sock"));
    let socket_key = format!("listen = 'unix:{}'\n", socket.display());
    let whitelist = if keys.contains("whitelist") { "" } else { "whitelist = []\n" };
    let threshold = if keys.contains("threshold") { "" } else { THRESHOLD };
    let text = format!("{socket_key}{COMMON}{whitelist}{threshold}{keys}");
    let file = place.write(&format!("{name}.toml"), &text)?;
    let mut command = Command::new(program());
    command.arg("serve").arg("-c").arg(file);
    Ok((command, Address::Unix(socket)))
}

const COMMON: &str = "socket_mode = '0666'\nlog_level = 'warning'\nmax_clients = 20_000_000\n";

/// Only the first few of a skewed population come more often than this in a minute.
const THRESHOLD: &str = "threshold = 10_000\n";

/// A memcached or a Redis on a unix socket.
pub struct StoreServer {
    pub process: Process,
    socket: PathBuf,
    is_redis: bool,
}

impl StoreServer {
    fn redis(place: &Place) -> anyhow::Result<Self> {
        let socket = place.path("redis.backend");
        let mut command = Command::new("redis-server");
        command.args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocketperm", "700", "--unixsocket"]);
        command.arg(&socket);
        let log = place.path("redis.log");
        let mut process = Process::start(&mut command, &log)?;
        process.wait_until(&log, || UnixStream::connect(&socket).ok())?;
        Ok(Self { process, socket, is_redis: true })
    }

    fn memcached(place: &Place) -> anyhow::Result<Self> {
        let socket = place.path("memcached.backend");
        let mut command = Command::new("memcached");
        command.args(["-m", "2048", "-a", "0700", "-s"]).arg(&socket);
        if geteuid().is_root() {
            command.args(["-u", "nobody"]);
        }
        let log = place.path("memcached.log");
        let mut process = Process::start(&mut command, &log)?;
        process.wait_until(&log, || UnixStream::connect(&socket).ok())?;
        Ok(Self { process, socket, is_redis: false })
    }

    /// Hits it has seen: counts that were there, and those that began. A count that grows by
    /// a digit begins in a new place, so a few are seen twice.
    pub fn hits(&self) -> anyhow::Result<u64> {
        let mut stream = UnixStream::connect(&self.socket)?;
        if self.is_redis {
            return incremented(stream);
        }
        stream.write_all(b"stats\r\n")?;
        let mut hits = 0;
        for line in BufReader::new(stream).lines() {
            let line = line?;
            if line == "END" {
                break;
            }
            if let Some(figure) =
                ["STAT incr_hits ", "STAT total_items "].iter().find_map(|name| line.strip_prefix(name))
            {
                hits += figure.parse::<u64>()?;
            }
        }
        Ok(hits)
    }
}

/// How often a Redis was told to increment a count or to begin one, by a script as well.
fn incremented(mut stream: UnixStream) -> anyhow::Result<u64> {
    stream.write_all(b"INFO commandstats\r\nQUIT\r\n")?;
    let mut hits = 0;
    for line in BufReader::new(stream).lines() {
        let line = line?;
        if let Some(calls) =
            ["cmdstat_incrby:calls=", "cmdstat_set:calls="].iter().find_map(|name| line.strip_prefix(name))
        {
            hits += calls.split(',').next().unwrap_or_default().parse::<u64>()?;
        }
    }
    Ok(hits)
}
