//! The decision: what to count, and what the counts mean.
//!
//! Pure: nothing here reads a clock, a socket or a file. `plan` says either a
//! finished verdict or a case with keys to hit, the store hits them in one round
//! trip, `judge` turns what came back into the verdict. The order of judgement
//! is the order of `plan` and `judge`, read top to bottom: can the client be
//! counted, whitelist, what its session already got, an administrator's word,
//! blacklist, ban, limits in file order, pass.

pub mod action;
pub mod attribute;
pub mod checks;
pub mod conditions;
pub mod decision;
pub mod key;
pub mod limit;
pub mod lists;
pub mod overrides;
pub mod record;
pub mod record_snapshot;
pub mod request;
pub mod settings;
pub mod template;
pub mod window;

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use crate::net::clock::Now;
use crate::policy::request::Request;

pub use checks::LimitChecks;
pub use decision::{Delayed, Judgement, Pass, Reason, Refund, Refusal, Verdict};
pub use key::{Counter, CounterKind, Key, Operation};
pub use limit::Limit;
pub use overrides::Overrides;
pub use record::{BlacklistState, CountRecord, Scope, SessionRecord};
pub use settings::{OnStoreFailure, Settings};

use crate::net::netblock_table::NetblockTable;
use action::Action;
use checks::{CheckState, CounterReading};
use key::KeyPart;
use limit::{Counts, LimitId, Rate};
use lists::ListEntry;
use overrides::OverrideKind;

/// What stands in place of a limit's name where the blacklist refuses.
pub const BLACKLIST: &str = "blacklist";

/// The rules in force.
#[derive(Debug)]
pub struct Policy {
    pub(crate) netblocks: NetblockTable<ListEntry>,
    pub(crate) reasons: Vec<Box<str>>,
    pub(crate) rates: Vec<Rate>,
    blacklist: Blacklist,
    pub(crate) limits: Vec<Limit>,
    /// Every limit there ever was, by its name, and by that with what it counts: so counts keep their meaning over reloads.
    ids: HashMap<String, LimitId>,
    on_store_failure: OnStoreFailure,
    log_only: bool,
    /// What administrators said meanwhile.
    overrides: Overrides,
}

/// What is done about clients on the blacklist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blacklist {
    /// What they are told.
    pub action: Action,
    /// They have to wait this long, and pass then.
    pub delay: Option<Duration>,
    /// Those of one client that may wait at once; the next is refused.
    pub max_concurrent: u32,
}

/// What is to be done about a request.
#[derive(Debug)]
pub enum Plan<'p> {
    /// Nothing to count.
    Done {
        /// The answer.
        verdict: Verdict<'p>,
        /// The session has something new to remember.
        changed: bool,
    },
    /// Have the store do the case's operations, then `judge`.
    Ask(LimitChecks<'p>),
}

impl Policy {
    /// The rules a configuration asks for. `before` are those it takes the place of.
    pub fn new(settings: Settings, before: Option<&Self>) -> Self {
        let mut ids = before.map(|before| before.ids.clone()).unwrap_or_default();
        let mut limits = settings.limits;
        for limit in &mut limits {
            let Limit { name, counts, window, log_only, .. } = &*limit;
            // No counter ever changes its meaning; but who was let in stays in.
            let counted = format!("{name} {counts:?} {window:?} {log_only}");
            (limit.memory_id, limit.id) = (id(&mut ids, name.clone()), id(&mut ids, counted));
        }
        Self {
            netblocks: settings.lists.netblocks.into_iter().collect(),
            reasons: settings.lists.reasons,
            rates: settings.lists.rates,
            blacklist: settings.blacklist,
            limits,
            ids,
            on_store_failure: settings.on_store_failure,
            log_only: settings.log_only,
            overrides: before.map(|before| before.overrides.clone()).unwrap_or_default(),
        }
    }

    /// What administrators said, which outlives reloads.
    pub fn overrides(&self) -> &Overrides {
        &self.overrides
    }

    /// What every limit is known by that there is or was, with its id. Two that have the same count the same.
    pub fn identities(&self) -> impl Iterator<Item = (&str, LimitId)> {
        self.ids.iter().map(|(identity, id)| (identity.as_str(), *id))
    }

    /// The id of the limit that is known by this.
    pub fn id(&self, identity: &str) -> Option<LimitId> {
        self.ids.get(identity).copied()
    }

    /// What a request needs, given what its session remembers.
    pub fn plan(&self, request: &Request, memory: &mut SessionRecord, now: Now) -> Plan<'_> {
        let Some(client) = request.client else {
            return Plan::Done { verdict: Verdict::Pass(Pass::UnknownClient), changed: false };
        };
        let listed = self.netblocks.lookup(client);
        if let Some((_, ListEntry::Whitelist)) = listed {
            return Plan::Done { verdict: Verdict::Pass(Pass::Whitelisted), changed: self.exempt(memory) };
        }
        let outside = matches!(memory.blacklist, BlacklistState::Unchecked | BlacklistState::TooManyDelayed);
        let word = self.overrides.lookup(client, now);
        match word {
            Some(word) if word.kind == OverrideKind::Allow => {
                return Plan::Done { verdict: Verdict::Pass(Pass::Allowed), changed: self.exempt(memory) };
            }
            Some(word) if word.kind == OverrideKind::Ban && outside && !self.log_only => {
                return Plan::Done { verdict: Verdict::Refuse(self.banned(client, &word)), changed: false };
            }
            _ => {}
        }
        let rate = match listed {
            Some((netblock, ListEntry::Blacklist(reason))) if outside && !self.log_only => {
                let verdict = match self.blacklisted(client, netblock, *reason) {
                    // The same as where a limit makes wait.
                    Verdict::Delay(wait) if memory.blacklist == BlacklistState::TooManyDelayed => {
                        Verdict::Refuse(wait.over_delay_limit())
                    }
                    Verdict::Delay(wait) if checks::is_stressed(request) => Verdict::Refuse(wait.refusal),
                    verdict => verdict,
                };
                return Plan::Done { verdict, changed: false };
            }
            Some((netblock, ListEntry::Rate(place))) => Some((netblock, &self.rates[place.index()])),
            _ => None,
        };
        let mut case = LimitChecks::new(client, request);
        for limit in &self.limits {
            if memory.blacklist == BlacklistState::Delayed && limit.counts == Counts::Connections {
                continue;
            }
            let rate = match limit.netblocks.lookup(client) {
                Some((_, None)) => continue,
                Some((netblock, Some(rate))) => Some((netblock, rate)),
                None if limit.name == limit::TOP => rate,
                None => None,
            };
            case.consider(limit, rate, request, memory);
        }
        // Where nothing is enforced the log has a blacklisted client once, also if no limit is about it.
        let news = self.log_only
            && memory.blacklist == BlacklistState::Unchecked
            && (word.is_some() || matches!(listed, Some((_, ListEntry::Blacklist(_)))));
        if case.must_count() || news { Plan::Ask(case) } else { self.repeat(case, memory) }
    }

    /// The verdict on a case from what its operations came back with, which the session is to remember.
    pub fn judge<'p>(
        &'p self,
        case: LimitChecks<'p>,
        answers: impl IntoIterator<Item = Option<Counter>>,
        memory: &mut SessionRecord,
        now: Now,
    ) -> Judgement<'p> {
        let mut answers = answers.into_iter();
        let mut judgement = Judgement::default();
        let admission = memory.blacklist;
        if admission != BlacklistState::Delayed {
            memory.blacklist = BlacklistState::Passed;
        }
        if self.log_only && admission == BlacklistState::Unchecked {
            judgement.log_only.extend(self.would_refuse(case.client, now));
        }
        for item in case.checks {
            let (count, violations) = match item.state {
                CheckState::Cached(count) => (count, 0),
                CheckState::ToCount { scope, .. } => {
                    let CounterReading { hit, banned, violations } = item.reading(&mut answers, now);
                    (CountRecord::new(item.limit.memory_id, scope, hit, banned, case.stress), violations)
                }
            };
            let opinion = self.outcome(case.client, case.stress, &item, &count, violations, memory.delayed);
            let mut settled = self.finalize(count, item.limit, &opinion);
            if matches!(item.state, CheckState::ToCount { .. }) {
                if !settled.passed {
                    settled.key = CountRecord::key(&item.part);
                }
                judgement.follow(&item, &count, &opinion, now);
            }
            memory.keep(settled);
            if !item.limit.log_only {
                judgement.verdict.weigh(opinion.verdict());
            }
        }
        judgement
    }

    /// Marks a session that passes without a count, for it is exempt: it stays so. Says whether that is news.
    fn exempt(&self, memory: &mut SessionRecord) -> bool {
        let mut news = std::mem::replace(&mut memory.blacklist, BlacklistState::Passed) != BlacklistState::Passed;
        for limit in self.limits.iter().filter(|limit| limit.counts == Counts::Connections) {
            let count = memory.find(limit.memory_id, Scope::Session);
            let count = count.unwrap_or(CountRecord::new(limit.memory_id, Scope::Session, None, 0, false));
            if !count.passed {
                memory.keep(CountRecord { passed: true, ..count });
                news = true;
            }
        }
        news
    }

    /// The verdict on a case in which nothing is open: that of before, unless a reload has changed the rules.
    fn repeat<'p>(&'p self, case: LimitChecks<'p>, memory: &mut SessionRecord) -> Plan<'p> {
        let mut verdict = Verdict::Pass(Pass::WithinLimits);
        let mut changed = false;
        for item in &case.checks {
            let CheckState::Cached(count) = item.state else { continue };
            let opinion = self.outcome(case.client, case.stress, item, &count, 0, memory.delayed);
            let settled = self.finalize(count, item.limit, &opinion);
            if settled != count {
                memory.keep(settled);
                changed = true;
            }
            if !item.limit.log_only {
                verdict.weigh(opinion.verdict());
            }
        }
        Plan::Done { verdict, changed }
    }

    /// What the blacklist has to say where nothing is enforced.
    fn would_refuse(&self, client: IpAddr, now: Now) -> Option<Refusal<'_>> {
        if let Some(word) = self.overrides.lookup(client, now).filter(|word| word.kind == OverrideKind::Ban) {
            return Some(self.banned(client, &word));
        }
        let (netblock, ListEntry::Blacklist(reason)) = self.netblocks.lookup(client)? else {
            return None;
        };
        match self.blacklisted(client, netblock, *reason) {
            Verdict::Refuse(refusal) | Verdict::Delay(Delayed { refusal, .. }) => Some(refusal),
            Verdict::Pass(_) | Verdict::Defer => None,
        }
    }

    /// An administrator's ban, which is an entry of the blacklist for a while.
    fn banned(&self, client: IpAddr, word: &overrides::ActiveOverride) -> Refusal<'_> {
        Refusal {
            client,
            reason: Reason::Banned,
            limit: BLACKLIST,
            key: KeyPart::Client { address: word.netblock.addr(), prefix_length: word.netblock.prefix_len() },
            count: 0,
            threshold: 0,
            left: word.left,
            action: &self.blacklist.action,
        }
    }

    fn blacklisted(&self, client: IpAddr, netblock: &IpNet, reason: Option<lists::ListIndex>) -> Verdict<'_> {
        let refusal = Refusal {
            client,
            reason: Reason::Blacklisted(reason.map(|place| &*self.reasons[place.index()])),
            limit: BLACKLIST,
            key: KeyPart::Client { address: netblock.addr(), prefix_length: netblock.prefix_len() },
            count: 0,
            threshold: 0,
            left: 0,
            action: &self.blacklist.action,
        };
        match self.blacklist.delay {
            None => Verdict::Refuse(refusal),
            Some(time) => Verdict::Delay(Delayed::new(refusal, time, self.blacklist.max_concurrent, None)),
        }
    }
}

/// The number of a name.
fn id(ids: &mut HashMap<String, LimitId>, name: String) -> LimitId {
    // There may be 65,536 in the life of a process; who has more shares the last one.
    let next = LimitId::try_from(ids.len()).unwrap_or(LimitId::MAX);
    *ids.entry(name).or_insert(next)
}
