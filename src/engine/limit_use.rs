//! Which limits never count anything, as the requests show, and why.
//!
//! A limit that Postfix never asks about looks as healthy as one that nobody exceeds. So the kinds of requests are
//! counted, and it is noted of each limit whether it has counted any.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use crate::engine::report::{Tally, has_login};
use crate::net::clock::Now;
use crate::net::lock;
use crate::observe::log::{Log, Severity};
use crate::policy::door::Door;
use crate::policy::limit::CounterLimitId;
use crate::policy::request::{Request, Stage};
use crate::policy::restriction_stage::{
    RestrictionStage, all_goes_back, change_limit, gives_all_back, needs_login, needs_stages, never_counts, stages,
};
use crate::policy::{Limit, LimitChecks, Pass, Plan, Policy, SessionRecord, Verdict};

/// Requests of Postfix since the start or the last reload, before anything is logged. Not all of them need be about
/// logins: at night a host for incoming mail too may have none for hours.
pub const ENOUGH_REQUESTS: u64 = 5000;

/// Which limits the requests use.
#[derive(Debug)]
pub struct LimitUse {
    tally: Arc<Tally>,
    state: Mutex<UseFindings>,
}

#[derive(Debug, Default)]
struct UseFindings {
    /// Why a limit did not count a request at which it could have.
    examples: BTreeMap<CounterLimitId, String>,
    unusable: Vec<UnusableLimit>,
    unused: Vec<UnusedLimit>,
    /// What was logged already.
    logged: BTreeSet<(String, UseProblem)>,
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
    NoStage,
    WrongStage,
    NoLogin,
    AllGoesBack,
    Unused,
}

impl LimitUse {
    /// Draws conclusions from what is noted of every request.
    pub fn new(tally: Arc<Tally>) -> Self {
        Self { tally, state: Mutex::default() }
    }

    /// Starts over: other limits are in force.
    pub fn begin_anew(&self) {
        self.tally.begin_anew();
        let mut state = lock(&self.state);
        *state = UseFindings { logged: std::mem::take(&mut state.logged), ..UseFindings::default() };
    }

    /// Draws conclusions, and logs what is new.
    pub fn conclude(&self, policy: &Policy, log: &Log) {
        let limits = policy.limits().iter().filter(|limit| limit.door == Door::Smtp);
        let unused: Vec<&Limit> = limits.clone().filter(|limit| !self.tally.is_used(limit)).collect();
        self.tally.set_all_used(unused.is_empty());
        let requests = self.tally.requests(&Stage::ALL, false);
        if requests < ENOUGH_REQUESTS {
            return;
        }
        let mut state = lock(&self.state);
        let UseFindings { examples, logged, .. } = &mut *state;
        let mut say = |limit: &Limit, kind, severity, problem: &str, remedy: &str| {
            if logged.insert((limit.name.clone(), kind)) {
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
                say(
                    limit,
                    UseProblem::Unused,
                    Severity::Info,
                    &problem,
                    "nothing to do if such requests are rare here",
                );
                idle.push(limit_use);
                continue;
            };
            say(limit, kind, Severity::Warning, &problem, &remedy);
            unusable.push(UnusableLimit { problem, remedy });
        }
        let late = self.tally.requests(&[Stage::Data, Stage::EndOfMessage], false);
        for limit in limits.filter(|limit| gives_all_back(limit) && self.tally.is_used(limit) && late == 0) {
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

    /// Why the limit could count none of the requests so far; `None`: it could have counted some.
    fn problem(&self, limit: &Limit, requests: u64) -> Option<(UseProblem, String, String)> {
        let stages = stages(limit);
        let Some(first) = stages.last() else {
            return Some((UseProblem::NoStage, needs_stages(limit, &stages), change_limit(limit)));
        };
        let at = request_stages(&stages);
        if self.tally.requests(&at, false) == 0 {
            let problem = format!("{}, and none of the last {requests} requests was one", needs_stages(limit, &stages));
            let remedy = format!("write the same check_policy_service in {}", first.list());
            return Some((UseProblem::WrongStage, problem, remedy));
        }
        (needs_login(limit) && self.tally.requests(&at, true) == 0).then(|| {
            let why = format!("it is about logins, and none of the last {requests} requests had one");
            let remedy = "write check_policy_service before permit_sasl_authenticated where users log in";
            (UseProblem::NoLogin, never_counts(limit, why), remedy.to_owned())
        })
    }

    /// Notes why limits do not count a request.
    #[cold]
    pub fn add_examples(&self, policy: &Policy, request: &Request, now: Now) {
        // `conclude` notices only later that all limits are used by now.
        if policy.limits().iter().all(|limit| limit.door != Door::Smtp || self.tally.is_used(limit)) {
            return;
        }
        let login = has_login(request);
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
            let fits = request_stages(&stages(limit)).contains(&request.state) && (login || !needs_login(limit));
            if let Some(why) = say.why_not().filter(|_| fits && !self.tally.is_used(limit)) {
                state.examples.insert(limit.id, why);
            }
        }
    }
}

impl UnusedLimit {
    /// How many requests it did not count, and why it did not count one of them.
    pub fn why(&self) -> String {
        let example = self.example.as_ref().map(|example| format!("; for example: {example}"));
        format!("none of the last {} requests{}", self.requests, example.unwrap_or_default())
    }
}

fn request_stages(stages: &[RestrictionStage]) -> Vec<Stage> {
    Stage::ALL.into_iter().filter(|stage| stages.iter().any(|at| at.request_stages().contains(stage))).collect()
}
