//! memcached: whether each server can be reached and lets us in, how far away it is, and whether it removes counts.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::MemcachedConfig;
use super::link::{MemcachedConnector, MemcachedLink};
use crate::observe::finding::{Finding, doubtful, wrong};
use crate::store::shared::doctor::{ask, distance, in_time};

/// The longest statistics that are read.
const MAX_STATISTICS: usize = 1 << 16;

/// Checks the password's file and all servers.
pub fn examine(config: &MemcachedConfig) -> Vec<Finding> {
    config.login.examine().into_iter().chain(ask("memcached", examine_all(config))).collect()
}

async fn examine_all(config: &MemcachedConfig) -> Vec<Finding> {
    let mut findings = Vec::new();
    for server in &config.servers {
        let connector = MemcachedConnector::new(server.clone(), config);
        match in_time(statistics(&connector)).await {
            Ok((time, statistics)) => findings.extend(examine_server(&connector, time, &statistics)),
            Err(error) => findings.push(wrong(
                format!("memcached at {server} does not answer: {error}"),
                "start it, or correct memcached_server; on_store_failure says what happens meanwhile",
            )),
        }
    }
    findings
}

fn examine_server(connector: &MemcachedConnector, time: Duration, statistics: &str) -> Vec<Finding> {
    let server = &connector.address;
    let mut findings = vec![distance(format_args!("memcached at {server}"), time)];
    let number = |name: &str| {
        let value =
            statistics.lines().find_map(|line| line.strip_prefix("STAT ")?.strip_prefix(name)?.strip_prefix(' '));
        value.and_then(|value| value.trim().parse::<u64>().ok()).unwrap_or(0)
    };
    let evictions = number("evictions");
    if evictions > 0 {
        let memory = number("limit_maxbytes") >> 20;
        let what = format!(
            "memcached at {server} has removed {evictions} counts for lack of memory, of which it has {memory} MB"
        );
        findings.push(doubtful(what, "start it with a larger -m, or give connshaper one of its own"));
    }
    findings
}

/// How long memcached takes to tell its version, and its statistics; a proxy has none.
async fn statistics(connector: &MemcachedConnector) -> Result<(Duration, String), String> {
    let addresses = connector.lookup().await.map_err(|error| format!("its name does not resolve: {error}"))?;
    let (mut link, _) = connector.open(&addresses).await?;
    let start = Instant::now();
    if !say(&mut link, b"version\r\n").await?.starts_with(b"VERSION ") {
        return Err("the server there is not memcached".to_owned());
    }
    let time = start.elapsed();
    let mut statistics = say(&mut link, b"stats\r\n").await.unwrap_or_default();
    while statistics.len() < MAX_STATISTICS && !statistics.ends_with(b"END\r\n") && !statistics.starts_with(b"ERROR") {
        match link.read_buf(&mut statistics).await {
            Ok(length) if length > 0 => {}
            _ => break,
        }
    }
    Ok((time, String::from_utf8_lossy(&statistics).into_owned()))
}

/// Sends a command, and returns what comes first of the answer.
async fn say(link: &mut MemcachedLink, command: &[u8]) -> Result<Vec<u8>, String> {
    let mut answer = Vec::new();
    let exchange = async {
        link.write_all(command).await?;
        link.flush().await?;
        link.read_buf(&mut answer).await
    };
    exchange.await.map_err(|error| error.to_string())?;
    Ok(answer)
}
