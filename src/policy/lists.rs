//! Whitelist, blacklist and rates of netblocks, and the decisions that they make. An override of an administrator acts
//! like an entry of the lists, so its decisions are made here too.
//!
//! All netblocks are in one table, and the longest one that contains a client
//! decides: a rate within a whitelisted network limits, a whitelisted host
//! within a blacklisted network passes. Names are in `name_patterns`.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::action::Action;
use super::key::KeyPart;
use super::limit::{CountKind, Limit, Rate};
use super::name_patterns::NamePattern;
use super::overrides::{ActiveOverride, OverrideKind};
use super::{
    BlacklistState, CountRecord, Decision, Delayed, Door, LimitChecks, Pass, Policy, Reason, Refusal, Scope,
    SessionRecord, Verdict, blacklisting,
};
use crate::net::clock::Now;

/// Netblocks as the configuration and its list files have them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lists {
    /// Each netblock with its entry; of equal ones the last counts.
    pub netblocks: Vec<(IpNet, ListEntry)>,
    /// Each name pattern with its entry.
    pub names: Vec<(NamePattern, ListEntry)>,
    /// The reasons of blacklist entries.
    pub reasons: Vec<Box<str>>,
    pub rates: Vec<Rate>,
}

/// The entry of a netblock or a name. Small, for there may be a million of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListEntry {
    /// Its clients are neither counted nor refused.
    Whitelist,
    /// Its clients are refused, for the reason of this number in [`Lists::reasons`] if one is noted.
    Blacklist(Option<ListIndex>),
    /// Its clients have the rate of this place in [`Lists::rates`] instead of the top level's threshold.
    Rate(ListIndex),
}

/// The index of a reason or a rate in [`Lists`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListIndex(std::num::NonZeroU32);

impl ListIndex {
    /// The place at an index below 4,294,967,295.
    pub fn new(index: usize) -> Self {
        let number = u32::try_from(index + 1).ok().and_then(std::num::NonZeroU32::new);
        Self(number.expect("there are fewer entries than addresses"))
    }

    pub fn index(self) -> usize {
        self.0.get() as usize - 1
    }
}

/// The name of the limit in a refusal of the blacklist.
pub const BLACKLIST: &str = "blacklist";

/// What is done about clients on the blacklist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blacklist {
    /// The answer to a client on it.
    pub action: Action,
    /// The answer to a banned key that is no address.
    pub key_action: Action,
    /// The answer is delayed this long, and they pass; `None`: they are refused.
    pub delay: Option<Duration>,
    /// Answers to one client that may be delayed at once; the next is a refusal.
    pub max_concurrent: u32,
}

/// The entry of a netblock, with its reason or its rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listed<'p> {
    /// It is on the whitelist.
    White,
    /// It is on the blacklist, for this reason if one is noted there.
    Black(Option<&'p str>),
    /// It has a threshold of its own.
    Rate(&'p Rate),
}

impl Policy {
    pub fn reason(&self, place: ListIndex) -> &str {
        &self.reasons[place.index()]
    }

    /// The longest netblock around a client that has an entry, with that entry.
    pub fn listed(&self, client: IpAddr) -> Option<(IpNet, Listed<'_>)> {
        let (netblock, entry) = self.netblocks.lookup(client)?;
        let listed = match entry {
            ListEntry::Whitelist => Listed::White,
            ListEntry::Blacklist(reason) => Listed::Black(reason.map(|place| self.reason(place))),
            ListEntry::Rate(place) => Listed::Rate(&self.rates[place.index()]),
        };
        Some((*netblock, listed))
    }

    /// The decision about a client that is on the blacklist. It is reported even if its session has passed before.
    pub(super) fn on_blacklist<'p>(&'p self, verdict: Verdict<'p>, record: &SessionRecord) -> Decision<'p> {
        let mut decision = Decision::new(verdict);
        if record.blacklist == BlacklistState::PassedBefore {
            decision.must_report = true;
            decision.blacklist = Some(BlacklistState::Unchecked);
        }
        decision
    }

    /// A session of an exempt client passes the limits that it is exempt from without a count, and stays passed.
    pub(super) fn exempt(&self, decision: &mut Decision<'_>, pass: Pass, record: &SessionRecord, now: Now) {
        decision.verdict = Verdict::Pass(pass);
        decision.blacklist = Some(BlacklistState::Passed);
        let exempts = |limit: &&Limit| pass != Pass::Whitelisted || limit.whitelist_exempts;
        for limit in self.limits.iter().filter(exempts).filter(|limit| limit.counts == CountKind::Connections) {
            let count = record.find(limit.memory_id, Scope::Session);
            let count = count.unwrap_or(CountRecord::new(limit.memory_id, Scope::Session, None, 0, false));
            if !count.passed {
                decision.counts.push(CountRecord {
                    passed: true,
                    at: now.monotonic,
                    messages: record.messages,
                    ..count
                });
            }
        }
    }

    /// The decision about a client that passes all limits that it is exempt from.
    pub(super) fn exempt_decision(&self, pass: Pass, record: &SessionRecord, now: Now) -> Decision<'_> {
        let mut decision = Decision::new(Verdict::Pass(pass));
        self.exempt(&mut decision, pass, record, now);
        decision
    }

    /// The decision that an override makes; `None`: the request is judged as if there were none.
    pub(super) fn override_decision(
        &self,
        client: IpAddr,
        door: Door,
        active: &ActiveOverride,
        record: &SessionRecord,
        now: Now,
    ) -> Option<Decision<'_>> {
        let target = &active.entry.target;
        let (is_key, is_of_recipient) = (target.netblock().is_none(), target.is_of_recipient());
        if active.entry.kind == OverrideKind::Allow {
            if !is_key {
                return Some(self.exempt_decision(Pass::Allowed, record, now));
            }
            // Other requests of the session may have keys that it is not about.
            let mut decision = Decision::new(Verdict::Pass(Pass::Allowed));
            decision.blacklist = (!is_of_recipient).then_some(BlacklistState::Passed);
            return Some(decision);
        }
        let is_checked = match record.blacklist {
            BlacklistState::Passed => !is_of_recipient,
            BlacklistState::Delayed => !is_key,
            _ => false,
        };
        if self.log_only || is_checked {
            return None;
        }
        let verdict = Verdict::Refuse(self.override_refusal(client, door, active));
        if !is_of_recipient {
            return Some(self.on_blacklist(verdict, record));
        }
        let mut decision = Decision::new(verdict);
        decision.must_report = true;
        Some(decision)
    }

    /// What an administrator's ban or the blacklist would refuse where nothing is enforced.
    pub(super) fn would_refuse(&self, checks: &LimitChecks<'_>) -> Option<Box<Refusal<'_>>> {
        let (client, door) = (checks.client, checks.door);
        if let Some(active) = &checks.active {
            return Some(self.override_refusal(client, door, active));
        }
        if checks.whitelisted {
            return None;
        }
        let (netblock, reason) = blacklisting(client, self.netblocks.lookup(client), checks.named)?;
        match self.blacklist_verdict(client, door, &netblock, reason) {
            Verdict::Refuse(refusal) | Verdict::Delay(Delayed { refusal, .. }) => Some(refusal),
            Verdict::Pass(_) | Verdict::StoreDown => None,
        }
    }

    /// An administrator's ban, which is an entry of the blacklist for a while.
    pub(super) fn override_refusal(&self, client: IpAddr, door: Door, active: &ActiveOverride) -> Box<Refusal<'_>> {
        Box::new(Refusal {
            client,
            door,
            reason: Reason::Banned,
            limit: BLACKLIST,
            key: active.entry.target.key(),
            count: 0,
            threshold: 0,
            left: active.left,
            action: match active.entry.target.netblock() {
                Some(_) => &self.blacklist.action,
                None => &self.blacklist.key_action,
            },
            entry: Some(Arc::clone(&active.entry)),
        })
    }

    pub(super) fn blacklist_verdict(
        &self,
        client: IpAddr,
        door: Door,
        netblock: &IpNet,
        reason: Option<ListIndex>,
    ) -> Verdict<'_> {
        let refusal = Box::new(Refusal {
            client,
            door,
            reason: Reason::Blacklisted(reason.map(|place| self.reason(place))),
            limit: BLACKLIST,
            key: KeyPart::Client { address: netblock.addr(), prefix_length: netblock.prefix_len() },
            count: 0,
            threshold: 0,
            left: 0,
            action: &self.blacklist.action,
            entry: None,
        });
        match self.blacklist.delay {
            None => Verdict::Refuse(refusal),
            Some(time) => Verdict::Delay(Delayed::new(refusal, time, self.blacklist.max_concurrent, None)),
        }
    }
}

/// Whether a refusal that is not enforced is reported: once for a session, and of a banned key with each message.
pub(super) fn is_reported(active: Option<&ActiveOverride>, record: &SessionRecord) -> bool {
    match record.blacklist {
        BlacklistState::Unchecked => true,
        BlacklistState::Passed => false,
        _ => active.is_some_and(|active| active.entry.target.netblock().is_none()),
    }
}
