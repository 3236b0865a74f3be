//! The name of one counter: whose limit, of what, and for which purpose.

use std::fmt::{self, Write};

use super::limit::Limit;
use super::per::KeyPart;

/// One counter.
#[derive(Clone, Copy, Debug)]
pub struct Key<'a> {
    /// The limit it belongs to.
    pub limit: &'a Limit,
    /// What it is about.
    pub part: &'a KeyPart,
    /// What is counted in it.
    pub kind: CounterKind,
}

/// What is counted under a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CounterKind {
    /// Hits of a fixed window.
    Window,
    /// Hits of one slot of a sliding window, by its number since the Unix epoch.
    Slot(u64),
    /// How often it went over.
    Violations,
    /// A ban that is in force, while the key is there.
    Ban,
    /// How many bans there were.
    Bans,
}

impl Key<'_> {
    /// Appends the key as a shared store names it: for the limit at the top level the bare address where
    /// all of it counts, so the counters of connection_shaper are ours. At most 250 bytes, no blanks.
    ///
    /// No two counters share a name: a limit's name and its `/` never begin an address, and neither `!`
    /// nor a second `/` that no number follows occurs in what comes before a purpose.
    pub fn write(&self, output: &mut impl Write) -> fmt::Result {
        write!(output, "{}{}", self.limit.key_prefix, self.part)?;
        match self.kind {
            CounterKind::Window => Ok(()),
            CounterKind::Slot(number) => write!(output, "!{number:x}"),
            CounterKind::Violations => output.write_str("!violations"),
            CounterKind::Ban => output.write_str("!ban"),
            CounterKind::Bans => output.write_str("!bans"),
        }
    }
}
