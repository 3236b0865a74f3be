//! `connshaper ban CLIENT|PREFIX [for DURATION]`: refused for a while, on every host that shares the store.

use serde_json::{Value, json};

use super::columns::lasting;
use super::{Arguments, Control, Problem};
use crate::engine::overrides::Change;
use crate::engine::target::{Listed, Target};
use crate::net::clock::Now;
use crate::observe::log::{Event, Severity};
use crate::policy::BLACKLIST;
use crate::policy::key::KeyPart;
use crate::policy::overrides::{Override, OverrideKind};
use ipnet::IpNet;

/// The longest ban or allowance, in seconds.
pub const LONGEST: u64 = 365 * 86_400;

/// Bans all clients of a target. Sessions that were let in stay in.
pub async fn answer(control: &Control, user: &str, arguments: &Arguments, now: Now) -> Result<Value, Problem> {
    say(control, user, arguments, OverrideKind::Ban, now).await
}

/// Says a word of a netblock.
pub(super) async fn say(
    control: &Control,
    user: &str,
    arguments: &Arguments,
    kind: OverrideKind,
    now: Now,
) -> Result<Value, Problem> {
    let target: Target = arguments.parsed("target")?;
    let seconds = arguments.number("seconds", 1..=LONGEST)?;
    let Some(netblock) = target.netblock() else {
        return Err(Problem::usage(format!("{target} is no address and no netblock")));
    };
    let service = &control.service;
    let word = Override { netblock, kind, ends: now.unix() + seconds, by: user.to_owned() };
    let (limit, by) = (BLACKLIST, word.by.clone());
    let reach = service.overrides.change(service, Change::Set(word), now).await?;
    let mut notes: Vec<String> = reach.note().into_iter().collect();
    if kind == OverrideKind::Ban {
        service.log.event(Event::Ban, Severity::Info, "BANNED", now, |line| {
            line.field("key", netblock_text(netblock)).field("limit", limit).field("seconds", seconds);
            line.field("by", &by);
        });
    }
    let rules = service.rules.load();
    if let (OverrideKind::Ban, Some((white, Listed::White))) = (kind, rules.policy.listed(netblock.addr()))
        && white.contains(&netblock)
    {
        notes.push(format!("{white} is on the whitelist, so it passes all the same"));
    }
    let done = match kind {
        OverrideKind::Ban => "banned",
        _ => "allowed",
    };
    Ok(json!({
        "done": format!("{target} is {done} for {}", lasting(seconds)),
        "netblock": netblock.to_string(),
        "seconds": seconds,
        "notes": notes,
    }))
}

/// A netblock as keys have it: an address alone where it is all of it.
pub(super) fn netblock_text(netblock: IpNet) -> KeyPart {
    KeyPart::Client { address: netblock.addr(), prefix_length: netblock.prefix_len() }
}
