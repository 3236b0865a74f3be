//! The verdict on a case, and what the store is told in consequence.

use super::Delayed;
use super::key::CounterKind;
use super::limit::{Limit, Window};
use super::per::KeyPart;
use super::sliding;
use super::verdict::{Pass, Refusal, Verdict};
use crate::net::clock::Now;
use crate::policy::checks::{CheckState, LimitCheck};
use crate::policy::outcome::LimitOutcome;
use crate::policy::record::CountRecord;

/// The verdict on a case, and what follows from it.
#[derive(Debug)]
pub struct Judgement<'p> {
    /// The answer.
    pub verdict: Verdict<'p>,
    /// What limits that are only logged would have refused.
    pub log_only: Vec<Refusal<'p>>,
    /// What of the case went over, and may be banned for it.
    pub violations: Vec<Violation<'p>>,
    /// Hits that are to be taken back.
    pub refunds: Vec<Refund<'p>>,
    /// Hits that are to be taken back too if the request is refused in the end.
    pub refunds_if_refused: Vec<Refund<'p>>,
}

/// Something went over a limit that remembers that.
#[derive(Debug)]
pub struct Violation<'p> {
    /// The limit.
    pub limit: &'p Limit,
    /// What of it.
    pub part: KeyPart,
}

/// Hits that do not count, for the request was refused.
#[derive(Debug)]
pub struct Refund<'p> {
    /// Whose they are.
    pub limit: &'p Limit,
    /// What was counted.
    pub part: KeyPart,
    /// Under which of its keys.
    pub purpose: CounterKind,
    /// How many.
    pub amount: u32,
}

impl Default for Judgement<'_> {
    fn default() -> Self {
        Self {
            verdict: Verdict::Pass(Pass::WithinLimits),
            log_only: Vec::new(),
            violations: Vec::new(),
            refunds: Vec::new(),
            refunds_if_refused: Vec::new(),
        }
    }
}

impl<'p> Judgement<'p> {
    /// Notes what follows from a limit's opinion of a count that was just made.
    pub(crate) fn follow(&mut self, item: &LimitCheck<'p>, count: &CountRecord, opinion: &LimitOutcome<'p>, now: Now) {
        if let Some(refund) = Refund::of(item, count, now) {
            match item.limit.log_only {
                false => self.refunds_if_refused.push(refund),
                // It is on its own, in this too.
                true if opinion.refuses() => self.refunds.push(refund),
                true => {}
            }
        }
        match opinion {
            LimitOutcome::Refuse(refusal) | LimitOutcome::Delay(Delayed { refusal, .. }) if item.limit.log_only => {
                self.log_only.push(refusal.clone());
            }
            LimitOutcome::Refuse(_) | LimitOutcome::Delay(_) | LimitOutcome::AlreadyDelayed => {}
            LimitOutcome::Pass | LimitOutcome::Uncounted(_) => return,
        }
        // Going on while banned is no further violation, nor is what is one with an earlier hit.
        let remembers = item.limit.ban.is_some() || item.limit.delay.is_some();
        if remembers && count.banned == 0 && count.hit.is_some_and(|hit| hit.added > 0) {
            self.violations.push(Violation { limit: item.limit, part: item.part.clone() });
        }
    }
}

impl<'p> Refund<'p> {
    /// What an item's count is worth if the request is refused.
    pub(crate) fn of(item: &LimitCheck<'p>, count: &CountRecord, now: Now) -> Option<Self> {
        // What the window leaves behind in a moment might be taken from the next one.
        const LEAST_LEFT: u32 = 2;
        let limit = item.limit;
        let hit = count.hit.filter(|hit| hit.added > 0 && !limit.count_refused)?;
        let purpose = match limit.window {
            Window::Fixed if hit.left < LEAST_LEFT => return None,
            Window::Fixed => CounterKind::Window,
            Window::Sliding => CounterKind::Slot(sliding::slot(limit.exptime, now.unix_ms)),
        };
        match item.state {
            CheckState::ToCount { .. } => Some(Self { limit, part: item.part.clone(), purpose, amount: hit.added }),
            CheckState::Cached(_) => None,
        }
    }
}
