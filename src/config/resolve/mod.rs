//! The TOML form: each key's type and bounds.
//!
//! `Settings` types the values, the files below know what they mean. A value that is
//! wrong is noted and its default taken, so that reading goes on to the next.

pub(super) mod conditions;
pub mod effective;
pub mod endpoints;
mod limit;
mod limits;
mod lists;
mod logging;
mod netblocks;
mod peers;
pub mod penalties;
pub mod reply;
mod store;
pub mod threshold;

use std::time::Duration;

use toml::de::DeTable;

use super::error::ConfigError;
use super::lists::{CompleteLists, ListErrors, complete};
use super::settings::Settings;
use super::source::{Source, Span};
use super::{Config, Form, StoreConfig, syntax};
use crate::config::diagnostics::Diagnostics;
use crate::config::lint as sense;
use crate::policy;
use limit::Surroundings;
use limits::Named;
use penalties::Patience;
use reply::Answer;

const SECOND: Duration = Duration::from_secs(1);
const MILLISECOND: Duration = Duration::from_millis(1);
const DAY: Duration = Duration::from_secs(86_400);

/// Reads the TOML form, and the list files it names. `before_lists` is shown what is there before any netblock of a
/// list is, unless that is wrong already.
pub(super) fn read(source: &Source, before_lists: &mut dyn FnMut(&Config)) -> Result<Config, ConfigError> {
    let (table, errors) = DeTable::parse_recoverable(&source.text);
    if !errors.is_empty() {
        return Err(syntax::explain(source, &errors));
    }
    let remarks = Diagnostics::new(source);
    let s = Settings::top(&remarks, table.get_ref());
    let default = Config::default();
    let store = store::read(&s, default.store);
    let inetd_log = logging::syslog(&s);
    let around = surroundings(&s, &store);
    let top = limit::read(&s, &around);
    let blacklist = reply::blacklist(&s, &around.answer.with(&s), around.patience, &around.classes);
    let inherited = Surroundings {
        exptime: top.exptime,
        ipv4_prefix_length: top.ipv4_prefix_length,
        ipv6_prefix_length: top.ipv6_prefix_length,
        answer: around.answer.with(&s),
        ..around
    };
    let Named { limits: named, settings: limit_settings, places } = limits::read(&s, &inherited);
    let mut config = Config {
        path: Some(source.path.clone()),
        form: Form::Toml,
        blacklist,
        limits: std::iter::once(top).chain(named).collect(),
        log_only: inherited.log_only,
        max_delayed: s.integer("max_delayed", 1..=10_000).map_or(default.max_delayed, |n| n as usize),
        list_check_interval: s.duration("list_check_interval", Duration::ZERO..=DAY, SECOND).unwrap_or_default(),
        store,
        state: store::state(&s, default.state),
        listen: endpoints::listen(&s, "listen").unwrap_or(default.listen),
        socket: endpoints::socket(&s, default.socket),
        control: endpoints::control(&s),
        metrics: endpoints::listen(&s, "metrics_listen").unwrap_or_default(),
        allow_peers: peers::allow_peers(&s).unwrap_or(default.allow_peers),
        max_connections: s.integer("max_connections", 1..=1_000_000).map_or(default.max_connections, |n| n as usize),
        log: logging::log(&s, default.log, &inetd_log),
        inetd_log,
        settings: effective::top(&s),
        limit_settings,
        ..default
    };
    if remarks.are_harmless() {
        before_lists(&config);
    }
    let own = lists::own(&s, config.top(), Config::default().lists);
    let (files, spans) = lists::files(&s, &source.path);
    let (complete, wrong) = match complete(own, &files) {
        Ok(complete) => (complete, None),
        Err(wrong) => (CompleteLists::default(), Some(not_read(&s, &spans, wrong))),
    };
    (config.lists, config.own_lists, config.list_files) = (complete.lists, complete.own, complete.files);
    sense::examine(&config, &s.names, &remarks);
    sense::examine_limit(config.top(), &s);
    sense::examine_equals(&config, &places, &remarks);
    let remarks = remarks.finish();
    match (remarks, wrong.filter(|wrong| !wrong.diagnostics.is_empty())) {
        (Ok(warnings), None) => {
            config.warnings = warnings.into_iter().chain(complete.warnings).collect();
            Ok(config)
        }
        (Err(error), None) | (Ok(_), Some(error)) => Err(error),
        (Err(mut error), Some(more)) => {
            error.diagnostics.extend(more.diagnostics);
            error.more += more.more;
            Err(error)
        }
    }
}

/// What surrounds the top level's own limit: the defaults, and what is said for the whole program.
fn surroundings(s: &Settings, store: &StoreConfig) -> Surroundings {
    let default = policy::Limit::top(String::new());
    let policy_timeout = s.duration("policy_timeout", 3 * SECOND..=1000 * SECOND, SECOND);
    Surroundings {
        name: policy::limit::TOP.to_owned(),
        span: 0..0,
        key_prefix: store.key_prefix.clone(),
        log_only: s.truth("log_only").unwrap_or(false),
        classes: reply::classes(s),
        patience: Patience { postfix: policy_timeout.unwrap_or(10 * SECOND), store: store.timeout },
        exptime: default.exptime,
        ipv4_prefix_length: default.ipv4_prefix_length,
        ipv6_prefix_length: default.ipv6_prefix_length,
        answer: Answer::default(),
    }
}

/// Notes the list files that could not be read where they are named; what is wrong in the others is returned.
fn not_read(s: &Settings, spans: &[Span], wrong: ListErrors) -> ConfigError {
    for (place, problem, remedy) in wrong.unread {
        s.diagnostics.error::<()>(&spans[place], format!("the list {problem}"), remedy);
    }
    ConfigError { diagnostics: wrong.mistakes, more: wrong.more }
}
