//! `connshaper replay`: asks a running daemon about the sessions of a log, as Postfix would have.
//!
//! The sessions are those that `advise` finds. Each becomes one policy request,
//! sent at the log's pace or a multiple of it. The next request waits for the
//! answer, so verdicts come in the order of the log.

pub mod connection;
pub mod options;
pub mod player;
pub mod report;

use std::io;
use std::process::ExitCode;

use crate::config::{Config, ConfigError};
use crate::maillog::advise::counts::Verdicts;
use crate::maillog::reading::Logs;
use crate::maillog::text::plain;
use crate::net::address::Address;
use crate::observe::terminal::{complain, fail, print};
use crate::sysexits;

use connection::ReplayConnection;
use options::ReplayOptions;
use player::Player;

/// Replays the logs and prints what the daemon answered.
pub fn run(options: &ReplayOptions) -> ExitCode {
    let address = match address(options) {
        Ok(address) => address,
        Err(error) => return fail(sysexits::CONFIG, &error),
    };
    let logs = match Logs::open(&options.reading) {
        Ok(logs) => logs,
        Err(error) => return fail(sysexits::NO_INPUT, &error),
    };
    let verdicts = options.verdicts.as_deref().map(|path| Verdicts::create(path, &logs.zone)).transpose();
    let verdicts = match verdicts {
        Ok(verdicts) => verdicts,
        Err(error) => return fail(sysexits::CANNOT_CREATE, &cannot_write(options, &error)),
    };
    let connection = match ReplayConnection::open(&address) {
        Ok(connection) => connection,
        Err(error) => return fail(sysexits::UNAVAILABLE, &format!("{address}: {error}")),
    };
    let (seen, notes) = (logs.seen, logs.notes.clone());
    let mut player = Player::new(connection, options.speed, seen, verdicts);
    let read = logs.read(&mut player, true);
    for trouble in &read.stats.troubles {
        complain(&format!("connshaper: {trouble}"));
    }
    let report = match player.finish() {
        Ok(played) if options.json => report::json(&played, &read, seen, &notes),
        Ok(played) => report::text(&played, &read, seen, &notes),
        Err(player::PlayerError::Daemon(error)) => return fail(sysexits::UNAVAILABLE, &format!("{address}: {error}")),
        Err(player::PlayerError::Verdicts(error)) => {
            return fail(sysexits::CANNOT_CREATE, &cannot_write(options, &error));
        }
    };
    print(&report, read.exit_code())
}

fn address(options: &ReplayOptions) -> Result<Address, ConfigError> {
    match &options.to {
        Some(address) => Ok(address.clone()),
        None => Config::load(options.config.as_deref()).map(|config| config.listen[0].clone()),
    }
}

fn cannot_write(options: &ReplayOptions, error: &io::Error) -> String {
    let path = options.verdicts.as_deref().map(|path| plain(&path.display().to_string())).unwrap_or_default();
    format!("{path}: cannot be written: {error}")
}
