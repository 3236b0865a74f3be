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

use std::io;
use std::process::ExitCode;
use std::time::Instant;

use crate::maillog::reading::Logs;
use crate::maillog::text;
use crate::observe::terminal::{complain, fail, json, print};
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
    let exptimes = match lengths(options) {
        Ok(exptimes) => exptimes,
        Err(problem) => return fail(sysexits::USAGE, &problem),
    };
    let logs = match Logs::open(&options.reading) {
        Ok(logs) => logs,
        Err(error) => return fail(sysexits::NO_INPUT, &error),
    };
    let judge = match options.config.as_deref().map(|path| Judge::new(path, logs.seen)).transpose() {
        Ok(judge) => judge,
        Err(error) => return fail(sysexits::CONFIG, &error),
    };
    let verdicts = options.verdicts.as_deref().map(|path| Verdicts::create(path, &logs.zone)).transpose();
    let verdicts = match verdicts {
        Ok(verdicts) => verdicts,
        Err(error) => return fail(sysexits::CANNOT_CREATE, &cannot_write(options.verdicts.as_deref(), &error)),
    };
    let mask = mask(options, judge.as_ref());
    let mut counts = Counts::new(mask, &exptimes, judge.map(|judge| ConfigTrial::new(judge, verdicts)));
    let (seen, zone, notes) = (logs.seen, logs.zone.clone(), logs.notes.clone());
    let start = Instant::now();
    let read = logs.read(&mut counts, true);
    let taken = start.elapsed();
    if let Some(Err(error)) = counts.trial.as_mut().map(ConfigTrial::finish) {
        return fail(sysexits::CANNOT_CREATE, &cannot_write(options.verdicts.as_deref(), &error));
    }
    let mut findings = Findings::new(read, counts, mask, &exptimes, &options.threshold);
    (findings.seen, findings.zone, findings.notes) = (seen, zone, notes);
    if let (Some(outcome), Some(path)) = (&mut findings.trial, &options.config) {
        outcome.path = text::plain(&path.display().to_string());
    }
    if let Some(path) = &options.html
        && let Err(error) = std::fs::write(path, report::html::page(&findings))
    {
        return fail(sysexits::CANNOT_CREATE, &cannot_write(Some(path), &error));
    }
    for trouble in &findings.read.stats.troubles {
        complain(&format!("connshaper: {trouble}"));
    }
    let report = match () {
        () if options.json => json(&report::json::object(&findings)),
        () if options.csv => report::csv::table(&findings),
        () => report::terminal::text(&findings, taken),
    };
    print(&report, findings.read.exit_code())
}

/// The lengths of windows, each once, the shortest first.
fn lengths(options: &AdviseOptions) -> Result<Vec<u32>, String> {
    let mut exptimes = options.exptime.clone();
    exptimes.sort_unstable();
    exptimes.dedup();
    match exptimes.len() {
        0..=MAX_LENGTHS => Ok(exptimes),
        more => Err(format!("{more} different values of --exptime; give at most {MAX_LENGTHS}")),
    }
}

fn mask(options: &AdviseOptions, judge: Option<&Judge>) -> Mask {
    let usual = judge.map_or(Mask { ipv4_prefix_length: 32, ipv6_prefix_length: 64 }, Judge::mask);
    Mask {
        ipv4_prefix_length: options.ipv4_prefix_length.unwrap_or(usual.ipv4_prefix_length),
        ipv6_prefix_length: options.ipv6_prefix_length.unwrap_or(usual.ipv6_prefix_length),
    }
}

fn cannot_write(path: Option<&std::path::Path>, error: &io::Error) -> String {
    let path = path.map(|path| text::plain(&path.display().to_string())).unwrap_or_default();
    format!("{path}: cannot be written: {error}")
}
