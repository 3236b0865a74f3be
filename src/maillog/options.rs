//! Options about reading logs, of `advise` and `replay`.

use std::path::PathBuf;

use clap::Args;
use ipnet::IpNet;

use super::postconf::netblock;
use super::sessions::Seen;

/// What to read, and how.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct LogOptions {
    /// Postfix logs, plain or compressed with gzip, zstd or xz, in any order; - is standard input
    #[arg(value_name = "LOG", required = true)]
    pub logs: Vec<PathBuf>,
    /// When Postfix asks; without this option what postconf says of smtpd_delay_reject
    #[arg(long, value_enum, value_name = "STAGE")]
    pub seen: Option<Seen>,
    /// Networks whose clients are not asked about; without this option what postconf says
    #[arg(long, value_name = "NET,...", value_delimiter = ',', value_parser = network)]
    pub mynetworks: Option<Vec<IpNet>>,
    /// The zone of times without an offset, as in Europe/Berlin; without this option this machine's
    #[arg(long, value_name = "ZONE", value_parser = zone)]
    pub timezone: Option<String>,
}

fn network(text: &str) -> Result<IpNet, String> {
    netblock(text).ok_or_else(|| "write a network or an address, as in 192.0.2.0/24".to_owned())
}

fn zone(text: &str) -> Result<String, String> {
    match jiff::tz::TimeZone::get(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err("there is no such zone; write it as in Europe/Berlin or UTC".to_owned()),
    }
}
