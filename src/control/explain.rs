//! `connshaper explain CLIENT [NAME=VALUE]...`: what the next request would get, and why. Counts nothing.
//!
//! The request is planned and judged as any other, but the counters are only read.

use std::collections::BTreeMap;

use bytes::BytesMut;
use clap::Args;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio_util::codec::Decoder;

use super::commands::ControlCommand;
use super::origin::OriginStatus;
use super::preview::{LimitPreview, VerdictKind, VerdictPreview, judge};
use super::show::{ListStatus, OverrideStatus, with_door};
use super::{Control, Problem};
use crate::engine::target::{LOGIN, Target};
use crate::net::clock::Now;
use crate::observe::terminal::Paint;
use crate::policy::Pass;
use crate::policy::attribute::Attribute;
use crate::policy::door::Door;
use crate::policy::key::KeyPart;
use crate::policy::key_escape::unescaped;
use crate::policy::request::{Request, address};
use crate::postfix::decoder::RequestDecoder;
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
    Door::Smtp.into_str().to_owned()
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
    /// The door of the request.
    pub door: String,
    /// The origin of the client.
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

impl ControlCommand for ExplainArgs {
    type Answer = ExplainAnswer;

    /// Judges the request as if it were the first of its session.
    async fn run(&self, control: &Control, _: &str, now: Now) -> Result<ExplainAnswer, Problem> {
        let request = self.request_at(None)?;
        let rules = control.service.rules.load_full();
        let store = StoreName { kind: rules.store.name().to_owned(), state: rules.store.state().to_owned() };
        let client = rules.policy.client(&request);
        let (mut limits, mut verdict) = judge(&rules, &request, now).await;
        // A limit that counts nothing yet at the first recipient is previewed at the later states of the message.
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
        let listed = ListStatus::of_request(&rules.policy, &request);
        let whitelisted = matches!(listed, Some(ListStatus::Whitelist { .. }));
        let active = client.and_then(|client| rules.policy.overrides().lookup(client, &request, whitelisted, now));
        Ok(ExplainAnswer {
            client: client
                .filter(|_| !self.client.contains('='))
                .map_or_else(|| self.client.clone(), |client| client.to_string()),
            door: self.door.clone(),
            origin: client.and_then(|client| OriginStatus::of(&rules.policy, client)),
            listed,
            overridden: active.map(|active| OverrideStatus::of(&active.entry, now)),
            limits,
            store,
            verdict,
        })
    }

    /// The steps in the order of judgement.
    fn show(&self, answer: &ExplainAnswer, paint: Paint) -> String {
        let verdict = &answer.verdict;
        let heading = match answer.door == Door::Smtp.into_str() {
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
            // Any user of the domain.
            word => match word.strip_suffix("_domain") {
                Some(word) => (word.to_owned(), format!("anybody@{}", unescaped(value))),
                None => (word.to_owned(), unescaped(value)),
            },
        };
        let client = part.pairs().find(|(word, _)| *word == "client").map(|(_, value)| value.to_owned());
        let attributes = part.pairs().filter(|(word, _)| *word != "client").map(attribute);
        (client.unwrap_or_else(|| NO_CLIENT.to_owned()), attributes.chain(self.attributes.iter().cloned()).collect())
    }

    /// The protocol states after the first, for a message whose state is not said.
    fn later_states(&self) -> &'static [&'static str] {
        let (_, attributes) = self.asked();
        let is_given = attributes.iter().any(|(name, _)| name == "protocol_state" || name == "instance");
        match self.door == Door::Smtp.into_str() && !is_given && query::is_of_mail(&attributes) {
            true => &["DATA", "END-OF-MESSAGE"],
            false => &[],
        }
    }

    /// The request as Postfix, or a program at another door, would send it; in this protocol state, or the first one.
    fn request_at(&self, state: Option<&str>) -> Result<Request<'static>, Problem> {
        let door = Door::ALL.into_iter().find(|door| door.into_str() == self.door);
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
        let is_origin = |name: &str| [Attribute::Asn, Attribute::Country].iter().any(|of| of.name() == name);
        if let Some((name, value)) = attributes.iter().find(|(name, _)| is_origin(name)) {
            return Err(Problem::usage(format!(
                "a database says {name} of an address: explain an address, or see what is counted with `connshaper \
                 show {name}={value}`"
            )));
        }
        let mut input = BytesMut::from(query::request(&client, &attributes).as_bytes());
        match RequestDecoder::default().decode(&mut input) {
            Ok(Some(request)) => Ok(request),
            Ok(None) => Err(Problem::usage("the attributes are not a whole request")),
            Err(error) => Err(Problem::usage(error.to_string())),
        }
    }

    /// The request at another door than Postfix's.
    fn event(&self, door: Door) -> Result<Request<'static>, Problem> {
        let mut values = Vec::new();
        let known = || Attribute::at(door).filter(|attribute| !attribute.is_of_origin());
        for (name, value) in &self.attributes {
            let Some(attribute) = known().find(|attribute| attribute.name() == name) else {
                let names: Vec<_> = known().map(Attribute::name).collect();
                let names = names.join(", ");
                return Err(Problem::usage(format!("the {} door has no {name:?}, but {names}", self.door)));
            };
            values.push((attribute, value.as_bytes()));
        }
        Ok(Request::at(door, address(self.client.as_bytes()), values))
    }
}
