//! Redis or Valkey: whether each server can be reached, may do what counting needs, and keeps what it is given.

use std::time::{Duration, Instant};

use redis::{Pipeline, Value};
use tokio::runtime::Builder;
use tokio::time::timeout;

use super::{Assessment, FAR, Finding, PATIENCE, not_right, right};
use crate::store::redis::command::CommandForm;
use crate::store::redis::link::{Connector, Link};
use crate::store::redis::{RedisConfig, RedisServer, Topology};

/// Policies that remove no count whose window still runs, unless there is no other way.
const HARMLESS: [&str; 2] = ["noeviction", "volatile-ttl"];

/// All that there is to say of the servers.
pub fn examine(config: &RedisConfig) -> Vec<Finding> {
    let connector = Connector { config: config.clone().into() };
    match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(examine_all(&connector)),
        Err(error) => vec![not_right(Assessment::Wrong, format!("Redis cannot be asked: {error}"), "free some memory")],
    }
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
                return vec![not_right(
                    Assessment::Wrong,
                    format!("no Sentinel names the master {name}: {error}"),
                    remedy,
                )];
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
                findings.push(not_right(
                    Assessment::Wrong,
                    format!("Redis at {server} cannot be used: {error}"),
                    remedy,
                ));
            }
        }
    }
    findings
}

async fn in_time<T>(work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    timeout(PATIENCE, work).await.unwrap_or_else(|_| Err(format!("no answer within {} s", PATIENCE.as_secs())))
}

async fn examine_server(server: &RedisServer, link: &mut Link, config: &RedisConfig) -> Vec<Finding> {
    let mut findings = vec![match in_time(distance(link, &config.key_prefix)).await {
        Ok(time) if time > FAR => not_right(
            Assessment::Doubtful,
            format!("Redis at {server} is {:.1} ms away", time.as_secs_f64() * 1000.0),
            "every first request of a session waits that long; take one that is nearer",
        ),
        Ok(time) => right(format!("Redis at {server} is {:.1} ms away and may count", time.as_secs_f64() * 1000.0)),
        Err(error) => {
            return vec![not_right(
                Assessment::Wrong,
                format!("Redis at {server} does not answer: {error}"),
                "look at it",
            )];
        }
    }];
    if link.form == CommandForm::Plain {
        let what = format!("Redis at {server} allows no scripts: sliding windows count in slots there");
        findings.push(not_right(Assessment::Doubtful, what, "allow EVAL and EVALSHA, as connshaper.toml(5) has them"));
    }
    // A user that may not ask for INFO is right as well.
    if let Ok(info) = in_time(info(link)).await {
        findings.extend(eviction(server, &info));
    }
    findings
}

/// How long the server takes to look for a key that is not there.
async fn distance(link: &mut Link, key_prefix: &str) -> Result<Duration, String> {
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
    let mut text = String::new();
    for value in link.ask(&pipeline, 2).await? {
        match value {
            Value::BulkString(bytes) => text += &String::from_utf8_lossy(&bytes),
            Value::VerbatimString { text: part, .. } => text += &part,
            _ => return Err("INFO is not allowed".to_owned()),
        }
    }
    Ok(text)
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
        return Some(not_right(Assessment::Doubtful, what, remedy));
    }
    (evicted > 0).then(|| {
        let what = format!("Redis at {server} has removed {evicted} keys for lack of memory");
        not_right(Assessment::Doubtful, what, "raise maxmemory")
    })
}
