//! `connshaper show CLIENT|PREFIX|KEY`: every counter, ban and word about it.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::columns::{cell, lasting, table};
use super::{Arguments, Control, Problem};
use crate::engine::reading::Reading;
use crate::engine::target::{Listed, Target};
use crate::net::clock::Now;
use crate::observe::terminal::Paint;
use crate::policy::Policy;
use crate::store::local::listing::{ListedClient, within};

/// What is known of a target. With memcached the counters of one client are those all hosts share; a prefix
/// shows what this daemon has seen.
pub async fn answer(control: &Control, arguments: &Arguments, now: Now) -> Result<Value, Problem> {
    let target: Target = arguments.parsed("target")?;
    let rules = control.service.rules.load_full();
    let mut counters = Vec::new();
    for counted in rules.policy.counted(&target) {
        let reading = Reading::of(&rules.store, &counted, now).await;
        match reading {
            Some(reading) if matches!(target, Target::Netblock(_)) && reading.left + reading.banned == 0 => {}
            Some(reading) => counters.push(reading.object(&counted)),
            None => counters.push(json!({ "limit": counted.limit.name, "key": counted.part.to_string() })),
        }
    }
    let mut more = 0;
    if let Target::Netblock(netblock) = &target {
        let (listed, rest) = within(rules.store.table(), *netblock, now).await;
        counters.extend(listed.iter().filter_map(|client| object(&rules.policy, client)));
        more = rest;
    }
    let netblock = target.netblock();
    let concerns = |client: IpAddr| netblock.is_some_and(|netblock| netblock.contains(&client));
    let words = rules.policy.overrides().list().into_iter().filter(|word| {
        netblock.is_some_and(|netblock| word.netblock.contains(&netblock) || netblock.contains(&word.netblock))
    });
    Ok(json!({
        "target": target.to_string(),
        "listed": netblock.and_then(|netblock| listed(&rules.policy, netblock.addr())),
        "words": words.map(|word| json!({
            "netblock": word.netblock.to_string(),
            "word": word.kind.name(),
            "left": word.ends.saturating_sub(now.unix()),
            "by": word.by,
        })).collect::<Vec<_>>(),
        "counters": counters,
        "more": more,
        "only_seen_here": matches!(target, Target::Netblock(_)) && rules.store.waits(),
        "sessions": control.service.sessions.count(concerns),
    }))
}

/// A client of the table as one of its limit's; none where the limit is no longer in force.
pub fn object(policy: &Policy, client: &ListedClient) -> Option<Value> {
    let limit = policy.limits().iter().find(|limit| limit.id == client.limit)?;
    let (address, prefix_length) = (client.address, client.prefix_length);
    let unit = u64::from(limit.counts.unit());
    Some(json!({
        "limit": limit.name,
        "key": crate::policy::key::KeyPart::Client { address, prefix_length }.to_string(),
        "count": u64::from(client.hit.count) * unit,
        "threshold": u64::from(limit.threshold) * unit,
        "left": client.hit.left_seconds(),
        "over": client.over,
    }))
}

/// What the lists of the configuration say of an address.
pub fn listed(policy: &Policy, client: IpAddr) -> Option<Value> {
    let (netblock, listed) = policy.listed(client)?;
    let mut object = json!({ "netblock": netblock.to_string() });
    match listed {
        Listed::White => object["list"] = "whitelist".into(),
        Listed::Black(note) => {
            object["list"] = "blacklist".into();
            object["note"] = note.into();
        }
        Listed::Rate(rate) => {
            object["list"] = "netblocks".into();
            object["threshold"] = rate.threshold.into();
        }
    }
    Some(object)
}

/// The same for people.
pub fn shown(answer: &Value, paint: Paint) -> String {
    let mut text = format!("{}\n", paint.bold(answer["target"].as_str().unwrap_or_default()));
    text += &format!("  lists     {}\n", list_entry(&answer["listed"]));
    for word in answer["words"].as_array().into_iter().flatten() {
        let left = lasting(word["left"].as_u64().unwrap_or(0));
        let said =
            format!("{} {}, {left} left, by {}", cell(&word["word"]), cell(&word["netblock"]), cell(&word["by"]));
        text += &format!("  said      {said}\n");
    }
    text += &format!("  sessions  {}\n", answer["sessions"]);
    let rows: Vec<_> = answer["counters"].as_array().into_iter().flatten().map(|row| counter(row, paint)).collect();
    if rows.is_empty() {
        return text + "nothing is counted\n";
    }
    let columns = [("limit", false), ("key", false), ("count", true), ("of", true), ("left", true), ("", false)];
    text += &table(&columns, &rows, paint);
    if let Some(more @ 1..) = answer["more"].as_u64() {
        text += &format!("and {more} more with fewer hits\n");
    }
    if answer["only_seen_here"] == true {
        text += "memcached cannot list its keys: this is what this daemon has seen\n";
    }
    text
}

/// What a list says, in a few words.
pub fn list_entry(listed: &Value) -> String {
    let netblock = cell(&listed["netblock"]);
    match listed["list"].as_str() {
        Some("whitelist") => format!("on the whitelist ({netblock})"),
        Some("blacklist") => match listed["note"].as_str() {
            Some(note) => format!("on the blacklist ({netblock}: {note})"),
            None => format!("on the blacklist ({netblock})"),
        },
        Some(_) => format!("threshold {} ({netblock})", cell(&listed["threshold"])),
        None => "on none".to_owned(),
    }
}

fn counter(row: &Value, paint: Paint) -> Vec<String> {
    let number = |name: &str| row[name].as_u64().unwrap_or(0);
    let mut state = Vec::new();
    if row["count"].is_null() {
        state.push("unknown: memcached is away".to_owned());
    }
    if row["over"] == true {
        state.push(paint.bad("over"));
    }
    if number("banned") > 0 {
        state.push(paint.bad(&format!("banned for {}", lasting(number("banned")))));
    }
    for (name, word) in [("violations", "violations"), ("bans", "bans so far")] {
        if number(name) > 0 {
            state.push(format!("{} {word}", number(name)));
        }
    }
    let left = if number("left") > 0 { lasting(number("left")) } else { "-".to_owned() };
    vec![cell(&row["limit"]), cell(&row["key"]), cell(&row["count"]), cell(&row["threshold"]), left, state.join(", ")]
}
