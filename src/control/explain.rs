//! `connshaper explain CLIENT [NAME=VALUE]...`: what the next request would get, and why. Counts nothing.
//!
//! The request is planned and judged as any other; only what the store is asked is read instead of counted.

use bytes::BytesMut;
use serde_json::{Value, json};
use tokio_util::codec::{Decoder, Encoder};

use super::columns::{cell, lasting};
use super::show::{list_entry, listed};
use super::{Arguments, Control, Problem};
use crate::engine::preview::preview;
use crate::engine::service::Rules;
use crate::net::clock::Now;
use crate::observe::terminal::Paint;
use crate::policy::checks::LimitCheck;
use crate::policy::checks::Say;
use crate::policy::limit::Limit;
use crate::policy::request::Request;
use crate::policy::{BLACKLIST, Counter, Delayed, LimitChecks, Pass, Plan, Reason, Refusal, SessionRecord, Verdict};
use crate::postfix::client as query;
use crate::postfix::decoder::RequestDecoder;
use crate::postfix::reply::{Reply, ReplyEncoder};

/// A request of `client` with `attributes`, judged step by step as if it were the first of its session.
pub async fn answer(control: &Control, arguments: &Arguments, now: Now) -> Result<Value, Problem> {
    let request = request(arguments)?;
    let rules = control.service.rules.load_full();
    let Some(client) = request.client else {
        let passes = verdict(&Verdict::Pass(Pass::UnknownClient));
        return Ok(json!({ "client": arguments.text("client")?, "verdict": passes }));
    };
    let mut memory = SessionRecord::default();
    let mut limits = Vec::new();
    let judged = match rules.policy.plan(&request, &mut memory, now) {
        Plan::Done { verdict: done, .. } => verdict(&done),
        Plan::Ask(case) => {
            let answers = preview(&rules.store, &case, now).await;
            limits = says(&rules, &request, &case, &answers, now);
            let judgement = rules.policy.judge(case, answers, &mut memory, now);
            let mut judged = verdict(&judgement.verdict);
            judged["log_only"] = judgement.log_only.iter().map(refusal).collect();
            judged
        }
    };
    let word = rules.policy.overrides().lookup(client, now);
    Ok(json!({
        "client": client.to_string(),
        "listed": listed(&rules.policy, client),
        "word": word.map(|word| json!({
            "netblock": word.netblock.to_string(), "word": word.kind.name(), "left": word.left,
        })),
        "limits": limits,
        "store": rules.store.state(),
        "verdict": judged,
    }))
}

/// The request as Postfix would send it.
fn request(arguments: &Arguments) -> Result<Request, Problem> {
    let text = |value: &Value| value.as_str().filter(|text| !text.contains(['\n', '\0'])).map(str::to_owned);
    let client =
        text(&arguments.text("client")?.into()).ok_or_else(|| Problem::usage("\"client\" has a line break"))?;
    let given = arguments.0.get("attributes").and_then(Value::as_object);
    let pair = |(name, value): (&String, &Value)| {
        let value = text(value).filter(|_| !name.contains(['\n', '=', '\0']) && !name.is_empty());
        Some((name.clone(), value?))
    };
    let attributes: Option<Vec<(String, String)>> = given.into_iter().flatten().map(pair).collect();
    let attributes = attributes.ok_or_else(|| Problem::usage("\"attributes\" has a value that is no line of text"))?;
    let mut input = BytesMut::from(query::request(&client, &attributes).as_bytes());
    match RequestDecoder::default().decode(&mut input) {
        Ok(Some(request)) => Ok(request),
        Ok(None) => Err(Problem::usage("the attributes are no whole request")),
        Err(error) => Err(Problem::usage(error.to_string())),
    }
}

/// What each limit says, in their order.
fn says(rules: &Rules, request: &Request, case: &LimitChecks<'_>, answers: &[Option<Counter>], now: Now) -> Vec<Value> {
    let mut answers = answers.iter().copied();
    let mut items = case.checks.iter();
    let say = |(limit, say): (&Limit, Say)| {
        let mut object = json!({ "limit": limit.name, "log_only": limit.log_only, "counts": false });
        match say {
            Say::Counts => {
                if let Some(item) = items.next() {
                    count(&mut object, item, &mut answers, now);
                }
            }
            Say::Exempt(netblock) => object["why_not"] = format!("{netblock} is not counted by it").into(),
            Say::NoKey(words) => object["why_not"] = format!("the request has no {}", words.join(", ")).into(),
            Say::Condition(attribute) => {
                object["why_not"] = format!("its condition on {attribute} does not hold").into();
            }
            Say::NotNow => object["why_not"] = "nothing that it counts happens at this stage".into(),
        }
        object
    };
    rules.policy.explain(request, case).into_iter().map(say).collect()
}

fn count(object: &mut Value, item: &LimitCheck<'_>, answers: &mut impl Iterator<Item = Option<Counter>>, now: Now) {
    let found = item.reading(answers, now);
    let unit = u64::from(item.limit.counts.unit());
    object["counts"] = true.into();
    object["key"] = item.part.to_string().into();
    object["threshold"] = (u64::from(item.threshold) * unit).into();
    object["exptime"] = item.limit.exptime.into();
    object["banned"] = found.banned.into();
    object["violations"] = found.violations.into();
    object["count"] = found.hit.map(|hit| u64::from(hit.count) * unit).into();
    object["left"] = found.hit.map(|hit| hit.left).into();
    object["finds"] = match found.hit {
        _ if found.banned > 0 => "banned",
        None => "store_away",
        Some(hit) if hit.count > item.threshold => "over",
        Some(_) => "within",
    }
    .into();
}

fn verdict(verdict: &Verdict<'_>) -> Value {
    let mut object = match verdict {
        Verdict::Pass(pass) => json!({ "verdict": "pass", "reason": pass.reason() }),
        Verdict::Defer => json!({ "verdict": "defer", "reason": Pass::StoreAway.reason() }),
        Verdict::Delay(Delayed { refusal: because, time, .. }) => {
            let mut object = refusal(because);
            object["verdict"] = "delay".into();
            object["remedies"] = remedies(because).into();
            object["milliseconds"] = (time.as_millis() as u64).into();
            object
        }
        Verdict::Refuse(because) => {
            let mut object = refusal(because);
            object["verdict"] = "refuse".into();
            object["remedies"] = remedies(because).into();
            object
        }
    };
    let mut reply = BytesMut::new();
    let encoded = match verdict {
        Verdict::Pass(_) | Verdict::Delay(_) => Reply::Dunno,
        Verdict::Defer => Reply::Defer,
        Verdict::Refuse(refusal) => Reply::Refuse(refusal.action, refusal.values()),
    };
    ReplyEncoder.encode(encoded, &mut reply).expect("a reply is written to memory");
    let text = String::from_utf8_lossy(&reply);
    object["action"] = text.trim_end().trim_start_matches("action=").into();
    object
}

fn refusal(refusal: &Refusal<'_>) -> Value {
    json!({
        "reason": refusal.reason.word(),
        "limit": refusal.limit,
        "key": refusal.key.to_string(),
        "count": refusal.count,
        "threshold": refusal.threshold,
        "left": refusal.left,
    })
}

/// Commands that let it in, the one that is about nothing else first.
fn remedies(refusal: &Refusal<'_>) -> Vec<String> {
    let key = quoted(&refusal.key.to_string());
    let first = match refusal.reason {
        Reason::Blacklisted(_) => None,
        Reason::Banned if refusal.limit == BLACKLIST => Some(format!("connshaper unban {key}")),
        Reason::Over | Reason::Banned | Reason::DelayLimit => Some(format!("connshaper reset {key}")),
    };
    first.into_iter().chain([format!("connshaper allow {} for 2h", refusal.client)]).collect()
}

/// A word for a shell, which obeys nothing in it: some keys are what strangers choose.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "=.:/@_-+".contains(c);
    if word.chars().all(is_plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

/// The same for people: the steps in the order of judgement.
pub fn shown(answer: &Value, paint: Paint) -> String {
    let verdict = &answer["verdict"];
    let (client, reason) = (cell(&answer["client"]), verdict["reason"].as_str().unwrap_or_default());
    let mut text = format!("{}\n", paint.bold(&format!("{client}, as the first request of a new session")));
    if reason == Pass::UnknownClient.reason() {
        text += "  no address, so it cannot be counted\n";
    } else {
        text += &format!("  lists          {}\n", list_entry(&answer["listed"]));
        let word = &answer["word"];
        text += &match word["word"].as_str() {
            Some(said) => {
                let left = lasting(word["left"].as_u64().unwrap_or(0));
                format!("  administrator  {said} {}, {left} left\n", cell(&word["netblock"]))
            }
            None => "  administrator  nothing\n".to_owned(),
        };
    }
    for limit in answer["limits"].as_array().into_iter().flatten() {
        text += &format!("  limit {:9}{}\n", cell(&limit["limit"]), say(limit, paint));
    }
    let because = match verdict["limit"].as_str() {
        Some(limit) => {
            let (count, threshold) = (cell(&verdict["count"]), cell(&verdict["threshold"]));
            let left = lasting(verdict["left"].as_u64().unwrap_or(0));
            match reason {
                "blacklisted" => "it is on the blacklist".to_owned(),
                "banned" if limit == BLACKLIST => format!("an administrator banned it, {left} left"),
                "banned" => format!("it is banned by limit {limit}, {left} left"),
                _ => format!("it is {reason} at limit {limit}: {count} of {threshold}, {left} left"),
            }
        }
        None => reason.replace('_', " "),
    };
    let action = cell(&verdict["action"]);
    let wait = verdict["milliseconds"].as_u64().map(|time| format!(" after {time} ms")).unwrap_or_default();
    let action = if verdict["verdict"] == "pass" { paint.good(&action) } else { paint.bad(&action) };
    text += &format!("answer{wait}: {action}\nbecause {because}\n");
    for (place, remedy) in verdict["remedies"].as_array().into_iter().flatten().enumerate() {
        text += &format!("{} {}\n", ["to let it in:", "          or:"][place.min(1)], cell(remedy));
    }
    text
}

fn say(limit: &Value, paint: Paint) -> String {
    if let Some(why_not) = limit["why_not"].as_str() {
        return format!(" not asked: {why_not}");
    }
    let number = |name: &str| limit[name].as_u64().unwrap_or(0);
    let left = lasting(number("left"));
    let counted =
        format!("{} of {} for {}, {left} left", cell(&limit["count"]), number("threshold"), cell(&limit["key"]));
    let only = if limit["log_only"] == true { ", only logged" } else { "" };
    let found = match limit["finds"].as_str() {
        Some("banned") => paint.bad(&format!("banned, {} left", lasting(number("banned")))),
        Some("store_away") => paint.warning("memcached is away"),
        Some("over") => paint.bad("over"),
        _ => paint.good("within"),
    };
    format!(" {found}{only}: {counted}")
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
