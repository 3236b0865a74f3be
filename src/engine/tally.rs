//! What is noted of every request: at which stage it came, which limits count it, and how much they let pass.
//!
//! Only numbers, for each request pays for them. `limit_use` finds out from them which limits never count anything,
//! `daily` what the limits have counted today.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use crate::policy::attribute::Attribute;
use crate::policy::key::KeyPart;
use crate::policy::limit::LimitId;
use crate::policy::request::{Request, Stage};
use crate::policy::{Counter, Limit, LimitCheck, LimitChecks};

/// Limits with numbers of their own. Further ones, after many reloads, count as used and have no sums.
pub const MAX_LIMITS: LimitId = 1024;

/// Of so many requests of one kind, one shows why limits do not count it.
const PER_EXAMPLE: u64 = 1024;

#[derive(Debug)]
pub struct Tally {
    /// Requests at each stage, without and with a login.
    seen: [[AtomicU64; 2]; Stage::COUNT],
    /// Limits that have counted a request, by their ids.
    used: [AtomicU64; MAX_LIMITS as usize / 64],
    /// All of them have.
    all_used: AtomicBool,
    /// Hits of clients within their limits that were let pass, by limit, since they were taken last.
    passed: [AtomicU64; MAX_LIMITS as usize],
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            seen: Default::default(),
            used: Default::default(),
            all_used: AtomicBool::new(false),
            passed: [const { AtomicU64::new(0) }; MAX_LIMITS as usize],
        }
    }
}

impl Tally {
    /// Notes a request. Returns whether it is to be an example of what limits do not count, as one of many is.
    pub fn note_request(&self, request: &Request) -> bool {
        let before = self.seen[request.state as usize][usize::from(has_login(request))].fetch_add(1, Relaxed);
        before.is_multiple_of(PER_EXAMPLE) && !self.all_used.load(Relaxed)
    }

    /// Notes the limits that count a request.
    pub fn note_limits(&self, checks: &LimitChecks<'_>) {
        if self.all_used.load(Relaxed) {
            return;
        }
        for check in &checks.checks {
            if !self.is_used(check.limit) {
                let id = usize::from(check.limit.id);
                self.used[id / 64].fetch_or(1 << (id % 64), Relaxed);
            }
        }
    }

    /// Notes hits, of which `passed` were let pass, if they are of a client within its limit. Returns whether they are;
    /// all others are noted by name.
    pub fn note_hits(&self, check: &LimitCheck<'_>, hit: Counter, passed: u32) -> bool {
        let limit = check.limit;
        let most = limit.alerts_beyond(check.threshold).map_or(check.threshold, |most| most.min(check.threshold));
        let is_within = matches!(check.part, KeyPart::Client { .. }) && hit.count <= most;
        if is_within && let Some(sum) = self.passed.get(usize::from(limit.id)) {
            sum.fetch_add(passed.into(), Relaxed);
        }
        is_within
    }

    /// Takes out the hits of clients within a limit.
    pub fn take_passed(&self, limit: LimitId) -> u64 {
        self.passed.get(usize::from(limit)).map_or(0, |sum| sum.swap(0, Relaxed))
    }

    /// Whether a limit has counted a request since others were in force.
    pub fn is_used(&self, limit: &Limit) -> bool {
        let id = usize::from(limit.id);
        self.used.get(id / 64).is_none_or(|word| word.load(Relaxed) & (1 << (id % 64)) != 0)
    }

    /// Whether all limits have.
    pub fn set_all_used(&self, all_used: bool) {
        self.all_used.store(all_used, Relaxed);
    }

    /// Requests at these stages, or those of them that had a login.
    pub fn requests(&self, stages: &[Stage], with_login: bool) -> u64 {
        let kinds = stages.iter().flat_map(|stage| &self.seen[*stage as usize][usize::from(with_login)..]);
        kinds.map(|number| number.load(Relaxed)).sum()
    }

    /// Begins anew, for other limits are in force.
    pub fn begin_anew(&self) {
        self.seen.iter().flatten().chain(&self.used).for_each(|number| number.store(0, Relaxed));
        self.set_all_used(false);
    }
}

/// Whether a request is of a client that has logged in.
pub fn has_login(request: &Request) -> bool {
    !request.value(Attribute::SaslUsername).is_empty()
}
