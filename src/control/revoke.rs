//! `connshaper revoke LIMIT KEY`: takes the last hit back.

use serde_json::{Value, json};

use super::hit::{amount, named};
use super::{Arguments, Control, Problem};
use crate::engine::reading::Reading;
use crate::net::clock::Now;
use crate::policy::Refund;

/// Takes hits back, down to none. The window goes on as it was.
pub async fn answer(control: &Control, arguments: &Arguments, now: Now) -> Result<Value, Problem> {
    let rules = control.service.rules.load_full();
    let counted = named(&rules.policy, arguments)?;
    let purpose = counted.purposes(now)[0];
    let (limit, part, amount) = (counted.limit, counted.part.clone(), amount(arguments)?);
    rules.store.take_back(&Refund { limit, part, purpose, amount }, now);
    // Sent behind it on the same connection, so it finds it done.
    let count = Reading::of(&rules.store, &counted, now).await.map(|reading| reading.count);
    let left = count.map_or("unknown, memcached is away".to_owned(), |count| count.to_string());
    Ok(json!({
        "done": format!("{} {}: {left} of {}", limit.name, counted.part, counted.threshold),
        "limit": limit.name,
        "key": counted.part.to_string(),
        "count": count,
        "threshold": counted.threshold,
    }))
}
