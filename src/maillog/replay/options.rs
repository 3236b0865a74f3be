//! Options of `replay`.

use std::path::PathBuf;

use clap::Args;

use crate::maillog::options::LogOptions;
use crate::net::address::Address;

/// Options of `replay`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct ReplayOptions {
    /// What to read, and how.
    #[command(flatten)]
    pub reading: LogOptions,
    /// The configuration file, which tells where the daemon listens
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Ask here, instead of at the first address the configuration listens at
    #[arg(long, value_name = "ADDR")]
    pub to: Option<Address>,
    /// How many times faster than the log: a number, or max for no waiting at all
    #[arg(long, value_name = "FACTOR", default_value = "1", value_parser = speed)]
    pub speed: Speed,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// Write the verdict on every session to this file
    #[arg(long, value_name = "FILE")]
    pub verdicts: Option<PathBuf>,
}

/// The pace of a replay.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Speed {
    /// So many times that of the log.
    Times(f64),
    /// As fast as the daemon answers.
    Max,
}

// `speed` accepts finite numbers only, and those equal themselves.
impl Eq for Speed {}

fn speed(text: &str) -> Result<Speed, String> {
    if text == "max" {
        return Ok(Speed::Max);
    }
    match text.parse::<f64>() {
        Ok(times) if times.is_finite() && times > 0.0 => Ok(Speed::Times(times)),
        _ => Err("write a number above 0, as in 10, or max".to_owned()),
    }
}
