//! Finds out that a server has lost counts: it was started again, flushed, or short of memory.
//!
//! Its INFO tells it, which goes along with the requests every few seconds.

use std::borrow::Cow;

use redis::{Pipeline, Value};

use super::settings::Topology;
use crate::store::shared::losses::LossLog;
use crate::store::shared::server::StoreServer;

/// What is asked for; before Redis 7 a command takes one section only.
const SECTIONS: [&str; 4] = ["server", "stats", "commandstats", "keyspace"];

/// Asks for the statistics.
pub fn ask(output: &mut Pipeline) {
    for section in SECTIONS {
        output.cmd("INFO").arg(section);
    }
}

/// The text of an answer to INFO; `None`: it is something else, or we may not ask.
pub fn info_text(answer: &Value) -> Option<Cow<'_, str>> {
    match answer {
        Value::BulkString(bytes) => Some(String::from_utf8_lossy(bytes)),
        Value::VerbatimString { text, .. } => Some(text.into()),
        _ => None,
    }
}

/// The statistics of a server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct RedisStats {
    /// Another one for each start, and each server.
    run_id: String,
    uptime: u64,
    evictions: u64,
    /// FLUSHALL, which empties all databases.
    all_flushes: u64,
    /// FLUSHDB, which empties one of them, and does not say which.
    flushes: u64,
    /// Keys in our database.
    keys: u64,
}

impl RedisStats {
    /// `None`: it answers something else, or we may not ask.
    fn of(answers: &[Value], database: u32) -> Option<Self> {
        let mut server_stats = Self::default();
        let keys = format!("db{database}");
        for answer in answers {
            for (name, value) in info_text(answer)?.lines().filter_map(|line| line.trim_end().split_once(':')) {
                let number = || value.parse().unwrap_or(0);
                match name {
                    "run_id" => value.clone_into(&mut server_stats.run_id),
                    "uptime_in_seconds" => server_stats.uptime = number(),
                    "evicted_keys" => server_stats.evictions = number(),
                    "cmdstat_flushall" => server_stats.all_flushes = part(value, "calls="),
                    "cmdstat_flushdb" => server_stats.flushes = part(value, "calls="),
                    _ if name == keys => server_stats.keys = part(value, "keys="),
                    _ => {}
                }
            }
        }
        (!server_stats.run_id.is_empty()).then_some(server_stats)
    }

    /// Why counts were lost since the statistics before, if they were, and how many keys were evicted.
    fn since(&self, before: &Self, topology: &Topology) -> (Option<&'static str>, u64) {
        if self.run_id != before.run_id {
            let cause = match topology {
                Topology::Sentinel(_) => "another server is the master",
                Topology::Servers | Topology::Cluster => "it was started again",
            };
            // One that has most of its keys has read them from its disk, or is a replica.
            return ((self.keys < before.keys.div_ceil(2)).then_some(cause), self.evictions);
        }
        let cause = match () {
            () if self.all_flushes > before.all_flushes => Some("FLUSHALL"),
            () if self.flushes > before.flushes && self.keys < before.keys => Some("FLUSHDB"),
            () => None,
        };
        (cause, self.evictions.saturating_sub(before.evictions))
    }
}

/// A number in `calls=3,usec=12`.
fn part(value: &str, name: &str) -> u64 {
    value.split(',').find_map(|part| part.strip_prefix(name)?.parse().ok()).unwrap_or(0)
}

/// The last statistics of a server.
#[derive(Debug, Default)]
pub struct RedisLosses {
    last: Option<RedisStats>,
    log: LossLog,
}

impl RedisLosses {
    /// Compares statistics with those before. Returns whether they are any: else they need not be asked for again.
    pub fn take(&mut self, answers: &[Value], database: u32, topology: &Topology, server: &StoreServer) -> bool {
        let Some(server_stats) = RedisStats::of(answers, database) else { return false };
        if let Some(before) = &self.last {
            let (cause, evictions) = server_stats.since(before, topology);
            self.log.add(server, cause, server_stats.uptime, evictions);
        }
        self.last = Some(server_stats);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server_stats(run_id: &str, commands: &str, keyspace: &str) -> RedisStats {
        let server = format!("# Server\r\nrun_id:{run_id}\r\nuptime_in_seconds:7\r\n");
        let stats = "# Stats\r\nevicted_keys:5\r\n".to_owned();
        let answers = [server, stats, format!("# Commandstats\r\n{commands}\r\n"), format!("# Keyspace\r\n{keyspace}")];
        RedisStats::of(&answers.map(|text| Value::BulkString(text.into_bytes())), 3).unwrap()
    }

    #[test]
    fn a_loss_is_told_from_a_restart_with_all_keys_and_from_a_flush_of_another_database() {
        let before =
            server_stats("a", "cmdstat_get:calls=3,usec=1", "db0:keys=9,expires=0\r\ndb3:keys=100,expires=100\r\n");
        assert_eq!((before.uptime, before.evictions, before.keys), (7, 5, 100));
        let cause = |now: &RedisStats| now.since(&before, &Topology::Servers).0;
        assert_eq!(cause(&server_stats("b", "", "")), Some("it was started again"));
        assert_eq!(cause(&server_stats("b", "", "db3:keys=90,expires=0")), None);
        assert_eq!(server_stats("b", "", "").since(&before, &Topology::Servers).1, 5);
        let flushed = "cmdstat_flushdb:calls=1,usec=1";
        assert_eq!(cause(&server_stats("a", flushed, "db3:keys=3,expires=0")), Some("FLUSHDB"));
        assert_eq!(cause(&server_stats("a", flushed, "db3:keys=100,expires=0")), None);
        assert_eq!(cause(&server_stats("a", "cmdstat_flushall:calls=1,usec=1", "db3:keys=100")), Some("FLUSHALL"));
        let master = Topology::Sentinel("mymaster".to_owned());
        assert_eq!(server_stats("b", "", "").since(&before, &master).0, Some("another server is the master"));
        assert_eq!(RedisStats::of(&[Value::Nil], 0), None);
    }
}
