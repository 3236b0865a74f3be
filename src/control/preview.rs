//! The preview of a request for `connshaper explain`: the counter of each limit, and the verdict.

use serde::{Deserialize, Serialize};

use super::text::{cell, lasting};
use crate::engine::counting::{leave_out_known_clients, preview};
use crate::engine::service::Rules;
use crate::net::clock::Now;
use crate::observe::terminal::Paint;
use crate::policy::checks::LimitCheck;
use crate::policy::door::Door;
use crate::policy::explain::Applicability;
use crate::policy::limit::Limit;
use crate::policy::override_target::OverrideTarget;
use crate::policy::request::Request;
use crate::policy::{BLACKLIST, LimitChecks, Pass, Plan, Readings, Reason, Refusal, SessionRecord, Verdict};
use crate::postfix::connection::ReplyBytes;

/// The outcome of one limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitPreview {
    pub limit: String,
    /// The door of the limit.
    pub door: String,
    pub log_only: bool,
    /// The reason why the limit does not count the request.
    pub why_not: Option<String>,
    #[serde(flatten)]
    pub counter: Option<CounterPreview>,
}

/// The counter of a limit as it would be after the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CounterPreview {
    pub key: String,
    pub threshold: u64,
    /// The line that gives the key a threshold of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold_from: Option<String>,
    pub exptime: u32,
    /// Seconds a ban has left; 0: there is none.
    pub banned: u32,
    pub violations: u32,
    /// None: the store is down.
    pub count: Option<u64>,
    pub left: Option<u32>,
    pub result: PreviewResult,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PreviewResult {
    Within,
    Over,
    Banned,
    StoreDown,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerdictPreview {
    pub verdict: VerdictKind,
    pub reason: String,
    /// The answer to Postfix, or to who asks at another door.
    pub action: String,
    /// Why it is refused or delayed.
    #[serde(flatten)]
    pub refusal: Option<RefusalStatus>,
    /// How long the answer is delayed.
    pub milliseconds: Option<u64>,
    /// Commands that let the client in.
    pub remedies: Vec<String>,
    /// Refusals by log-only limits.
    pub log_only: Vec<LoggedRefusal>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VerdictKind {
    Pass,
    Defer,
    Delay,
    Refuse,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusalStatus {
    pub limit: String,
    pub key: String,
    pub count: u64,
    pub threshold: u64,
    /// Seconds until it ends; 0: not by itself.
    pub left: u32,
    /// The note of the administrator or of the blacklist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoggedRefusal {
    pub reason: String,
    #[serde(flatten)]
    pub refusal: RefusalStatus,
}

/// The outcome of each limit as if the request were the first of its session, and the verdict. No limits: the verdict
/// does not depend on counts.
pub(super) async fn judge(rules: &Rules, request: &Request<'_>, now: Now) -> (Vec<LimitPreview>, VerdictPreview) {
    let record = SessionRecord::default();
    match rules.policy.plan(request, &record, now) {
        Plan::Done(decision) => (Vec::new(), VerdictPreview::of(request, &decision.verdict, now)),
        Plan::Count(mut checks) => {
            leave_out_known_clients(&rules.store, &mut checks, false, now).await;
            let readings = preview(&rules.store, &checks, now).await;
            let limits = previews(rules, request, &checks, &readings, now);
            let decision = rules.policy.judge(&checks, &readings, &record, now);
            let log_only = decision.would_refuse().map(|refusal| LoggedRefusal {
                reason: refusal.reason.word().to_owned(),
                refusal: RefusalStatus::of(refusal),
            });
            let verdict = VerdictPreview::of(request, &decision.verdict, now);
            (limits, VerdictPreview { log_only: log_only.collect(), ..verdict })
        }
    }
}

/// The outcome of each limit, in the order of the file.
fn previews(
    rules: &Rules,
    request: &Request,
    checks: &LimitChecks<'_>,
    readings: &Readings,
    now: Now,
) -> Vec<LimitPreview> {
    let mut counted = checks.checks.iter();
    let preview = |(limit, say): (&Limit, Applicability)| {
        let mut counter = None;
        let why_not = match say {
            Applicability::Counts => {
                counter = counted.next().map(|check| CounterPreview::of(check, readings, now));
                let bans = counter.as_ref().is_some_and(|counter| counter.banned > 0);
                counter.take_if(|_| limit.door != checks.door && !bans);
                (counter.is_none())
                    .then(|| format!("it is at the {} door, and has not banned the client", limit.door.into_str()))
            }
            say => say.why_not(),
        };
        let door = limit.door.into_str().to_owned();
        LimitPreview { limit: limit.name.clone(), door, log_only: limit.log_only, why_not, counter }
    };
    rules.policy.explain(request, checks).into_iter().map(preview).collect()
}

impl LimitPreview {
    pub(super) fn show(&self, store: &str, paint: Paint) -> String {
        let Some(counter) = &self.counter else {
            return format!(" not asked: {}", self.why_not.as_deref().unwrap_or_default());
        };
        let CounterPreview { key, threshold, threshold_from, count, left, banned, .. } = counter;
        let from = threshold_from.as_ref().map(|from| format!(" (by {from})")).unwrap_or_default();
        let result = match counter.result {
            PreviewResult::Banned => paint.bad(&format!("banned, {} left", lasting(*banned))),
            PreviewResult::StoreDown => paint.warning(&format!("{store} is down")),
            PreviewResult::Over => paint.bad("over"),
            PreviewResult::Within => paint.good("within"),
        };
        let only = if self.log_only { ", only logged" } else { "" };
        let left = lasting(left.unwrap_or(0));
        format!(" {result}{only}: {} of {threshold}{from} for {key}, {left} left", cell(*count))
    }
}

impl CounterPreview {
    fn of(check: &LimitCheck<'_>, readings: &Readings, now: Now) -> Self {
        let found = check.reading(readings, now);
        let unit = u64::from(check.limit.counts.unit());
        Self {
            key: check.part.to_string(),
            threshold: u64::from(check.threshold) * unit,
            threshold_from: check.limit.own_threshold(&check.part).map(|own| own.to_string()),
            exptime: check.limit.exptime,
            banned: found.banned,
            violations: found.violations,
            count: found.hit.map(|hit| u64::from(hit.count) * unit),
            left: found.hit.map(|hit| hit.left),
            result: match found.hit {
                _ if found.banned > 0 => PreviewResult::Banned,
                None => PreviewResult::StoreDown,
                Some(hit) if hit.count > check.threshold => PreviewResult::Over,
                Some(_) => PreviewResult::Within,
            },
        }
    }
}

impl VerdictPreview {
    pub(super) fn of(request: &Request, verdict: &Verdict<'_>, now: Now) -> Self {
        let refusal = verdict.refusal();
        let (kind, reason) = match verdict {
            Verdict::Pass(pass) => (VerdictKind::Pass, pass.reason()),
            Verdict::StoreDown => (VerdictKind::Defer, Pass::StoreDown.reason()),
            Verdict::Delay(delay) => (VerdictKind::Delay, delay.refusal.reason.word()),
            Verdict::Refuse(refusal) => (VerdictKind::Refuse, refusal.reason.word()),
        };
        let reply = ReplyBytes::new(verdict, request, now);
        let encoded = String::from_utf8_lossy(reply.rest());
        let action = match (request.door, kind, refusal) {
            (Door::Smtp, ..) => encoded.trim_end().trim_start_matches("action=").to_owned(),
            (_, VerdictKind::Refuse, Some(refusal)) => {
                format!("{} {}", refusal.keyword(), refusal.action.text(&refusal.values(request, now)))
            }
            (_, VerdictKind::Defer, _) => "try again later".to_owned(),
            _ => "pass".to_owned(),
        };
        Self {
            verdict: kind,
            reason: reason.to_owned(),
            action,
            refusal: refusal.map(RefusalStatus::of),
            milliseconds: match verdict {
                Verdict::Delay(delayed) => Some(delayed.time.as_millis() as u64),
                _ => None,
            },
            remedies: refusal.map(remedies).unwrap_or_default(),
            log_only: Vec::new(),
        }
    }

    pub(super) fn because(&self) -> String {
        let Some(RefusalStatus { limit, key, count, threshold, left, note }) = &self.refusal else {
            return self.reason.replace('_', " ");
        };
        let (reason, left) = (self.reason.as_str(), lasting(*left));
        if reason == Reason::Banned.word() {
            return match limit == BLACKLIST {
                true => {
                    let note = note.as_ref().map(|note| format!(": {note}")).unwrap_or_default();
                    format!("an administrator banned {key}, {left} left{note}")
                }
                false => format!("it is banned by limit {limit}, {left} left"),
            };
        }
        match reason == Reason::Blacklisted(None).word() {
            true => "it is on the blacklist".to_owned(),
            false => format!("it is {reason} at limit {limit}: {count} of {threshold}, {left} left"),
        }
    }
}

impl RefusalStatus {
    fn of(refusal: &Refusal<'_>) -> Self {
        Self {
            limit: refusal.limit.to_owned(),
            key: refusal.key.to_string(),
            count: refusal.count,
            threshold: refusal.threshold,
            left: refusal.left,
            note: refusal.note().map(str::to_owned),
        }
    }
}

/// Commands that let it in, the one that is about nothing else first.
fn remedies(refusal: &Refusal<'_>) -> Vec<String> {
    let key = quoted(&refusal.key.to_string());
    let first = match refusal.reason {
        Reason::Blacklisted(_) => None,
        Reason::Banned if refusal.limit == BLACKLIST => Some(format!("connshaper unban {key}")),
        Reason::Over | Reason::Banned | Reason::DelayLimit => Some(format!("connshaper reset {key}")),
    };
    // A ban of a key is stronger than what is said of the client.
    let allowed = match refusal.key.to_string().parse::<OverrideTarget>() {
        Ok(OverrideTarget::Key(_)) => key,
        _ => refusal.client.to_string(),
    };
    first.into_iter().chain([format!("connshaper allow {allowed} for 2h")]).collect()
}

/// A word for a shell, which obeys nothing in it: some keys are what strangers choose.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "=.:/@_-+".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_obeys_nothing_in_a_word() {
        for plain in ["198.51.100.7", "2001:db8::/64", "sasl_username=joe@example.org"] {
            assert_eq!(quoted(plain), plain);
        }
        assert_eq!(quoted("sender=$(reboot)@x"), "'sender=$(reboot)@x'");
        assert_eq!(quoted("sender=a';reboot;'"), r"'sender=a'\'';reboot;'\'''");
    }
}
