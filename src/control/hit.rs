//! `connshaper hit LIMIT KEY`: counts something that happened outside of Postfix, a failed login of a web form.

use serde_json::{Value, json};

use super::{Arguments, Control, Problem};
use crate::engine::decide::follow;
use crate::engine::preview::case_of;
use crate::engine::target::Counted;
use crate::net::clock::Now;
use crate::observe::terminal::Paint;
use crate::policy::{Delayed, Judgement, Reason, SessionRecord, Verdict};

/// The most that one command counts.
pub const MOST: u64 = 1_000_000;

/// Counts, and says whether that was one too many. A limit's bans come of it as of any other hit.
pub async fn answer(control: &Control, arguments: &Arguments, now: Now) -> Result<Value, Problem> {
    let rules = control.service.rules.load_full();
    let counted = named(&rules.policy, arguments)?;
    let case = case_of(counted.clone(), amount(arguments)?);
    let hits = rules.store.count(case.operations(now), now).await;
    let answers = hits.to_vec();
    let found = case.checks[0].reading(&mut answers.iter().copied(), now);
    let mut memory = SessionRecord::admitted();
    let judgement = rules.policy.judge(case, hits, &mut memory, now);
    follow(&control.service, &rules, &judgement, now);
    if matches!(judgement.verdict, Verdict::Refuse(_)) {
        judgement.refunds_if_refused.iter().for_each(|refund| rules.store.take_back(refund, now));
    }
    let mut answer = said(&counted, &judgement, found.hit.map(|hit| (hit.count, hit.left)));
    let number = found
        .hit
        .map_or("not counted: memcached is away".to_owned(), |hit| format!("{} of {}", hit.count, counted.threshold));
    answer["done"] = format!("{} {}: {number}", counted.limit.name, counted.part).into();
    Ok(answer)
}

/// The limit and key that a command names.
pub(super) fn named<'p>(policy: &'p crate::policy::Policy, arguments: &Arguments) -> Result<Counted<'p>, Problem> {
    policy.named(arguments.text("limit")?, arguments.text("key")?).map_err(Problem::usage)
}

/// How much it is about; one unless given.
pub(super) fn amount(arguments: &Arguments) -> Result<u32, Problem> {
    match arguments.0.contains_key("amount") {
        true => Ok(arguments.number("amount", 1..=MOST)? as u32),
        false => Ok(1),
    }
}

/// What a count comes to.
pub(super) fn said(counted: &Counted<'_>, judgement: &Judgement<'_>, hit: Option<(u32, u32)>) -> Value {
    let refusal = match &judgement.verdict {
        Verdict::Refuse(refusal) | Verdict::Delay(Delayed { refusal, .. }) => Some(refusal),
        Verdict::Pass(_) | Verdict::Defer => judgement.log_only.first(),
    };
    json!({
        "limit": counted.limit.name,
        "key": counted.part.to_string(),
        "count": hit.map(|(count, _)| count),
        "left": hit.map(|(_, left)| left),
        "threshold": counted.threshold,
        "over": refusal.is_some(),
        "banned": refusal.is_some_and(|refusal| refusal.reason == Reason::Banned),
        "log_only": counted.limit.log_only,
    })
}

/// For people.
pub fn shown(answer: &Value, paint: Paint) -> String {
    use super::columns::{cell, lasting};
    let (limit, key, count) = (cell(&answer["limit"]), cell(&answer["key"]), cell(&answer["count"]));
    let state = match (answer["banned"] == true, answer["over"] == true) {
        (true, _) => paint.bad("banned"),
        (_, true) => paint.bad("over"),
        _ => paint.good("within"),
    };
    let left = lasting(answer["left"].as_u64().unwrap_or(0));
    let state = if answer["foreseen"] == true { format!("the next hit would be {state}") } else { state };
    format!("{limit} {key}: {state}, {count} of {}, {left} left\n", cell(&answer["threshold"]))
}

/// The exit code that tells a script: 0 within, 1 over.
pub fn code(answer: &Value) -> u8 {
    u8::from(answer["over"] == true)
}
