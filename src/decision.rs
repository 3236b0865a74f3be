//! One request from its session to its verdict, and what is told of it.
//!
//! Here the parts meet: the session is recognised, the policy plans, the store
//! counts, the policy judges, and the session remembers. Time is an argument.

use std::net::IpAddr;

use crate::clock::Now;
use crate::codec::Request;
use crate::log::Severity;
use crate::policy::{Judgement, Pass, Plan, Verdict};
use crate::service::{Rules, Service};
use crate::session::Seat;
use crate::statistics::add;
use crate::waiting::Place;

/// Plan, ask the store, judge; and the session remembers what came of it. A place is where to wait first.
pub async fn decide<'r>(
    service: &Service,
    rules: &'r Rules,
    seat: &mut Seat,
    request: &Request,
    now: Now,
) -> (Verdict<'r>, Option<Place>) {
    let Service { statistics, waiting, .. } = service;
    let Some(client) = request.client else {
        add(&statistics.unknown_client, 1);
        return (Verdict::Pass(Pass::UnknownClient), None);
    };
    let joined = seat.join(client, request, now);
    add(&statistics.sessions, u64::from(joined.new));
    let mut memory = if joined.counting { seat.settled().await } else { joined.memory };
    let mut refunds = Vec::new();
    let (verdict, mut changed, mut news) = match rules.policy.plan(request, &mut memory) {
        Plan::Done { verdict, changed } => (verdict, changed, joined.new),
        Plan::Ask(case) => {
            if rules.store.waits() {
                seat.count();
            }
            let answers = rules.store.count(case.operations(now), now).await;
            let judgement = rules.policy.judge(case, answers, &mut memory, now);
            follow(service, rules, &judgement, now);
            refunds = judgement.refunds_if_refused;
            (judgement.verdict, true, true)
        }
    };
    let (verdict, place) = match verdict {
        Verdict::Delay(wait) => {
            (changed, news) = (true, true);
            match waiting.enter(&wait, rules.max_delayed) {
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

/// What a judgement has for consequences beside the answer.
fn follow(service: &Service, rules: &Rules, judgement: &Judgement<'_>, now: Now) {
    let Service { statistics, log, .. } = service;
    for refusal in &judgement.log_only {
        add(&statistics.would_refuse, 1);
        log.refused(Severity::Info, "WOULD_REFUSE", refusal, now);
    }
    for violation in &judgement.violations {
        rules.store.violated(violation, log, now);
    }
    for refund in &judgement.refunds {
        rules.store.take_back(refund, now);
    }
}

/// The one place that speaks of verdicts: once per session and count, not per request.
fn report(service: &Service, client: IpAddr, verdict: &Verdict<'_>, now: Now) {
    let Service { statistics, log, .. } = service;
    match verdict {
        Verdict::Pass(pass) => {
            add(&statistics.whitelisted, u64::from(*pass == Pass::Whitelisted));
            log.passed(&client, pass.reason(), now);
        }
        Verdict::Defer => {
            add(&statistics.deferred, 1);
            log.deferred(&client, Pass::StoreAway.reason(), now);
        }
        Verdict::Delay(wait) => {
            add(&statistics.delayed, 1);
            log.refused(Severity::Info, "DELAYED", &wait.refusal, now);
        }
        Verdict::Refuse(refusal) => {
            add(&statistics.refused, 1);
            log.refused(Severity::Info, "REFUSED", refusal, now);
        }
    }
}
