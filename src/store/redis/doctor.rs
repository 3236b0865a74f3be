//! Redis or Valkey: whether each server can be reached, may do what counting needs, and keeps what it is given.

use std::time::{Duration, Instant};

use redis::Pipeline;

use super::command::CommandForm;
use super::link::{Connector, Link};
use super::losses::info_text;
use super::{RedisConfig, RedisServer, Topology};
use crate::observe::finding::{Finding, doubtful, right, wrong};
use crate::store::shared::doctor::{ask, distance, in_time};

/// Policies that remove no count whose window still runs, unless there is no other way.
const HARMLESS: [&str; 2] = ["noeviction", "volatile-ttl"];

/// Checks the password's file and all servers.
pub fn examine(config: &RedisConfig) -> Vec<Finding> {
    let connector = Connector { config: config.clone().into() };
    config.login.examine().into_iter().chain(ask("Redis", examine_all(&connector))).collect()
}

async fn examine_all(connector: &Connector) -> Vec<Finding> {
    let config = &connector.config;
    let mut findings = Vec::new();
    let servers = match &config.topology {
        Topology::Servers | Topology::Cluster => config.servers.clone(),
        Topology::Sentinel(name) => match in_time(connector.master(name)).await {
            Ok(master) => {
                findings.push(right(format!("the master {name} is {master}, as a Sentinel says")));
                vec![master]
            }
            Err(error) => {
                let remedy = "start the Sentinels, or correct redis_server and redis_sentinel";
                return vec![wrong(format!("no Sentinel names the master {name}: {error}"), remedy)];
            }
        },
    };
    for server in &servers {
        let open = async {
            let mut link = connector.open_for_counters(server).await?;
            link.try_counter(&config.key_prefix).await.map(|()| link)
        };
        match in_time(open).await {
            Ok(mut link) => findings.extend(examine_server(server, &mut link, config).await),
            Err(error) => {
                let remedy = "start it, or correct redis_server and the rights of redis_username; on_store_failure says \
                              what happens meanwhile";
                findings.push(wrong(format!("Redis at {server} cannot be used: {error}"), remedy));
            }
        }
    }
    findings
}

async fn examine_server(server: &RedisServer, link: &mut Link, config: &RedisConfig) -> Vec<Finding> {
    let time = match in_time(time_of_get(link, &config.key_prefix)).await {
        Ok(time) => time,
        Err(error) => {
            let remedy = "check its load, and the rights of redis_username";
            return vec![wrong(format!("Redis at {server} does not answer: {error}"), remedy)];
        }
    };
    let mut findings = vec![distance(format_args!("Redis at {server}"), time)];
    if link.form == CommandForm::Plain {
        let what = format!("Redis at {server} allows no scripts: sliding windows count in slots there");
        findings.push(doubtful(what, "allow EVAL and EVALSHA, as connshaper.toml(5) has them"));
    }
    // A user that may not ask for INFO is right as well.
    if let Ok(info) = in_time(info(link)).await {
        findings.extend(eviction(server, &info));
    }
    findings
}

/// How long the server takes to look for a key that is not there.
async fn time_of_get(link: &mut Link, key_prefix: &str) -> Result<Duration, String> {
    let mut pipeline = Pipeline::new();
    pipeline.cmd("GET").arg(format!("{key_prefix}!probe"));
    let start = Instant::now();
    link.ask(&pipeline, 1).await?;
    Ok(start.elapsed())
}

async fn info(link: &mut Link) -> Result<String, String> {
    let mut pipeline = Pipeline::new();
    pipeline.cmd("INFO").arg("memory");
    pipeline.cmd("INFO").arg("stats");
    let answers = link.ask(&pipeline, 2).await?;
    let text: Option<String> = answers.iter().map(info_text).collect();
    text.ok_or("INFO is not allowed".to_owned())
}

/// Whether it removes counts for lack of memory.
fn eviction(server: &RedisServer, info: &str) -> Option<Finding> {
    let value = |name: &str| info.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(':'));
    let policy = value("maxmemory_policy")?;
    let limit: u64 = value("maxmemory")?.parse().ok()?;
    let evicted: u64 = value("evicted_keys").and_then(|number| number.parse().ok()).unwrap_or(0);
    if limit > 0 && !HARMLESS.contains(&policy) {
        let what = format!(
            "Redis at {server} may remove counts of clients that are over their limit: maxmemory-policy is {policy}, \
             and {evicted} keys were removed so far"
        );
        let remedy = "set maxmemory-policy to noeviction or volatile-ttl, or give connshaper a server of its own";
        return Some(doubtful(what, remedy));
    }
    (evicted > 0).then(|| {
        let what = format!("Redis at {server} has removed {evicted} keys for lack of memory");
        doubtful(what, "raise maxmemory")
    })
}
