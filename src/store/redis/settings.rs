//! What a configuration says about Redis or Valkey.

use std::fmt;

use crate::net::address::Address;
use crate::net::tls::TlsFiles;
use crate::policy::config_key::KeyValues;
use crate::store::shared::login::{StoreLogin, read_tls_files};

/// The port of a server that is named without one.
const PORT: u16 = 6379;

/// The port of a Sentinel that is named without one.
const SENTINEL_PORT: u16 = 26_379;

/// The servers, how they belong together, and how we log in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisConfig {
    pub servers: Vec<RedisServer>,
    pub topology: Topology,
    pub login: StoreLogin,
    pub tls: TlsFiles,
    /// What keys begin with.
    pub key_prefix: String,
}

/// What the servers of the configuration are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Topology {
    /// Each key is on one of them.
    Servers,
    /// Some nodes of a cluster, which knows where each key is.
    Cluster,
    /// Sentinels, which know where the master of this name is.
    Sentinel(String),
}

/// One server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisServer {
    pub address: Address,
    pub tls: bool,
    pub database: u32,
}

impl RedisConfig {
    /// Reads its keys.
    pub fn read(s: &dyn KeyValues) -> Self {
        let topology = match (s.text("redis_sentinel"), s.flag("redis_cluster")) {
            (Some(name), true) => {
                let problem = "`redis_sentinel` and `redis_cluster` exclude each other";
                s.error("redis_sentinel", problem, "remove one: a cluster replaces its own nodes");
                Topology::Sentinel(name)
            }
            (Some(name), false) => Topology::Sentinel(name),
            (None, true) => Topology::Cluster,
            (None, false) => Topology::Servers,
        };
        let servers = read_servers(s, &topology);
        let login = StoreLogin::read(s, "redis_username", "redis_password_file");
        let keys = ["redis_ca_file", "redis_certificate_file", "redis_key_file"];
        let tls = read_tls_files(s, keys);
        if !servers.iter().any(|server| server.tls) {
            keys.iter().for_each(|key| s.warn(key, "has no effect: no server is named with `rediss://`"));
        }
        Self { servers, topology, login, tls, key_prefix: s.text("key_prefix").unwrap_or_default() }
    }
}

fn read_servers(s: &dyn KeyValues, topology: &Topology) -> Vec<RedisServer> {
    let port = if matches!(topology, Topology::Sentinel(_)) { SENTINEL_PORT } else { PORT };
    let mut servers: Vec<RedisServer> = Vec::new();
    for (text, span) in s.entries("redis_server") {
        match RedisServer::parse(text, port) {
            Ok(server) if servers.contains(&server) => s.warn_in(span, &format!("{server} is named twice")),
            Ok(RedisServer { database, .. }) if database != 0 && *topology == Topology::Cluster => {
                s.error_in(span, "a cluster has database 0 only", "leave the number out");
            }
            Ok(server) => servers.push(server),
            Err(remedy) => s.invalid(span, &without_password(text), "Redis server", &remedy),
        }
    }
    servers
}

/// A server without what stands before its `@`, which may be a password.
fn without_password(text: &str) -> String {
    match (text.find("://"), text.rfind('@')) {
        (Some(scheme), Some(at)) if scheme < at => format!("{}...{}", &text[..scheme + 3], &text[at..]),
        _ => text.to_owned(),
    }
}

impl RedisServer {
    /// Reads `redis://HOST[:PORT][/DATABASE]`, `rediss://` with TLS, or `unix:PATH`. `Err` says what to write.
    pub fn parse(text: &str, default_port: u16) -> Result<Self, String> {
        const FORM: &str = "write it as in \"redis://redis.example.com:6379/0\", \"rediss://redis.example.com\" or \
                            \"unix:/run/redis/redis.sock\"";
        if text.starts_with("unix:") {
            let address = Address::of_server(text, default_port).map_err(|error| error.to_string())?;
            return Ok(Self { address, tls: false, database: 0 });
        }
        let (scheme, rest) = text.split_once("://").ok_or(FORM)?;
        let tls = match scheme {
            "redis" | "valkey" => false,
            "rediss" | "valkeys" => true,
            _ => return Err(FORM.to_owned()),
        };
        if rest.contains('@') {
            return Err("write the user as `redis_username`, and the password into the file that \
                        `redis_password_file` names"
                .to_owned());
        }
        let (host, database) = match rest.split_once('/') {
            None | Some((_, "")) => (rest.trim_end_matches('/'), 0),
            Some((host, database)) => {
                (host, database.parse().map_err(|_| "write the number of the database behind the `/`")?)
            }
        };
        match Address::of_server(host, default_port) {
            Ok(Address::Inet { port: 0, .. }) => Err("write the port the server listens at".to_owned()),
            Ok(address @ Address::Inet { .. }) => Ok(Self { address, tls, database }),
            Ok(Address::Unix(_)) => Err(FORM.to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }
}

impl fmt::Display for RedisServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
            inet => {
                let scheme = if self.tls { "rediss" } else { "redis" };
                write!(f, "{scheme}://{}/{}", inet.to_string().trim_start_matches("inet:"), self.database)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_written_as_an_address_and_never_with_a_password() {
        let shown = |text: &str| RedisServer::parse(text, PORT).map(|server| server.to_string());
        assert_eq!(shown("redis://mc1").unwrap(), "redis://mc1:6379/0");
        assert_eq!(shown("redis://mc1:7000/3").unwrap(), "redis://mc1:7000/3");
        assert_eq!(shown("rediss://[2001:db8::1]:7000/").unwrap(), "rediss://[2001:db8::1]:7000/0");
        assert_eq!(shown("unix:/run/redis.sock").unwrap(), "unix:/run/redis.sock");
        for wrong in ["mc1", "redis://", "redis://mc1:0", "redis://mc1/x", "http://mc1", "redis:///run/redis.sock"] {
            assert!(shown(wrong).is_err(), "{wrong}");
        }
        assert!(shown("redis://joe:secret@mc1").unwrap_err().contains("redis_password_file"));
    }
}
