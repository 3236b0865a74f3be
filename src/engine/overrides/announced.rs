//! The bans that a host has announced, kept in the store: a daemon that is restarted does not announce them a second
//! time, and announces the end of those that ended while it was not running.

use std::io;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::list::OverrideList;
use super::{SPARE, SharedOverrides};
use crate::engine::service::Service;
use crate::net::clock::Now;
use crate::net::lock;

/// The version of the record's form.
const VERSION: u64 = 1;

/// Seconds by which two readings of the time of the host's start may differ.
const BOOT_TIME_TOLERANCE: u64 = 10;

/// The record of this daemon.
#[derive(Debug, Default)]
pub struct AnnouncedRecord {
    /// It was read, or the old program has handed its content over at an upgrade.
    is_known: bool,
    /// The ids in it: it is written again when they change.
    written: Vec<u64>,
}

/// The record as it is in the store.
#[derive(Serialize, Deserialize)]
struct SharedRecord {
    v: u64,
    /// When the host was started, in seconds since the Unix epoch: then the firewall was empty.
    booted: u64,
    /// The overrides that were in force.
    list: OverrideList,
    /// The resets and events that were seen.
    #[serde(rename = "heeded")]
    seen: Vec<u64>,
}

impl AnnouncedRecord {
    /// It need not be read.
    pub fn skip(&mut self) {
        self.is_known = true;
    }

    /// Reads it once, after the start.
    pub async fn recall(&mut self, overrides: &SharedOverrides, service: &Service, now: Now) -> io::Result<()> {
        if self.is_known {
            return Ok(());
        }
        let rules = service.rules.load_full();
        let read = rules.store.read_value(&name(service)).await?;
        self.is_known = true;
        // One that cannot be read is replaced, and what it says is announced again.
        let record = read.and_then(|read| serde_json::from_slice::<SharedRecord>(&read.bytes).ok());
        let Some(record) = record.filter(|record| record.v == VERSION) else { return Ok(()) };
        if record.booted.abs_diff(booted(now)) <= BOOT_TIME_TOLERANCE {
            lock(&overrides.link).seen.extend(record.seen);
            // An administrator may have set overrides meanwhile.
            let mut known = rules.policy.overrides().list();
            let mut recalled = record.list.overrides(&[], now);
            recalled.retain(|entry| known.iter().all(|other| other.target != entry.target));
            known.extend(recalled);
            rules.policy.overrides().set(known, rules.policy.spellings(), now);
        }
        Ok(())
    }

    /// Writes it if its content has changed. `is_lost`: the store may have lost it.
    pub async fn keep(
        &mut self,
        overrides: &SharedOverrides,
        service: &Service,
        is_lost: bool,
        now: Now,
    ) -> io::Result<()> {
        let rules = service.rules.load_full();
        let known = rules.policy.overrides().list();
        let mut seen: Vec<u64> = lock(&overrides.link).seen.iter().copied().collect();
        seen.sort_unstable();
        let ids: Vec<u64> = seen.iter().copied().chain(known.iter().map(|entry| entry.id)).collect();
        if ids == self.written && (ids.is_empty() || !is_lost) {
            return Ok(());
        }
        let list = OverrideList::of(&known, now);
        // Events stay in the list for less than that.
        let last = list.ends().max().unwrap_or(0).saturating_sub(now.unix()) + 2 * SPARE;
        let record = SharedRecord { v: VERSION, booted: booted(now), list, seen };
        let value = serde_json::to_vec(&record).map_err(io::Error::other)?;
        let name = name(service);
        let before = rules.store.read_value(&name).await?;
        let seconds = u32::try_from(last).unwrap_or(u32::MAX);
        if rules.store.write_value(&name, &value, seconds, before.as_ref(), now).await? {
            self.written = ids;
        }
        Ok(())
    }
}

/// The name of the value: one for each configuration of each host.
fn name(service: &Service) -> String {
    let host = nix::unistd::gethostname().unwrap_or_default();
    let (source, _) = service.configured();
    let mut digest = Sha256::new();
    digest.update(host.as_encoded_bytes());
    digest.update([0]);
    digest.update(source.path.unwrap_or_default());
    let digest: String = digest.finalize()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("announced/{digest}")
}

/// When this host was started, in seconds since the Unix epoch.
fn booted(now: Now) -> u64 {
    (now.unix_ms.saturating_sub(now.monotonic)) / 1000
}
