//! Which limits never count anything, as the requests show, and why.
//!
//! A limit that Postfix never asks about looks as healthy as one that nobody exceeds. So the kinds of requests are
//! counted, and it is noted of each limit whether it has counted any.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use crate::net::clock::Now;
use crate::net::lock;
use crate::observe::log::{Log, Severity};
use crate::policy::attribute::Attribute;
use crate::policy::door::Door;
use crate::policy::limit::LimitId;
use crate::policy::moments::{
    RestrictionStage, all_goes_back, change_limit, gives_all_back, moments, needs_login, needs_moments, never_asked,
};
use crate::policy::request::{Request, Stage};
use crate::policy::{Limit, LimitChecks, Pass, Plan, Policy, SessionRecord, Verdict};

/// Requests of Postfix since the start or the last reload, before anything is said. Not all of them need be about
/// logins: at night a host for incoming mail too may have none for hours.
pub const ENOUGH_REQUESTS: u64 = 5000;

/// Limits that are looked after. Further ones, after many reloads, count as used.
const MAX_LIMITS: usize = 1024;

/// Of so many requests of one kind, one shows why limits do not count it.
const PER_EXAMPLE: u64 = 1024;

/// What the requests were, and which limits have counted any.
#[derive(Debug, Default)]
pub struct LimitUse {
    /// Requests at each stage, without and with a login.
    seen: [[AtomicU64; 2]; Stage::COUNT],
    /// Limits that have counted a request, by their ids.
    used: [AtomicU64; MAX_LIMITS / 64],
    /// All of them have.
    all_used: AtomicBool,
    state: Mutex<UseFindings>,
}

#[derive(Debug, Default)]
struct UseFindings {
    /// Why a limit did not count a request at which it could have.
    examples: BTreeMap<LimitId, String>,
    unusable: Vec<UnusableLimit>,
    unused: Vec<UnusedLimit>,
    /// What was said already.
    said: BTreeSet<(String, UseProblem)>,
}

/// A limit that cannot count anything as Postfix asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnusableLimit {
    pub problem: String,
    pub remedy: String,
}

/// A limit that has counted nothing, which may be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnusedLimit {
    pub limit: String,
    /// Requests that it did not count.
    pub requests: u64,
    /// Why it did not count one of them.
    pub example: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum UseProblem {
    NoMoment,
    WrongMoment,
    NoLogin,
    AllGoesBack,
    Unused,
}

impl LimitUse {
    /// Notes a request. Now and then it becomes an example.
    pub fn observe(&self, policy: &Policy, request: &Request, now: Now) {
        let login = !request.value(Attribute::SaslUsername).is_empty();
        let before = self.seen[request.state as usize][usize::from(login)].fetch_add(1, Relaxed);
        if before.is_multiple_of(PER_EXAMPLE) && !self.all_used.load(Relaxed) {
            self.add_examples(policy, request, login, now);
        }
    }

    /// Notes the limits that count a request.
    pub fn mark(&self, checks: &LimitChecks<'_>) {
        if self.all_used.load(Relaxed) {
            return;
        }
        for check in &checks.checks {
            let id = usize::from(check.limit.id);
            if let Some(word) = self.used.get(id / 64)
                && word.load(Relaxed) & (1 << (id % 64)) == 0
            {
                word.fetch_or(1 << (id % 64), Relaxed);
            }
        }
    }

    /// Other limits are in force.
    pub fn begin_anew(&self) {
        self.seen.iter().flatten().chain(&self.used).for_each(|number| number.store(0, Relaxed));
        self.all_used.store(false, Relaxed);
        let mut state = lock(&self.state);
        *state = UseFindings { said: std::mem::take(&mut state.said), ..UseFindings::default() };
    }

    /// Draws conclusions, now and then, and says what is new.
    pub fn conclude(&self, policy: &Policy, log: &Log) {
        let limits = policy.limits().iter().filter(|limit| limit.door == Door::Smtp);
        let unused: Vec<&Limit> = limits.clone().filter(|limit| !self.is_used(limit)).collect();
        self.all_used.store(unused.is_empty(), Relaxed);
        let requests = self.number(&Stage::ALL, false);
        if requests < ENOUGH_REQUESTS {
            return;
        }
        let mut state = lock(&self.state);
        let UseFindings { examples, said, .. } = &mut *state;
        let mut say = |limit: &Limit, kind, severity, problem: &str, remedy: &str| {
            if said.insert((limit.name.clone(), kind)) {
                log.line(severity, "DIAGNOSIS", |line| {
                    line.field("problem", problem).field("remedy", remedy);
                });
            }
        };
        let (mut unusable, mut idle) = (Vec::new(), Vec::new());
        for limit in &unused {
            let Some((kind, problem, remedy)) = self.problem(limit, requests) else {
                let example = examples.get(&limit.id).cloned();
                let limit_use = UnusedLimit { limit: limit.name.clone(), requests, example };
                let problem = format!("limit {} has counted {}", limit.name, limit_use.why());
                say(limit, UseProblem::Unused, Severity::Info, &problem, "none is needed if such requests are rare");
                idle.push(limit_use);
                continue;
            };
            say(limit, kind, Severity::Warning, &problem, &remedy);
            unusable.push(UnusableLimit { problem, remedy });
        }
        let late = self.number(&[Stage::Data, Stage::EndOfMessage], false);
        for limit in limits.filter(|limit| gives_all_back(limit) && self.is_used(limit) && late == 0) {
            let (problem, remedy) = all_goes_back(limit);
            say(limit, UseProblem::AllGoesBack, Severity::Warning, &problem, &remedy);
            unusable.push(UnusableLimit { problem, remedy });
        }
        (state.unusable, state.unused) = (unusable, idle);
    }

    /// The limits that cannot count anything, and those that have counted nothing though they could, as far as is known.
    pub fn findings(&self) -> (Vec<UnusableLimit>, Vec<UnusedLimit>) {
        let state = lock(&self.state);
        (state.unusable.clone(), state.unused.clone())
    }

    /// Why the requests so far are none that the limit could count; `None`: some were.
    fn problem(&self, limit: &Limit, requests: u64) -> Option<(UseProblem, String, String)> {
        let moments = moments(limit);
        let Some(first) = moments.last() else {
            return Some((UseProblem::NoMoment, needs_moments(limit, &moments), change_limit(limit)));
        };
        let stages = stages(&moments);
        if self.number(&stages, false) == 0 {
            let problem = format!("{}, and none of {requests} requests was one", needs_moments(limit, &moments));
            let remedy = format!("write the same check_policy_service in {}", first.list());
            return Some((UseProblem::WrongMoment, problem, remedy));
        }
        (needs_login(limit) && self.number(&stages, true) == 0).then(|| {
            let why = format!("it is about logins, and none of {requests} requests had one");
            let remedy = "write check_policy_service before permit_sasl_authenticated where users log in";
            (UseProblem::NoLogin, never_asked(limit, why), remedy.to_owned())
        })
    }

    #[cold]
    fn add_examples(&self, policy: &Policy, request: &Request, login: bool, now: Now) {
        // It may be some time until `conclude` notices that.
        if policy.limits().iter().all(|limit| limit.door != Door::Smtp || self.is_used(limit)) {
            return;
        }
        let says = match policy.plan(request, &SessionRecord::default(), now) {
            Plan::Count(checks) => policy.explain(request, &checks),
            Plan::Done(decision) => {
                let whitelisted = matches!(decision.verdict, Verdict::Pass(Pass::Whitelisted));
                let Some(client) = policy.client(request).filter(|_| whitelisted) else { return };
                policy.explain(request, &LimitChecks::new(client, request, whitelisted))
            }
        };
        let mut state = lock(&self.state);
        for (limit, say) in says {
            let fits = stages(&moments(limit)).contains(&request.state) && (login || !needs_login(limit));
            if let Some(why) = say.why_not().filter(|_| fits && !self.is_used(limit)) {
                state.examples.insert(limit.id, why);
            }
        }
    }

    fn is_used(&self, limit: &Limit) -> bool {
        let id = usize::from(limit.id);
        self.used.get(id / 64).is_none_or(|word| word.load(Relaxed) & (1 << (id % 64)) != 0)
    }

    /// Requests at these stages, or those of them that had a login.
    fn number(&self, stages: &[Stage], with_login: bool) -> u64 {
        let kinds = stages.iter().flat_map(|stage| &self.seen[*stage as usize][usize::from(with_login)..]);
        kinds.map(|number| number.load(Relaxed)).sum()
    }
}

impl UnusedLimit {
    /// How many requests it did not count, and why not one of them.
    pub fn why(&self) -> String {
        let example = self.example.as_ref().map(|example| format!(", one because {example}"));
        format!("none of {} requests{}", self.requests, example.unwrap_or_default())
    }
}

fn stages(moments: &[RestrictionStage]) -> Vec<Stage> {
    Stage::ALL.into_iter().filter(|stage| moments.iter().any(|moment| moment.stages().contains(stage))).collect()
}
