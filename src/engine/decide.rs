//! One request from its session to its verdict, and what is done in consequence.
//!
//! Here the rooms meet: the session is recognised, the policy plans, the store
//! counts, the policy judges, and the session remembers. Time is an argument.

use std::net::IpAddr;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use crate::engine::delays::DelayPermit;
use crate::engine::distinct::leave_out_known;
use crate::engine::preview::retime;
use crate::engine::report::{counted, report, would_refuse};
use crate::engine::service::{Rules, Service};
use crate::engine::unsent;
use crate::net::clock::Now;
use crate::observe::statistics::add;
use crate::policy::attribute::Attribute;
use crate::policy::request::{Request, Stage};
use crate::policy::{Decision, Door, Effect, Pass, Plan, Readings, Verdict};
use crate::session::{SessionGuard, SessionHandle};

/// The verdict on a request; with the permit, if the answer is to be delayed.
pub type Answer<'r> = (Verdict<'r>, Option<DelayPermit>);

/// Decides about a request.
pub async fn decide<'r>(
    service: &Service,
    rules: &'r Rules,
    handle: &mut SessionHandle,
    request: &Request,
    now: Now,
) -> Answer<'r> {
    let Rules { policy, store, .. } = rules;
    let Some(client) = policy.client(request) else {
        add(&service.statistics.unknown_client, 1);
        service.decisions.passed(Door::Smtp, Pass::UnknownClient);
        return (Verdict::Pass(Pass::UnknownClient), None);
    };
    let (mut checks, count) = {
        let mut session = handle.lookup(client, request, now).await;
        let lookup = session.lookup;
        add(&service.statistics.sessions, u64::from(lookup.new));
        service.diagnosis.observe(client, request, lookup);
        service.limit_use.observe(policy, request, now);
        if session.has_unsent() {
            unsent::give_back(service, rules, session.take_unsent(), now);
        }
        match policy.plan(request, session.record(), now) {
            Plan::Done(decision) => return finish(service, rules, session, client, request, decision, now),
            Plan::Count(checks) if store.waits() => (checks, session.count()),
            Plan::Count(mut checks) => {
                if policy.has_changed_windows(now) {
                    at_once(retime(store, &checks, now));
                }
                if policy.counts_clients() {
                    at_once(leave_out_known(store, &mut checks, true, now));
                }
                let operations = checks.operations(now);
                let readings = Readings::new(&operations, store.count_at_once(operations.iter().copied(), now));
                let decision = policy.judge(&checks, &readings, session.record(), now);
                counted(service, &checks, &decision, request, now);
                return finish(service, rules, session, client, request, decision, now);
            }
        }
    };
    if policy.has_changed_windows(now) {
        retime(store, &checks, now).await;
    }
    if policy.counts_clients() {
        leave_out_known(store, &mut checks, true, now).await;
    }
    let operations = checks.operations(now);
    let readings = Readings::new(&operations, store.count(operations.clone(), now).await);
    let mut session = count.finish();
    let decision = policy.judge(&checks, &readings, session.record(), now);
    counted(service, &checks, &decision, request, now);
    finish(service, rules, session, client, request, decision, now)
}

/// Makes a decision final: seeks the permit to delay the answer if it is to be, has the session remember what came of
/// it, and does what follows.
fn finish<'r>(
    service: &Service,
    rules: &Rules,
    mut session: SessionGuard<'_>,
    client: IpAddr,
    request: &Request,
    mut decision: Decision<'r>,
    now: Now,
) -> Answer<'r> {
    let permit = match &decision.verdict {
        Verdict::Delay(delay) => service.delayed.try_acquire(delay, rules.max_delayed),
        _ => None,
    };
    decision.settle(permit.is_some(), session.record());
    if rules.policy.remembers_recipients() && request.state == Stage::Rcpt && request.instance.is_some() {
        session.record().message_mut().accept(request.value(Attribute::Recipient), decision.passes());
    }
    if session.record().message().is_some() {
        session.follow_message(request, decision.passes(), now);
    }
    let news = decision.news || session.lookup.new;
    drop(session);
    apply(service, rules, &decision, now);
    if news {
        report(service, Door::Smtp, client, &decision.verdict, now);
    }
    (decision.verdict, permit)
}

/// Decides if the store counts in this process, on the stack of the caller. `None`: nothing is done yet, for another
/// policy connection's request is being counted for the session by a store that a reload has replaced meanwhile.
pub fn decide_at_once<'r>(
    service: &Service,
    rules: &'r Rules,
    handle: &mut SessionHandle,
    request: &Request,
    now: Now,
) -> Option<Answer<'r>> {
    at_once(decide(service, rules, handle, request, now))
}

/// What comes of something that has nothing to wait for; `None`: it had.
fn at_once<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => Some(done),
        Poll::Pending => None,
    }
}

/// Does what follows from a decision beside the answer.
pub fn apply(service: &Service, rules: &Rules, decision: &Decision<'_>, now: Now) {
    for effect in &decision.effects {
        match effect {
            Effect::WouldRefuse(refusal) => would_refuse(service, refusal, now),
            Effect::Violation(violation) => rules.store.violated(violation, &service.log, now),
            Effect::Refund(refund) => rules.store.take_back(refund, now),
        }
    }
}
