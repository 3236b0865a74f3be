//! Numbers of a running daemon.

use std::fs;

use super::Daemon;

/// A number of the last STATISTICS line; `None` before the first line.
pub fn statistic(daemon: &Daemon, name: &str) -> Option<u64> {
    let line = daemon.lines().with("STATISTICS ").pop()?;
    let (_, rest) = line.split_once(&format!(" {name}="))?;
    rest.split(' ').next()?.parse().ok()
}

/// Resident memory of a process in KiB.
pub fn resident(id: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
}
