//! `connshaper doctor`: whether Postfix, the daemon and the store fit together.
//!
//! Reads the configuration and what postconf(1) says, asks the daemon a question that counts nothing, and
//! changes nothing. Each finding says what is right, or what to do.

mod layout;
mod limits;
pub mod postfix;

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use nix::unistd::User;
use serde::Serialize;

use crate::config::Config;
use crate::config::origin_files::{self, OriginFile};
use crate::control::client::{ControlClient, DEFAULT_SOCKET};
use crate::control::status::StatusArgs;
use crate::net::address::Address;
use crate::observe::finding::{Assessment, Finding, doubtful, right, wrong};
use crate::observe::terminal::{Paint, escape, json, print};
use crate::policy::attribute::Attribute;
use crate::postfix::query;
use crate::sysexits;
use layout::System;
use postfix::Postfix;

/// All that doctor prints as JSON.
#[derive(Debug, Serialize)]
struct DoctorReport {
    findings: Vec<Finding>,
}

/// Looks at all of it and prints what was found. Exit code 1: something is wrong.
pub fn run(path: Option<&Path>, socket: Option<&Path>, as_json: bool) -> ExitCode {
    let findings = match Config::load(path) {
        Err(error) => vec![wrong(format!("the configuration is wrong: {}", error.summary()), "run connshaper check")],
        Ok(config) => examine(&config, socket),
    };
    let is_wrong = findings.iter().any(|finding| finding.state == Assessment::Wrong);
    let text = match as_json {
        true => json(&DoctorReport { findings }),
        false => report(&findings, Paint::of(&io::stdout())),
    };
    print(&text, if is_wrong { sysexits::UNHEALTHY } else { 0 })
}

/// A database that is older, in days, is out of date: makers have a new one each month at least.
const OLD: u64 = 90;

/// How old the databases are of where clients are from.
fn databases(config: &Config, now: SystemTime) -> Vec<Finding> {
    let age = |file: &OriginFile| {
        let database = origin_files::database(&config.policy.origins, file.kind)?;
        let now = now.duration_since(UNIX_EPOCH).ok()?.as_secs();
        let days = now.saturating_sub(database.built()) / 86_400;
        let what = format!("{} ({}) was made {days} days ago", file.key(), database.database_type());
        Some(match days {
            0..=OLD => right(what),
            _ => doubtful(
                what,
                format!(
                    "fetch a new {}: networks change hands, and new ones are counted one by one",
                    file.path.display()
                ),
            ),
        })
    };
    config.origin_files.iter().filter_map(age).collect()
}

fn examine(config: &Config, socket: Option<&Path>) -> Vec<Finding> {
    let mut findings = vec![configuration(config)];
    let system = System::detect(Path::new("/"));
    let instances = Postfix::read_all();
    let all = instances.as_deref().unwrap_or_default();
    if let Err(error) = &instances {
        findings.push(doubtful(format!("postconf cannot be run: {error}"), "run this on the mail host, as root"));
    }
    // An instance that only sends has no policy service.
    let asking: Vec<&Postfix> = all.iter().filter(|instance| !instance.endpoints().is_empty()).collect();
    let examined = if asking.is_empty() { all.iter().take(1).collect() } else { asking };
    for instance in &examined {
        let mut found = instance.examine();
        found.extend(instance.examine_reach());
        if !config.policy.lists.names.is_empty() {
            found.extend(instance.examine_names());
        }
        if config.policy.limits.iter().any(|limit| limit.concerns(Attribute::is_mail_address)) {
            found.extend(instance.examine_delimiters(&config.policy.spellings.delimiters));
        }
        findings.extend(instance.named(found));
    }
    findings.extend(limits::examine(&config.policy.limits, &examined));
    findings.extend(databases(config, SystemTime::now()));
    // The places that Postfix asks at; if there are none, those that the daemon listens at.
    let mut places: Vec<Address> = Vec::new();
    for place in examined.iter().flat_map(|instance| instance.endpoints()) {
        if !places.contains(&place) {
            places.push(place);
        }
    }
    if places.is_empty() {
        places = super::asked_at(config);
    }
    findings.extend(system.examine(&places));
    findings.extend(places.iter().map(|place| answers(place, &system)));
    if let Some(instance) = examined.first() {
        findings.extend(places.iter().filter_map(|place| rights(place, &instance.mail_owner)));
    }
    findings.extend(config.store.shared.iter().flat_map(|store| store.examine()));
    findings.extend(daemon(config, socket));
    findings
}

fn configuration(config: &Config) -> Finding {
    let place = config.path.as_ref().map_or("built-in defaults".to_owned(), |path| path.display().to_string());
    match config.warnings.len() {
        0 => right(format!("configuration: {place}")),
        number => doubtful(format!("configuration: {place}, {number} warnings"), "run connshaper check"),
    }
}

/// Whether a test request comes back. It has no client's address, so it is not counted.
fn answers(place: &Address, system: &System) -> Finding {
    let start = Instant::now();
    match query::ask(place, "unknown", &[]) {
        Ok(action) => right(format!("a request to {place} is answered {action} in {:.1} ms", milliseconds(start))),
        Err(error) => wrong(format!("a request to {place} is not answered: {error}"), system.remedy_of_silence(place)),
    }
}

fn milliseconds(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1000.0
}

/// Whether Postfix's user may open a unix socket.
fn rights(place: &Address, owner: &str) -> Option<Finding> {
    let Address::Unix(path) = place else { return None };
    let user = User::from_name(owner).ok().flatten()?;
    // master(8) opens private sockets as root, but smtpd connects as mail_owner.
    for directory in path.ancestors().skip(1) {
        if !may(directory, &user, 0o1) {
            let what = format!("{} is closed to {owner}, the user of smtpd", directory.display());
            return Some(wrong(what, format!("give {owner} the x right there, or choose another place")));
        }
    }
    match may(path, &user, 0o2) {
        true => Some(right(format!("{} is open to {owner}, the user of smtpd", path.display()))),
        false => Some(wrong(
            format!("{} is closed to {owner}, the user of smtpd", path.display()),
            format!("set socket_group = \"{owner}\", or SocketGroup={owner} in connshaper.socket"),
        )),
    }
}

/// Whether a user has a right (of the last three bits) to a file, by owner, own group or all.
fn may(path: &Path, user: &User, bit: u32) -> bool {
    let Ok(metadata) = std::fs::metadata(path) else { return false };
    let shift = match (metadata.uid() == user.uid.as_raw(), metadata.gid() == user.gid.as_raw()) {
        (true, _) => 6,
        (_, true) => 3,
        _ => 0,
    };
    metadata.mode() >> shift & bit != 0
}

/// The warnings of the daemon itself.
fn daemon(config: &Config, socket: Option<&Path>) -> Vec<Finding> {
    let configured = config.control.as_ref().map(|control| control.path.as_path());
    let path = socket.or(configured).unwrap_or(Path::new(DEFAULT_SOCKET));
    let status = match ControlClient::connect(path).and_then(|mut client| client.ask(StatusArgs {})) {
        Ok(status) => status,
        Err(problem) => {
            let remedy = "set control_socket, so that status, explain and reset work";
            return vec![doubtful(format!("the control socket: {}", problem.error), remedy)];
        }
    };
    let mut findings = vec![right(format!("the control socket {} answers", path.display()))];
    findings.extend(status.diagnosis.into_iter().map(|found| wrong(found.problem, found.remedy)));
    if let Some(error) = status.overrides_unreadable {
        let what = format!("the bans and allowances in {} cannot be read: {error}", status.store.kind);
        findings.push(wrong(what, "run connshaper ban or allow, which writes them anew"));
    }
    if let Some(error) = status.configuration.reload_failed {
        let what = format!("the daemon runs on an old configuration: {error}");
        findings.push(wrong(what, "correct it and run connshaper reload"));
    }
    findings
}

fn report(findings: &[Finding], paint: Paint) -> String {
    let mut text = String::new();
    for Finding { state, what, remedy } in findings {
        let word = format!("{:8}", state.into_str());
        let word = match state {
            Assessment::Right => paint.good(&word),
            Assessment::Doubtful => paint.warning(&word),
            Assessment::Wrong => paint.bad(&word),
        };
        text += &format!("{word} {}\n", escape(what));
        if let Some(remedy) = remedy {
            text.extend(remedy.lines().map(|line| format!("         {}\n", escape(line))));
        }
    }
    text
}
