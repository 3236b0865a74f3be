//! One request from its session to its verdict, and what is done in consequence.
//!
//! The session is found, the policy plans, the store counts, the policy judges,
//! and the session remembers. Time is an argument.

use std::net::IpAddr;
use std::ops::ControlFlow;
use std::pin::pin;
use std::task::{Context, Waker};

use crate::engine::counting::{leave_out_known_clients, retime};
use crate::engine::delay_permits::DelayPermit;
use crate::engine::report::{note_counts, report, would_refuse};
use crate::engine::service::{Rules, Service};
use crate::net::clock::Now;
use crate::observe::statistics::add;
use crate::policy::attribute::Attribute;
use crate::policy::message::HeldHits;
use crate::policy::request::{Request, Stage};
use crate::policy::{Decision, Door, Effect, LimitChecks, Pass, Plan, Readings, Refund, Verdict};
use crate::session::{CountInProgress, SessionGuard, SessionHandle};
use crate::store::Store;

/// The verdict on a request; with the permit, if the answer is to be delayed.
pub type Answer<'r> = (Verdict<'r>, Option<DelayPermit>);

/// Decides about a request.
pub async fn decide<'r>(
    service: &Service,
    rules: &'r Rules,
    handle: &mut SessionHandle,
    request: &Request<'_>,
    now: Now,
) -> Answer<'r> {
    let Some(client) = rules.policy.client(request) else {
        return unknown_client(service, Door::Smtp);
    };
    let asked = Asked { service, rules, client, request, now };
    let session = handle.lookup(client, request, now).await;
    let (mut checks, counting) = match asked.begin(session) {
        ControlFlow::Break(answer) => return answer,
        ControlFlow::Continue(checks) => checks,
    };
    if rules.policy.prepares_counts(now) {
        // Boxed, for few requests need it: each that waits would have room for it.
        Box::pin(prepare(&rules.store, &mut checks, now)).await;
    }
    let operations = checks.operations(now);
    let readings = Readings::new(&operations, rules.store.count(operations.iter().copied(), now).await);
    asked.judge(counting.finish(), &checks, &readings)
}

/// Decides without waiting, where the store counts in this process. `None`: nothing is done yet, because a store that a
/// reload has replaced is still counting another request of the session.
pub fn decide_at_once<'r>(
    service: &Service,
    rules: &'r Rules,
    handle: &mut SessionHandle,
    request: &Request<'_>,
    now: Now,
) -> Option<Answer<'r>> {
    let Some(client) = rules.policy.client(request) else {
        return Some(unknown_client(service, Door::Smtp));
    };
    let session = handle.lookup_at_once(client, request, now)?;
    Asked { service, rules, client, request, now }.begin(session).break_value()
}

/// The answer about a client whose address is not known.
pub fn unknown_client(service: &Service, door: Door) -> Answer<'static> {
    add(&service.statistics.unknown_client, 1);
    service.decisions.passed(door, Pass::UnknownClient);
    (Verdict::Pass(Pass::UnknownClient), None)
}

/// Prepares the counts of a request, where the policy says that it has to.
#[cold]
async fn prepare(store: &Store, checks: &mut LimitChecks<'_>, now: Now) {
    retime(store, checks, now).await;
    leave_out_known_clients(store, checks, true, now).await;
}

/// A request whose session is known.
struct Asked<'r, 'q> {
    service: &'q Service,
    rules: &'r Rules,
    client: IpAddr,
    request: &'q Request<'q>,
    now: Now,
}

impl<'r> Asked<'r, '_> {
    /// Decides, if the store counts in this process. If not, returns what it is to count; the table of sessions is not
    /// locked while it is waited for.
    fn begin<'h>(
        &self,
        mut session: SessionGuard<'h>,
    ) -> ControlFlow<Answer<'r>, (LimitChecks<'r>, CountInProgress<'h>)> {
        let Self { service, rules, client, request, now } = *self;
        let Rules { policy, store, .. } = rules;
        let lookup = session.lookup;
        add(&service.statistics.sessions, u64::from(lookup.new));
        service.diagnosis.observe(client, request, lookup);
        if service.tally.note_request(request) {
            service.limit_use.add_examples(policy, request, now);
        }
        if session.has_unsent() {
            take_back_unsent(service, rules, session.take_unsent(), now);
        }
        match policy.plan(request, session.record(), now) {
            Plan::Done(mut decision) => ControlFlow::Break(self.finish(session, &mut decision)),
            Plan::Count(mut checks) if !store.is_shared() => {
                if policy.prepares_counts(now) {
                    // In this process there is nothing to wait for.
                    let _ = pin!(prepare(store, &mut checks, now)).poll(&mut Context::from_waker(Waker::noop()));
                }
                let readings = Readings::count(&checks, now, |operation| Some(store.count_at_once(operation, now)));
                ControlFlow::Break(self.judge(session, &checks, &readings))
            }
            Plan::Count(checks) => ControlFlow::Continue((checks, session.unlock_to_count())),
        }
    }

    /// Judges by what the store has answered.
    fn judge(&self, mut session: SessionGuard<'_>, checks: &LimitChecks<'r>, readings: &Readings) -> Answer<'r> {
        let mut decision = self.rules.policy.judge(checks, readings, session.record(), self.now);
        note_counts(self.service, checks, &decision, self.request, self.now);
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
        let must_report = decision.must_report || session.lookup.new;
        drop(session);
        apply(service, rules, decision, Some(request), now);
        if must_report {
            report(service, Door::Smtp, client, &decision.verdict, now);
        }
        (std::mem::replace(&mut decision.verdict, Verdict::Pass(Pass::WithinLimits)), permit)
    }
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

/// Takes back all hits for recipients of messages that are not sent. `session::unsent` finds out which messages those
/// are.
pub fn take_back_all_unsent(service: &Service, now: Now) {
    take_back_unsent(service, &service.rules.load(), service.sessions.take_unsent(), now);
}

/// Takes hits back, if the limit that counted them and the window still exist.
#[cold]
fn take_back_unsent(service: &Service, rules: &Rules, hits: Vec<HeldHits>, now: Now) {
    for hit in hits.into_iter().filter(|hit| hit.lasts(now)) {
        let HeldHits { limit, part, kind, amount, passed, .. } = hit;
        if let Some(limit) = rules.policy.limits().iter().find(|one| one.id == limit) {
            service.daily.take_back(limit.id, &part, passed, now);
            rules.store.take_back(&Refund { limit, part, kind, amount }, now);
        }
    }
}
