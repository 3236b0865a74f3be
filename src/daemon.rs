//! The daemon: composes the parts, heeds signals, reloads, and stops in order.

mod list_watch;
mod reload;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::task::yield_now;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::task::TaskTracker;

use crate::acceptor::Acceptor;
use crate::clock::Now;
use crate::config::Config;
use crate::descriptors;
use crate::listener::Listener;
use crate::log::{Log, Severity};
use crate::notify;
use crate::policy::lists::Lists;
use crate::service::Service;
use crate::signals::{Order, Signals};
use crate::stop::Stop;
use list_watch::ListWatch;

/// How long requests that were asked before a stop may take; each has its own, shorter, deadline.
const LAST_ANSWERS: Duration = Duration::from_secs(5);

/// How long the end of the process waits for the log, and for systemd.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Places of the table in this process that are looked at for expired entries before requests have their turn.
const SWEEP: usize = 2048;

/// Serves until SIGTERM or SIGINT. `path` is what a reload reads again.
pub async fn run(config: Config, path: Option<PathBuf>, listen_is_fixed: bool) -> anyhow::Result<()> {
    // Before anything that takes time: a SIGHUP too early would end us.
    let signals = Signals::listen()?;
    let log = Log::open(&config.log).context("the log cannot be opened")?;
    let max_connections = max_connections(&config, &log);
    let listeners = listen(&config)?;
    let daemon = Daemon::new(config, path, listen_is_fixed, max_connections, log.clone());
    daemon.started(&listeners);
    daemon.serve(listeners, signals).await;
    log.line(Severity::Info, "STOPPED", |_| {});
    log.flush(LAST_WORDS);
    notify::flush(LAST_WORDS);
    Ok(())
}

/// As many policy connections as are configured, or as there can be descriptors.
fn max_connections(config: &Config, log: &Log) -> usize {
    let possible = descriptors::policy_connections();
    if possible < config.max_connections {
        log.line(Severity::Warning, "FEW_DESCRIPTORS", |line| {
            line.field("max_connections", config.max_connections).field("possible", possible);
        });
    }
    possible.min(config.max_connections)
}

/// Sockets that systemd passed are used instead of what the configuration says.
fn listen(config: &Config) -> anyhow::Result<Vec<Listener>> {
    let passed = Listener::from_systemd()?;
    if !passed.is_empty() {
        return Ok(passed);
    }
    let mut listeners = Vec::new();
    for address in &config.listen {
        listeners.extend(Listener::bind(address, &config.socket)?);
    }
    Ok(listeners)
}

struct Daemon {
    service: Arc<Service>,
    /// What it was started with.
    config: Config,
    path: Option<PathBuf>,
    /// `--listen` replaces what the file says, also after a reload.
    listen_is_fixed: bool,
    /// As there were descriptors for at the start.
    max_connections: usize,
    log: Log,
    stop: Stop,
    connections: TaskTracker,
}

impl Daemon {
    fn new(mut config: Config, path: Option<PathBuf>, listen_is_fixed: bool, max_connections: usize, log: Log) -> Self {
        let service = Arc::new(Service::new(&config, log.clone()));
        // The policy has them, and a million netblocks are not kept twice.
        config.lists = Lists::default();
        let (stop, connections) = (Stop::default(), TaskTracker::new());
        Self { service, config, path, listen_is_fixed, max_connections, log, stop, connections }
    }

    fn started(&self, listeners: &[Listener]) {
        let listen: Vec<String> = listeners.iter().map(|listener| listener.address().to_string()).collect();
        self.log.line(Severity::Info, "START", |line| {
            line.field("version", env!("CARGO_PKG_VERSION"))
                .field("form", self.config.form.name())
                .field("listen", listen.join(","))
                .field("store", self.service.rules.load().store.name());
        });
        self.warn(&self.config);
    }

    async fn serve(self, listeners: Vec<Listener>, mut signals: Signals) {
        for listener in listeners {
            tokio::spawn(self.acceptor().accept(listener));
        }
        tokio::spawn(self.housekeeping());
        tokio::spawn(notify::feed_watchdog());
        self.tell(notify::ready());
        // What is in force: lists that are read again come into it.
        let mut current = Arc::new(self.config.clone());
        let mut lists = ListWatch::new(&current);
        loop {
            let news = tokio::select! {
                order = signals.next() => News::Order(order),
                changed = lists.changed() => News::Lists(changed),
            };
            // A file system that hangs does not keep us from stopping.
            match news {
                News::Order(Order::Stop) => break,
                News::Order(Order::Reload) => {
                    self.tell(notify::reloading());
                    let Some(loaded) = signals.stop_or(&mut self.load()).await else {
                        break;
                    };
                    if let Some(config) = self.finish_reload(loaded) {
                        current = Arc::new(config);
                        lists = ListWatch::new(&current);
                    }
                    self.tell(notify::ready());
                }
                News::Lists(changed) => {
                    let Some(loaded) = signals.stop_or(&mut self.load_lists(&current)).await else {
                        break;
                    };
                    if let Some(config) = self.finish_lists(loaded, &changed) {
                        current = Arc::new(config);
                    }
                }
            }
        }
        self.stop().await;
    }

    /// Answers what was asked, then closes.
    async fn stop(&self) {
        self.tell(notify::stopping());
        self.log.line(Severity::Info, "STOPPING", |_| {});
        self.stop.say();
        self.connections.close();
        let unfinished = timeout(LAST_ANSWERS, self.connections.wait()).await.is_err();
        if unfinished {
            let connections = self.connections.len();
            self.log.line(Severity::Warning, "UNFINISHED", |line| {
                line.field("connections", connections);
            });
        }
        self.service.report(0);
    }

    fn warn(&self, config: &Config) {
        for warning in &config.warnings {
            self.log.line(Severity::Warning, "CONFIGURATION", |line| {
                line.field("warning", warning);
            });
        }
    }

    fn tell(&self, told: io::Result<()>) {
        if let Err(error) = told {
            self.log.line(Severity::Warning, "NOTIFY_FAILED", |line| {
                line.field("error", error);
            });
        }
    }

    fn acceptor(&self) -> Acceptor {
        Acceptor {
            service: Arc::clone(&self.service),
            stop: self.stop.clone(),
            connections: self.connections.clone(),
            max_connections: self.max_connections,
        }
    }

    /// What is done by the clock: expired counts are dropped, numbers are told.
    fn housekeeping(&self) -> impl Future<Output = ()> + use<> {
        let (service, connections) = (Arc::clone(&self.service), self.connections.clone());
        let statistics_interval = self.config.log.statistics_interval.as_secs();
        let shared = !self.config.store.servers.is_empty();
        async move {
            // What systemd takes for granted before it is told otherwise; a server may be away from the first.
            let mut told = if shared { "up" } else { "memory" };
            let mut full = false;
            let mut second = interval(Duration::from_secs(1));
            second.set_missed_tick_behavior(MissedTickBehavior::Delay);
            for elapsed in 0_u64.. {
                second.tick().await;
                let now = Now::read();
                sweep(&service, now).await;
                service.log.mention_suppressed(now);
                if !full && service.rules.load().store.table().evictions() > 0 {
                    full = true;
                    tell_full(&service);
                }
                let state = service.rules.load().store.state();
                if std::mem::replace(&mut told, state) != state {
                    // The log tells of it too; a service manager that cannot be told is no news.
                    let _ = notify::status(&format!("store: {state}"));
                }
                if statistics_interval > 0 && elapsed > 0 && elapsed.is_multiple_of(statistics_interval) {
                    service.report(connections.len());
                }
            }
        }
    }
}

/// Says, once, that clients are forgotten for want of room. How many is among the statistics.
fn tell_full(service: &Service) {
    let rules = service.rules.load();
    service.log.line(Severity::Warning, "MAX_CLIENTS", |line| {
        line.field("max_clients", rules.store.table().max_clients());
    });
}

/// Looks at an eighth of the table, so that what expired is gone within some ten seconds.
async fn sweep(service: &Service, now: Now) {
    let table = Arc::clone(service.rules.load().store.table());
    for _ in 0..=table.len() / 8 / SWEEP {
        table.sweep(now.monotonic, SWEEP);
        yield_now().await;
    }
}

/// What the daemon wakes up for.
enum News {
    Order(Order),
    Lists(Vec<PathBuf>),
}
