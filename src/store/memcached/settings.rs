//! What a configuration says about memcached.

use crate::net::address::Address;
use crate::net::tls::TlsFiles;
use crate::policy::config_key::{KeyValues, read_entries};
use crate::store::shared::login::{StoreLogin, read_tls_files};

/// The servers, and how keys are spread over them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemcachedConfig {
    pub servers: Vec<Address>,
    /// How many servers have each key, 1 or 2.
    pub replicas: usize,
    /// While a server is down, its keys are on the next one.
    pub failover: bool,
    /// How we log in, where a server wants that.
    pub login: StoreLogin,
    /// `None`: without TLS.
    pub tls: Option<TlsFiles>,
}

impl MemcachedConfig {
    /// Reads its keys.
    pub fn read(s: &dyn KeyValues) -> Self {
        let port = s.number("memcached_port") as u16;
        let servers = read_entries(s, "memcached_server", "memcached address", |text| server(text, port));
        let replicas = s.number("replicas") as usize;
        if replicas > servers.len().max(1) {
            let problem = format!("`replicas = {replicas}` needs as many servers");
            s.error("replicas", &problem, "name two or more in `memcached_server`, or leave it at 1");
        }
        if servers.len() <= replicas {
            s.warn("failover", "has no effect: no server is left that could have the keys of another");
        }
        let uses_port = |server: &Address| matches!(server, Address::Inet { port: p, .. } if *p == port);
        if !servers.iter().any(uses_port) {
            s.warn("memcached_port", "has no effect: every server has a port of its own or none");
        }
        let (login, tls) = (read_login(s), read_tls(s, &servers));
        Self { servers, replicas, failover: s.flag("failover"), login, tls }
    }
}

/// The address of a server. `Err` says what to write.
pub fn server(text: &str, port: u16) -> Result<Address, String> {
    match Address::of_server(text, port) {
        Ok(Address::Inet { port: 0, .. }) => Err("write the port memcached listens at".into()),
        other => other.map_err(|error| error.to_string()),
    }
}

fn read_login(s: &dyn KeyValues) -> StoreLogin {
    let login = StoreLogin::read(s, "memcached_username", "memcached_password_file");
    if login.password_file.is_some() && login.username.is_none() {
        let problem = "`memcached_password_file` needs a user";
        s.error("memcached_password_file", problem, "name it in `memcached_username`");
    }
    let is_odd = |name: &String| !name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':');
    if login.username.as_ref().is_some_and(is_odd) {
        let problem = "`memcached_username` has characters that a user of memcached cannot have";
        s.error("memcached_username", problem, "write printable ASCII without spaces and colons");
    }
    login
}

fn read_tls(s: &dyn KeyValues, servers: &[Address]) -> Option<TlsFiles> {
    let keys = ["memcached_ca_file", "memcached_certificate_file", "memcached_key_file"];
    let files = read_tls_files(s, keys);
    if !s.flag("memcached_tls") {
        keys.iter().for_each(|key| s.warn(key, "has no effect without `memcached_tls`"));
        return None;
    }
    if let Some(server) = servers.iter().find(|server| matches!(server, Address::Unix(_))) {
        let problem = format!("`memcached_tls` needs the name of a host, which {server} does not have");
        let remedy = "name hosts in `memcached_server`, or leave `memcached_tls` out";
        s.error("memcached_tls", &problem, remedy);
    }
    Some(files)
}
