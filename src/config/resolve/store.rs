//! The store, and the file that keeps counts across restarts.

use std::path::PathBuf;

use super::super::diagnostics::quoted;
use super::super::effective::Origin;
use super::super::settings::TableSettings;
use super::super::{OnStoreFailure, StateConfig, StoreConfig};
use super::endpoints;
use crate::net::address::Address;
use crate::net::tls::TlsFiles;
use crate::store::SharedStoreConfig;
use crate::store::memcached::MemcachedConfig;
use crate::store::redis::settings::{PORT, SENTINEL_PORT};
use crate::store::redis::{RedisConfig, RedisServer, Topology};
use crate::store::shared::login::StoreLogin;
use crate::store::sqlite::{SqliteConfig, Synchronous};

/// A shared store, as its keys choose it.
pub(in crate::config) struct StoreKeys {
    /// The key that chooses it.
    pub key: &'static str,
    /// Keys that only it has.
    pub own: &'static [&'static str],
    read: fn(&TableSettings) -> SharedStoreConfig,
}

/// Every shared store.
pub(in crate::config) const STORES: &[StoreKeys] = &[
    StoreKeys { key: "memcached_server", own: MEMCACHED_KEYS, read: memcached },
    StoreKeys { key: "redis_server", own: REDIS_KEYS, read: redis },
    StoreKeys { key: "sqlite_file", own: &["sqlite_synchronous"], read: sqlite },
];

const MEMCACHED_KEYS: &[&str] = &[
    "memcached_port",
    "memcached_username",
    "memcached_password_file",
    "memcached_tls",
    "memcached_ca_file",
    "memcached_certificate_file",
    "memcached_key_file",
    "replicas",
    "failover",
];

const REDIS_KEYS: &[&str] = &[
    "redis_username",
    "redis_password_file",
    "redis_ca_file",
    "redis_certificate_file",
    "redis_key_file",
    "redis_cluster",
    "redis_sentinel",
];

/// The keys that choose a store, with `and` or `or` before the last one. Quoted as messages quote keys, or bare.
pub(in crate::config) fn choices(conjunction: &str, quote: &str) -> String {
    let keys: Vec<String> = STORES.iter().map(|store| format!("{quote}{}{quote}", store.key)).collect();
    match keys.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} {conjunction} {last}", rest.join(", ")),
        _ => keys.concat(),
    }
}

pub(super) fn store(s: &TableSettings) -> StoreConfig {
    let on_failure = s.choice("on_store_failure", &OnStoreFailure::WORDS);
    StoreConfig {
        shared: shared(s),
        over_memory: s.get("over_memory"),
        timeout: s.get("store_timeout"),
        // Under inetd the default is another.
        on_failure: (s.origin("on_store_failure") != Origin::Default).then_some(on_failure),
        key_prefix: key_prefix(s),
        max_clients: s.get("max_clients"),
    }
}

pub(super) fn state(s: &TableSettings) -> StateConfig {
    let file = s.get::<Option<String>>("state_file").map(PathBuf::from);
    if file.as_ref().is_some_and(|path| !path.is_absolute() || path.file_name().is_none()) {
        let remedy = "write it as in \"/var/lib/connshaper/state\"";
        s.error::<()>("state_file", "`state_file` is not the absolute path of a file", remedy);
    }
    StateConfig { file, interval: s.get("state_interval") }
}

/// The store that is chosen. Two are a mistake: counts are in one place.
fn shared(s: &TableSettings) -> Option<SharedStoreConfig> {
    let mut chosen = STORES.iter().filter(|store| s.origin(store.key) != Origin::Default);
    let store = chosen.next()?;
    for second in chosen {
        let problem = format!("`{}` and `{}` each choose a store for the counts", store.key, second.key);
        s.error::<()>(second.key, problem, "remove one of them: the counts are kept in one store");
    }
    Some((store.read)(s))
}

fn memcached(s: &TableSettings) -> SharedStoreConfig {
    let servers = endpoints::servers(s);
    let replicas = replicas(s, servers.len());
    let login = login(s, "memcached_username", "memcached_password_file");
    if login.password_file.is_some() && login.username.is_none() {
        let problem = "`memcached_password_file` needs a user";
        s.error::<()>("memcached_password_file", problem, "name it in `memcached_username`");
    }
    let is_odd = |name: &String| !name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':');
    if login.username.as_ref().is_some_and(is_odd) {
        let problem = "`memcached_username` has characters that a user of memcached cannot have";
        s.error::<()>("memcached_username", problem, "write printable ASCII without spaces and colons");
    }
    let files = tls_files(s, ["memcached_ca_file", "memcached_certificate_file", "memcached_key_file"]);
    let tls = s.get("memcached_tls");
    match servers.iter().find(|server| matches!(server, Address::Unix(_))) {
        Some(server) if tls => {
            let problem = format!("`memcached_tls` needs the name of a host, which {server} does not have");
            s.error::<()>("memcached_tls", problem, "name hosts in `memcached_server`, or leave `memcached_tls` out");
        }
        _ if !tls => {
            s.warn_each(
                &["memcached_ca_file", "memcached_certificate_file", "memcached_key_file"],
                "has no effect without `memcached_tls`",
            );
        }
        _ => {}
    }
    let tls = tls.then_some(files);
    SharedStoreConfig::Memcached(MemcachedConfig { servers, replicas, failover: s.get("failover"), login, tls })
}

/// How we log in. A user without a password is a mistake.
fn login(s: &TableSettings, user_key: &'static str, file_key: &'static str) -> StoreLogin {
    let login = StoreLogin { username: s.get(user_key), password_file: absolute(s, file_key, SECRET) };
    if login.username.is_some() && login.password_file.is_none() {
        let problem = format!("`{user_key}` needs a password");
        s.error::<()>(user_key, problem, format!("name the file that has it in `{file_key}`"));
    }
    login
}

/// The files for TLS. A certificate without its key is a mistake, and so is a key alone.
fn tls_files(s: &TableSettings, [authorities, certificate, key]: [&'static str; 3]) -> TlsFiles {
    let files = (absolute(s, certificate, SECRET), absolute(s, key, SECRET));
    let alone = match &files {
        (Some(_), None) => Some((certificate, key)),
        (None, Some(_)) => Some((key, certificate)),
        _ => None,
    };
    if let Some((one, other)) = alone {
        s.error::<()>(one, format!("`{one}` needs `{other}`"), "name both files, or neither");
    }
    TlsFiles { authorities: absolute(s, authorities, SECRET), identity: files.0.zip(files.1) }
}

fn redis(s: &TableSettings) -> SharedStoreConfig {
    let sentinel: Option<String> = s.get("redis_sentinel");
    let topology = match (sentinel, s.get("redis_cluster")) {
        (Some(name), true) => {
            let problem = "`redis_sentinel` and `redis_cluster` exclude each other";
            s.error::<()>("redis_sentinel", problem, "remove one: a cluster replaces its own nodes");
            Topology::Sentinel(name)
        }
        (Some(name), false) => Topology::Sentinel(name),
        (None, true) => Topology::Cluster,
        (None, false) => Topology::Servers,
    };
    let port = if matches!(topology, Topology::Sentinel(_)) { SENTINEL_PORT } else { PORT };
    let mut servers: Vec<RedisServer> = Vec::new();
    for (text, span) in s.strings("redis_server").unwrap_or_default() {
        match RedisServer::parse(text, port) {
            Ok(server) if servers.contains(&server) => s.diagnostics.warn(span, format!("{server} is named twice")),
            Ok(RedisServer { database, .. }) if database != 0 && topology == Topology::Cluster => {
                s.diagnostics.error::<()>(span, "a cluster has database 0 only", "leave the number out");
            }
            Ok(server) => servers.push(server),
            Err(remedy) => {
                s.diagnostics.error::<()>(
                    span,
                    format!("{} is not a valid Redis server", quoted(&without_password(text))),
                    remedy,
                );
            }
        }
    }
    let login = login(s, "redis_username", "redis_password_file");
    let tls = tls_files(s, ["redis_ca_file", "redis_certificate_file", "redis_key_file"]);
    if !servers.iter().any(|server| server.tls) {
        s.warn_each(
            &["redis_ca_file", "redis_certificate_file", "redis_key_file"],
            "has no effect: no server is named with `rediss://`",
        );
    }
    SharedStoreConfig::Redis(RedisConfig { servers, topology, login, tls, key_prefix: s.get("key_prefix") })
}

/// A server without what stands before its `@`, which may be a password.
fn without_password(text: &str) -> String {
    match (text.find("://"), text.rfind('@')) {
        (Some(scheme), Some(at)) if scheme < at => format!("{}...{}", &text[..scheme + 3], &text[at..]),
        _ => text.to_owned(),
    }
}

/// An example of the path of a password, a certificate or a key.
const SECRET: &str = "/etc/connshaper/NAME";

/// The path of a file, which is absolute.
fn absolute(s: &TableSettings, key: &'static str, example: &str) -> Option<PathBuf> {
    let path = PathBuf::from(s.get::<Option<String>>(key)?);
    if !path.is_absolute() || path.file_name().is_none() {
        let problem = format!("`{key}` is not the absolute path of a file");
        s.error::<()>(key, problem, format!("write it as in `{key} = \"{example}\"`"));
    }
    Some(path)
}

fn sqlite(s: &TableSettings) -> SharedStoreConfig {
    let path = absolute(s, "sqlite_file", "/var/lib/connshaper/counts.db").unwrap_or_default();
    let synchronous = s.choice("sqlite_synchronous", &Synchronous::WORDS);
    SharedStoreConfig::Sqlite(SqliteConfig { path, synchronous, max_clients: s.get("max_clients") })
}

fn replicas(s: &TableSettings, servers: usize) -> usize {
    let replicas = s.get("replicas");
    if replicas > servers.max(1) {
        let problem = format!("`replicas = {replicas}` needs as many servers");
        s.error::<()>("replicas", problem, "name two or more in `memcached_server`, or leave it at 1");
    }
    replicas
}

fn key_prefix(s: &TableSettings) -> String {
    // memcached takes keys up to 250 bytes without spaces, and what is counted needs the rest.
    const LONGEST: usize = 100;
    let prefix: String = s.get("key_prefix");
    if prefix.len() > LONGEST {
        let remedy = format!("write at most {LONGEST} characters");
        s.error::<()>("key_prefix", "`key_prefix` is too long", remedy);
    } else if !prefix.bytes().all(|b| b.is_ascii_graphic()) {
        let problem = "`key_prefix` has characters that a key in the store cannot have";
        s.error::<()>("key_prefix", problem, "write printable ASCII without spaces");
    }
    prefix
}
