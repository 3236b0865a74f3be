//! What we say, and how: one line per event, keyword first.

/// How much a line matters, as syslog counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Something is broken.
    Err = 3,
    /// Something may break.
    Warning = 4,
    /// Normal but notable.
    Notice = 5,
    /// A refusal, a start, a stop.
    Info = 6,
    /// Every verdict.
    Debug = 7,
}

/// A syslog facility.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facility(u8);

impl std::str::FromStr for Facility {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        (name == "mail").then_some(Self(2)).ok_or(())
    }
}
