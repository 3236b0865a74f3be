//! The decision: what to count, and what the counts mean.
//!
//! Pure: nothing here reads a clock, a socket or a file. `plan` says either a
//! finished verdict or which keys to hit, the store hits them in one round
//! trip, `judge` turns what came back into the verdict. The order of judgement
//! is the order of `plan` and `judge`, read top to bottom: can the client be
//! counted, whitelist, what its session already got, limits in file order, pass.

use std::net::IpAddr;

use smallvec::SmallVec;

use crate::codec::Request;
use crate::config::{Config, OnStoreFailure};

pub mod action;
pub mod limit;
pub mod netblock;
pub mod netblocks;
pub mod template;
pub mod verdict;

pub use limit::{Key, Limit};
pub use verdict::{Count, Hit, Pass, Refusal, Verdict};

use netblocks::Netblocks;

/// Keys of one request; nearly always one.
pub type Keys<'p> = SmallVec<[Key<'p>; 2]>;

/// What a session has been counted for, in the order of the limits.
pub type Counts = SmallVec<[Count; 2]>;

/// The rules in force.
#[derive(Debug)]
pub struct Policy {
    whitelist: Netblocks<()>,
    limits: Vec<Limit>,
    on_store_failure: OnStoreFailure,
}

/// What is to be done about a request.
#[derive(Debug)]
pub enum Plan<'p> {
    /// Nothing to count: this is the verdict.
    Done(Verdict<'p>),
    /// Hit these keys, then `judge`.
    Hit(Keys<'p>),
}

impl Policy {
    /// The rules a configuration asks for.
    pub fn new(config: &Config) -> Self {
        Self {
            whitelist: config.whitelist.iter().map(|netblock| (*netblock, ())).collect(),
            limits: vec![Limit::connections(config)],
            on_store_failure: config.on_store_failure(),
        }
    }

    /// What a request needs, given what its session has been counted for.
    pub fn plan(&self, request: &Request, counted: &Counts) -> Plan<'_> {
        let Some(client) = request.client else {
            return Plan::Done(Verdict::Pass(Pass::UnknownClient));
        };
        if self.whitelist.lookup(client).is_some() {
            return Plan::Done(Verdict::Pass(Pass::Whitelisted));
        }
        let uncounted = |limit: &&Limit| !counted.iter().any(|count| count.limit == limit.id);
        let keys: Keys = self.limits.iter().filter(uncounted).map(|limit| limit.key(client)).collect();
        if keys.is_empty() { Plan::Done(self.judge(client, counted)) } else { Plan::Hit(keys) }
    }

    /// The verdict on a client from what its session has been counted for. The first refusal in file order wins.
    pub fn judge(&self, client: IpAddr, counted: &Counts) -> Verdict<'_> {
        let refusals = counted.iter().filter_map(|count| self.refusal(client, count));
        if let Some(refusal) = refusals.min_by_key(|refusal| refusal.limit.id) {
            return Verdict::Refuse(refusal);
        }
        let away = counted.iter().any(|count| count.hit.is_none() && !count.passed);
        match (away, self.on_store_failure) {
            (true, OnStoreFailure::Defer) => Verdict::Defer,
            (true, _) => Verdict::Pass(Pass::StoreAway),
            (false, _) => Verdict::Pass(Pass::WithinLimits),
        }
    }

    /// Marks what has just been judged: a pass stays a pass for the session, whatever a reload says
    /// of its count.
    pub fn settle(&self, client: IpAddr, counted: &mut Counts) {
        for count in counted {
            let deferred = count.hit.is_none() && self.on_store_failure == OnStoreFailure::Defer;
            count.passed |= !deferred && self.refusal(client, count).is_none();
        }
    }

    /// Marks a session that passes without a count, for it is exempt or was let go: it stays so. Says whether that is news.
    pub fn settle_pass(&self, counted: &mut Counts) -> bool {
        let mut news = false;
        for limit in &self.limits {
            match counted.iter_mut().find(|count| count.limit == limit.id) {
                Some(count) => news |= !std::mem::replace(&mut count.passed, true),
                None => {
                    counted.push(Count { limit: limit.id, hit: None, passed: true });
                    news = true;
                }
            }
        }
        news
    }

    fn refusal(&self, client: IpAddr, count: &Count) -> Option<Refusal<'_>> {
        let limit = self.limits.iter().find(|limit| limit.id == count.limit)?;
        let hit = count.hit.filter(|hit| hit.count > limit.threshold && !count.passed)?;
        Some(Refusal { client, limit, hit })
    }
}
