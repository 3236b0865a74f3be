//! Options about reading logs, of `advise` and `replay`.

use std::path::PathBuf;

use clap::Args;

use super::postconf::MyNetworks;
use super::sessions::Seen;

/// What to read, and how.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct LogOptions {
    /// Postfix logs, plain or compressed (gzip, lz4, lzma, xz, zstd, zip), in any order; - is standard input
    #[arg(value_name = "LOG", required = true)]
    pub logs: Vec<PathBuf>,
    /// When Postfix asks; without this option what postconf says of smtpd_delay_reject
    #[arg(long, value_enum, value_name = "STAGE")]
    pub seen: Option<Seen>,
    /// Networks whose clients are not asked about, as main.cf has them; without this option what
    /// postconf says
    #[arg(long, value_name = "NET,...", value_parser = networks)]
    pub mynetworks: Option<MyNetworks>,
    /// syslog_names of services whose clients log in, beside those that say so and those of master.cf
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    pub submission: Vec<String>,
    /// The zone of times without an offset, as in Europe/Berlin; without this option this machine's
    #[arg(long, value_name = "ZONE", value_parser = zone)]
    pub timezone: Option<String>,
}

fn networks(text: &str) -> Result<MyNetworks, String> {
    match MyNetworks::parse(text) {
        (networks, unread) if unread.is_empty() => Ok(networks),
        (_, unread) => Err(format!(
            "{} cannot be read; write a network or an address, as in 192.0.2.0/24, or a file of them",
            unread.join(" ")
        )),
    }
}

fn zone(text: &str) -> Result<String, String> {
    match jiff::tz::TimeZone::get(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err("there is no such zone; write it as in Europe/Berlin or UTC".to_owned()),
    }
}
