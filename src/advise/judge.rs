//! The decision itself, asked about a log: sessions, policy and store of the daemon, on the log's clock.
//!
//! Everything `advise` knows of the daemon's inside is here. Counts are kept in
//! the memory of this process, whatever store the configuration names; log
//! and statistics are of nobody.

use std::collections::HashMap;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::BytesMut;
use tokio_util::codec::Decoder;

use super::census::Mask;
use super::request;
use super::sessions::{Seen, Session};
use crate::clock::Now;
use crate::codec::{Request, RequestDecoder};
use crate::config::{Config, ConfigError};
use crate::log::{Log, Severity};
use crate::policy::{Count, Counts, Pass, Plan, Policy, Verdict};
use crate::session::{Seat, Sessions};
use crate::statistics::Statistics;
use crate::store::Store;
use crate::store::table::Table;

/// A configuration at work on a log.
pub struct Judge {
    policy: Policy,
    store: Store,
    sessions: Arc<Sessions>,
    /// A policy connection for each smtpd process.
    seats: HashMap<u64, Seat>,
    max_connections: usize,
    mask: Mask,
    seen: Seen,
    epoch: Option<i64>,
    number: u64,
    request: String,
}

/// What the daemon would have answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// The first word of its action.
    pub action: String,
    /// The limit that refuses, or why the client passes, in the daemon's words.
    pub reason: String,
    /// Whether it is a refusal.
    pub is_refusal: bool,
    /// Whether the client is never counted.
    pub is_exempt: bool,
}

impl Judge {
    /// A daemon with this configuration that nobody has asked yet.
    pub fn new(path: &Path, seen: Seen) -> Result<Self, ConfigError> {
        let config = Config::load(Some(path))?;
        let mut here = config.store.clone();
        here.servers.clear();
        let (table, statistics) = (Arc::new(Table::new(here.max_clients)), Arc::new(Statistics::default()));
        let log = Log::in_memory(Severity::Err);
        let store = Store::new(&here, config.on_store_failure(), table, &statistics, &log);
        let mask =
            Mask { ipv4_prefix_length: config.ipv4_prefix_length, ipv6_prefix_length: config.ipv6_prefix_length };
        Ok(Self {
            policy: Policy::new(&config),
            store,
            sessions: Sessions::new(config.max_connections),
            seats: HashMap::new(),
            max_connections: config.max_connections,
            mask,
            seen,
            epoch: None,
            number: 0,
            request: String::new(),
        })
    }

    /// How many bits of an address its limit counts.
    pub fn mask(&self) -> Mask {
        self.mask
    }

    /// Asks about a session.
    pub fn ask(&mut self, session: &Session<'_>) -> Judgement {
        request::write(&mut self.request, session, self.number, self.seen);
        self.number += 1;
        let milliseconds = session.time - *self.epoch.get_or_insert(session.time);
        let now = Now { monotonic: milliseconds.max(0) as u64, unix: (session.time / 1000).max(0) as u64 };
        let request = RequestDecoder::default().decode(&mut BytesMut::from(self.request.as_str()));
        let request = request.ok().flatten().expect("what we write ourselves is a whole request");
        if self.seats.len() >= self.max_connections && !self.seats.contains_key(&session.process) {
            // Processes end; Postfix has closed their policy connections.
            self.seats.drain().for_each(|(_, seat)| seat.leave(true, now));
        }
        let seat = self.seats.entry(session.process).or_insert_with(|| self.sessions.seat(None));
        judgement(decide(&self.policy, &self.store, seat, &request, now))
    }
}

/// What a policy connection of the daemon does with a request.
fn decide<'p>(policy: &'p Policy, store: &Store, seat: &mut Seat, request: &Request, now: Now) -> Verdict<'p> {
    let Some(client) = request.client else {
        return Verdict::Pass(Pass::UnknownClient);
    };
    let mut counts: Counts = seat.join(client, request, now).counts;
    match policy.plan(request, &counts) {
        Plan::Done(verdict) => {
            if let Verdict::Pass(_) = verdict
                && policy.settle_pass(&mut counts)
            {
                seat.remember(counts);
            }
            verdict
        }
        Plan::Hit(keys) => {
            let hits = at_once(store.hit(&keys, now));
            let counted = keys.iter().zip(hits).map(|(key, hit)| Count { limit: key.limit.id, hit, passed: false });
            counts.extend(counted);
            let verdict = policy.judge(client, &counts);
            policy.settle(client, &mut counts);
            seat.remember(counts);
            verdict
        }
    }
}

/// What comes of something that waits for nothing.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => unreachable!("a store in this process answers at once"),
    }
}

fn judgement(verdict: Verdict<'_>) -> Judgement {
    let judgement = |action: &str, reason: &str, is_refusal, is_exempt| Judgement {
        action: action.to_owned(),
        reason: reason.to_owned(),
        is_refusal,
        is_exempt,
    };
    match verdict {
        Verdict::Pass(pass) => judgement("DUNNO", pass.reason(), false, pass == Pass::Whitelisted),
        Verdict::Defer => judgement("DEFER_IF_PERMIT", Pass::StoreAway.reason(), true, false),
        Verdict::Refuse(refusal) => judgement(refusal.limit.action.keyword(), &refusal.limit.name, true, false),
    }
}
