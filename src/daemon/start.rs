//! The beginning: with a configuration alone, or with all that the program before this one has left.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use tokio_util::task::TaskTracker;

use super::Daemon;
use super::sockets::{Found, bind};
use crate::config::Config;
use crate::control::socket::{self, Socket};
use crate::daemon::descriptors;
use crate::daemon::handover::exec as program;
use crate::daemon::handover::receive::Handover;
use crate::daemon::state_file::StateFile;
use crate::engine::service::Service;
use crate::listener::Listener;
use crate::net::clock::Now;
use crate::net::shutdown::Shutdown;
use crate::net::stream::Stream;
use crate::observe::log::{Log, Severity};
use crate::policy::Policy;
use crate::policy::lists::Lists;
use crate::policy::record_snapshot::Ids;
use crate::postfix::suspended::SuspendedConnection;
use crate::postfix::suspended::SuspendedConnections;
use crate::store::local::Table;

/// What is open at the beginning.
pub(super) struct Open {
    pub listeners: Vec<Listener>,
    /// Policy connections that were served before.
    pub connections: Vec<SuspendedConnection<Stream>>,
    pub metrics: Vec<Listener>,
    pub control: Option<Socket>,
}

impl Daemon {
    pub(super) fn begin(mut config: Config, path: Option<PathBuf>, sockets: Found) -> anyhow::Result<(Self, Open)> {
        let Found { listeners, listening, mut inheritance } = sockets;
        let log = Log::open(&config.log).context("the log cannot be opened")?;
        let program = program::path().context("the path of the program cannot be found out")?;
        let max_connections = max_connections(&config, &log);
        let (metrics, control) = match (aside(&config), &mut inheritance) {
            (Ok(aside), _) => aside,
            // Postfix goes on being served.
            (Err(error), Some(inheritance)) => {
                inheritance.problems.push(error.to_string());
                (Vec::new(), None)
            }
            (Err(error), None) => return Err(error),
        };
        // Whoever asks from here on waits until the counts of before are there.
        let (policy, max_clients, now) = (Policy::new(config.policy(), None), config.store.max_clients, Now::read());
        let state = StateFile::of(&config, &log).map(Arc::new);
        let (table, ids) = match (&mut inheritance, &state) {
            (Some(inheritance), _) => inheritance.counts(&policy, max_clients, now),
            (None, Some(state)) => (state.load(&policy, max_clients, now), Ids::new()),
            (None, None) => (Table::new(max_clients), Ids::new()),
        };
        let service = Arc::new(Service::restored(config.engine(), policy, log.clone(), table));
        // The policy has them, and a million netblocks are not kept twice.
        config.lists = Lists::default();
        let daemon = Self {
            program,
            service,
            config,
            path,
            listening,
            max_connections,
            log,
            state,
            stop: Shutdown::default(),
            side: Shutdown::default(),
            connections: TaskTracker::new(),
            parking: SuspendedConnections::default(),
        };
        let connections = match &mut inheritance {
            Some(inheritance) => inheritance.connections(&daemon.service, &ids, now),
            None => Vec::new(),
        };
        match &inheritance {
            Some(inheritance) => daemon.upgraded(inheritance, connections.len()),
            None => daemon.started(),
        }
        daemon.warn(&daemon.config);
        Ok((daemon, Open { listeners, connections, metrics, control }))
    }

    fn started(&self) {
        self.log.line(Severity::Info, "START", |line| {
            line.field("version", env!("CARGO_PKG_VERSION"))
                .field("form", self.config.form.name())
                .field("listen", self.listening.sockets())
                .field("store", self.service.rules.load().store.name());
        });
    }

    fn upgraded(&self, inheritance: &Handover, connections: usize) {
        let took = Now::read().monotonic.saturating_sub(inheritance.begun);
        self.log.line(Severity::Info, "UPGRADED", |line| {
            line.field("from", &inheritance.from)
                .field("to", env!("CARGO_PKG_VERSION"))
                .field("form", self.config.form.name())
                .field("connections", connections)
                .field("sessions", self.service.sessions.len())
                .field("counters", self.service.rules.load().store.table().len())
                .field("took_ms", took);
        });
        if let Some(problem) = inheritance.problems.first() {
            self.log.line(Severity::Warning, "UPGRADE_INCOMPLETE", |line| {
                line.field("problems", inheritance.problems.len()).field("first", problem);
            });
        }
    }
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

/// Where others than Postfix ask. An upgrade closes these and opens them anew.
fn aside(config: &Config) -> anyhow::Result<(Vec<Listener>, Option<Socket>)> {
    let metrics = bind(&config.metrics, config)?;
    let control = config.control.clone().or_else(socket::usual).as_ref().map(Socket::bind).transpose()?;
    Ok((metrics, control))
}
