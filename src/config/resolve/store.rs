//! Where hits are counted, and what of that outlives the process.

use std::path::PathBuf;
use std::time::Duration;

use super::super::settings::Settings;
use super::super::{OnStoreFailure, StateConfig, StoreConfig};
use super::{DAY, MILLISECOND, SECOND};
use crate::config::resolve::endpoints as places;
use crate::policy::key::MAX_SITE_PREFIX;

/// Postfix waits ten seconds for us as our manual sets it up; the store may have half of that.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(5);

/// A reset on another host is to be noticed soon.
const LONGEST_MEMORY: Duration = Duration::from_secs(60);

pub(super) fn read(s: &Settings, default: StoreConfig) -> StoreConfig {
    let port = s.integer("memcached_port", 1..=65535).unwrap_or(11211) as u16;
    let servers = places::servers(s, port).unwrap_or(default.servers);
    StoreConfig {
        replicas: replicas(s, servers.len()).unwrap_or(default.replicas),
        failover: s.truth("failover").unwrap_or(default.failover),
        over_memory: s
            .duration("over_memory", Duration::ZERO..=LONGEST_MEMORY, MILLISECOND)
            .unwrap_or(default.over_memory),
        servers,
        timeout: s.duration("store_timeout", MILLISECOND..=LONGEST_TIMEOUT, MILLISECOND).unwrap_or(default.timeout),
        on_failure: s.choice(
            "on_store_failure",
            &[("local", OnStoreFailure::Local), ("dunno", OnStoreFailure::Dunno), ("defer", OnStoreFailure::Defer)],
        ),
        key_prefix: key_prefix(s).unwrap_or(default.key_prefix),
        max_clients: s.integer("max_clients", 1000..=1_000_000_000).map_or(default.max_clients, |n| n as usize),
    }
}

pub(super) fn state(s: &Settings, default: StateConfig) -> StateConfig {
    StateConfig {
        file: state_file(s),
        interval: s.duration("state_interval", Duration::ZERO..=DAY, SECOND).unwrap_or(default.interval),
    }
}

fn state_file(s: &Settings) -> Option<PathBuf> {
    let (path, span) = s.string("state_file")?;
    let path = PathBuf::from(path);
    if !path.is_absolute() || path.file_name().is_none() {
        let remedy = "write it as in \"/var/lib/connshaper/state\"";
        return s.diagnostics.error(&span, "`state_file` is no absolute path of a file", remedy);
    }
    Some(path)
}

fn replicas(s: &Settings, servers: usize) -> Option<usize> {
    let replicas = s.integer("replicas", 1..=2)? as usize;
    if replicas > servers.max(1) {
        let problem = format!("`replicas = {replicas}` needs as many servers");
        let remedy = "name two or more in `memcached_server`, or leave it at 1";
        return s.diagnostics.error(&s.span("replicas").unwrap_or_default(), problem, remedy);
    }
    Some(replicas)
}

fn key_prefix(s: &Settings) -> Option<String> {
    let (prefix, span) = s.string("key_prefix")?;
    if prefix.len() > MAX_SITE_PREFIX {
        let problem = "`key_prefix` is too long";
        return s.diagnostics.error(&span, problem, format!("write at most {MAX_SITE_PREFIX} characters"));
    }
    if !prefix.bytes().all(|b| b.is_ascii_graphic()) {
        let problem = "`key_prefix` has characters that a memcached key cannot have";
        return s.diagnostics.error(&span, problem, "write printable ASCII without spaces");
    }
    Some(prefix)
}
