//! `connshaper disallow CLIENT|PREFIX`: an administrator's allowance ends before its time.

use serde_json::{Value, json};

use super::{Arguments, Control, Problem};
use crate::engine::overrides::{Change, Propagation};
use crate::engine::target::Target;
use crate::net::clock::Now;
use crate::policy::overrides::OverrideKind;

/// Ends an allowance, on every host that shares the store. Sessions that were let in stay in.
pub async fn answer(control: &Control, arguments: &Arguments, now: Now) -> Result<Value, Problem> {
    let target: Target = arguments.parsed("target")?;
    let Some(netblock) = target.netblock() else {
        return Err(Problem::usage(format!("{target} is no address and no netblock")));
    };
    let service = &control.service;
    // Another host may have allowed it a moment ago.
    service.overrides.refresh(service, now).await;
    let words = service.rules.load().policy.overrides().list();
    let allowances = || words.iter().filter(|word| word.kind == OverrideKind::Allow);
    let is_allowed = allowances().any(|word| word.netblock == netblock);
    let mut notes = Vec::new();
    if is_allowed {
        let reach = service.overrides.change(service, Change::Remove(netblock), now).await?;
        notes.extend(Propagation::note(&reach));
    }
    let around = allowances().filter(|word| word.netblock != netblock && word.netblock.contains(&netblock));
    notes.extend(around.map(|word| {
        let around = word.netblock;
        format!("{around} is allowed by {}: disallow that, or ban {target} for a while", word.by)
    }));
    let done = match is_allowed {
        true => format!("{target} is no longer allowed"),
        false => format!("{target} had no allowance of its own"),
    };
    Ok(json!({ "done": done, "lifted": u32::from(is_allowed), "notes": notes }))
}
