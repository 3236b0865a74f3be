//! What the daemon does by the clock: expired counts are dropped, numbers are told.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::yield_now;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::task::TaskTracker;

use crate::clock::Now;
use crate::config::Config;
use crate::notify;
use crate::service::Service;

/// Places of the table in this process that are looked at for expired entries before requests have their turn.
const SWEEP: usize = 2048;

/// What is looked after.
#[derive(Debug)]
pub struct Housekeeping {
    service: Arc<Service>,
    connections: TaskTracker,
    /// Seconds between two STATISTICS lines; 0: none.
    statistics_interval: u64,
    /// How the store is, as systemd knows it.
    told: &'static str,
}

impl Housekeeping {
    /// For a daemon with this configuration.
    pub fn new(config: &Config, service: Arc<Service>, connections: TaskTracker) -> Self {
        Self {
            service,
            connections,
            statistics_interval: config.log.statistics_interval.as_secs(),
            // What systemd takes for granted before it is told otherwise; a server may be away from the first.
            told: if config.store.servers.is_empty() { "memory" } else { "up" },
        }
    }

    /// Does it all, once a second.
    pub async fn run(mut self) {
        let mut second = interval(Duration::from_secs(1));
        second.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for elapsed in 0_u64.. {
            second.tick().await;
            let now = Now::read();
            sweep(&self.service, now).await;
            self.service.log.mention_suppressed(now);
            self.tell_state();
            if is_due(elapsed, self.statistics_interval) {
                self.service.report(self.connections.len());
            }
        }
    }

    fn tell_state(&mut self) {
        let state = self.service.rules.load().store.state();
        if std::mem::replace(&mut self.told, state) != state {
            // The log tells of it too; a service manager that cannot be told is no news.
            let _ = notify::status(&format!("store: {state}"));
        }
    }
}

/// Whether something is due that is done every `interval` seconds; 0: never.
fn is_due(elapsed: u64, interval: u64) -> bool {
    interval > 0 && elapsed > 0 && elapsed.is_multiple_of(interval)
}

/// Looks at an eighth of the table, so that what expired is gone within some ten seconds.
async fn sweep(service: &Service, now: Now) {
    let table = Arc::clone(service.rules.load().store.table());
    for _ in 0..=table.len() / 8 / SWEEP {
        table.sweep(now.monotonic, SWEEP);
        yield_now().await;
    }
}
