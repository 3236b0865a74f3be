//! One request from its session to its verdict, and what is told of it.
//!
//! Here the parts meet: the session is recognised, the policy plans, the store
//! counts, the policy judges, and the session remembers. Time is an argument.

use std::net::IpAddr;

use crate::engine::delays::DelayPermit;
use crate::engine::report::{report, would_refuse};
use crate::engine::service::{Rules, Service};
use crate::net::clock::Now;
use crate::observe::statistics::add;
use crate::policy::request::Request;
use crate::policy::{Judgement, Pass, Plan, Refund, SessionRecord, Verdict};
use crate::session::{SessionHandle, SessionLookup};

/// The answer, and where to wait before it is given.
pub type Decision<'r> = (Verdict<'r>, Option<DelayPermit>);

/// What came of a request at once.
#[derive(Debug)]
pub enum Beginning<'r> {
    /// All that was to come.
    Decided(Decision<'r>),
    /// There is something to wait for.
    Open(Open),
}

/// A request whose session is known, and no more.
#[derive(Debug)]
pub struct Open {
    client: IpAddr,
    joined: SessionLookup,
}

/// Decides where the store counts in this process: then nothing has to be kept while anything is waited for.
pub fn begin<'r>(
    service: &Service,
    rules: &'r Rules,
    seat: &mut SessionHandle,
    request: &Request,
    now: Now,
) -> Beginning<'r> {
    let Service { statistics, decisions, .. } = service;
    let Some(client) = request.client else {
        add(&statistics.unknown_client, 1);
        decisions.passed(Pass::UnknownClient);
        return Beginning::Decided((Verdict::Pass(Pass::UnknownClient), None));
    };
    let joined = seat.lookup(client, request, now);
    add(&statistics.sessions, u64::from(joined.new));
    service.diagnosis.observe(client, request, &joined);
    if rules.store.waits() || joined.counting {
        return Beginning::Open(Open { client, joined });
    }
    let SessionLookup { new, mut memory, .. } = joined;
    let thought = match rules.policy.plan(request, &mut memory, now) {
        Plan::Done { verdict, changed } => Thought::done(verdict, changed, new),
        Plan::Ask(case) => {
            let answers = rules.store.count_at_once(case.operations(now), now);
            Thought::judged(rules.policy.judge(case, answers, &mut memory, now), service, rules, now)
        }
    };
    Beginning::Decided(thought.conclude(service, rules, seat, client, memory, now))
}

impl Open {
    /// Plan, ask the store, judge; and the session remembers what came of it.
    pub async fn decide<'r>(
        self,
        service: &Service,
        rules: &'r Rules,
        seat: &mut SessionHandle,
        request: &Request,
        now: Now,
    ) -> Decision<'r> {
        let Self { client, joined } = self;
        let mut memory = if joined.counting { seat.counted().await } else { joined.memory };
        let thought = match rules.policy.plan(request, &mut memory, now) {
            Plan::Done { verdict, changed } => Thought::done(verdict, changed, joined.new),
            Plan::Ask(case) => {
                seat.count();
                let answers = rules.store.count(case.operations(now), now).await;
                Thought::judged(rules.policy.judge(case, answers, &mut memory, now), service, rules, now)
            }
        };
        thought.conclude(service, rules, seat, client, memory, now)
    }
}

/// A verdict that nobody has heard yet.
struct Thought<'r> {
    verdict: Verdict<'r>,
    /// The session has something new to remember.
    changed: bool,
    /// There is something to tell.
    news: bool,
    /// Hits to be taken back if it is a refusal.
    refunds: Vec<Refund<'r>>,
}

impl<'r> Thought<'r> {
    fn done(verdict: Verdict<'r>, changed: bool, news: bool) -> Self {
        Self { verdict, changed, news, refunds: Vec::new() }
    }

    fn judged(judgement: Judgement<'r>, service: &Service, rules: &Rules, now: Now) -> Self {
        follow(service, rules, &judgement, now);
        let Judgement { verdict, refunds_if_refused: refunds, .. } = judgement;
        Self { verdict, changed: true, news: true, refunds }
    }

    /// Finds a place for who has to wait, and has session, store and log know.
    #[inline]
    fn conclude(
        self,
        service: &Service,
        rules: &'r Rules,
        seat: &mut SessionHandle,
        client: IpAddr,
        mut memory: SessionRecord,
        now: Now,
    ) -> Decision<'r> {
        let Self { verdict, mut changed, mut news, refunds } = self;
        let (verdict, place) = match verdict {
            Verdict::Delay(wait) => {
                (changed, news) = (true, true);
                match service.delayed.try_acquire(&wait, rules.max_delayed) {
                    Some(place) => {
                        wait.begin(&mut memory);
                        (Verdict::Delay(wait), Some(place))
                    }
                    None => (Verdict::Refuse(wait.refuse(&mut memory)), None),
                }
            }
            verdict => (verdict, None),
        };
        if matches!(verdict, Verdict::Refuse(_)) {
            refunds.iter().for_each(|refund| rules.store.take_back(refund, now));
        }
        if changed {
            seat.remember(memory);
        }
        if news {
            report(service, client, &verdict, now);
        }
        (verdict, place)
    }
}

/// What a judgement has for consequences beside the answer.
pub fn follow(service: &Service, rules: &Rules, judgement: &Judgement<'_>, now: Now) {
    for refusal in &judgement.log_only {
        would_refuse(service, refusal, now);
    }
    for violation in &judgement.violations {
        rules.store.violated(violation, &service.log, now);
    }
    for refund in &judgement.refunds {
        rules.store.take_back(refund, now);
    }
}
