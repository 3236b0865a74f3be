//! A limit: what is counted, per what key, for which requests, how much is allowed, and what happens beyond.
//!
//! A limit is as the configuration says it; nothing in it changes while it is in force.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use strum::{IntoStaticStr, VariantArray};

use super::action::Action;
use super::attribute::Attribute;
use super::calendar::LocalCalendar;
use super::conditions::{Condition, Test};
use super::door::{Door, DoorSet};
use super::key::{CounterKind, KeyPart, KeySpec};
use super::key_field::KeyField;
use super::request::Request;
use super::restriction_stage::{RestrictionStage, stages};
use super::spelling::Spellings;
use super::thresholds::Thresholds;
use crate::net::clock::Now;
use crate::net::netblock::NetblockTable;

/// The name of the limit that stands at the top level of the configuration: connection_shaper's own.
pub const TOP: &str = "connections";

/// The longest name of a limit.
pub const MAX_LIMIT_NAME: usize = 32;

/// Tells apart within one process, also over reloads, what limits count: another name, another `count` or window, and
/// the limit has another id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CounterLimitId(pub u16);

/// Tells limits apart by their names alone: what sessions remember of a limit stays, whatever it counts now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SessionLimitId(pub u16);

/// The largest id of both sorts: the store uses the bit above it.
pub const MAX_ID: u16 = 0x7fff;

/// `threshold` hits per `exptime`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Tells its counters from others; `Policy::new` assigns it.
    pub id: CounterLimitId,
    /// Tells what sessions remember of it; the same as long as its name is.
    pub memory_id: SessionLimitId,
    /// Its name in the configuration, in logs and answers.
    pub name: String,
    /// The door at which it applies.
    pub door: Door,
    /// The doors at which its bans hold; its own is among them.
    pub ban_doors: DoorSet,
    /// What its keys begin with in a shared store.
    pub key_prefix: String,
    /// What is a hit.
    pub counts: CountKind,
    /// What has a counter of its own.
    pub per: KeySpec,
    /// Whether requests without a value for that are counted, under one key.
    pub count_absent: bool,
    /// Which spellings make the same key.
    pub spellings: Spellings,
    /// Which requests it is about.
    pub conditions: Conditions,
    /// Hits a window allows; the next is over. In units of [`CountKind::unit`].
    pub threshold: u32,
    /// Thresholds of single keys, mostly logins and domains.
    pub thresholds: Option<Box<Thresholds>>,
    /// The threshold while Postfix reports `stress=yes`.
    pub stress_threshold: Option<u32>,
    /// Length of a window in seconds.
    pub exptime: u32,
    /// A reload changed `exptime` while windows were open.
    pub exptime_change: Option<ExptimeChange>,
    /// Where a window begins and ends.
    pub window: Window,
    /// Bits of an IPv4 client's address that are counted together.
    pub ipv4_prefix_length: u8,
    /// The same for IPv6.
    pub ipv6_prefix_length: u8,
    /// Clients on the whitelist are exempt from it.
    pub whitelist_exempts: bool,
    /// Thresholds of its own for some netblocks; `None`: this limit does not count them.
    pub netblocks: NetblockTable<Option<Rate>>,
    /// Milliseconds within which hits of one key count as one; 0: each hit counts.
    pub coalesce: u32,
    /// Whether what is refused stays counted.
    pub count_refused: bool,
    /// Whether recipients of messages that are not sent stay counted; `None`: unless Postfix asks at DATA or
    /// END-OF-MESSAGE.
    pub count_unsent: Option<bool>,
    /// Whether `alert_command` runs when a key goes over.
    pub alert: bool,
    /// Hits beyond which it runs before that.
    pub alert_threshold: Option<u32>,
    /// It is judged, counted and logged, never enforced.
    pub log_only: bool,
    /// The delay of answers over it, in place of a refusal.
    pub delay: Option<Delay>,
    /// The ban after repeated violations.
    pub ban: Option<Ban>,
    /// Seconds without a violation after which earlier violations and bans are forgotten.
    pub forget_after: u32,
    /// The answer to a request over it.
    pub action: Action,
    /// The action while Postfix reports `stress=yes`.
    pub stress_action: Option<Action>,
}

impl Limit {
    /// Whether it charges recipients for the size of a message, which is known when Postfix names none of several.
    pub fn charges_recipients(&self) -> bool {
        self.counts == CountKind::Bytes
            && (self.per.is_of_recipient() || self.conditions.is_about(Attribute::Recipient))
    }

    /// Whether its key or a condition of it looks at an attribute.
    pub fn is_about(&self, attribute: Attribute) -> bool {
        self.per.0.contains(&KeyField::Whole(attribute)) || self.conditions.is_about(attribute)
    }

    /// Whether it has to know the recipients of a message at a stage where Postfix names only a single one.
    pub fn needs_recipients(&self) -> bool {
        let is_late =
            || matches!(self.counts, CountKind::Messages | CountKind::Clients) && self.is_about_late_recipients();
        self.charges_recipients() || is_late()
    }

    /// Whether it has conditions on the recipient, and is judged after all recipients are named.
    pub fn is_about_late_recipients(&self) -> bool {
        self.conditions.is_about(Attribute::Recipient) && !stages(self).contains(&RestrictionStage::Rcpt)
    }

    /// Whether its key or a condition of it looks at an attribute of a kind.
    pub fn concerns(&self, is_of_kind: fn(Attribute) -> bool) -> bool {
        let is_of = |field: &KeyField| match field {
            KeyField::Whole(attribute) | KeyField::MailDomain(attribute) => is_of_kind(*attribute),
            KeyField::Client | KeyField::HostDomain(_) => false,
        };
        let mut conditions = self.conditions.all.iter().chain(&self.conditions.none);
        self.per.0.iter().any(is_of) || conditions.any(|condition| is_of_kind(condition.attribute))
    }

    /// The key of a request, of which `client` is the value of the field `client`; `None`: the request lacks a field.
    pub fn part(&self, request: &Request, client: KeyPart) -> Option<KeyPart> {
        self.per.part(request, client, self.count_absent, &self.spellings)
    }

    /// Hits beyond which `alert_command` runs before a key with this threshold is over. For a threshold of its own they
    /// are scaled in proportion.
    pub fn alerts_beyond(&self, threshold: u32) -> Option<u32> {
        let most = self.alert_threshold?;
        match self.thresholds {
            Some(_) if threshold != self.threshold => {
                let scaled = u64::from(most) * u64::from(threshold) / u64::from(self.threshold.max(1));
                Some(u32::try_from(scaled).unwrap_or(u32::MAX))
            }
            _ => Some(most),
        }
    }

    /// Whether a hit over the threshold of an exact sliding window is kept. One that would be taken back at once is
    /// not: the client is refused for it. A client that is delayed passes, so its hit counts.
    pub fn keeps_hits_over(&self) -> bool {
        self.count_refused || self.delay.is_some()
    }
}

/// Which requests a limit is about: all of `all` hold, and none of `none`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    /// `match`.
    pub all: Vec<Condition>,
    /// `unless`.
    pub none: Vec<Condition>,
    /// Which spellings of a mailbox are one.
    pub spellings: Spellings,
}

impl Conditions {
    /// Whether a request fulfils them.
    #[inline]
    pub fn hold(&self, request: &Request) -> bool {
        self.all.iter().all(|condition| condition.holds(request, &self.spellings))
            && !self.none.iter().any(|condition| condition.holds(request, &self.spellings))
    }

    /// The attribute of the first one that a request does not fulfil.
    pub fn unmet(&self, request: &Request) -> Option<Attribute> {
        let holds = |condition: &&Condition| condition.holds(request, &self.spellings);
        let missed = self.all.iter().find(|condition| !holds(condition));
        missed.or_else(|| self.none.iter().find(holds)).map(|unmet| unmet.attribute)
    }

    /// Whether `unless` excludes some values of an attribute: then a request without it cannot be judged.
    pub fn exclude_some_of(&self, attribute: Attribute) -> bool {
        let some = |condition: &Condition| condition.attribute == attribute && matches!(condition.test, Test::AnyOf(_));
        self.none.iter().any(some)
    }

    /// Whether any of them is about this attribute.
    pub fn is_about(&self, attribute: Attribute) -> bool {
        self.all.iter().chain(&self.none).any(|condition| condition.attribute == attribute)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty() && self.none.is_empty()
    }
}

/// The length of windows before a reload, which some may still have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExptimeChange {
    /// The length before, in seconds.
    pub before: u32,
    /// When the last such window has ended, on the monotonic clock.
    pub until: u64,
}

/// What is a hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, IntoStaticStr, VariantArray)]
#[strum(const_into_str, serialize_all = "snake_case")]
pub enum CountKind {
    /// An SMTP session.
    Connections,
    /// A mail transaction.
    Messages,
    /// A distinct recipient of a mail transaction.
    Recipients,
    /// The size of a message, in KiB rounded up.
    Bytes,
    /// A request of Postfix, whatever it is about, or of a web client.
    Requests,
    /// A client with a message, counted the first time it is seen in a window.
    Clients,
    /// A login, whatever comes of it.
    Logins,
    /// A login that failed.
    FailedLogins,
    /// A wrong password of a login, once however often it is tried.
    FailedPasswords,
}

impl CountKind {
    /// Whether it happens at a door.
    pub fn is_at(self, door: Door) -> bool {
        match self {
            Self::Requests => door != Door::Login,
            Self::Logins | Self::FailedLogins | Self::FailedPasswords => door == Door::Login,
            _ => door == Door::Smtp,
        }
    }

    /// What a limit at a door counts unless configured.
    pub fn usual(door: Door) -> Self {
        match door {
            Door::Smtp => Self::Connections,
            Door::Login => Self::FailedPasswords,
            Door::Web => Self::Requests,
        }
    }

    /// How much a count of 1 is.
    pub fn unit(self) -> u32 {
        if self == Self::Bytes { 1024 } else { 1 }
    }
}

/// Where a window begins and ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Window {
    /// From the first hit of a key on; nothing ever extends it.
    Fixed,
    /// Always the last `exptime`, in slots of a tenth of it.
    Sliding,
    /// Always the last `exptime`, hit by hit: `sliding` where the store can do that.
    Exact,
    /// From one full hour, midnight, Monday or first of a month to the next.
    Calendar(LocalCalendar),
}

impl Window {
    /// The words of the configuration. The store decides whether `sliding` is exact.
    pub const WORDS: [&'static str; 3] = ["fixed", "sliding", "calendar"];

    /// The kind of counter for its hits at a moment; of slots, one of many.
    pub fn counter(&self, now: Now) -> CounterKind {
        match self {
            Self::Fixed => CounterKind::FixedWindow,
            Self::Sliding => CounterKind::Slot(0),
            Self::Exact => CounterKind::ExactWindow,
            Self::Calendar(calendar) => CounterKind::Calendar(calendar.window(now)),
        }
    }

    /// Seconds of the window of a limit with this `exptime` at a moment: days and months of the calendar differ.
    pub fn length(&self, exptime: u32, now: Now) -> u32 {
        match self {
            Self::Calendar(calendar) => u32::try_from(calendar.window(now).length()).unwrap_or(exptime),
            _ => exptime,
        }
    }

    pub fn word(&self) -> &'static str {
        match self {
            Self::Fixed => "fixed",
            Self::Sliding | Self::Exact => "sliding",
            Self::Calendar(_) => "calendar",
        }
    }
}

/// A wait before the answer. After it the client passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delay {
    /// The first violation's.
    pub initial: Duration,
    /// It is doubled with each further violation up to this.
    pub max: Duration,
    /// Sessions of one key that may wait at once; the next is refused.
    pub max_concurrent: u32,
}

impl Delay {
    /// How long the `violation`th of a key waits, from 1.
    pub fn of(&self, violation: u32) -> Duration {
        let doublings = violation.saturating_sub(1).min(30);
        self.initial.saturating_mul(1 << doublings).min(self.max)
    }
}

/// A refusal that outlasts the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ban {
    /// Seconds the first one lasts; each further one twice as long as the one before.
    pub time: u32,
    /// It begins with this many violations.
    pub threshold: u32,
    /// No ban lasts longer than this many seconds.
    pub max: u32,
}

impl Ban {
    /// How many seconds the `repetition`th ban of a key lasts, from 1.
    pub fn length(&self, repetition: u32) -> u32 {
        let doublings = repetition.saturating_sub(1).min(31);
        let length = u64::from(self.time) << doublings;
        u32::try_from(length).unwrap_or(u32::MAX).min(self.max.max(self.time))
    }
}

/// The threshold of a netblock's clients, and which of them share a counter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Hits a window allows instead of the limit's `threshold`.
    pub threshold: u32,
    /// Which of them share a counter.
    pub per: RatePer,
}

/// Which clients of a netblock share a counter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RatePer {
    /// Each client, masked as any, has its own.
    Ip,
    /// The whole netblock.
    Netblock,
    /// All netblocks of the group of that name.
    Group(String),
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use super::*;
    use crate::policy::calendar::Period;

    #[test]
    fn a_month_of_the_calendar_has_its_own_length() {
        let calendar = Window::Calendar(LocalCalendar::new(Period::Month, TimeZone::UTC));
        let at = |unix: u64| Now { unix_ms: unix * 1000, ..Now::simulated(0) };
        const DAY: u32 = 86_400;
        // In February 2026, in March, and in February 2028.
        for (unix, days) in [(1_770_800_000, 28), (1_773_000_000, 31), (1_834_000_000, 29)] {
            assert_eq!(calendar.length(31 * DAY, at(unix)), days * DAY, "{unix}");
            assert_eq!(Window::Fixed.length(31 * DAY, at(unix)), 31 * DAY);
        }
    }

    #[test]
    fn delays_and_bans_double_up_to_their_bounds() {
        let second = Duration::from_secs(1);
        let delay = Delay { initial: second, max: 5 * second, max_concurrent: 1 };
        assert_eq!([1, 2, 3, 4, u32::MAX].map(|violation| delay.of(violation).as_secs()), [1, 2, 4, 5, 5]);
        let ban = Ban { time: 60, threshold: 1, max: 300 };
        assert_eq!([1, 2, 3, 4, u32::MAX].map(|repetition| ban.length(repetition)), [60, 120, 240, 300, 300]);
        assert_eq!(Ban { max: 0, ..ban }.length(1), 60);
    }
}
