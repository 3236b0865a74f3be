//! `connshaper check`: whether the configuration is right, and what it comes to.

mod limits;
mod lists;

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use serde_json::{Value, json};

use crate::config::{Config, ConfigError, Diagnostic, Form, LogTarget, OnStoreFailure, Origin, Setting};
use crate::net::address::Address;
pub use crate::observe::terminal::Paint;
use crate::policy::limit::Counts;
use crate::sysexits;

/// Reads a configuration and prints what it comes to, or what is wrong.
pub fn run(path: Option<&Path>, json: bool) -> ExitCode {
    let result = Config::load(path);
    let paint = Paint::of(&io::stdout());
    // Nobody is left to tell when standard output is closed.
    let _ = match &result {
        _ if json => writeln!(io::stdout(), "{:#}", object(&result)),
        Ok(config) => write!(io::stdout(), "{}", report(config, paint)),
        Err(error) => writeln!(io::stderr(), "{error}"),
    };
    match result {
        Ok(_) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(sysexits::CONFIG),
    }
}

/// What is in force, for people.
pub fn report(config: &Config, paint: Paint) -> String {
    let mut text = format!("{}\n\n", paint.bold(&seen(config)));
    for sentence in summary(config) {
        text += &format!("{sentence}\n");
    }
    text += &format!("\n{}\n", paint.bold("In force"));
    text += &table(&config.settings);
    for limit in &config.limit_settings {
        text += &format!("\n{}\n", paint.bold(&format!("In force for limit {}", limit.name)));
        let said: Vec<Setting> =
            limit.settings.iter().filter(|setting| setting.origin != Origin::Default).cloned().collect();
        text += &table(&said);
    }
    for warning in &config.warnings {
        text += &format!("\n{} {warning}", paint.warning("warning:"));
    }
    for note in notes(config) {
        text += &format!("\nnote: {note}");
    }
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

/// The same for programs: what is in force, or what is wrong.
pub fn object(result: &Result<Config, ConfigError>) -> Value {
    match result {
        Ok(config) => json!({
            "ok": true,
            "path": config.path.as_ref().map(|path| path.to_string_lossy()),
            "form": config.form.name(),
            "summary": summary(config),
            "limits": limits::objects(config),
            "settings": config.settings.iter().map(setting).collect::<Vec<_>>(),
            "warnings": config.warnings.iter().map(|warning| json!({
                "path": warning.path.to_string_lossy(),
                "line": warning.line,
                "column": warning.column,
                "text": warning.text,
            })).collect::<Vec<_>>(),
            "notes": notes(config),
        }),
        Err(error) => json!({
            "ok": false,
            "errors": error.diagnostics.iter().map(mistake).collect::<Vec<_>>(),
            "more": error.more,
        }),
    }
}

fn setting(setting: &Setting) -> Value {
    let mut object = json!({ "key": setting.key, "value": setting.value, "from": "default" });
    match setting.origin {
        Origin::Default => {}
        Origin::TopLevel => object["from"] = "top level".into(),
        Origin::Form => object["from"] = "connection_shaper".into(),
        Origin::Line(line) => {
            object["from"] = "file".into();
            object["line"] = line.into();
        }
    }
    object
}

fn mistake(mistake: &Diagnostic) -> Value {
    json!({
        "path": mistake.path.to_string_lossy(),
        "line": mistake.snippet.as_ref().map(|spot| spot.line),
        "column": mistake.snippet.as_ref().map(|spot| spot.column),
        "problem": mistake.problem,
        "remedy": mistake.remedy,
    })
}

/// Which form was seen.
fn seen(config: &Config) -> String {
    let path = config.path.as_ref().map(|path| path.display().to_string());
    let path = path.unwrap_or_default();
    match config.form {
        Form::BuiltIn => "no configuration file: built-in defaults".into(),
        Form::Toml => format!("{path}: TOML"),
        Form::ConnectionShaper => format!("{path}: connection_shaper's form, and its ways"),
    }
}

/// What is in force, in sentences.
fn summary(config: &Config) -> Vec<String> {
    let mut sentences = limits::sentences(config);
    sentences.extend(lists::sentences(config));
    sentences.extend(delays(config));
    sentences.extend([store(config), listeners(config), log(config)]);
    if config.log_only {
        sentences.push("Nothing is enforced: all of this is judged, counted and logged only.".into());
    }
    sentences
}

/// What all delays have in common.
fn delays(config: &Config) -> Option<String> {
    let some = config.limits.iter().any(|limit| limit.delay.is_some()) || config.blacklist.delay.is_some();
    some.then(|| {
        format!(
            "At most {} wait for their answer at once; beyond that, and while Postfix reports stress, \
             they are refused.",
            number(config.max_delayed, "session", "sessions")
        )
    })
}

/// A number of things.
fn number(number: usize, one: &str, several: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { several })
}

/// The first of a list, and how many more there are.
fn some(items: &[impl ToString]) -> String {
    // A list from a file may have thousands; the table has them all.
    const SHOWN: usize = 5;
    let shown: Vec<String> = items.iter().take(SHOWN).map(ToString::to_string).collect();
    match items.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

fn store(config: &Config) -> String {
    let store = &config.store;
    if store.servers.is_empty() {
        let kept = config.state.file.as_ref().map(|file| format!(", and over a restart in {}", file.display()));
        let kept = kept.unwrap_or_default();
        return format!("Counts are kept in this process, for at most {} clients{kept}.", store.max_clients);
    }
    let away = match config.on_store_failure() {
        OnStoreFailure::Local => "each process counts for itself",
        OnStoreFailure::Dunno => "everyone passes",
        OnStoreFailure::Defer => "everyone else is refused",
    };
    let keys = match store.key_prefix.as_str() {
        "" => "under the bare address".to_owned(),
        prefix => format!("under keys that begin with {prefix}"),
    };
    let servers = match store.replicas {
        1 => addresses(&store.servers),
        replicas => format!("{}, {replicas} of which have each key", addresses(&store.servers)),
    };
    let away = match store.failover {
        true => format!("while one is away the next has its keys; while all are, {away}"),
        false => format!("while it is away, {away}"),
    };
    format!("Counts are kept in memcached at {servers}, {keys}; {away}.")
}

fn listeners(config: &Config) -> String {
    let places = addresses(&config.listen);
    let peers = config.allow_peers.netblocks();
    let peers = if peers.is_empty() { "nobody".to_owned() } else { some(peers) };
    format!("Postfix asks at {places}, or at the sockets that systemd passes. Over TCP {peers} may ask.")
}

fn log(config: &Config) -> String {
    let target = match &config.log.target {
        LogTarget::Stderr => "standard error".to_owned(),
        LogTarget::Json => "standard error as JSON".to_owned(),
        LogTarget::Journal { socket, .. } => format!("the journal at {}", socket.display()),
        LogTarget::Syslog { socket, .. } => format!("syslog at {}", socket.display()),
    };
    let level = config.setting("log_level").as_str().unwrap_or_default();
    format!("Log lines of level {level} and above go to {target}.")
}

fn addresses(places: &[Address]) -> String {
    let places: Vec<String> = places.iter().map(Address::to_string).collect();
    places.join(", ")
}

/// Every key with its value and where that comes from.
fn table(settings: &[Setting]) -> String {
    // Longer values do not push the last column out of sight.
    const WIDEST: usize = 40;
    let names = settings.iter().map(|setting| setting.key.len()).max();
    let values = settings.iter().map(|setting| value(setting).chars().count());
    let names = names.unwrap_or(0);
    let width = values.filter(|width| *width <= WIDEST).max().unwrap_or(0);
    let mut text = String::new();
    for setting in settings {
        let origin = match setting.origin {
            Origin::Default => "default".to_owned(),
            Origin::Line(line) => format!("line {line}"),
            Origin::TopLevel => "top level".to_owned(),
            Origin::Form => "connection_shaper's way".to_owned(),
        };
        let (key, value) = (setting.key, value(setting));
        text += &format!("  {key:names$}  {value:width$}  {origin}\n");
    }
    text
}

fn value(setting: &Setting) -> String {
    match setting.value {
        Value::Null => "-".into(),
        _ => setting.spell(),
    }
}

/// What is right as it is, but good to know.
fn notes(config: &Config) -> Vec<String> {
    let bytes = config.limits.iter().filter(|limit| limit.counts == Counts::Bytes);
    let bytes = bytes.map(|limit| {
        format!(
            "limit {} counts bytes, which Postfix knows at the end of a message only: \
             name this service in smtpd_end_of_data_restrictions",
            limit.name
        )
    });
    bytes.chain(config.for_inetd().err()).collect()
}
