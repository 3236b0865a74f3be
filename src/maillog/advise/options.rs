//! Options of `advise`.

use std::path::PathBuf;

use clap::Args;

use crate::maillog::options::LogOptions;

/// Options of `advise`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct AdviseOptions {
    /// What to read, and how.
    #[command(flatten)]
    pub reading: LogOptions,
    /// Thresholds to evaluate, as in 5,10,20; chosen from the log unless given
    #[arg(long, value_name = "N,...", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=65_534))]
    pub threshold: Vec<u32>,
    /// Lengths of windows to evaluate, as in 1m,10m,1h, at most eight
    #[arg(long, value_name = "TIME,...", value_delimiter = ',', default_value = "1m,10m,1h", value_parser = exptime)]
    pub exptime: Vec<u32>,
    /// Show the effect of this configuration too, with all its limits
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Bits of an IPv4 address that are counted together; without this option what the
    /// configuration says, or 32
    #[arg(long, value_name = "BITS", value_parser = clap::value_parser!(u8).range(0..=32))]
    pub ipv4_prefix_length: Option<u8>,
    /// The same for IPv6; or 64
    #[arg(long, value_name = "BITS", value_parser = clap::value_parser!(u8).range(0..=128))]
    pub ipv6_prefix_length: Option<u8>,
    /// Print one JSON object
    #[arg(long, conflicts_with = "csv")]
    pub json: bool,
    /// Print the table of candidates as comma-separated values
    #[arg(long)]
    pub csv: bool,
    /// Write a page with interactive plots to this file, too
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Write the configuration's verdict on every session to this file
    #[arg(long, value_name = "FILE", requires = "config")]
    pub verdicts: Option<PathBuf>,
}

/// Seconds, up to the longest `exptime` of a configuration.
fn exptime(text: &str) -> Result<u32, String> {
    const LONGEST: u64 = 365 * 86_400;
    let seconds = match text.parse::<u64>() {
        Ok(seconds) => seconds,
        Err(_) => humantime::parse_duration(text).map_err(|_| "write it as in 90, 10m or 1h30m".to_owned())?.as_secs(),
    };
    match u32::try_from(seconds) {
        Ok(seconds) if seconds > 0 && u64::from(seconds) <= LONGEST => Ok(seconds),
        _ => Err("write a time from 1s to 365d".to_owned()),
    }
}
