//! What happens over a limit before and beside the refusal: delays and bans.

use std::time::Duration;

use super::super::settings::Settings;
use super::super::units::spell;
use super::{DAY, MILLISECOND, SECOND};
use crate::policy::limit::{Ban, Delay};

/// An smtpd that waits longer serves nobody.
const LONGEST_INITIAL: Duration = Duration::from_secs(60);

/// `max_delay` unless configured.
const MAX_DELAY: Duration = Duration::from_secs(5);

/// What must be left at the least of the time that Postfix waits for an answer.
const SPARE: Duration = Duration::from_secs(2);

/// How long Postfix waits for an answer, and how much of that the store may take before anyone is made to wait.
#[derive(Clone, Copy)]
pub(super) struct Patience {
    pub postfix: Duration,
    pub store: Duration,
}

impl Patience {
    /// The longest delay.
    fn most(self) -> Duration {
        self.postfix.saturating_sub(SPARE.max(self.store + SECOND))
    }
}

/// Delay, ban, and after how many seconds violations are forgotten.
pub(super) fn read(s: &Settings, exptime: u32, patience: Patience) -> (Option<Delay>, Option<Ban>, u32) {
    let waits = waits(s, patience, Some("initial_delay"));
    let initial = s.duration("initial_delay", MILLISECOND..=LONGEST_INITIAL, MILLISECOND);
    let delay = initial.map(|initial| Delay { initial, ..waits });
    if let Some(initial) = initial.filter(|initial| *initial > waits.max) {
        let problem = format!("{} is longer than `max_delay`, which is {}", s.named("initial_delay"), spell(waits.max));
        let remedy = match s.name("max_delay") {
            Some(_) => format!("write at most {}, or a longer `max_delay`", spell(waits.max)),
            None => format!("write at most {}, or `max_delay = \"{}\"` as well", spell(waits.max), spell(initial)),
        };
        s.diagnostics.error::<()>(&s.span("initial_delay").unwrap_or(0..0), problem, remedy);
    }
    let ban = ban(s);
    let longest = exptime.max(ban.map_or(0, |ban| ban.max));
    let forget_after = seconds(s, "forget_after").unwrap_or(longest);
    (delay, ban, forget_after)
}

/// How long one waits at most, and how many at once. `because` is the key that makes them wait, if anyone does.
pub(super) fn waits(s: &Settings, patience: Patience, because: Option<&'static str>) -> Delay {
    let bounds = MILLISECOND..=Duration::from_secs(1000);
    let said = s.duration("max_delay", bounds, MILLISECOND);
    let max = said.unwrap_or(MAX_DELAY);
    let most = patience.most();
    let place = because.and_then(|key| s.span(key)).map(|span| s.span("max_delay").unwrap_or(span));
    if let Some(span) = place.filter(|_| max > most) {
        let problem = format!(
            "{} is {}, and Postfix waits {} for an answer: with less than two seconds left it may ask again, \
             and the client pass",
            s.named("max_delay"),
            spell(max),
            spell(patience.postfix)
        );
        let remedy = format!(
            "write at most {}; or raise smtpd_policy_service_timeout in main.cf, and `policy_timeout` with it",
            spell(most)
        );
        s.diagnostics.error::<()>(&span, problem, remedy);
    }
    let max_concurrent = s.integer("max_concurrent", 1..=1000).unwrap_or(3) as u32;
    Delay { initial: max, max, max_concurrent }
}

fn ban(s: &Settings) -> Option<Ban> {
    let threshold = s.integer("ban_threshold", 1..=1_000_000).unwrap_or(1) as u32;
    let max = seconds(s, "ban_max");
    let time = seconds(s, "ban_time")?;
    if max.is_some_and(|max| max < time) {
        let problem = format!("{} is shorter than `ban_time`", s.named("ban_max"));
        let remedy = "write a longer one, or remove it: then every ban lasts `ban_time`";
        s.diagnostics.error::<()>(&s.span("ban_max").unwrap_or(0..0), problem, remedy);
    }
    Some(Ban { time, threshold, max: max.unwrap_or(time) })
}

fn seconds(s: &Settings, key: &'static str) -> Option<u32> {
    s.duration(key, SECOND..=365 * DAY, SECOND).map(|time| time.as_secs() as u32)
}
