//! Counts violations, and bans a key after too many of them. A ban is a counter of its own (`CounterKind::ActiveBan`) and
//! ends with its expiry. Requests read it together with their counts (`policy::checks`), on every host that shares the
//! store.
//!
//! No request waits for this: the one that went over is answered by its count.
//! Each step is atomic in the store, so of sessions that go over at the same time,
//! on whatever host, exactly one begins the ban. A step that a shared store does not
//! do, because the server is down, is done in this process.

use std::net::IpAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use tokio::runtime::Handle;

use super::counters::CounterPlace;
use crate::net::clock::Now;
use crate::net::lock;
use crate::observe::log::LogRecord;
use crate::observe::log::{Log, LogEvent, Severity};
use crate::observe::statistics::add;
use crate::policy::attribute::Attribute;
use crate::policy::decision::Violation;
use crate::policy::door::DoorSet;
use crate::policy::key::KeyPart;
use crate::policy::limit::Ban;
use crate::policy::request::Request;
use crate::policy::{CounterKind, Key};
use crate::store::Store;
use crate::store::shared::backend::Backend;
use crate::store::shared::over_limit::{Known, Route};

/// A violation, for work that outlasts the request and the rules that found it.
#[derive(Debug)]
struct ViolationReport {
    limit: String,
    log_only: bool,
    ban_doors: DoorSet,
    part: KeyPart,
    violations: CounterPlace,
    /// Violations before this one that were not sent to the store.
    pending: u32,
    ban: Option<(Ban, BanCounters)>,
    forget_after: u32,
    /// The client of the request; none where another program reported it.
    client: Option<IpAddr>,
    login: Vec<u8>,
    sender: Vec<u8>,
    now: Now,
}

/// The two counters of a key's bans.
#[derive(Debug)]
struct BanCounters {
    /// The ban in force, with its number.
    active: CounterPlace,
    /// How many there were.
    count: CounterPlace,
}

/// A ban that this process began, to be published to other hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnpublishedBan {
    pub limit: String,
    pub part: KeyPart,
    pub seconds: u32,
    pub repetition: u32,
}

/// The bans begun since they were last taken.
#[derive(Debug, Default)]
pub struct UnpublishedBans(Mutex<(Vec<UnpublishedBan>, usize)>);

impl UnpublishedBans {
    /// Kept at once. Beyond this they are only counted.
    const MAX: usize = 500;

    fn push(&self, ban: UnpublishedBan) {
        let mut bans = lock(&self.0);
        match bans.0.len() < Self::MAX {
            true => bans.0.push(ban),
            false => bans.1 += 1,
        }
    }

    /// Takes them out, with the number of further ones.
    pub fn take(&self) -> (Vec<UnpublishedBan>, usize) {
        std::mem::take(&mut *lock(&self.0))
    }
}

/// Bans that a shared store no longer has, although this process knows that they have not ended.
#[derive(Debug, Default)]
pub struct LostBans(Mutex<Vec<LostBan>>);

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostBan {
    pub limit: String,
    pub part: KeyPart,
}

impl LostBans {
    /// Kept at once. Of more, the first are kept.
    const MAX: usize = 10_000;

    pub(super) fn push(&self, key: &Key<'_>) {
        let mut bans = lock(&self.0);
        if bans.len() < Self::MAX {
            bans.push(LostBan { limit: key.limit.name.clone(), part: key.part.clone() });
        }
    }

    pub fn take(&self) -> Vec<LostBan> {
        std::mem::take(&mut *lock(&self.0))
    }
}

impl ViolationReport {
    fn new(store: &Store, violation: &Violation<'_>, request: Option<&Request>, pending: u32, now: Now) -> Self {
        let Violation { limit, part } = violation;
        let counter = |kind| store.counter(&Key { limit, part, kind });
        let bans = || BanCounters { active: counter(CounterKind::ActiveBan), count: counter(CounterKind::BanCount) };
        // Only the log lines of bans have these values.
        let request = request.filter(|_| limit.ban.is_some());
        let value = |attribute| request.map(|request| request.value(attribute).to_vec()).unwrap_or_default();
        let login = request.map(|request| request.door.login()).map(value).unwrap_or_default();
        Self {
            limit: limit.name.clone(),
            log_only: limit.log_only,
            ban_doors: limit.ban_doors,
            part: part.clone(),
            violations: counter(CounterKind::Violations),
            pending,
            ban: limit.ban.map(|ban| (ban, bans())),
            forget_after: limit.forget_after,
            client: request.and_then(|request| request.client),
            login,
            sender: value(Attribute::Sender),
            now,
        }
    }

    fn describe(&self, seconds: u32, repetition: u32, line: &mut LogRecord) {
        line.field("key", &self.part).field("limit", &self.limit);
        line.field("seconds", seconds).field("repetition", repetition);
        if !self.ban_doors.is_smtp() {
            line.field("doors", self.ban_doors.words());
        }
        if let Some(client) = self.client {
            line.field("client", client);
        }
        for (name, value) in [("login", &self.login), ("sender", &self.sender)] {
            if !value.is_empty() {
                line.bytes(name, value);
            }
        }
    }
}

impl Store {
    /// Counts a violation, and bans the client if it is one too many. Without a shared store that is done when this
    /// returns; with one it takes a few round trips in the background. Must be called within a runtime.
    pub fn violated(self: &Arc<Self>, violation: &Violation<'_>, request: Option<&Request>, log: &Log, now: Now) {
        if let Some(backend) = self.backend.as_deref() {
            if let Route::AskStore { pending } = self.route_violation(backend, violation, now) {
                let (report, store, log) =
                    (ViolationReport::new(self, violation, request, pending, now), Arc::clone(self), log.clone());
                let runtime = self.runtime.clone().unwrap_or_else(Handle::current);
                self.following.spawn_on(async move { store.count_violation(&report, &log).await }, &runtime);
            }
            return;
        }
        let report = ViolationReport::new(self, violation, request, 0, now);
        let done = pin!(self.count_violation(&report, log)).poll(&mut Context::from_waker(Waker::noop()));
        debug_assert_eq!(done, Poll::Ready(()), "nothing waits for a store in this process");
    }

    /// Whether a violation is sent to the shared store now, or counted in this process for the time being: those of a
    /// flood are sent once per `over_memory`. If they may lead to a ban, each is sent at once.
    fn route_violation(&self, backend: &dyn Backend, violation: &Violation<'_>, now: Now) -> Route {
        let Violation { limit, part } = violation;
        if limit.ban.is_some() {
            return Route::AskStore { pending: 0 };
        }
        let key = Key { limit, part, kind: CounterKind::Violations };
        let id = self.table.counter_id(key);
        let known = self.table.peek(id, now.monotonic).filter(|_| !backend.is_down_for(&key));
        let known = known.map(|hit| Known { left: hit.left_ms, is_over: true });
        let route = self.over_violations.route(&key, 1, known, now);
        match route {
            Route::UseCached => {
                self.table.renew(id, 1, u64::from(limit.forget_after) * 1000, u32::MAX, now.monotonic);
            }
            Route::AskStore { .. } => self.over_violations.remember(&key, now),
        }
        route
    }

    async fn count_violation(&self, report: &ViolationReport, log: &Log) {
        let ViolationReport { pending, forget_after, now, .. } = *report;
        let violations = self.renew(&report.violations, pending, forget_after, now).await;
        let Some((ban, BanCounters { active: in_force, count: bans })) = &report.ban else {
            return;
        };
        if violations < ban.threshold {
            return;
        }
        let begun = self.add(in_force, ban.length(1), now).await;
        // The next ban takes as many violations again; those counted meanwhile are not among them.
        self.forget(&report.violations, now);
        if !begun {
            return;
        }
        let known_for = |repetition| ban.length(repetition).saturating_add(forget_after);
        let repetition = self.renew(bans, 0, known_for(1), now).await;
        let seconds = ban.length(repetition);
        if repetition > 1 {
            self.replace(in_force, repetition, seconds, now);
            self.replace(bans, repetition, known_for(repetition), now);
        }
        if report.log_only {
            log.event(LogEvent::LogOnly, Severity::Info, "WOULD_BAN", now, |line| {
                report.describe(seconds, repetition, line)
            });
        } else {
            add(&self.statistics.banned, 1);
            log.event(LogEvent::Ban, Severity::Info, "BANNED", now, |line| report.describe(seconds, repetition, line));
            if self.is_shared() {
                let (limit, part) = (report.limit.clone(), report.part.clone());
                self.unpublished_bans.push(UnpublishedBan { limit, part, seconds, repetition });
            }
        }
    }
}
