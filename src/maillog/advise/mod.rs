//! `connshaper advise`: which numbers fit a site, from its own mail logs.
//!
//! The sessions come from `reading`:
//!
//! ```text
//! reading -> counts ----> findings ----> report
//!            counts      candidates,    text, plots,
//!                        advice         page
//! ```
//!
//! One pass over the logs counts for every candidate (`clients`, and `accounts` for
//! users). With `--config` the sessions go through the daemon's own decision as
//! well (`judge`). `basis` tests the recommendation on parts of the log.

pub mod accounts;
pub mod basis;
pub mod clients;
pub mod findings;
pub mod judge;
pub mod options;
pub mod parts;
pub mod report;
pub mod counts;
pub mod timeline;
pub mod users;
pub mod window;

use std::process::ExitCode;
use std::time::Instant;

use crate::maillog::reading::{CommandFailure, Logs};
use crate::maillog::text;
use crate::observe::terminal::{fail, json, print, print_error};
use crate::sysexits;

use clients::Mask;
use counts::{ConfigTrial, Counts, Verdicts};
use findings::Findings;
use judge::Judge;
use options::AdviseOptions;

/// The most lengths of windows: each takes memory for every client.
pub const MAX_LENGTHS: usize = 8;

/// Reads the logs and prints what they say.
pub fn run(options: &AdviseOptions) -> ExitCode {
    advise(options).unwrap_or_else(|(code, error)| fail(code, &error))
}

fn advise(options: &AdviseOptions) -> Result<ExitCode, CommandFailure> {
    let exptimes = lengths(options)?;
    let logs = Logs::open(&options.reading)?;
    let judge = options.config.as_deref().map(|path| Judge::new(path, logs.seen)).transpose();
    let judge = judge.map_err(|error| (sysexits::CONFIG, error.to_string()))?;
    let verdicts = options.verdicts.as_deref().map(|path| Verdicts::create(path, &logs.zone)).transpose()?;
    let mask = mask(options, judge.as_ref());
    let mut counts = Counts::new(mask, &exptimes, judge.map(|judge| ConfigTrial::new(judge, verdicts)));
    let start = Instant::now();
    let read = logs.read(&mut counts);
    let taken = start.elapsed();
    counts.trial.as_mut().map_or(Ok(()), ConfigTrial::finish)?;
    let mut findings = Findings::new(read, counts, mask, &exptimes, &options.threshold);
    if let (Some(outcome), Some(path)) = (&mut findings.trial, &options.config) {
        outcome.path = text::plain(&path.display().to_string());
    }
    if let Some(path) = &options.html {
        std::fs::write(path, report::html::page(&findings))
            .map_err(|error| (sysexits::CANNOT_CREATE, text::cannot_write(path, &error)))?;
    }
    for trouble in &findings.read.stats.troubles {
        print_error(&format!("connshaper: {trouble}"));
    }
    let report = match () {
        () if options.json => json(&report::json::object(&findings)),
        () if options.csv => report::csv::table(&findings),
        () => report::terminal::text(&findings, taken),
    };
    Ok(print(&report, findings.read.exit_code()))
}

/// The lengths of windows, each once, the shortest first.
fn lengths(options: &AdviseOptions) -> Result<Vec<u32>, CommandFailure> {
    let mut exptimes = options.exptime.clone();
    exptimes.sort_unstable();
    exptimes.dedup();
    match exptimes.len() {
        0..=MAX_LENGTHS => Ok(exptimes),
        more => Err((sysexits::USAGE, format!("{more} different values of --exptime; give at most {MAX_LENGTHS}"))),
    }
}

fn mask(options: &AdviseOptions, judge: Option<&Judge>) -> Mask {
    let usual = judge.map_or(Mask { ipv4_prefix_length: 32, ipv6_prefix_length: 64 }, Judge::mask);
    Mask {
        ipv4_prefix_length: options.ipv4_prefix_length.unwrap_or(usual.ipv4_prefix_length),
        ipv6_prefix_length: options.ipv6_prefix_length.unwrap_or(usual.ipv6_prefix_length),
    }
}
