//! From the values of a file to a `Config`: what they mean, and whether they fit together.
//!
//! `settings` has typed the values. A value that is wrong in spite of that is noted and replaced by
//! any other, so that reading goes on to the next. A configuration with errors is never put in force.

pub(super) mod conditions;
mod endpoints;
mod http;
mod limit;
mod lists;
mod log;
mod netblocks;
pub(super) mod reply;
pub(super) mod store;
mod thresholds;
mod window;

use super::diagnostics::{ConfigError, Diagnostics};
use super::effective::{Effective, EffectiveLimit, EffectiveSetting};
use super::lists::{CompleteLists, ListErrors, complete};
use super::settings::TableSettings;
use super::source::{ConfigText, Span};
use super::{Config, Form, Loaded, include, limit_files, lint, origin_files};
use crate::policy;
use limit::{Program, Timeouts};

/// The most a window can allow, in units of what is counted.
pub(super) const LARGEST_THRESHOLD: u64 = 1_000_000_000;

/// Reads the TOML form, and the list files it names. `before_lists` is shown the configuration before list files are
/// read, unless there are mistakes already.
pub(super) fn read(
    source: &ConfigText,
    form: Form,
    before_lists: &mut dyn FnMut(&Config),
) -> Result<Loaded, ConfigError> {
    let expanded = include::expand(source)?;
    let source = expanded.as_ref().unwrap_or(source);
    let diagnostics = Diagnostics::new(source);
    let table = include::table(source, &diagnostics)?;
    let (mut loaded, list_errors) = resolve(&TableSettings::top(&diagnostics, &table), form, before_lists);
    let warnings = match (diagnostics.finish(), list_errors.diagnostics.is_empty()) {
        (Ok(warnings), true) => warnings,
        (Ok(_), false) => return Err(list_errors),
        (Err(mut error), _) => {
            error.append(list_errors);
            return Err(error);
        }
    };
    // Warnings about list files come after those about the file that names them.
    loaded.config.warnings.splice(0..0, warnings);
    Ok(loaded)
}

/// Resolves the values of a file. Mistakes in it are noted in its diagnostics, those in list files are returned.
pub(super) fn resolve(s: &TableSettings, form: Form, before_lists: &mut dyn FnMut(&Config)) -> (Loaded, ConfigError) {
    let store = store::store(s);
    let program = Program {
        key_prefix: store.key_prefix.clone(),
        log_only: s.get("log_only"),
        slides_exactly: store.kind().is_some_and(|kind| kind.slides_exactly),
        classes: reply::classes(s),
        zone: window::zone(s).unwrap_or_else(window::system),
        timeouts: Timeouts { postfix: s.get("policy_timeout"), store: store.timeout },
        spellings: limit::spellings(s),
        databases: lists::databases(s, &s.diagnostics.source.path),
    };
    let named = limit::named(s);
    let mut limits = vec![limit::read(s, &program, policy::limit::TOP, &(0..0))];
    limits.extend(named.iter().map(|(name, span, s)| limit::read(s, &program, name, span)));
    let path = s.diagnostics.source.path.clone();
    let (files, spans) = lists::files(s, &path);
    let tables = std::iter::once(s).chain(named.iter().map(|(_, _, s)| s));
    let of_limits = tables.zip(&mut limits).enumerate();
    let (limit_files, limit_spans): (Vec<_>, Vec<Span>) =
        of_limits.flat_map(|(place, (s, limit))| lists::files_of_limit(s, &path, place, limit)).unzip();
    let (origin_files, origin_spans): (Vec<_>, Vec<Span>) = program.databases.iter().cloned().unzip();
    let mut config = Config {
        path: (form != Form::BuiltIn).then_some(path),
        form,
        own_lists: None,
        list_files: Vec::new(),
        limit_files,
        origin_files,
        list_check_interval: s.get("list_check_interval"),
        list_may_shrink: s.get("list_may_shrink"),
        policy: policy::PolicySettings {
            lists: Default::default(),
            embedded: lists::embedded(s),
            origins: Default::default(),
            spellings: program.spellings.clone(),
            blacklist: reply::blacklist(s, program.timeouts, &program.classes),
            limits,
            on_store_failure: s.variant("on_store_failure"),
            log_only: program.log_only,
        },
        max_delayed: s.get("max_delayed"),
        store,
        state: store::state(s),
        listen: endpoints::listen(s, "listen"),
        socket: endpoints::socket(s),
        control: endpoints::control(s),
        metrics: endpoints::listen(s, "metrics_listen"),
        http: http::read(s),
        allow_peers: endpoints::allow_peers(s),
        max_connections: s.get("max_connections"),
        time_zone: program.zone.clone(),
        log: log::log(s),
        inetd_log: log::syslog(s),
        warnings: Vec::new(),
    };
    if !s.diagnostics.has_errors() {
        before_lists(&config);
    }
    let own = lists::own(s, config.top());
    let mut list_errors = ConfigError::default();
    let complete = complete(own, &files).unwrap_or_else(|errors| {
        list_errors.append(note_unread(s, "list", &spans, errors));
        CompleteLists::default()
    });
    let of_limits = limit_files::read(&mut config.limit_files, &mut config.policy.limits).unwrap_or_else(|errors| {
        list_errors.append(note_unread(s, "list", &limit_spans, errors));
        Vec::new()
    });
    match origin_files::read(&mut config.origin_files, &config.policy.origins) {
        Ok(databases) => config.policy.origins = databases,
        Err(errors) => _ = note_unread(s, "database", &origin_spans, errors),
    }
    let may_change = !config.limit_files.is_empty() || !config.origin_files.is_empty();
    let own = complete.own.or_else(|| may_change.then(|| complete.lists.clone()));
    (config.policy.lists, config.own_lists, config.list_files) = (complete.lists, own, complete.files);
    config.warnings = complete.warnings;
    config.warnings.extend(of_limits);
    lint::check(&config, s);
    lint::check_limit(config.top(), s);
    for ((_, _, s), limit) in named.iter().zip(&config.policy.limits[1..]) {
        lint::check_limit(limit, s);
    }
    let spans: Vec<Span> = named.iter().map(|(_, span, _)| span.clone()).collect();
    lint::check_equal_limits(&config, &spans, s.diagnostics);
    let limits = named.iter().zip(&config.policy.limits[1..]).map(|((name, _, s), limit)| EffectiveLimit {
        name: (*name).to_owned(),
        settings: EffectiveSetting::all(s, limit),
    });
    let effective = Effective {
        limits: limits.collect(),
        settings: EffectiveSetting::all(s, config.top()),
        included: s.diagnostics.source.included(),
    };
    (Loaded { config, effective }, list_errors)
}

/// Notes the files that could not be read where they are named; the mistakes in the others are returned.
fn note_unread(s: &TableSettings, what: &str, spans: &[Span], errors: ListErrors) -> ConfigError {
    for (index, problem, remedy) in errors.unread {
        s.diagnostics.error::<()>(&spans[index], format!("the {what} {problem}"), remedy);
    }
    errors.in_files
}
