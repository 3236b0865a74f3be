//! A configuration judges the sessions of a log: sessions, policy and store of the daemon, on the log's clock.
//!
//! Only this file uses the engine. Counts are kept in the memory of this process,
//! whatever store the configuration names. Nothing is logged.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use super::clients::Mask;
use crate::config::{Config, ConfigError};
use crate::engine::decide::decide_at_once;
use crate::engine::service::{Rules, Service};
use crate::maillog::request;
use crate::maillog::sessions::{LoggedSession, Seen};
use crate::net::clock::Now;
use crate::observe::log::{Log, Severity};
use crate::policy::Policy;
use crate::policy::limit::TOP;
use crate::policy::{Pass, Verdict};
use crate::postfix::decoder::RequestDecoder;
use crate::session::SessionHandle;

pub struct Judge {
    service: Service,
    rules: Arc<Rules>,
    /// A policy connection for each smtpd process.
    seats: HashMap<u64, SessionHandle>,
    max_connections: usize,
    mask: Mask,
    seen: Seen,
    epoch: Option<i64>,
    request: String,
}

/// What the daemon would have answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// The first word of its action.
    pub action: String,
    /// The limit that refuses or delays, or why the client passes, as in the daemon's log.
    pub reason: String,
    pub is_refusal: bool,
    /// Whether the client is whitelisted.
    pub is_exempt: bool,
}

impl Judge {
    pub fn new(path: &Path, seen: Seen) -> Result<Self, ConfigError> {
        let mut config = Config::load(Some(path))?;
        config.store.shared = None;
        let top = config.policy.limits.iter().find(|limit| limit.name == TOP);
        let mask = top.map_or(Mask { ipv4_prefix_length: 32, ipv6_prefix_length: 64 }, |top| Mask {
            ipv4_prefix_length: top.ipv4_prefix_length,
            ipv6_prefix_length: top.ipv6_prefix_length,
        });
        // Verdicts have lower severities.
        let service = Service::new(config.engine(), Policy::new(&config.policy, None), Log::in_memory(Severity::Err));
        let rules = service.rules.load_full();
        let (seats, max_connections) = (HashMap::new(), config.max_connections);
        let (epoch, request) = (None, String::new());
        Ok(Self { service, rules, seats, max_connections, mask, seen, epoch, request })
    }

    /// The prefix lengths of the limit at the top level of the configuration.
    pub fn mask(&self) -> Mask {
        self.mask
    }

    /// Asks about a session, or a further message of it.
    pub fn ask(&mut self, session: &LoggedSession<'_>) -> Judgement {
        request::write(&mut self.request, session, self.seen);
        let milliseconds = session.time - *self.epoch.get_or_insert(session.time);
        let now = Now { monotonic: milliseconds.max(0) as u64, unix_ms: session.time.max(0) as u64 };
        if self.seats.len() >= self.max_connections && !self.seats.contains_key(&session.process) {
            // Most of these processes have ended, and Postfix has closed their policy connections.
            self.seats.drain().for_each(|(_, seat)| seat.close(true, now));
        }
        let sessions = &self.service.sessions;
        let handle = self.seats.entry(session.process).or_insert_with(|| sessions.attach(None));
        let judged = RequestDecoder::default().read(self.request.as_bytes(), |request, _| {
            // Simulated delays end at once, so the permit is dropped.
            let answer = decide_at_once(&self.service, &self.rules, handle, request, now);
            judgement(answer.expect("a store in this process answers at once").0)
        });
        judged.ok().flatten().expect("what we write ourselves is a whole request")
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
        Verdict::Delay(wait) => judgement("DUNNO", &format!("delayed by {}", wait.refusal.limit), false, false),
        Verdict::StoreDown => judgement("DEFER_IF_PERMIT", Pass::StoreDown.reason(), true, false),
        Verdict::Refuse(refusal) => judgement(refusal.action.keyword(), refusal.limit, true, false),
    }
}
