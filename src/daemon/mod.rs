//! The daemon: composes the parts, handles signals, reloads, and stops in order.

pub mod counts;
pub mod descriptors;
pub mod handover;
pub mod housekeeping;
mod list_watch;
pub mod notify;
mod reload;
pub mod signals;
mod start;
pub mod state_file;
mod upgrade;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use crate::config::{Config, ConfigError};
use crate::control::{Control, Reload};
use crate::daemon::handover::transport;
use crate::daemon::housekeeping::Housekeeping;
use crate::daemon::signals::{SignalAction, Signals};
use crate::daemon::state_file::StateFile;
use crate::engine::overrides;
use crate::engine::service::Service;
use crate::http::metrics::MetricsSource;
use crate::http::server::{HttpServer, Serves};
use crate::http::{HttpContext, LastPage};
use crate::listener::DetachedListener;
use crate::net::address::Address;
use crate::net::clock::Now;
use crate::net::shutdown::Shutdown;
use crate::observe::log::{Log, Severity};
use crate::postfix::acceptor::Acceptor;
use crate::postfix::suspended::SuspendedConnections;
use list_watch::ListWatch;
use start::{Listening, OpenSockets};

/// How long requests that were asked before a stop may take; each has its own, shorter, deadline.
const LAST_ANSWERS: Duration = Duration::from_secs(5);

/// How long the end of the process waits for the disk that the counts are saved on.
const LAST_SAVE: Duration = Duration::from_secs(5);

/// How long the end of the process waits for commands that are run for events.
const LAST_COMMANDS: Duration = Duration::from_secs(5);

/// How long the end of the process waits for the log, and for systemd.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Serves until SIGTERM or SIGINT, as the file at `path` says, which a reload reads again. `listen`, if there is
/// any, takes the place of what the file says of that.
///
/// # Errors
///
/// When the configuration is wrong, or a place to listen at cannot be had.
pub async fn run(path: Option<PathBuf>, listen: Vec<Address>) -> Result<(), StartError> {
    // First, because an earlier signal would end the process.
    let mut signals = Signals::listen().map_err(anyhow::Error::from)?;
    // The watchdog is fed during an upgrade too, however long the lists are.
    tokio::spawn(notify::feed_watchdog());
    let is_upgrade = transport::is_offered();
    let start = spawn_blocking(move || Daemon::begin(path, &listen));
    let begun = match is_upgrade {
        // A signal to stop is handled after the start: there are counts to save and requests to answer.
        true => start.await,
        false => match signals.stop_or(start).await {
            Some(begun) => begun,
            None => return Ok(()),
        },
    };
    let (daemon, open) = begun.map_err(anyhow::Error::from)??;
    let log = daemon.log.clone();
    daemon.serve(open, signals).await;
    log.line(Severity::Info, "STOPPED", |_| {});
    log.flush(LAST_WORDS);
    notify::flush(LAST_WORDS);
    Ok(())
}

/// Why the daemon does not serve.
#[derive(Debug, Error)]
#[error(transparent)]
pub enum StartError {
    /// The configuration is wrong.
    Configuration(#[from] ConfigError),
    /// The configuration became wrong during an upgrade: a restart may find it right.
    AfterUpgrade(ConfigError),
    /// The configuration is right, but something else failed.
    Other(#[from] anyhow::Error),
}

struct Daemon {
    /// The program file that an upgrade calls.
    program: PathBuf,
    service: Arc<Service>,
    /// The configuration at the start.
    config: Config,
    path: Option<PathBuf>,
    listening: Listening,
    /// The limit that the descriptors allowed at the start.
    max_connections: usize,
    log: Log,
    state: Option<Arc<StateFile>>,
    stop: Shutdown,
    /// Stops control and HTTP; separate, so that a failed upgrade does not stop them.
    side: Shutdown,
    connections: TaskTracker,
    /// `None`: not started yet, or it failed.
    http: Option<HttpServer>,
    suspended: SuspendedConnections,
}

impl Daemon {
    async fn serve(mut self, open: OpenSockets, mut signals: Signals) {
        let OpenSockets { listeners, connections, http, control: socket } = open;
        connections.into_iter().for_each(|connection| self.acceptor().serve(connection));
        let accept = |listener| tokio::spawn(self.acceptor().accept(listener));
        let mut accepting: Vec<_> = listeners.into_iter().map(accept).collect();
        // One reload at a time: a further request waits until it is done.
        let (reload, mut asked) = mpsc::channel::<Reload>(1);
        let control = self.control(reload);
        self.serve_http(http, Arc::clone(&control));
        let control = socket.map(|socket| tokio::spawn(socket.serve(control, self.side.clone())));
        tokio::spawn(overrides::follow(Arc::clone(&self.service)));
        let (service, connections) = (Arc::clone(&self.service), self.connections.clone());
        tokio::spawn(Housekeeping::new(&self.config, service, connections, self.state.clone()).run());
        self.tell(notify::ready());
        // The configuration in force. Lists that are read again become part of it.
        let mut current = Arc::new(self.config.clone());
        self.config.free_policy();
        let mut lists = ListWatch::new(&current);
        loop {
            let event = tokio::select! {
                order = signals.next() => DaemonEvent::Order(order),
                changed = lists.changed() => DaemonEvent::Lists(changed),
                Some(told) = asked.recv() => DaemonEvent::Asked(told),
            };
            // A file system that hangs does not keep us from stopping.
            match event {
                DaemonEvent::Order(SignalAction::Stop) => break,
                DaemonEvent::Order(SignalAction::Reload) | DaemonEvent::Asked(_) => {
                    self.tell(notify::reloading());
                    let Some(loaded) = signals.stop_or(&mut self.load(&current)).await else {
                        break;
                    };
                    let outcome = self.finish_reload(loaded);
                    if let DaemonEvent::Asked(told) = event {
                        // The client may have closed its connection meanwhile.
                        let _ = told.send(outcome.as_ref().map(|(_, notes)| notes.clone()).map_err(String::clone));
                    }
                    if let Ok((config, _)) = outcome {
                        current = Arc::new(config);
                        lists = ListWatch::new(&current);
                    }
                    self.tell(notify::ready());
                }
                DaemonEvent::Order(SignalAction::Upgrade) => {
                    if self.upgrade(&mut accepting, &mut signals).await.is_none() {
                        break;
                    }
                }
                DaemonEvent::Lists(changed) => {
                    let Some(loaded) = signals.stop_or(&mut self.load_lists(&current)).await else {
                        break;
                    };
                    if let Some(config) = self.finish_lists(loaded, &changed) {
                        current = Arc::new(config);
                    }
                }
            }
        }
        // An accepting task closes its listener when it sees the shutdown.
        drop(accepting);
        self.stop().await;
        if let Some(control) = control {
            // The task ends with the stop, and removes its socket file.
            let _ = control.await;
        }
    }

    /// Answers what was asked, then closes.
    async fn stop(&mut self) {
        self.tell(notify::stopping());
        self.log.line(Severity::Info, "STOPPING", |_| {});
        self.stop.trigger();
        self.side.trigger();
        self.connections.close();
        if let Some(http) = &mut self.http {
            http.pause().await;
        }
        let unfinished = timeout(LAST_ANSWERS, self.connections.wait()).await.is_err();
        if unfinished {
            let connections = self.connections.len();
            self.log.line(Severity::Warning, "UNFINISHED", |line| {
                line.field("connections", connections);
            });
        }
        self.service.report(0);
        let save = async {
            match &self.state {
                Some(state) => timeout(LAST_SAVE, housekeeping::save(state, &self.service)).await.is_ok(),
                None => true,
            }
        };
        self.service.overrides.finish(&self.service, self.config.store.timeout, Now::read()).await;
        let (saved, ()) = tokio::join!(save, self.log.finish_commands(LAST_COMMANDS));
        if !saved {
            self.log.line(Severity::Warning, "STATE_NOT_SAVED", |line| {
                line.field("error", "the disk takes too long");
            });
        }
    }

    fn serve_http(&mut self, sockets: Vec<(Serves, DetachedListener)>, control: Arc<Control>) {
        let metrics = MetricsSource {
            service: Arc::clone(&self.service),
            connections: self.connections.clone(),
            max_connections: self.max_connections,
            started: control.started,
        };
        let config = ArcSwap::from_pointee(self.config.http.clone());
        match HttpServer::start(
            Arc::new(HttpContext { control, metrics, config, last_page: LastPage::default() }),
            sockets,
        ) {
            Ok(server) => self.http = Some(server),
            Err(error) => self.log.line(Severity::Err, "HTTP_FAILED", |line| {
                line.field("error", error);
            }),
        }
    }

    fn control(&self, reload: mpsc::Sender<Reload>) -> Arc<Control> {
        let (service, connections) = (Arc::clone(&self.service), self.connections.clone());
        Arc::new(Control { service, connections, reload, started: Now::read() })
    }

    fn warn(&self, config: &Config) {
        for warning in &config.warnings {
            self.log.line(Severity::Warning, "CONFIGURATION", |line| {
                line.field("warning", warning);
            });
        }
        self.listening.warn(config, &self.log);
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
            suspended: self.suspended.clone(),
        }
    }
}

/// An event that the daemon handles.
enum DaemonEvent {
    Order(SignalAction),
    Lists(Vec<PathBuf>),
    Asked(Reload),
}
