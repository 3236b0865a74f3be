//! `connshaper check-hit LIMIT KEY`: whether a hit would be one too many. Counts nothing.

use serde_json::Value;

use super::hit::{amount, named, said};
use super::{Arguments, Control, Problem};
use crate::engine::preview::{case_of, preview};
use crate::net::clock::Now;
use crate::policy::SessionRecord;

/// What the next hit would come to.
pub async fn answer(control: &Control, arguments: &Arguments, now: Now) -> Result<Value, Problem> {
    let rules = control.service.rules.load_full();
    let counted = named(&rules.policy, arguments)?;
    let case = case_of(counted.clone(), amount(arguments)?);
    let answers = preview(&rules.store, &case, now).await;
    let found = case.checks[0].reading(&mut answers.iter().copied(), now);
    let mut memory = SessionRecord::admitted();
    let judgement = rules.policy.judge(case, answers, &mut memory, now);
    let mut answer = said(&counted, &judgement, found.hit.map(|hit| (hit.count, hit.left)));
    answer["foreseen"] = true.into();
    Ok(answer)
}
