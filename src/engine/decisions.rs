//! How was decided: by limit, verdict and reason.
//!
//! There are as many counters as limits, of which a configuration has at most a hundred. They outlive
//! reloads; those of limits that are gone stay, up to a bound.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use crate::observe::statistics::add;
use crate::policy::{Pass, Reason, Refusal};

/// Limits that have counters of their own; further ones, after many reloads, share those of [`OTHERS`].
pub const MAX_LIMITS: usize = 1000;

/// The name that the rest goes by.
pub const OTHERS: &str = "others";

/// What was decided against a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denial {
    /// It was refused.
    Refused,
    /// It had to wait.
    Delayed,
    /// It passed, for a limit that is only logged.
    WouldRefuse,
}

impl Denial {
    const ALL: [(Self, &'static str); 3] =
        [(Self::Refused, "refused"), (Self::Delayed, "delayed"), (Self::WouldRefuse, "would_refuse")];
}

const REASONS: [Reason<'static>; 4] = [Reason::Over, Reason::Banned, Reason::Blacklisted(None), Reason::DelayLimit];

const PASSES: [Pass; 5] = [Pass::UnknownClient, Pass::Whitelisted, Pass::Allowed, Pass::WithinLimits, Pass::StoreAway];

/// One limit's counters.
#[derive(Debug, Default)]
struct LimitCounters([[AtomicU64; REASONS.len()]; Denial::ALL.len()]);

/// All counters.
#[derive(Debug, Default)]
pub struct Decisions {
    passes: [AtomicU64; PASSES.len()],
    deferred: AtomicU64,
    limits: Mutex<BTreeMap<String, LimitCounters>>,
}

/// One counter: limit, verdict, reason, and how many there were.
pub type DecisionCount = (String, &'static str, &'static str, u64);

impl Decisions {
    /// One that passed.
    pub fn passed(&self, pass: Pass) {
        add(&self.passes[PASSES.iter().position(|other| *other == pass).unwrap_or(0)], 1);
    }

    /// One that has to come back because the store is away.
    pub fn deferred(&self) {
        add(&self.deferred, 1);
    }

    /// One that was judged against. Looks the limit up, which only refusals pay for.
    pub fn against(&self, against: Denial, refusal: &Refusal<'_>) {
        let verdict = Denial::ALL.iter().position(|(other, _)| *other == against).unwrap_or(0);
        let reason = REASONS.iter().position(|other| other.word() == refusal.reason.word()).unwrap_or(0);
        let mut limits = self.limits.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tally) = limits.get(refusal.limit) {
            return add(&tally.0[verdict][reason], 1);
        }
        let name = if limits.len() < MAX_LIMITS { refusal.limit } else { OTHERS };
        add(&limits.entry(name.to_owned()).or_default().0[verdict][reason], 1);
    }

    /// All of them; those of a limit as soon as it has decided anything, passes always.
    pub fn list(&self) -> Vec<DecisionCount> {
        let mut list: Vec<DecisionCount> = PASSES
            .iter()
            .zip(&self.passes)
            .map(|(pass, number)| (String::new(), "passed", pass.reason(), number.load(Relaxed)))
            .collect();
        list.push((String::new(), "deferred", Pass::StoreAway.reason(), self.deferred.load(Relaxed)));
        let limits = self.limits.lock().unwrap_or_else(PoisonError::into_inner);
        for (limit, tally) in limits.iter() {
            for ((_, verdict), reasons) in Denial::ALL.iter().zip(&tally.0) {
                let numbers = REASONS.iter().zip(reasons).map(|(reason, number)| (reason.word(), number.load(Relaxed)));
                list.extend(numbers.map(|(reason, number)| (limit.clone(), *verdict, reason, number)));
            }
        }
        list
    }

    /// Has a limit's counters be there, at 0, before it decides anything: so a first refusal is an increase.
    pub fn begin(&self, limit: &str) {
        let mut limits = self.limits.lock().unwrap_or_else(PoisonError::into_inner);
        if limits.len() < MAX_LIMITS && !limits.contains_key(limit) {
            limits.insert(limit.to_owned(), LimitCounters::default());
        }
    }
}
