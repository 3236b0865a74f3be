//! Real parts for the tests: the daemon itself, memcached, Postfix, and clients of each.
//!
//! Every part has a directory of its own under /tmp and loopback ports of its
//! own, so tests run side by side; dropping a part ends its process. All waits
//! here are for an event and not for a fixed time; when the event does not come
//! they panic and show what was seen instead.

mod caddy;
mod certificates;
mod chromium;
mod daemon;
mod dovecot;
mod gate;
mod http;
mod lines;
pub mod load;
pub mod machine;
pub mod memcached;
pub mod mmdb;
mod names;
mod namespace;
mod nginx;
mod numbers;
mod own_process;
pub mod package;
mod place;
mod policy;
mod postfix;
mod process;
mod proxy;
pub mod redis;
mod relay;
mod simulation;
mod site;
mod smtp;
mod spool;
mod sqlite;
mod top;
pub mod traffic;

pub use caddy::Caddy;
pub use chromium::browse;
pub use daemon::{Daemon, ask, command, install, say};
pub use dovecot::Dovecot;
pub use gate::{Fault, Gate};
pub use http::{HttpAnswer, HttpHost, fetch};
pub use lines::Lines;
pub use memcached::Memcached;
pub use names::{Mood, NameServer, Names};
pub use namespace::Namespace;
pub use nginx::{Nginx, replay};
pub use numbers::{resident, statistic};
pub use own_process::{must_pass, own_process, role};
pub use place::{Dir, Port, Stream, connect};
pub use policy::{Policy, request};
pub use postfix::{Postfix, Setup};
pub use process::Process;
pub use proxy::Proxy;
pub use redis::{Redis, RedisCluster, Sentinel};
pub use relay::Relay;
pub use simulation::{Simulation, at};
pub use site::{Host, STORES, Site, eventually, on_each, on_every_store};
pub use smtp::{Reply, Smtp};
pub use sqlite::Sqlite;
pub use top::Top;

use std::fmt::Display;
use std::thread;
use std::time::{Duration, Instant};

use connshaper::config::Config;
use connshaper::policy::Limit;

/// The longest wait for an event, on a machine that is busy with other tests.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The limit that stands at the top level, at its defaults. `key_prefix` begins its keys.
pub fn default_limit(key_prefix: &str) -> Limit {
    Limit { key_prefix: key_prefix.to_owned(), ..Config::default().top().clone() }
}

/// Calls `probe` until it returns something. `what` is for the message if it does not.
#[track_caller]
pub fn until<T>(what: impl Display, mut probe: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}
