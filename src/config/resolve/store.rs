//! The store, and the file that keeps counts across restarts.

use std::path::PathBuf;

use super::super::effective::Origin;
use super::super::settings::TableSettings;
use super::super::{OnStoreFailure, StateConfig, StoreConfig};
use super::endpoints;

pub(super) fn store(s: &TableSettings) -> StoreConfig {
    let servers = endpoints::servers(s);
    let on_failure = s.choice("on_store_failure", &OnStoreFailure::WORDS);
    StoreConfig {
        replicas: replicas(s, servers.len()),
        servers,
        failover: s.get("failover"),
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

fn replicas(s: &TableSettings, servers: usize) -> usize {
    let replicas = s.get("replicas");
    if replicas > servers.max(1) {
        let problem = format!("`replicas = {replicas}` needs as many servers");
        s.error::<()>("replicas", problem, "name two or more in `memcached_server`, or leave it at 1");
    }
    replicas
}

fn key_prefix(s: &TableSettings) -> String {
    // memcached takes keys up to 250 bytes without spaces; the address needs the rest.
    const LONGEST: usize = 100;
    let prefix: String = s.get("key_prefix");
    if prefix.len() > LONGEST {
        let remedy = format!("write at most {LONGEST} characters");
        s.error::<()>("key_prefix", "`key_prefix` is too long", remedy);
    } else if !prefix.bytes().all(|b| b.is_ascii_graphic()) {
        let problem = "`key_prefix` has characters that a memcached key cannot have";
        s.error::<()>("key_prefix", problem, "write printable ASCII without spaces");
    }
    prefix
}
