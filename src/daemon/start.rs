//! The start: with a configuration alone, or in an upgrade with the sockets and counts of the old program.
//!
//! Sockets come first, so that Postfix finds them while long lists and counts are read.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio_util::task::TaskTracker;

use super::{Daemon, StartError};
use crate::config::{Config, ConfigError};
use crate::control::socket::{self, ControlSocket};
use crate::daemon::counts::RestoredCounts;
use crate::daemon::descriptors;
use crate::daemon::handover::exec;
use crate::daemon::handover::receive::Handover;
use crate::daemon::state_file::StateFile;
use crate::engine::service::Service;
use crate::http::server::Serves;
use crate::listener::{DetachedListener, Listener, Peers};
use crate::net::address::Address;
use crate::net::clock::Now;
use crate::net::shutdown::Shutdown;
use crate::net::stream::Stream;
use crate::observe::log::{Log, Severity};
use crate::policy::Policy;
use crate::policy::lists::Lists;
use crate::postfix::connection::PolicyConnection;
use crate::postfix::suspended::SuspendedConnections;
use crate::store::KnownCounts;

/// How long the new program of an upgrade tries to read a configuration that has just passed its preflight.
/// Policy connections wait meanwhile, and Postfix waits longer.
const CONFIG_PATIENCE: Duration = Duration::from_secs(3);

/// Between two tries.
const CONFIG_PAUSE: Duration = Duration::from_millis(100);

/// The sockets that Postfix asks at, and in an upgrade what else the old program has handed over.
struct Sockets {
    listeners: Vec<Listener>,
    /// The listeners of the doors over HTTP that were passed.
    http: Vec<Listener>,
    listening: Listening,
    handover: Option<Handover>,
}

/// Reads the configuration, and opens what `listen` or else the configuration asks for. Blocks.
fn load(path: Option<&Path>, listen: &[Address]) -> Result<(Config, Sockets), StartError> {
    let by_option = !listen.is_empty();
    let asked = |config: &Config| if by_option { listen.to_vec() } else { config.listen.clone() };
    // Before anything is hashed: an upgrade goes on with the secret of the old program.
    let Some(mut handover) = Handover::receive() else {
        // Requests that are made from then on wait. A wrong configuration is reported before a socket that cannot be had.
        let mut opened = None;
        let config = Config::load_telling(path, &mut |config| opened = Some(open(config, asked(config))))?;
        let (listeners, http, asked) = opened.expect("a configuration is shown before its lists are read")?;
        let listening = Listening::new(asked, by_option, &listeners);
        return Ok((config, Sockets { listeners, http, listening, handover: None }));
    };
    let config = load_after_trial(path, &mut handover).map_err(StartError::AfterUpgrade)?;
    let (passed, http) = handover.listeners().map_err(anyhow::Error::from)?;
    let (listeners, asked) = match passed.is_empty() {
        true => (bind(&asked(&config), &config)?, asked(&config)),
        false => (passed, handover.listen(&asked(&config))),
    };
    let listening = Listening::new(asked, by_option, &listeners);
    Ok((config, Sockets { listeners, http, listening, handover: Some(handover) }))
}

/// Reads a configuration that was right a moment ago. One that is wrong now is being written, as a rule.
fn load_after_trial(path: Option<&Path>, handover: &mut Handover) -> Result<Config, ConfigError> {
    let begun = Instant::now();
    let mut wrong = None;
    loop {
        match Config::load(path) {
            Ok(config) => {
                handover.problems.extend(wrong);
                return Ok(config);
            }
            Err(error) if begun.elapsed() >= CONFIG_PATIENCE => return Err(error),
            Err(error) => wrong = Some(format!("the configuration was wrong at first: {}", error.summary())),
        }
        thread::sleep(CONFIG_PAUSE);
    }
}

/// The `FileDescriptorName=` of the sockets of the doors over HTTP.
const HTTP: &str = "http";

/// The listeners for Postfix, those of the doors over HTTP that were passed, and the addresses that were asked for.
/// Sockets that systemd passed are used instead of the configured addresses; then no address was asked for.
fn open(config: &Config, asked: Vec<Address>) -> anyhow::Result<(Vec<Listener>, Vec<Listener>, Vec<Address>)> {
    let is_http = |(name, _): &(Option<String>, Listener)| name.as_deref() == Some(HTTP);
    let (http, passed): (Vec<_>, Vec<_>) = Listener::from_systemd()?.into_iter().partition(is_http);
    let listeners = |passed: Vec<(_, Listener)>| passed.into_iter().map(|(_, listener)| listener).collect::<Vec<_>>();
    match passed.is_empty() {
        true => Ok((bind(&asked, config)?, listeners(http), asked)),
        false => Ok((listeners(passed), listeners(http), Vec::new())),
    }
}

/// Listens at each of these addresses.
fn bind(addresses: &[Address], config: &Config) -> anyhow::Result<Vec<Listener>> {
    let mut listeners = Vec::new();
    for address in addresses {
        listeners.extend(Listener::bind(address, &config.socket)?);
    }
    Ok(listeners)
}

/// The sockets that are open at the start.
pub(super) struct OpenSockets {
    pub listeners: Vec<Listener>,
    /// Policy connections that were served before.
    pub connections: Vec<PolicyConnection<Stream>>,
    /// The doors over HTTP, and metrics.
    pub http: Vec<(Serves, DetachedListener)>,
    pub control: Option<ControlSocket>,
}

impl Daemon {
    /// Reads and opens all that the daemon needs. Blocks, for as long as lists, disk and name service take; must be
    /// called within a runtime.
    pub(super) fn begin(path: Option<PathBuf>, listen: &[Address]) -> Result<(Self, OpenSockets), StartError> {
        let (mut config, Sockets { listeners, http, listening, mut handover }) = load(path.as_deref(), listen)?;
        let log = Log::open(&config.log).context("the log cannot be opened")?;
        let program = exec::path().context("the path of the program cannot be found out")?;
        let max_connections = max_connections(&config, &log);
        let (http, control) = match (aside(&config, http), &mut handover) {
            (Ok(aside), _) => aside,
            // Postfix goes on being served.
            (Err(error), Some(handover)) => {
                handover.problems.push(error.to_string());
                (Vec::new(), None)
            }
            (Err(error), None) => return Err(error.into()),
        };
        // Requests from here on wait until the earlier counts are restored.
        let (policy, max_clients, now) = (Policy::new(&config.policy, None), config.store.max_clients, Now::read());
        let state = StateFile::of(&config, &log).map(Arc::new);
        let RestoredCounts { table, ids, days } = match (&mut handover, &state) {
            (Some(handover), _) => handover.counts(&policy, max_clients, now),
            (None, Some(state)) => state.load(&policy, max_clients, now),
            (None, None) => RestoredCounts::none(max_clients),
        };
        let outages = handover.as_mut().map(Handover::outages).unwrap_or_default();
        let known = KnownCounts { table: Arc::new(table), outages };
        let service = Arc::new(Service::restored(config.engine(), policy, log.clone(), known));
        service.daily.restore(days, &ids, now);
        state.iter().filter_map(|state| state.is_unused()).for_each(|fault| service.add_fault(fault));
        // The policy has them, and a million netblocks are not kept twice.
        config.policy.lists = Lists::default();
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
            http: None,
            suspended: SuspendedConnections::default(),
        };
        let connections = match &mut handover {
            Some(handover) => handover.connections(&daemon.service, &ids, now),
            None => Vec::new(),
        };
        match &handover {
            Some(handover) => daemon.upgraded(handover, connections.len()),
            None => daemon.started(),
        }
        daemon.warn(&daemon.config);
        Ok((daemon, OpenSockets { listeners, connections, http, control }))
    }

    fn started(&self) {
        let store = self.config.store.kind();
        self.log.line(Severity::Info, "START", |line| {
            line.field("version", env!("CARGO_PKG_VERSION"))
                .field("form", self.config.form.into_str())
                .field("listen", self.listening.sockets())
                .field("store", store.map_or("memory", |kind| kind.name))
                .field("store_key", store.map_or("none", |kind| kind.key()));
        });
    }

    fn upgraded(&self, handover: &Handover, connections: usize) {
        let took = Now::read().monotonic.saturating_sub(handover.begun);
        self.log.line(Severity::Info, "UPGRADED", |line| {
            line.field("from", &handover.from)
                .field("to", env!("CARGO_PKG_VERSION"))
                .field("form", self.config.form.into_str())
                .field("connections", connections)
                .field("sessions", self.service.sessions.len())
                .field("counters", self.service.rules.load().store.table().len())
                .field("took_ms", took);
        });
        if let Some(problem) = handover.problems.first() {
            self.log.line(Severity::Warning, "UPGRADE_INCOMPLETE", |line| {
                line.field("problems", handover.problems.len()).field("first", problem);
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

/// The sockets of HTTP, metrics and control; those of the doors over HTTP may have been passed. An upgrade closes the
/// others and opens them anew.
fn aside(config: &Config, passed: Vec<Listener>) -> anyhow::Result<(HttpSockets, Option<ControlSocket>)> {
    let doors = if passed.is_empty() { bind(&config.http.listen, config)? } else { passed };
    let doors = doors.into_iter().map(|listener| (Serves::Doors, listener));
    let metrics = bind(&config.metrics, config)?.into_iter().map(|listener| (Serves::MetricsAlone, listener));
    let sockets = doors.chain(metrics).map(|(serves, listener)| Ok((serves, listener.detach()?)));
    let sockets = sockets.collect::<io::Result<_>>()?;
    let control = config.control.clone().or_else(socket::usual).as_ref().map(ControlSocket::bind).transpose()?;
    Ok((sockets, control))
}

/// The sockets that are served over HTTP.
type HttpSockets = Vec<(Serves, DetachedListener)>;

/// The addresses that the daemon listens at, whatever a configuration says later.
#[derive(Debug)]
pub(super) struct Listening {
    /// The addresses of `--listen`, or of the configuration at the start; none where systemd passed sockets.
    asked: Vec<Address>,
    /// They are those of `--listen`, which replaces the configured ones.
    by_option: bool,
    /// The addresses of the sockets.
    sockets: Vec<Address>,
}

impl Listening {
    /// On these sockets, because of `asked`.
    pub fn new(asked: Vec<Address>, by_option: bool, listeners: &[Listener]) -> Self {
        let sockets = listeners.iter().map(|listener| listener.address().clone()).collect();
        Self { asked, by_option, sockets }
    }

    /// The addresses that were asked for; none where sockets were passed.
    pub fn asked(&self) -> &[Address] {
        &self.asked
    }

    /// The addresses of the sockets, as a log line has them.
    pub fn sockets(&self) -> String {
        list(&self.sockets)
    }

    /// Whether a configuration asks for other places, which a restart would open.
    pub fn differs(&self, config: &Config) -> bool {
        !self.by_option && !self.asked.is_empty() && self.asked != config.listen
    }

    /// Warns of the parts of a configuration that do not fit.
    pub fn warn(&self, config: &Config, log: &Log) {
        if self.differs(config) {
            log.line(Severity::Warning, "LISTEN_UNCHANGED", |line| {
                line.field("listen", list(&self.asked))
                    .field("configured", list(&config.listen))
                    .field("remedy", "restart the daemon");
            });
        }
        // The configuration warns of its own addresses.
        let others = self.by_option || self.asked.is_empty();
        for socket in self.sockets.iter().filter(|socket| others && config.allow_peers.exclude_others_at(socket)) {
            log.line(Severity::Warning, "CONFIGURATION", |line| {
                line.field("warning", format!("listening at {socket}, {}", Peers::EXCLUDES));
            });
        }
    }
}

/// Addresses as a log line has them.
fn list(addresses: &[Address]) -> String {
    let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    addresses.join(",")
}
