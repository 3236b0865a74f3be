//! The store, and the file that keeps counts across restarts.

use std::path::PathBuf;
use std::sync::Arc;

use super::super::effective::Origin;
use super::super::settings::TableSettings;
use super::super::{StateConfig, StoreConfig};
use crate::store::{STORES, SharedStoreConfig};

/// The keys that choose a store, with `and` or `or` before the last one. Quoted as messages quote keys, or bare.
pub(in crate::config) fn choices(conjunction: &str, quote: &str) -> String {
    let keys: Vec<String> = STORES.iter().map(|store| format!("{quote}{}{quote}", store.key())).collect();
    match keys.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} {conjunction} {last}", rest.join(", ")),
        _ => keys.concat(),
    }
}

pub(super) fn store(s: &TableSettings) -> StoreConfig {
    let on_failure = s.variant("on_store_failure");
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
fn shared(s: &TableSettings) -> Option<Arc<dyn SharedStoreConfig>> {
    let mut chosen = STORES.iter().filter(|store| s.origin(store.key()) != Origin::Default);
    let store = chosen.next()?;
    for second in chosen {
        let problem = format!("`{}` and `{}` each choose a store for the counts", store.key(), second.key());
        s.error::<()>(second.key(), problem, "remove one of them: the counts are kept in one store");
    }
    Some((store.read)(s))
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
