//! `connshaper replay`: asks a running daemon about the sessions of a log, as Postfix would have.
//!
//! The sessions are those that `advise` finds. Each becomes one policy request,
//! sent at the log's pace or a multiple of it. The next request waits for the
//! answer, so verdicts come in the order of the log.

pub mod connection;
pub mod options;
pub mod player;
pub mod report;

use std::process::ExitCode;

use crate::config::{Config, ConfigError};
use crate::maillog::advise::counts::Verdicts;
use crate::maillog::reading::{CommandFailure, Logs};
use crate::net::address::Address;
use crate::observe::terminal::{fail, print, print_error};
use crate::sysexits;

use connection::ReplayConnection;
use options::ReplayOptions;
use player::Player;

/// Replays the logs and prints what the daemon answered.
pub fn run(options: &ReplayOptions) -> ExitCode {
    replay(options).unwrap_or_else(|(code, error)| fail(code, &error))
}

fn replay(options: &ReplayOptions) -> Result<ExitCode, CommandFailure> {
    let address = address(options).map_err(|error| (sysexits::CONFIG, error.to_string()))?;
    let logs = Logs::open(&options.reading)?;
    let verdicts = options.verdicts.as_deref().map(|path| Verdicts::create(path, &logs.zone)).transpose()?;
    let connection = ReplayConnection::open(&address)?;
    let mut player = Player::new(connection, options.speed, logs.seen, verdicts);
    let read = logs.read(&mut player);
    for trouble in &read.stats.troubles {
        print_error(&format!("connshaper: {trouble}"));
    }
    let answers = player.finish()?;
    let report = if options.json { report::json(&answers, &read) } else { report::text(&answers, &read) };
    Ok(print(&report, read.exit_code()))
}

fn address(options: &ReplayOptions) -> Result<Address, ConfigError> {
    match &options.to {
        Some(address) => Ok(address.clone()),
        None => Config::load(options.config.as_deref()).map(|config| config.listen[0].clone()),
    }
}
