//! The name of one counter: whose limit, of what, and for which purpose.

use std::fmt::{self, Write};

use super::limit::{self, Counts, Limit};
use super::per::KeyPart;

/// The longest key that memcached takes, in bytes. Other stores take longer ones.
pub const MAX_KEY: usize = 250;

/// The longest `key_prefix`.
pub const MAX_SITE_PREFIX: usize = 100;

/// Marks the counters of a limit that is only logged.
const LOG_ONLY: &str = "log_only!";

/// The most that a limit can add to the prefix of the site: `log_only!NAME:recipients/`.
const MAX_LIMIT_PREFIX: usize = LOG_ONLY.len() + limit::MAX_NAME + ":".len() + longest_count() + "/".len();

/// The most that [`Key::write`] puts behind a part: `!` and a number in hexadecimal, or `!violations`.
const MAX_SUFFIX: usize = "!".len() + u64::BITS as usize / 4;

/// What is left for [`KeyPart`]; a longer text is replaced by its digest.
pub const MAX_PART: usize = MAX_KEY - MAX_SITE_PREFIX - MAX_LIMIT_PREFIX - MAX_SUFFIX;

const _: () = assert!(MAX_SUFFIX >= "!violations".len());

/// The length of the longest word of [`Counts`].
const fn longest_count() -> usize {
    let (mut longest, mut at) = (0, 0);
    while at < Counts::WORDS.len() {
        let length = Counts::WORDS[at].0.len();
        longest = if length > longest { length } else { longest };
        at += 1;
    }
    longest
}

/// What the keys of a limit begin with in a shared store. `site` is `key_prefix`.
///
/// The keys of connection_shaper's own limit have nothing behind that. Any other limit adds its name, and what it
/// counts unless it counts connections; the top level adds `connections:` with what it counts, and no limit can be
/// named `connections`. So no two limits, no limit that is only logged, and nothing that a limit counted before a
/// reload share a counter.
pub fn limit_prefix(site: &str, name: &str, counts: Counts, log_only: bool) -> String {
    let mark = if log_only { LOG_ONLY } else { "" };
    match (name, counts) {
        (limit::TOP, Counts::Connections) => format!("{site}{mark}"),
        (name, Counts::Connections) => format!("{site}{mark}{name}/"),
        (name, counts) => format!("{site}{mark}{name}:{}/", counts.word()),
    }
}

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
    /// all of it counts, so the counters of connection_shaper are ours. At most [`MAX_KEY`] bytes, no blanks.
    ///
    /// No two counters of a configuration share a key. The `/` behind a limit's name is the first `/`, and what
    /// stands before the first `/` of a part is an address or has a `=`, which no name of a limit has. A part has
    /// no `!`.
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
