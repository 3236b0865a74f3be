//! `connshaper check`: whether the configuration is right, and what is in force.

mod limits;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use jiff::Timestamp;
use serde::Serialize;

use crate::config::origin_files::{self, OriginFile};
use crate::config::{Config, ConfigError, ConfigWarning, EffectiveSetting, Form, ListKind, Loaded, Origin};
pub use crate::observe::terminal::Paint;
use crate::observe::terminal::{self, escape, print, print_error};
use crate::policy::PolicySettings;
use crate::policy::limit::{self, CountKind};
use crate::policy::lists::ListEntry;
use crate::sysexits;

/// Reads a configuration and prints what is in force, or what is wrong.
pub fn run(path: Option<&Path>, json: bool) -> ExitCode {
    let result = Loaded::load(path);
    let paint = Paint::of(&io::stdout());
    let code = if result.is_ok() { 0 } else { sysexits::CONFIG };
    match &result {
        _ if json => print(&to_json(&result), code),
        Ok(loaded) => print(&report(loaded, paint), code),
        Err(error) => {
            print_error(&error.to_string());
            ExitCode::from(code)
        }
    }
}

/// The report for people.
pub fn report(loaded: &Loaded, paint: Paint) -> String {
    let Loaded { config, effective } = loaded;
    let path = config.path.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
    let form = match config.form {
        Form::BuiltIn => "no configuration file: built-in defaults".to_owned(),
        Form::Toml => format!("{path}: TOML"),
        Form::ConnectionShaper => format!("{path}: connection_shaper's form, and its ways"),
    };
    let mut text = format!("{}\n\n", paint.bold(&escape(&form)));
    for sentence in summary(loaded) {
        text += &format!("{}\n", escape(&sentence));
    }
    text += &format!("\n{}\n", paint.bold("In force"));
    text += &table(effective.settings.iter().map(|setting| row(setting, &effective.included)));
    for limit in &effective.limits {
        text += &format!("\n{}\n", paint.bold(&format!("In force for limit {}", limit.name)));
        text += &table(
            limit
                .settings
                .iter()
                .filter(|setting| setting.origin != Origin::Default)
                .map(|setting| row(setting, &effective.included)),
        );
    }
    if !config.list_files.is_empty() || !config.limit_files.is_empty() {
        text += &format!("\n{}\n", paint.bold("List files"));
        let files = list_files(loaded);
        text += &table(files.iter().map(|file| match file.limit {
            Some(limit) => {
                [format!("{} of limit {limit}", file.list), format!("{} entries", file.keys), file.path.to_string()]
            }
            None => [file.list.to_owned(), entries(file.netblocks, file.names), file.path.to_string()],
        }));
    }
    if !config.origin_files.is_empty() {
        text += &format!("\n{}\n", paint.bold("Databases"));
        let row = |database: &CheckedDatabase<'_>| {
            let made = i64::try_from(database.built).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
            let made = made.map(|time| time.strftime(", made %Y-%m-%d").to_string()).unwrap_or_default();
            [database.key.to_owned(), format!("{}{made}", database.database_type), database.path.to_string()]
        };
        text += &table(databases(config).iter().map(row));
    }
    for warning in &config.warnings {
        text += &format!("\n{} {}", paint.warning("warning:"), escape(&warning.to_string()));
    }
    for note in notes(loaded) {
        text += &format!("\nnote: {}", escape(&note));
    }
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

fn row(setting: &EffectiveSetting, included: &[PathBuf]) -> [String; 3] {
    let origin = match setting.origin {
        Origin::Default => "default".to_owned(),
        Origin::Line { line } => format!("line {line}"),
        Origin::Included { file, line } => {
            let file = included.get(file).and_then(|path| path.file_name()).unwrap_or_default();
            format!("{} line {line}", file.display())
        }
        Origin::TopLevel => "top level".to_owned(),
        Origin::ConnectionShaper => "connection_shaper's way".to_owned(),
    };
    [setting.key.to_owned(), setting.spelled(), origin]
}

/// Rows in three columns.
fn table(rows: impl Iterator<Item = [String; 3]>) -> String {
    // Longer values do not push the last column out of sight.
    const WIDEST: usize = 40;
    let rows: Vec<[String; 3]> = rows.map(|row| row.map(|cell| escape(&cell))).collect();
    let width =
        |column: usize| rows.iter().map(|row| row[column].chars().count()).filter(|width| *width <= WIDEST).max();
    let (first, second) = (width(0).unwrap_or(0), width(1).unwrap_or(0));
    rows.iter().map(|[a, b, c]| format!("  {a:first$}  {b:second$}  {c}\n")).collect()
}

fn entries(netblocks: usize, names: usize) -> String {
    match (netblocks, names) {
        (_, 0) => counted(netblocks, "netblock"),
        (0, _) => counted(names, "name"),
        _ => format!("{} and {}", counted(netblocks, "netblock"), counted(names, "name")),
    }
}

/// A number of things, with the plural where it is not one.
fn counted(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// The same for programs: what is in force, or what is wrong.
pub fn to_json(result: &Result<Loaded, ConfigError>) -> String {
    match result {
        Ok(loaded) => terminal::json(&InForce::new(loaded)),
        Err(error) => terminal::json(&Wrong { ok: false, error }),
    }
}

#[derive(Serialize)]
struct InForce<'c> {
    ok: bool,
    path: Option<Cow<'c, str>>,
    form: &'static str,
    /// Included files.
    included: Vec<Cow<'c, str>>,
    summary: Vec<String>,
    limits: Vec<CheckedLimit<'c>>,
    settings: &'c [EffectiveSetting],
    list_files: Vec<CheckedListFile<'c>>,
    databases: Vec<CheckedDatabase<'c>>,
    warnings: &'c [ConfigWarning],
    notes: Vec<String>,
}

/// A database of where clients are from.
#[derive(Serialize)]
struct CheckedDatabase<'c> {
    key: &'static str,
    /// The type that its maker gave it.
    #[serde(rename = "type")]
    database_type: &'c str,
    /// Seconds since the Unix epoch.
    built: u64,
    /// Bytes.
    size: usize,
    path: Cow<'c, str>,
}

/// A limit with every key it may have.
#[derive(Serialize)]
struct CheckedLimit<'c> {
    name: &'c str,
    #[serde(flatten)]
    settings: BTreeMap<&'static str, &'c Option<toml::Value>>,
}

#[derive(Serialize)]
struct CheckedListFile<'c> {
    list: &'static str,
    netblocks: usize,
    names: usize,
    /// Of one that is of a single limit: which, and the number of its keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<&'c str>,
    keys: usize,
    path: Cow<'c, str>,
}

#[derive(Serialize)]
struct Wrong<'c> {
    ok: bool,
    #[serde(flatten)]
    error: &'c ConfigError,
}

impl<'c> InForce<'c> {
    fn new(loaded: &'c Loaded) -> Self {
        let Loaded { config, effective } = loaded;
        let limit = |name: &'c str, settings: &'c [EffectiveSetting]| {
            let of_limit = settings.iter().filter(|setting| setting.is_of_limit());
            CheckedLimit { name, settings: of_limit.map(|setting| (setting.key, &setting.value)).collect() }
        };
        let named = effective.limits.iter().map(|named| limit(&named.name, &named.settings));
        Self {
            ok: true,
            path: config.path.as_ref().map(|path| path.to_string_lossy()),
            form: config.form.into_str(),
            included: effective.included.iter().map(|path| path.to_string_lossy()).collect(),
            summary: summary(loaded),
            limits: std::iter::once(limit(limit::TOP, &effective.settings)).chain(named).collect(),
            settings: &effective.settings,
            list_files: list_files(loaded),
            databases: databases(config),
            warnings: &config.warnings,
            notes: notes(loaded),
        }
    }
}

fn list_files(loaded: &Loaded) -> Vec<CheckedListFile<'_>> {
    let list = |kind| match kind {
        ListKind::White => "whitelist",
        ListKind::Black => "blacklist",
    };
    let files = loaded.config.list_files.iter();
    let lists = files.map(|file| CheckedListFile {
        list: list(file.kind),
        netblocks: file.netblocks,
        names: file.names,
        limit: None,
        keys: 0,
        path: file.path.to_string_lossy(),
    });
    let of_limits = loaded.config.limit_files.iter().map(|file| CheckedListFile {
        list: file.purpose.word(),
        netblocks: 0,
        names: 0,
        limit: Some(&loaded.config.policy.limits[file.limit].name),
        keys: file.entries,
        path: file.path.to_string_lossy(),
    });
    lists.chain(of_limits).collect()
}

fn databases<'c>(config: &'c Config) -> Vec<CheckedDatabase<'c>> {
    let checked = |file: &'c OriginFile| {
        let database = origin_files::database(&config.policy.origins, file.kind)?;
        Some(CheckedDatabase {
            key: file.key(),
            database_type: database.database_type(),
            built: database.built(),
            size: database.size(),
            path: file.path.to_string_lossy(),
        })
    };
    config.origin_files.iter().filter_map(checked).collect()
}

/// The limits in sentences.
fn summary(Loaded { config, effective }: &Loaded) -> Vec<String> {
    let settings = std::iter::once(&effective.settings).chain(effective.limits.iter().map(|limit| &limit.settings));
    let mut sentences: Vec<String> =
        config.policy.limits.iter().zip(settings).map(|(limit, settings)| limits::sentence(limit, settings)).collect();
    sentences.push(exemptions(&config.policy));
    if config.policy.log_only {
        sentences.push("Nothing is enforced: all of this is judged, counted and logged only.".into());
    }
    sentences
}

/// From which limits the whitelist exempts.
fn exemptions(policy: &PolicySettings) -> String {
    let white = policy.lists.netblocks.iter().filter(|(_, entry)| *entry == ListEntry::Whitelist).count();
    let names = policy.lists.names.iter().filter(|(_, entry)| *entry == ListEntry::Whitelist).count();
    let limits = |exempted| {
        let limits = policy.limits.iter().filter(move |limit| limit.whitelist_exempts == exempted);
        enumeration(&limits.map(|limit| limit.name.as_str()).collect::<Vec<_>>())
    };
    let netblocks = entries(white, names);
    match (white + names, limits(true), limits(false)) {
        (0, ..) => "The whitelist is empty: no client is exempt.".to_owned(),
        (_, Some(exempted), None) => format!("The whitelist ({netblocks}) exempts clients from {exempted}."),
        (_, Some(exempted), Some(others)) => {
            format!("The whitelist ({netblocks}) exempts clients from {exempted}, not from {others}.")
        }
        (_, None, _) => format!("The whitelist ({netblocks}) exempts clients from the blacklist only."),
    }
}

/// Names with commas and `and` between them; `None`: there are none.
fn enumeration(names: &[&str]) -> Option<String> {
    let (last, rest) = names.split_last()?;
    Some(if rest.is_empty() { (*last).to_owned() } else { format!("{} and {last}", rest.join(", ")) })
}

/// Notes that are not warnings.
fn notes(Loaded { config, .. }: &Loaded) -> Vec<String> {
    let bytes = config.policy.limits.iter().filter(|limit| limit.counts == CountKind::Bytes);
    let bytes = bytes.map(|limit| {
        format!(
            "limit {} counts bytes, which Postfix knows at the end of a message only: \
             name this service in smtpd_end_of_data_restrictions",
            limit.name
        )
    });
    let charging = config.policy.limits.iter().filter(|limit| limit.needs_recipients()).map(|limit| {
        let what = match limit.counts {
            CountKind::Bytes => "charges recipients for bytes",
            _ => "looks at all recipients of a message at once",
        };
        format!(
            "limit {} {what}, and Postfix names them at RCPT only: name this service in smtpd_recipient_restrictions too",
            limit.name
        )
    });
    bytes.chain(charging).chain(config.for_inetd().err()).collect()
}
