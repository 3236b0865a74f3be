//! `connshaper explain CLIENT [NAME=VALUE]...`: what the next request would get, and why. Counts nothing.
//!
//! The request is planned and judged as any other, but the counters are only read.

use std::collections::BTreeMap;

use bytes::BytesMut;
use clap::Args;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio_util::codec::{Decoder, Encoder};

use super::commands::ControlCommand;
use super::origin::OriginStatus;
use super::show::{ListStatus, OverrideStatus, with_door};
use super::text::{cell, lasting};
use super::{Control, Problem};
use crate::engine::counting::{leave_out_known, preview};
use crate::engine::service::Rules;
use crate::engine::target::{LOGIN, Target};
use crate::net::clock::Now;
use crate::observe::terminal::Paint;
use crate::policy::attribute::Attribute;
use crate::policy::checks::LimitCheck;
use crate::policy::door::Door;
use crate::policy::explain::Applicability;
use crate::policy::key::KeyPart;
use crate::policy::key_text::unescaped;
use crate::policy::limit::Limit;
use crate::policy::override_target::OverrideTarget;
use crate::policy::request::{Request, address};
use crate::policy::{BLACKLIST, Delayed, LimitChecks, Pass, Plan, Readings, Reason, Refusal, SessionRecord, Verdict};
use crate::postfix::decoder::RequestDecoder;
use crate::postfix::io::{Reply, ReplyEncoder};
use crate::postfix::query;

/// Show what a client's next request would get, and why; counts nothing
#[derive(Clone, Debug, PartialEq, Eq, Args, Serialize, Deserialize)]
#[command(after_help = "\
Examples:
  connshaper explain 198.51.100.7
  connshaper explain login ann@example.com
  connshaper explain 198.51.100.7 sasl_username=ann@example.com sender=ann@example.com
  connshaper explain 198.51.100.7 protocol_state=RCPT instance=1.2.3.4 sender=joe@example.org
  connshaper explain 198.51.100.7 --door login login=joe@example.org")]
pub struct ExplainArgs {
    /// The client's address; or a login, a sender or a domain: login ann@example.org
    #[arg(value_parser = query::value)]
    pub client: String,
    /// Further attributes of the request, or others for those that are assumed
    #[arg(value_name = "NAME=VALUE", value_parser = query::attribute)]
    #[serde(default, serialize_with = "to_object", deserialize_with = "from_object")]
    pub attributes: Vec<(String, String)>,
    /// Where the request comes in: smtp, login or web
    #[arg(long, value_name = "DOOR", default_value = "smtp", hide_default_value = true)]
    #[arg(value_parser = ["smtp", "login", "web"])]
    #[serde(default = "smtp")]
    pub door: String,
}

fn smtp() -> String {
    Door::Smtp.word().to_owned()
}

fn to_object<S: Serializer>(pairs: &[(String, String)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(pairs.iter().map(|(name, value)| (name, value)))
}

fn from_object<'d, D: Deserializer<'d>>(deserializer: D) -> Result<Vec<(String, String)>, D::Error> {
    Ok(BTreeMap::deserialize(deserializer)?.into_iter().collect())
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainAnswer {
    pub client: String,
    /// Where the request comes in.
    pub door: String,
    /// Where the client is from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<OriginStatus>,
    pub listed: Option<ListStatus>,
    #[serde(rename = "override")]
    pub overridden: Option<OverrideStatus>,
    pub limits: Vec<LimitPreview>,
    pub store: StoreName,
    pub verdict: VerdictPreview,
}

/// The store as the answer names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreName {
    pub kind: String,
    pub state: String,
}

/// What one limit makes of the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitPreview {
    pub limit: String,
    /// Where it counts.
    pub door: String,
    pub log_only: bool,
    /// Why it does not count the request.
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
    /// What limits that are only logged would refuse.
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
    /// What the administrator said of it, or the blacklist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoggedRefusal {
    pub reason: String,
    #[serde(flatten)]
    pub refusal: RefusalStatus,
}

impl ControlCommand for ExplainArgs {
    type Answer = ExplainAnswer;

    /// Judges the request as if it were the first of its session.
    async fn run(&self, control: &Control, _: &str, now: Now) -> Result<ExplainAnswer, Problem> {
        let request = self.request()?;
        let rules = control.service.rules.load_full();
        let store = StoreName { kind: rules.store.name().to_owned(), state: rules.store.state().to_owned() };
        let shown = self.client.clone();
        let Some(client) = rules.policy.client(&request) else {
            let verdict = VerdictPreview::of(&request, &Verdict::Pass(Pass::UnknownClient), now);
            let (client, door) = (self.client.clone(), self.door.clone());
            return Ok(ExplainAnswer {
                client,
                door,
                origin: None,
                listed: None,
                overridden: None,
                limits: Vec::new(),
                store,
                verdict,
            });
        };
        let (mut limits, mut verdict) = judge(&rules, &request, now).await;
        // What is not counted yet at the first recipient is judged as it will be later in the message.
        for state in self.later_states() {
            let (of_state, then) = judge(&rules, &self.request_at(Some(state))?, now).await;
            if of_state.is_empty() {
                break;
            }
            for (limit, later) in limits.iter_mut().zip(of_state) {
                if limit.counter.is_none() && later.counter.is_some() {
                    *limit = later;
                }
            }
            if verdict.verdict == VerdictKind::Pass {
                let log_only = verdict.log_only.into_iter().chain(then.log_only.iter().cloned()).collect();
                verdict = VerdictPreview { log_only, ..then };
            }
        }
        let whitelisted = matches!(ListStatus::of_request(&rules.policy, &request), Some(ListStatus::Whitelist { .. }));
        let active = rules.policy.overrides().lookup(client, &request, whitelisted, now);
        Ok(ExplainAnswer {
            client: if shown.contains('=') { shown } else { client.to_string() },
            door: self.door.clone(),
            origin: OriginStatus::of(&rules.policy, client),
            listed: ListStatus::of_request(&rules.policy, &request),
            overridden: active.map(|active| OverrideStatus::of(&active.word, now)),
            limits,
            store,
            verdict,
        })
    }

    /// The steps in the order of judgement.
    fn show(answer: &ExplainAnswer, paint: Paint) -> String {
        let verdict = &answer.verdict;
        let heading = match answer.door == Door::Smtp.word() {
            true => format!("{}, as the first request of a new session", answer.client),
            false => format!("{} at the {} door", answer.client, answer.door),
        };
        let mut text = format!("{}\n", paint.bold(&heading));
        if verdict.reason == Pass::UnknownClient.reason() {
            text += "  no address, so it cannot be counted\n";
        } else {
            if let Some(origin) = &answer.origin {
                text += &format!("  origin         {origin}\n");
            }
            text += &format!("  lists          {}\n", answer.listed.as_ref().map_or("none".into(), ListStatus::show));
            let active = answer.overridden.as_ref().map(|active| format!("{} {}", active.kind, active.show()));
            text += &format!("  override       {}\n", active.as_deref().unwrap_or("none"));
        }
        for limit in &answer.limits {
            let name = with_door(&limit.limit, &limit.door);
            text += &format!("  limit {name:9}{}\n", limit.show(&answer.store.kind, paint));
        }
        let action = match verdict.verdict {
            VerdictKind::Pass => paint.good(&verdict.action),
            _ => paint.bad(&verdict.action),
        };
        let delay = verdict.milliseconds.map(|time| format!(" after {time} ms")).unwrap_or_default();
        text += &format!("answer{delay}: {action}\nbecause {}\n", verdict.because());
        for (place, remedy) in verdict.remedies.iter().enumerate() {
            text += &format!("{} {remedy}\n", ["to let it in:", "          or:"][place.min(1)]);
        }
        text
    }
}

/// What the limits make of a request as if it were the first of its session, and the answer. No limits: something else
/// decides.
async fn judge(rules: &Rules, request: &Request, now: Now) -> (Vec<LimitPreview>, VerdictPreview) {
    let record = SessionRecord::default();
    match rules.policy.plan(request, &record, now) {
        Plan::Done(decision) => (Vec::new(), VerdictPreview::of(request, &decision.verdict, now)),
        Plan::Count(mut checks) => {
            leave_out_known(&rules.store, &mut checks, false, now).await;
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

/// The address of a client that is not named: no host has it.
const NO_CLIENT: &str = "192.0.2.0";

impl ExplainArgs {
    /// The client's address and the attributes. In place of a client there may be a login, a sender, a domain.
    fn asked(&self) -> (String, Vec<(String, String)>) {
        let Ok(Target::Key(key)) = self.client.parse() else {
            return (self.client.clone(), self.attributes.clone());
        };
        let part = KeyPart::of_text(&key);
        let attribute = |(word, value): (&str, &str)| match word {
            LOGIN => ("sasl_username".to_owned(), unescaped(value)),
            // Anybody of the domain.
            word => match word.strip_suffix("_domain") {
                Some(word) => (word.to_owned(), format!("anybody@{}", unescaped(value))),
                None => (word.to_owned(), unescaped(value)),
            },
        };
        let client = part.pairs().find(|(word, _)| *word == "client").map(|(_, value)| value.to_owned());
        let said = part.pairs().filter(|(word, _)| *word != "client").map(attribute);
        (client.unwrap_or_else(|| NO_CLIENT.to_owned()), said.chain(self.attributes.iter().cloned()).collect())
    }

    /// The protocol states after the first, for a message whose state is not said.
    fn later_states(&self) -> &'static [&'static str] {
        let (_, attributes) = self.asked();
        let is_said = attributes.iter().any(|(name, _)| name == "protocol_state" || name == "instance");
        match self.door == Door::Smtp.word() && !is_said && query::is_of_mail(&attributes) {
            true => &["DATA", "END-OF-MESSAGE"],
            false => &[],
        }
    }

    fn request(&self) -> Result<Request, Problem> {
        self.request_at(None)
    }

    /// The request as Postfix, or who asks at another door, would send it.
    fn request_at(&self, state: Option<&str>) -> Result<Request, Problem> {
        let door = Door::WORDS.iter().find(|(word, _)| *word == self.door).map(|(_, door)| *door);
        let Some(door) = door else {
            return Err(Problem::usage(format!("there is no door {:?}", self.door)));
        };
        if door != Door::Smtp {
            return self.event(door);
        }
        let is_wrong = |text: &str| text.contains(['\n', '\0']);
        let (client, mut attributes) = self.asked();
        if is_wrong(&client) {
            return Err(Problem::usage("the client has a line break"));
        }
        attributes.extend(state.map(|state| ("protocol_state".to_owned(), state.to_owned())));
        let is_wrong = |(name, value): &(String, String)| {
            is_wrong(value) || is_wrong(name) || name.contains('=') || name.is_empty()
        };
        if attributes.iter().any(is_wrong) {
            return Err(Problem::usage("an attribute does not fit in a line of a request"));
        }
        for of_origin in [Attribute::Asn, Attribute::Country] {
            refuse_origin(&attributes, of_origin)?;
        }
        let mut input = BytesMut::from(query::request(&client, &attributes).as_bytes());
        match RequestDecoder::default().decode(&mut input) {
            Ok(Some(request)) => Ok(request),
            Ok(None) => Err(Problem::usage("the attributes are not a whole request")),
            Err(error) => Err(Problem::usage(error.to_string())),
        }
    }
}

impl ExplainArgs {
    /// The request at another door than Postfix's.
    fn event(&self, door: Door) -> Result<Request, Problem> {
        let mut values = Vec::new();
        let said = || Attribute::at(door).filter(|attribute| !attribute.is_of_origin());
        for (name, value) in &self.attributes {
            let Some(attribute) = said().find(|attribute| attribute.name() == name) else {
                let known: Vec<_> = said().map(Attribute::name).collect();
                let known = known.join(", ");
                return Err(Problem::usage(format!("the {} door has no {name:?}, but {known}", self.door)));
            };
            values.push((attribute, value.as_bytes()));
        }
        Ok(Request::at(door, address(self.client.as_bytes()), values))
    }
}

/// No request says where its client is from.
fn refuse_origin(attributes: &[(String, String)], attribute: Attribute) -> Result<(), Problem> {
    let Some((name, value)) = attributes.iter().find(|(name, _)| name == attribute.name()) else { return Ok(()) };
    Err(Problem::usage(format!(
        "a database says {name} of an address: explain an address, or see what is counted with `connshaper show \
         {name}={value}`"
    )))
}

/// What each limit makes of a request, in their order.
fn previews(
    rules: &Rules,
    request: &Request,
    case: &LimitChecks<'_>,
    readings: &Readings,
    now: Now,
) -> Vec<LimitPreview> {
    let mut items = case.checks.iter();
    let preview = |(limit, say): (&Limit, Applicability)| {
        let mut counter = None;
        let why_not = match say {
            Applicability::Counts => {
                counter = items.next().map(|item| CounterPreview::of(item, readings, now));
                let bans = counter.as_ref().is_some_and(|counter| counter.banned > 0);
                counter.take_if(|_| limit.door != case.door && !bans);
                (counter.is_none())
                    .then(|| format!("it is at the {} door, and has not banned the client", limit.door.word()))
            }
            say => say.why_not(),
        };
        let door = limit.door.word().to_owned();
        LimitPreview { limit: limit.name.clone(), door, log_only: limit.log_only, why_not, counter }
    };
    rules.policy.explain(request, case).into_iter().map(preview).collect()
}

impl LimitPreview {
    fn show(&self, store: &str, paint: Paint) -> String {
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
    fn of(item: &LimitCheck<'_>, readings: &Readings, now: Now) -> Self {
        let found = item.reading(readings, now);
        let unit = u64::from(item.limit.counts.unit());
        Self {
            key: item.part.to_string(),
            threshold: u64::from(item.threshold) * unit,
            threshold_from: item.limit.own_threshold(&item.part).map(|own| own.to_string()),
            exptime: item.limit.exptime,
            banned: found.banned,
            violations: found.violations,
            count: found.hit.map(|hit| u64::from(hit.count) * unit),
            left: found.hit.map(|hit| hit.left),
            result: match found.hit {
                _ if found.banned > 0 => PreviewResult::Banned,
                None => PreviewResult::StoreDown,
                Some(hit) if hit.count > item.threshold => PreviewResult::Over,
                Some(_) => PreviewResult::Within,
            },
        }
    }
}

impl VerdictPreview {
    fn of(request: &Request, verdict: &Verdict<'_>, now: Now) -> Self {
        let (kind, reason, refusal, reply) = match verdict {
            Verdict::Pass(pass) => (VerdictKind::Pass, pass.reason(), None, Reply::Dunno),
            Verdict::Defer => (VerdictKind::Defer, Pass::StoreDown.reason(), None, Reply::Defer),
            Verdict::Delay(Delayed { refusal, .. }) => {
                (VerdictKind::Delay, refusal.reason.word(), Some(refusal), Reply::Dunno)
            }
            Verdict::Refuse(refusal) => {
                let reply = Reply::Refuse(refusal.action, refusal.values(request, now));
                (VerdictKind::Refuse, refusal.reason.word(), Some(refusal), reply)
            }
        };
        let mut encoded = BytesMut::new();
        ReplyEncoder.encode(reply, &mut encoded).expect("a reply is written to memory");
        let encoded = String::from_utf8_lossy(&encoded);
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

    fn because(&self) -> String {
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
