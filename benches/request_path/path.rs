//! The request path: every server under the same load, in turn, several times over.

use std::fmt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::ensure;
use rusqlite::Connection;
use serde::{Serialize, Serializer};

use crate::Options;
use crate::load::{Load, Outcome};
use crate::population::{Draw, Population};
use crate::process::own_cpu;
use crate::report::progress;
use crate::request::Requests;
use crate::server::{Server, StoreServer};

/// Some other policy servers have a process for each connection.
const PEER_CONNECTIONS: usize = 64;

/// Load before a measurement, as a share of it.
const WARM_UP: f64 = 0.15;

/// One server in one round.
#[derive(Clone, Debug, Serialize)]
pub struct Sample {
    pub server: &'static str,
    pub population: Population,
    pub connections: usize,
    pub round: usize,
    pub requests_per_second: f64,
    #[serde(serialize_with = "seconds")]
    pub p50: Duration,
    #[serde(serialize_with = "seconds")]
    pub p99: Duration,
    #[serde(serialize_with = "seconds")]
    pub p999: Duration,
    /// Of the policy server, per request.
    #[serde(serialize_with = "seconds")]
    pub cpu: Duration,
    /// Of the load generator, per request.
    #[serde(serialize_with = "seconds")]
    pub load_cpu: Duration,
    pub shared: Option<Shared>,
    /// Refusals, as a share of the replies.
    pub refused: f64,
}

/// What memcached or Redis does for a request.
#[derive(Clone, Debug, Serialize)]
pub struct Shared {
    #[serde(serialize_with = "seconds")]
    pub cpu: Duration,
    /// Its reads.
    pub round_trips: f64,
}

fn seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}

impl Sample {
    /// Whether it is of the same server under the same load, in whatever round.
    pub fn is_of(&self, other: &Self) -> bool {
        self.server == other.server && self.has_setting_of(other)
    }

    pub fn has_setting_of(&self, other: &Self) -> bool {
        self.population == other.population && self.connections == other.connections
    }

    pub fn rate(&self) -> f64 {
        self.requests_per_second
    }

    pub fn cpu(&self) -> f64 {
        self.cpu.as_secs_f64()
    }

    pub fn p99(&self) -> f64 {
        self.p99.as_secs_f64()
    }
}

/// Measures all of `servers`, the first of which is the null server.
pub fn measure(servers: &[Server], options: &Options) -> anyhow::Result<Vec<Sample>> {
    let mut samples = Vec::new();
    let mut requests = Requests::full();
    for &population in options.populations() {
        for &connections in &options.connections {
            for round in 0..options.rounds() {
                for place in 0..servers.len() {
                    // Nobody is always first.
                    let server = &servers[(place + round) % servers.len()];
                    let setting = Setting { population, connections, round, duration: options.duration() };
                    if server.peer && (connections > PEER_CONNECTIONS || population != Population::ALL[0]) {
                        continue;
                    }
                    match setting.measure(server, &mut requests) {
                        Ok(sample) => samples.push(sample),
                        Err(error) if server.peer => progress(format_args!("{}: {error:#}", server.name)),
                        Err(error) => return Err(error),
                    }
                }
            }
            progress(Cell { samples: &samples, population, connections });
        }
    }
    Ok(samples)
}

struct Setting {
    population: Population,
    connections: usize,
    round: usize,
    duration: Duration,
}

impl Setting {
    fn measure(&self, server: &Server, requests: &mut Requests) -> anyhow::Result<Sample> {
        let mut load = Load::connect(&server.address, self.connections, requests)?;
        let seed = (self.round * 1000 + self.connections) as u64;
        let mut clients = Draw::new(self.population, seed);
        load.drive(&mut clients, self.duration.mul_f64(WARM_UP))?;
        // Nothing is under way now, so all figures of the processes are exact.
        let shared = server.shared.as_ref().map(Watch::begin).transpose()?;
        // Of windows that do not end meanwhile: those that do leave the file.
        let ends = SystemTime::now() + self.duration * 2 + Duration::from_secs(5);
        let stored = server.sqlite.as_deref().map(|file| stored_hits(file, ends)).transpose()?;
        let (cpu, load_cpu) = (server.process.cpu()?, own_cpu());
        let outcome = load.drive(&mut clients, self.duration)?;
        let (cpu, load_cpu) = (server.process.cpu()? - cpu, own_cpu() - load_cpu);
        let shared = shared.map(|watch| watch.end(&outcome)).transpose()?;
        if let (Some(file), Some((lasting, all))) = (&server.sqlite, stored) {
            let hits = stored_hits(file, ends)?.0.saturating_sub(lasting);
            let due = outcome.replies - outcome.refusals;
            // Of windows that end meanwhile, as a share of all, hits may be missing.
            ensure!(
                hits * 10 * (all + 1) >= due * 9 * (lasting + 1),
                "the file has {hits} hits of {due} sessions: it is not the file that was measured"
            );
        }
        let each = |total: Duration| total.div_f64(outcome.replies as f64);
        Ok(Sample {
            server: server.name,
            population: self.population,
            connections: self.connections,
            round: self.round,
            requests_per_second: outcome.replies as f64 / outcome.elapsed.as_secs_f64(),
            p50: outcome.latency.quantile(0.5),
            p99: outcome.latency.quantile(0.99),
            p999: outcome.latency.quantile(0.999),
            cpu: each(cpu),
            load_cpu: each(load_cpu),
            shared,
            refused: outcome.refusals as f64 / outcome.replies as f64,
        })
    }
}

/// Hits in a SQLite file: of windows that end after this, and of all.
fn stored_hits(file: &Path, after: SystemTime) -> anyhow::Result<(u64, u64)> {
    let connection = Connection::open(file)?;
    let select = "SELECT coalesce(sum(count) FILTER (WHERE ends > ?1), 0), coalesce(sum(count), 0) FROM counter";
    let after = after.duration_since(UNIX_EPOCH)?.as_millis() as i64;
    let hits = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(0)? as u64, row.get::<_, i64>(1)? as u64));
    Ok(connection.query_row(select, [after], hits)?)
}

/// What a memcached or a Redis sees between two moments.
struct Watch<'m> {
    store: &'m StoreServer,
    hits: u64,
    reads: u64,
    cpu: Duration,
}

impl<'m> Watch<'m> {
    fn begin(store: &'m StoreServer) -> anyhow::Result<Self> {
        let hits = store.hits()?;
        let process = &store.process;
        Ok(Self { store, hits, reads: process.reads()?, cpu: process.cpu()? })
    }

    fn end(self, outcome: &Outcome) -> anyhow::Result<Shared> {
        let process = &self.store.process;
        let (reads, cpu) = (process.reads()? - self.reads, process.cpu()? - self.cpu);
        let hits = self.store.hits()? - self.hits;
        // A client that is known to be over its limit may be refused without asking.
        let due = outcome.replies - outcome.refusals;
        ensure!(hits >= due, "the store saw {hits} hits of {due} sessions: it is not the store that was measured");
        let replies = outcome.replies as f64;
        Ok(Shared { cpu: cpu.div_f64(replies), round_trips: reads as f64 / replies })
    }
}

/// What was just measured, in a line.
struct Cell<'s> {
    samples: &'s [Sample],
    population: Population,
    connections: usize,
}

impl fmt::Display for Cell<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} clients, {} connections:", self.population.name(), self.connections)?;
        let here = |sample: &&Sample| sample.population == self.population && sample.connections == self.connections;
        let samples: Vec<&Sample> = self.samples.iter().filter(here).collect();
        for sample in samples.iter().filter(|sample| sample.round == 0) {
            let rates = samples.iter().filter(|other| other.server == sample.server);
            let best = rates.map(|sample| sample.requests_per_second).fold(0.0, f64::max);
            write!(f, " {} {best:.0}/s", sample.server)?;
        }
        Ok(())
    }
}
