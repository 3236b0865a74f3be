//! One request from its session to its verdict, and what is done in consequence.
//!
//! The session is found, the policy plans, the store counts, the policy judges,
//! and the session remembers. Time is an argument.

use std::net::IpAddr;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use crate::engine::counting::{leave_out_known, retime};
use crate::engine::delays::DelayPermit;
use crate::engine::report::{counted, report, would_refuse};
use crate::engine::service::{Rules, Service};
use crate::engine::unsent;
use crate::net::clock::Now;
use crate::observe::statistics::add;
use crate::policy::attribute::Attribute;
use crate::policy::request::{Request, Stage};
use crate::policy::{Decision, Door, Effect, LimitChecks, Pass, Plan, Readings, Verdict};
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
    let mut plan;
    let counting = {
        let mut session = handle.lookup(client, request, now).await;
        let lookup = session.lookup;
        add(&service.statistics.sessions, u64::from(lookup.new));
        service.diagnosis.observe(client, request, lookup);
        if service.tally.note_request(request) {
            service.limit_use.add_examples(policy, request, now);
        }
        if session.has_unsent() {
            unsent::take_back(service, rules, session.take_unsent(), now);
        }
        let asked = Asked { service, rules, client, request, now };
        plan = policy.plan(request, session.record(), now);
        match &mut plan {
            Plan::Done(decision) => return asked.finish(session, decision),
            Plan::Count(checks) if !store.waits() => {
                let readings = match at_once(count_checks(rules, checks, now)) {
                    Poll::Ready(readings) => readings,
                    Poll::Pending => Readings::default(),
                };
                return asked.judge(session, checks, &readings);
            }
            // The table of sessions is not locked while the store is waited for.
            Plan::Count(_) => session.count(),
        }
    };
    let Plan::Count(mut checks) = plan else { unreachable!("what is decided is not counted") };
    let readings = count_checks(rules, &mut checks, now).await;
    Asked { service, rules, client, request, now }.judge(counting.finish(), &checks, &readings)
}

/// Has the store count what a request needs.
async fn count_checks(rules: &Rules, checks: &mut LimitChecks<'_>, now: Now) -> Readings {
    let Rules { policy, store, .. } = rules;
    if policy.has_changed_windows(now) {
        retime(store, checks, now).await;
    }
    if policy.counts_clients() {
        leave_out_known(store, checks, true, now).await;
    }
    if !store.waits() {
        return Readings::count(checks, now, |operation| Some(store.count_at_once(operation, now)));
    }
    let operations = checks.operations(now);
    Readings::new(&operations, store.count(operations.clone(), now).await)
}

/// A request whose session is known.
struct Asked<'r, 'q> {
    service: &'q Service,
    rules: &'r Rules,
    client: IpAddr,
    request: &'q Request,
    now: Now,
}

impl<'r> Asked<'r, '_> {
    /// Judges by what the store has answered.
    fn judge(&self, mut session: SessionGuard<'_>, checks: &LimitChecks<'r>, readings: &Readings) -> Answer<'r> {
        let mut decision = self.rules.policy.judge(checks, readings, session.record(), self.now);
        counted(self.service, checks, &decision, self.request, self.now);
        self.finish(session, &mut decision)
    }

    /// Makes a decision final: acquires the permit for a delay, has the session remember the decision, carries out the
    /// effects and reports the verdict.
    fn finish(&self, mut session: SessionGuard<'_>, decision: &mut Decision<'r>) -> Answer<'r> {
        let Self { service, rules, client, request, now } = *self;
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
        apply(service, rules, decision, Some(request), now);
        if news {
            report(service, Door::Smtp, client, &decision.verdict, now);
        }
        (std::mem::replace(&mut decision.verdict, Verdict::Pass(Pass::WithinLimits)), permit)
    }
}

/// Decides at once, on the stack of the caller, where the store counts in this process. Pending: nothing is done yet,
/// because a store that a reload has replaced is still counting another request of the session.
pub fn decide_at_once<'r>(
    service: &Service,
    rules: &'r Rules,
    handle: &mut SessionHandle,
    request: &Request,
    now: Now,
) -> Poll<Answer<'r>> {
    at_once(decide(service, rules, handle, request, now))
}

/// Polls a future once that nearly always has nothing to wait for.
fn at_once<T>(future: impl Future<Output = T>) -> Poll<T> {
    pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}

/// Carries out the effects of a decision.
pub fn apply(service: &Service, rules: &Rules, decision: &Decision<'_>, request: Option<&Request>, now: Now) {
    for effect in &decision.effects {
        match effect {
            Effect::WouldRefuse(refusal) => would_refuse(service, refusal, now),
            Effect::Violation(violation) => rules.store.violated(violation, request, &service.log, now),
            Effect::Refund(refund) => rules.store.take_back(refund, now),
        }
    }
}
