//! A private Redis, alone, with Sentinels, or as a cluster.

use std::fs;
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;

use super::{Dir, Namespace, Port, Process, certificates, until};

/// A running Redis. It can be frozen, killed, and started again at the same address.
pub struct Redis {
    process: Process,
    place: Place,
    dir: Dir,
    options: Vec<String>,
    tls: bool,
    /// Beside the Redis, a user that may do what is listed.
    login: Option<(String, String)>,
}

/// Where it listens, beside its unix socket.
enum Place {
    Port(Port),
    /// In the network namespace of this process, reached by `nsenter`.
    Namespace(String),
}

/// The address in a namespace.
const FAR: &str = "10.9.8.2:6379";

/// The user of [`Redis::with_rights`], and its password.
const USER: (&str, &str) = ("counter", "not so secret");

/// What a user needs with scripts, as the manual says.
pub const RIGHTS: &str = "+eval +evalsha +incrby +decrby +get +set +del +pttl +pexpire +zadd +zrem +zscore +zrange \
                          +zrangebyscore +zremrangebyscore +time +watch +unwatch +multi +exec +info";

/// What a user needs without scripts.
pub const RIGHTS_WITHOUT_EVAL: &str =
    "+incrby +decrby +get +mget +set +del +pttl +pexpire +watch +unwatch +multi +exec +info";

impl Redis {
    /// Starts one on a free port, and on a unix socket.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same with further options.
    pub fn start_with(options: &[&str]) -> Self {
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        Self::start_in(Dir::new(), Place::Port(Port::new()), options, false)
    }

    /// Starts one in a namespace, at 10.9.8.2:6379.
    pub fn start_within(namespace: &Namespace) -> Self {
        Self::start_in(Dir::new(), Place::Namespace(namespace.id()), Vec::new(), false)
    }

    /// One that speaks TLS alone, and wants certificates of its own authority.
    pub fn start_with_tls() -> Self {
        let dir = Dir::new();
        certificates::make(&dir);
        Self::start_in(dir, Place::Port(Port::new()), Vec::new(), true)
    }

    /// One with a user that may do only this with keys of ours.
    pub fn with_rights(rights: &str) -> Self {
        let (user, password) = USER;
        let mut redis = Self::start();
        let mut words = vec!["ACL", "SETUSER", user, "on", "~connshaper:*", "~case*", "~c:*"];
        let password_rule = format!(">{password}");
        words.push(&password_rule);
        words.extend(rights.split_whitespace());
        assert_eq!(redis.say(&words), "OK");
        assert_eq!(redis.say(&["ACL", "SETUSER", "default", "off"]), "OK");
        redis.login = Some((user.to_owned(), password.to_owned()));
        redis
    }

    fn start_in(dir: Dir, place: Place, options: Vec<String>, tls: bool) -> Self {
        let process = run(&dir, &place, &options, tls);
        let redis = Self { process, place, dir, options, tls, login: None };
        until("a Redis that answers", || (redis.say(&["PING"]) == "PONG").then_some(()));
        redis
    }

    /// The lines of a configuration that choose it.
    pub fn config(&self) -> String {
        let address = self.address();
        let mut config = match self.tls {
            true => format!(
                "redis_server = \"rediss://localhost:{}\"\nredis_ca_file = \"{}\"\nredis_certificate_file = \"{}\"\n\
                 redis_key_file = \"{}\"\n",
                address.port(),
                self.dir.join("ca.crt").display(),
                self.dir.join("client.crt").display(),
                self.dir.join("client.key").display(),
            ),
            false => format!("redis_server = \"redis://{address}\"\n"),
        };
        if let Some((user, password)) = &self.login {
            let file = self.dir.write("password", &format!("{password}\n"));
            config += &format!("redis_username = {user:?}\nredis_password_file = \"{}\"\n", file.display());
        }
        config
    }

    /// The same over the unix socket.
    pub fn config_of_socket(&self) -> String {
        format!("redis_server = \"unix:{}\"\n", self.dir.join("socket").display())
    }

    /// Address and port, to connect to.
    pub fn address(&self) -> SocketAddr {
        self.place.address()
    }

    pub fn port(&self) -> u16 {
        self.address().port()
    }

    pub fn dir(&self) -> &Dir {
        &self.dir
    }

    /// Sends a command, and returns the answer as redis-cli prints it.
    pub fn say(&self, words: &[&str]) -> String {
        let mut command = Command::new("redis-cli");
        command.arg("-s").arg(self.dir.join("socket"));
        if let Some((user, password)) = &self.login {
            command.args(["--user", user, "--pass", password, "--no-auth-warning"]);
        }
        let output = command.args(words).output().expect("redis-cli");
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    /// The value of a key.
    pub fn value(&self, key: &str) -> Option<String> {
        Some(self.say(&["GET", key])).filter(|value| !value.is_empty())
    }

    /// Whether this node of a cluster has the slot of a key.
    pub fn owns(&self, key: &str) -> bool {
        !self.say(&["EXISTS", key]).starts_with("MOVED")
    }

    /// A number of INFO.
    pub fn statistic(&self, name: &str) -> u64 {
        let info = self.say(&["INFO", "everything"]);
        let value = info.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
        value.unwrap_or_else(|| panic!("no {name} in {info}")).trim().parse().unwrap()
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
        self.process = run(&self.dir, &self.place, &self.options, self.tls);
        until("a Redis that answers", || (self.say(&["PING"]) == "PONG").then_some(()));
    }
}

impl Place {
    fn address(&self) -> SocketAddr {
        match self {
            Self::Port(port) => port.address(),
            Self::Namespace(_) => FAR.parse().unwrap(),
        }
    }
}

fn run(dir: &Dir, place: &Place, options: &[String], tls: bool) -> Process {
    let mut command = match place {
        Place::Port(_) => Command::new("redis-server"),
        Place::Namespace(id) => {
            let mut command = Command::new("nsenter");
            command.args(["--net", "--target", id, "redis-server", "--protected-mode", "no"]);
            command
        }
    };
    let (host, number) = (place.address().ip().to_string(), place.address().port().to_string());
    command.args(["--bind", &host, "--save", "", "--appendonly", "no", "--dir"]).arg(dir.path());
    command.arg("--unixsocket").arg(dir.join("socket")).args(["--unixsocketperm", "777"]);
    match tls {
        false => command.args(["--port", &number]),
        true => {
            command.args(["--port", "0", "--tls-port", &number]);
            for (option, file) in
                [("--tls-ca-cert-file", "ca.crt"), ("--tls-cert-file", "server.crt"), ("--tls-key-file", "server.key")]
            {
                command.arg(option).arg(dir.join(file));
            }
            &mut command
        }
    };
    command.args(options).stdin(Stdio::null()).stdout(Stdio::null());
    Process::start(&mut command, Signal::SIGKILL)
}

/// What a user needs in a cluster beside that.
pub const RIGHTS_IN_CLUSTER: &str = "+cluster|slots +asking";

/// A cluster of three nodes.
pub struct RedisCluster {
    pub nodes: Vec<Redis>,
    /// Lines of a configuration with a user that may do little.
    login: String,
}

impl RedisCluster {
    pub fn start() -> Self {
        let start = || {
            // The port that nodes talk to each other at is their own choice unless told, and may be taken.
            let bus = Port::new();
            let number = bus.address().port().to_string();
            drop(bus);
            Redis::start_with(&[
                "--cluster-enabled",
                "yes",
                "--cluster-port",
                &number,
                "--cluster-require-full-coverage",
                "no",
                "--cluster-node-timeout",
                "1000",
            ])
        };
        let nodes: Vec<Redis> = (0..3).map(|_| start()).collect();
        for (place, (first, last)) in [("0", "5460"), ("5461", "10922"), ("10923", "16383")].into_iter().enumerate() {
            assert_eq!(nodes[place].say(&["CLUSTER", "ADDSLOTSRANGE", first, last]), "OK");
        }
        for node in &nodes[1..] {
            let bus = node.options[3].clone();
            assert_eq!(nodes[0].say(&["CLUSTER", "MEET", "127.0.0.1", &node.port().to_string(), &bus]), "OK");
        }
        for node in &nodes {
            until("a cluster that is whole", || {
                let info = node.say(&["CLUSTER", "INFO"]);
                (info.contains("cluster_state:ok") && info.contains("cluster_slots_assigned:16384")).then_some(())
            });
        }
        Self { nodes, login: String::new() }
    }

    /// One whose configuration has a user that may do only this with keys of ours.
    pub fn with_rights(rights: &str) -> Self {
        let (mut cluster, (user, password)) = (Self::start(), USER);
        let password_rule = format!(">{password}");
        let mut words =
            vec!["ACL", "SETUSER", user, "on", &password_rule, "~connshaper:*", "~{connshaper:*", "~case*", "~{case*"];
        words.extend(rights.split_whitespace().chain(RIGHTS_IN_CLUSTER.split_whitespace()));
        for node in &cluster.nodes {
            assert_eq!(node.say(&words), "OK");
        }
        let file = cluster.nodes[0].dir.write("password", password);
        cluster.login = format!("redis_username = {user:?}\nredis_password_file = \"{}\"\n", file.display());
        cluster
    }

    /// The lines of a configuration that choose it.
    pub fn config(&self) -> String {
        let servers: Vec<String> =
            self.nodes.iter().map(|node| format!("\"redis://127.0.0.1:{}\"", node.port())).collect();
        format!("redis_server = [{}]\nredis_cluster = true\n{}", servers.join(", "), self.login)
    }

    /// The value of a key, on whatever node.
    pub fn value(&self, key: &str) -> Option<String> {
        self.nodes.iter().find_map(|node| node.value(key).filter(|value| !value.starts_with("MOVED")))
    }
}

/// A master with a replica, and a Sentinel that watches both.
pub struct Sentinel {
    pub master: Redis,
    pub replica: Redis,
    port: Port,
    _process: Process,
    _dir: Dir,
}

impl Sentinel {
    pub fn start() -> Self {
        let master = Redis::start();
        let replica = Redis::start_with(&["--replicaof", "127.0.0.1", &master.port().to_string()]);
        until("a replica that has all", || {
            replica.say(&["INFO", "replication"]).contains("link_status:up").then_some(())
        });
        let (dir, port) = (Dir::new(), Port::new());
        let file = dir.write(
            "sentinel.conf",
            &format!(
                "port {}\nbind 127.0.0.1\ndir {}\nsentinel monitor mymaster 127.0.0.1 {} 1\n\
                 sentinel down-after-milliseconds mymaster 500\nsentinel failover-timeout mymaster 3000\n",
                port.address().port(),
                dir.path().display(),
                master.port()
            ),
        );
        fs::metadata(&file).unwrap();
        let mut command = Command::new("redis-sentinel");
        command.arg(&file).stdin(Stdio::null()).stdout(Stdio::null());
        let process = Process::start(&mut command, Signal::SIGKILL);
        let sentinel = Self { master, replica, port, _process: process, _dir: dir };
        until("a Sentinel that knows the replica", || {
            sentinel.say(&["SENTINEL", "replicas", "mymaster"]).contains("flags").then_some(())
        });
        sentinel
    }

    /// The lines of a configuration that choose it. The first Sentinel is not there.
    pub fn config(&self) -> String {
        format!(
            "redis_server = [\"redis://127.0.0.1:1\", \"redis://{}\"]\nredis_sentinel = \"mymaster\"\n",
            self.port.address()
        )
    }

    pub fn say(&self, words: &[&str]) -> String {
        let output =
            Command::new("redis-cli").args(["-p", &self.port.address().port().to_string()]).args(words).output();
        String::from_utf8_lossy(&output.expect("redis-cli").stdout).trim_end().to_owned()
    }
}
