//! What a configuration says about the SQLite file.

use std::path::PathBuf;

/// The file, and how careful it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqliteConfig {
    pub path: PathBuf,
    pub synchronous: Synchronous,
    /// The most clients that the file is to have room for.
    pub max_clients: usize,
}

impl SqliteConfig {
    /// Bytes that the file grows to. Beyond that, counters are given up, those that end first before others.
    pub fn largest(&self) -> u64 {
        /// With the indexes: an IPv6 network takes some 150.
        const BYTES_PER_CLIENT: u64 = 256;
        (self.max_clients as u64).saturating_mul(BYTES_PER_CLIENT)
    }
}

/// When what was counted is on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Synchronous {
    /// Within half a minute: a power cut loses what came since.
    Normal,
    /// Before it is answered: a power cut loses nothing.
    Full,
}

impl Synchronous {
    /// Every one of them with its word, which is SQLite's too.
    pub const WORDS: [(&'static str, Self); 2] = [("normal", Self::Normal), ("full", Self::Full)];

    pub fn word(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Full => "full",
        }
    }
}
