//! What a configuration says about the SQLite file.

use std::path::PathBuf;

use strum::{EnumString, IntoStaticStr, VariantNames};

use crate::policy::config_key::{KeyValues, read_path};

/// The file, and how careful it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqliteConfig {
    pub path: PathBuf,
    pub synchronous: Synchronous,
    /// The most clients that the file is to have room for.
    pub max_clients: usize,
}

impl SqliteConfig {
    /// Reads its keys.
    pub fn read(s: &dyn KeyValues) -> Self {
        let path = read_path(s, "sqlite_file", "/var/lib/connshaper/counts.db").unwrap_or_default();
        // Another word is a mistake that was noted where the value was typed.
        let word = s.text("sqlite_synchronous").unwrap_or_default();
        let synchronous = word.parse().unwrap_or(Synchronous::Normal);
        Self { path, synchronous, max_clients: s.number("max_clients") as usize }
    }

    /// Bytes that the file grows to. Beyond that, counters are given up, those that end first before others.
    pub fn largest(&self) -> u64 {
        /// With the indexes: an IPv6 network takes some 150.
        const BYTES_PER_CLIENT: u64 = 256;
        (self.max_clients as u64).saturating_mul(BYTES_PER_CLIENT)
    }
}

/// When what was counted is on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumString, IntoStaticStr, VariantNames)]
#[strum(const_into_str, serialize_all = "snake_case")]
pub enum Synchronous {
    /// Within half a minute: a power cut loses what came since.
    Normal,
    /// Before it is answered: a power cut loses nothing.
    Full,
}
