//! The kinds of log lines about clients, by the words of `log_events`.

use strum::{IntoStaticStr, VariantArray};

/// A kind of event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(const_into_str, serialize_all = "kebab-case")]
pub enum LogEvent {
    /// A client on the whitelist, or that an administrator allowed, passes.
    Whitelisted,
    /// A client on the blacklist is refused, or waits.
    Blacklisted,
    /// A client over a limit is refused.
    Over,
    /// A ban begins.
    Ban,
    /// A ban is lifted.
    Unban,
    /// A client is refused because it is banned.
    Banned,
    /// A client has to wait.
    Delayed,
    /// A client is refused because too many wait.
    Concurrent,
    /// What a limit that is only logged would have done.
    LogOnly,
    /// A server of the store goes down or is up again, or a client is deferred for that.
    Store,
    /// Any other session passes.
    Session,
}

/// Some of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Events(u16);

impl Events {
    /// All of them.
    pub const ALL: Self = Self((1 << LogEvent::VARIANTS.len()) - 1);

    /// None.
    pub const NONE: Self = Self(0);

    /// Whether it is among them.
    pub fn has(self, event: LogEvent) -> bool {
        self.0 & 1 << event as u16 != 0
    }

    /// These and one more.
    pub fn with(self, event: LogEvent) -> Self {
        Self(self.0 | 1 << event as u16)
    }

    /// These but one.
    pub fn without(self, event: LogEvent) -> Self {
        Self(self.0 & !(1 << event as u16))
    }

    /// As a number, for an atomic.
    pub(crate) fn bits(self) -> u16 {
        self.0
    }

    pub(crate) fn of_bits(bits: u16) -> Self {
        Self(bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_word_is_an_event_of_its_own() {
        for (place, event) in LogEvent::VARIANTS.iter().copied().enumerate() {
            assert_eq!(event as usize, place);
            assert!(Events::NONE.with(event).has(event) && !Events::ALL.without(event).has(event));
        }
    }
}
