//! `connshaper status`: the state of the daemon.

use std::collections::BTreeMap;

use clap::Args;
use serde::{Deserialize, Serialize};

use super::commands::ControlCommand;
use super::show::OverrideStatus;
use super::text::lasting;
use super::{Control, Problem};
use crate::engine::limit_use::UnusableLimit;
use crate::net::clock::Now;
use crate::observe::terminal::Paint;
use crate::policy::overrides::OverrideKind;
use crate::store::local::listing::count_bans;
use crate::store::shared::breaker::ServerHealth;

/// Show daemon status
#[derive(Clone, Debug, Default, PartialEq, Eq, Args, Serialize, Deserialize)]
#[command(after_help = "\
Exit codes of this and all commands to the daemon: 0 done, 64 wrong command line or
nothing of that name, 69 no daemon answers, 74 the output cannot be written, 78 wrong
configuration.")]
pub struct StatusArgs {}

/// The state of the daemon in numbers. `top` asks for it once a second.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StatusAnswer {
    pub version: String,
    pub pid: u32,
    /// In seconds.
    pub uptime: u64,
    pub configuration: ConfigurationStatus,
    pub store: StoreStatus,
    pub limits: Vec<String>,
    pub queries_per_second: f64,
    pub refusals_per_second: f64,
    /// Refusals of each of the last seconds, from the oldest on.
    pub refusals: Vec<u64>,
    /// Counted in this process.
    pub clients: usize,
    pub max_clients: usize,
    pub evictions: u64,
    pub policy_connections: usize,
    pub sessions: usize,
    /// Delayed replies.
    pub waiting: usize,
    /// Bans that administrators set.
    pub administrator_bans: usize,
    /// Bans of limits that this process knows of.
    pub limit_bans: usize,
    pub allowances: usize,
    /// The bans and allowances that were set last.
    pub overrides: Vec<OverrideStatus>,
    /// Why the list of overrides in the store cannot be read.
    pub overrides_unreadable: Option<String>,
    pub since_start: BTreeMap<String, u64>,
    pub diagnosis: Vec<DiagnosisStatus>,
    /// Limits that have counted nothing, though they could.
    #[serde(default)]
    pub unused_limits: Vec<UnusedLimitStatus>,
    pub suppressed_lines: u64,
    pub dropped_lines: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigurationStatus {
    /// None: built-in defaults.
    pub path: Option<String>,
    pub form: String,
    pub warnings: Vec<String>,
    /// Why the last reload changed nothing.
    pub reload_failed: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreStatus {
    pub kind: String,
    /// The key of the configuration that chose it; none: no store is chosen, so this process counts.
    pub chosen_by: Option<String>,
    pub state: String,
    pub servers: Vec<ServerStatus>,
}

/// A server of a shared store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerStatus {
    pub server: String,
    pub breaker: String,
    pub down: bool,
    /// For how long it has been down.
    pub down_seconds: Option<u64>,
}

/// A mistake in Postfix's configuration that requests show.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiagnosisStatus {
    pub problem: String,
    pub remedy: String,
}

/// A limit that has counted nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnusedLimitStatus {
    pub limit: String,
    /// How many requests it did not count, and why not one of them.
    pub why: String,
}

impl ControlCommand for StatusArgs {
    type Answer = StatusAnswer;

    async fn run(&self, control: &Control, _: &str, now: Now) -> Result<StatusAnswer, Problem> {
        Ok(StatusAnswer::of(control, now).await)
    }

    fn needs_daemon() -> bool {
        true
    }

    fn show(&self, answer: &StatusAnswer, paint: Paint) -> String {
        answer.show(paint)
    }
}

/// The most overrides that are told one by one.
const MAX_OVERRIDES_TOLD: usize = 10;

impl StatusAnswer {
    pub async fn of(control: &Control, now: Now) -> Self {
        let service = &control.service;
        let rules = service.rules.load_full();
        let bans =
            |id| rules.policy.limits().iter().any(|limit| limit.id == id && limit.ban.is_some() && !limit.log_only);
        let limit_bans = count_bans(rules.store.table(), bans, now).await;
        let (source, reload_failed) = service.configured();
        let overrides = rules.policy.overrides().list();
        let of = |kind| overrides.iter().filter(|entry| entry.kind == kind && entry.left(now) > 0).count();
        let latest = overrides.iter().rev().filter(|entry| entry.left(now) > 0).take(MAX_OVERRIDES_TOLD);
        let rates = service.rates();
        let totals = service.statistics.counters().into_iter();
        let (unusable, unused) = service.limit_use.findings();
        let unusable = unusable.into_iter().map(|UnusableLimit { problem, remedy }| (problem, remedy));
        let unused = unused.iter().map(|unused| UnusedLimitStatus { limit: unused.limit.clone(), why: unused.why() });
        let setup = service.diagnosis.findings();
        let setup = setup.iter().map(|found| (found.problem().to_owned(), found.remedy().to_owned()));
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime: now.monotonic.saturating_sub(control.started.monotonic) / 1000,
            configuration: ConfigurationStatus {
                path: source.path,
                form: source.form.to_owned(),
                warnings: source.warnings,
                reload_failed,
            },
            store: StoreStatus {
                kind: rules.store.name().to_owned(),
                chosen_by: rules.store.chosen_by().map(str::to_owned),
                state: rules.store.state().to_owned(),
                servers: rules.store.servers().into_iter().map(ServerStatus::from).collect(),
            },
            limits: rules.policy.limits().iter().map(|limit| limit.name.clone()).collect(),
            queries_per_second: rates.queries_per_second,
            refusals_per_second: rates.refusals_per_second,
            refusals: rates.refusals,
            clients: rules.store.table().len(),
            max_clients: rules.store.table().max_clients(),
            evictions: rules.store.table().evictions(),
            policy_connections: control.connections.len(),
            sessions: service.sessions.len(),
            waiting: service.delayed.len(),
            administrator_bans: of(OverrideKind::Ban),
            limit_bans,
            allowances: of(OverrideKind::Allow),
            overrides: latest.map(|entry| OverrideStatus::of(entry, now)).collect(),
            overrides_unreadable: service.overrides.unreadable(),
            since_start: totals.map(|counter| (counter.name.to_owned(), counter.get())).collect(),
            diagnosis: setup.chain(unusable).map(|(problem, remedy)| DiagnosisStatus { problem, remedy }).collect(),
            unused_limits: unused.collect(),
            suppressed_lines: service.log.suppressed(),
            dropped_lines: service.log.dropped(),
        }
    }

    fn show(&self, paint: Paint) -> String {
        let total = |name: &str| self.since_start.get(name).copied().unwrap_or(0);
        let mut text = paint.bold(&format!("connshaper {}, up {}", self.version, lasting(self.uptime))) + "\n";
        let mut line = |name: &str, value: String| text += &format!("  {name:14}{value}\n");
        line("store", self.store.show(paint));
        for server in &self.store.servers {
            line("", server.show(paint));
        }
        let path = self.configuration.path.as_ref().map(|path| format!(", {path}")).unwrap_or_default();
        line("configuration", format!("{}{path}", self.configuration.form));
        line("limits", self.limits.join(", "));
        for UnusedLimitStatus { limit, why } in &self.unused_limits {
            line("", format!("{limit} has counted {why}"));
        }
        let rate = |rate: f64, total: u64| format!("{rate:.1} a second in the last minute, {total} in all");
        line("requests", rate(self.queries_per_second, total("queries")));
        line("refusals", rate(self.refusals_per_second, total("refused")));
        line("sessions", format!("{} known, {} waiting, {} in all", self.sessions, self.waiting, total("sessions")));
        line("connections", format!("{} of Postfix", self.policy_connections));
        line("clients", format!("{} counted here, room for {}", self.clients, self.max_clients));
        line("bans", format!("{} of administrators, {} of limits", self.administrator_bans, self.limit_bans));
        line("allowances", self.allowances.to_string());
        for (place, entry) in self.overrides.iter().enumerate() {
            line(["set last", ""][place.min(1)], format!("{} {}", entry.kind, entry.show()));
        }
        for warning in self.warnings() {
            text += &format!("{} {warning}\n", paint.warning("warning:"));
        }
        text
    }

    /// The warnings for the administrator.
    pub fn warnings(&self) -> Vec<String> {
        let reload_failed = self.configuration.reload_failed.as_ref();
        let reload_failed = reload_failed
            .map(|error| format!("the last reload failed, the configuration before it is in force: {error}"));
        let mut warnings: Vec<String> =
            reload_failed.into_iter().chain(self.configuration.warnings.iter().cloned()).collect();
        let losses = [
            (self.evictions, "clients were forgotten because max_clients is reached"),
            (self.dropped_lines, "log lines were lost because the logger was down or too slow"),
        ];
        warnings
            .extend(losses.iter().filter(|(number, _)| *number > 0).map(|(number, what)| format!("{number} {what}")));
        warnings.extend(self.overrides_unreadable.as_ref().map(|error| {
            let store = &self.store.kind;
            format!(
                "the bans and allowances in {store} cannot be read, so those of other hosts do not hold here; the next \
                 ban or allow writes them anew: {error}"
            )
        }));
        warnings.extend(self.diagnosis.iter().map(|found| format!("{}: {}", found.problem, found.remedy)));
        warnings
    }
}

impl StoreStatus {
    fn show(&self, paint: Paint) -> String {
        let Some(key) = &self.chosen_by else {
            return format!("{} of this process, as no store is configured", self.kind);
        };
        let state = match self.servers.iter().any(|server| server.down) {
            true => paint.bad("down"),
            false => paint.good("up"),
        };
        format!("{}, {state}, chosen by {key}", self.kind)
    }
}

impl ServerStatus {
    fn show(&self, paint: Paint) -> String {
        let (server, breaker) = (&self.server, self.breaker.replace('_', "-"));
        match self.down_seconds {
            None => format!("{server}, breaker {breaker}"),
            Some(seconds) => format!("{server}, breaker {}, down for {}", paint.bad(&breaker), lasting(seconds)),
        }
    }
}

impl From<ServerHealth> for ServerStatus {
    fn from(ServerHealth { server, breaker, down_for }: ServerHealth) -> Self {
        let down_seconds = down_for.map(|time| time.as_secs());
        Self { server, breaker: breaker.into_str().to_owned(), down: down_for.is_some(), down_seconds }
    }
}
