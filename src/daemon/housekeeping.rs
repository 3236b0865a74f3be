//! Periodic work: drops expired counts, logs statistics, saves counts.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::{JoinHandle, spawn_blocking, yield_now};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::daemon::notify;
use crate::daemon::state_file::StateFile;
use crate::engine::decide::take_back_all_unsent;
use crate::engine::service::Service;
use crate::net::clock::Now;
use crate::observe::log::Severity;

/// Places of the table in this process that are looked at for expired entries before requests have their turn.
const SWEEP: usize = 2048;

/// The state of the periodic work.
#[derive(Debug)]
pub struct Housekeeping {
    service: Arc<Service>,
    connections: TaskTracker,
    /// Seconds between two STATISTICS lines; 0: none.
    statistics_interval: u64,
    /// The file that counts are saved in, and the seconds between; 0: at the end only.
    state: Option<Arc<StateFile>>,
    state_interval: u64,
    /// The state of the store that systemd was told last.
    told: &'static str,
    /// Whether the warning about forgotten clients was logged.
    full: bool,
}

impl Housekeeping {
    /// For a daemon with this configuration.
    pub fn new(
        config: &Config,
        service: Arc<Service>,
        connections: TaskTracker,
        state: Option<Arc<StateFile>>,
    ) -> Self {
        Self {
            service,
            connections,
            statistics_interval: config.log.statistics_interval.as_secs(),
            state,
            state_interval: config.state.interval.as_secs(),
            // The state that systemd assumes before the first message; a server may be down from the start.
            told: if config.store.shared.is_none() { "memory" } else { "up" },
            full: false,
        }
    }

    /// Does it all, once a second.
    pub async fn run(mut self) {
        let mut second = interval(Duration::from_secs(1));
        second.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut saving: Option<JoinHandle<()>> = None;
        for elapsed in 0_u64.. {
            second.tick().await;
            let now = Now::read();
            sweep(&self.service, now).await;
            self.service.sessions.end_silent_messages(now);
            take_back_all_unsent(&self.service, now);
            self.service.log.mention_suppressed(now);
            self.service.log.tell_held();
            self.service.sample_rates(now);
            self.service.daily.keep_up(now);
            self.tell_full();
            self.service.diagnosis.conclude(&self.service.log);
            self.service.limit_use.conclude(&self.service.rules.load().policy, &self.service.log);
            self.tell_state();
            if is_due(elapsed, self.statistics_interval) {
                self.service.report(self.connections.len());
            }
            // No second save while one is under way, on a slow disk.
            if is_due(elapsed, self.state_interval) && saving.as_ref().is_none_or(JoinHandle::is_finished) {
                saving = self.state.as_ref().map(|state| save(state, &self.service));
            }
        }
    }

    /// Says, once, that clients are forgotten for want of room. How many is among the statistics.
    fn tell_full(&mut self) {
        let rules = self.service.rules.load();
        let table = rules.store.table();
        if !self.full && table.evictions() > 0 {
            self.full = true;
            self.service.log.line(Severity::Warning, "MAX_CLIENTS", |line| {
                line.field("max_clients", table.max_clients());
            });
        }
    }

    fn tell_state(&mut self) {
        let state = self.service.rules.load().store.state();
        if std::mem::replace(&mut self.told, state) != state {
            // Errors are ignored: the log has the state too.
            let _ = notify::status(&format!("store: {state}"));
        }
    }
}

/// Saves the counts where a disk can keep nobody waiting.
pub fn save(state: &Arc<StateFile>, service: &Service) -> JoinHandle<()> {
    let (state, rules, daily) = (Arc::clone(state), service.rules.load_full(), Arc::clone(&service.daily));
    spawn_blocking(move || {
        let now = Now::read();
        state.save(&rules.policy, rules.store.table(), &daily.save(now), now)
    })
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
