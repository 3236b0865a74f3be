//! Our transport to memcached beside the async client of the `memcache` crate, on one memcached over TCP.
//!
//! Both count hits of clients in a closed loop, with one hit under way for each of 1, 8 and 64 policy connections, on
//! one thread, in turns. Ours also learns how many seconds a counter has left; the crate's `incr` does not ask.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use connshaper::net::address::Address;
use connshaper::net::clock::Now;
use connshaper::observe::log::{Log, Severity};
use connshaper::policy::OnStoreFailure;
use connshaper::store::memcached::{Memcached, MemcachedConfig};
use connshaper::store::shared::backend::{Backend, BackendContext, CounterCommand, CounterReply, CounterRequest};
use memcache::exp::{AsyncMemcache, Ttl};
use smallvec::smallvec;
use tokio::runtime::Builder;
use tokio::task::JoinSet;

/// Hits under way at once.
const CONNECTIONS: [usize; 3] = [1, 8, 64];

const ROUNDS: usize = 5;

/// How long each client is measured in a round.
const TIME: Duration = Duration::from_secs(2);

/// Clients that are counted in turn by each connection.
const CLIENTS: u32 = 10_000;

const EXPTIME: u32 = 60;

fn main() -> anyhow::Result<()> {
    // `cargo test` compiles benchmarks and runs them without this.
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    let server = Server::start()?;
    println!("| connections | ours, hits/s | `memcache` 0.21 `exp`, hits/s | ours / theirs, median (least to most) |");
    println!("| --- | --- | --- | --- |");
    for connections in CONNECTIONS {
        let mut rounds = Vec::new();
        for _ in 0..ROUNDS {
            rounds.push((server.ours(connections)?, server.theirs(connections)?));
        }
        let sorted = |figure: fn(&(f64, f64)) -> f64| {
            let mut figures: Vec<_> = rounds.iter().map(figure).collect();
            figures.sort_by(f64::total_cmp);
            figures
        };
        let (ours, theirs) = (sorted(|round| round.0)[ROUNDS / 2], sorted(|round| round.1)[ROUNDS / 2]);
        let ratios = sorted(|(ours, theirs)| ours / theirs);
        let (least, median, most) = (ratios[0], ratios[ROUNDS / 2], ratios[ROUNDS - 1]);
        println!("| {connections} | {ours:.0} | {theirs:.0} | {median:.2} ({least:.2} to {most:.2}) |");
    }
    Ok(())
}

/// A memcached of its own.
struct Server {
    process: Child,
    address: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Server {
    fn start() -> anyhow::Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut command = Command::new("memcached");
        command.args(["-l", "127.0.0.1", "-p", &port.to_string(), "-u", "nobody"]).stdout(Stdio::null());
        let server = Self { process: command.spawn().context("memcached")?, address: format!("127.0.0.1:{port}") };
        let start = Instant::now();
        while std::net::TcpStream::connect(&server.address).is_err() {
            ensure!(start.elapsed() < Duration::from_secs(10), "memcached does not listen");
            sleep(Duration::from_millis(10));
        }
        Ok(server)
    }

    /// Hits a second of our transport.
    fn ours(&self, connections: usize) -> anyhow::Result<f64> {
        let servers = vec![Address::of_server(&self.address, 11211).map_err(anyhow::Error::msg)?];
        let config = MemcachedConfig { servers, replicas: 1, ..MemcachedConfig::default() };
        Builder::new_current_thread().enable_all().build()?.block_on(async {
            let context = BackendContext {
                timeout: Duration::from_secs(5),
                on_failure: OnStoreFailure::Local,
                outages: Vec::new(),
                statistics: Arc::default(),
                log: Log::in_memory(Severity::Err),
            };
            let store = Arc::new(Memcached::new(&config, &context));
            closed_loop(connections, move |key| {
                let store = Arc::clone(&store);
                async move {
                    let command = CounterCommand::Hit(1);
                    let request =
                        CounterRequest { key: key.as_bytes().into(), command, exptime: EXPTIME, is_known: false };
                    let mut reply = store.submit(smallvec![request], true, Now::read()).pop().context("no reply")?;
                    let outcome = reply.outcome().await;
                    ensure!(matches!(outcome, Ok(CounterReply::Count { .. })), "{outcome:?}");
                    Ok(())
                }
            })
            .await
        })
    }

    /// Hits a second of the crate's client, which keeps a connection for each hit under way.
    fn theirs(&self, connections: usize) -> anyhow::Result<f64> {
        Builder::new_current_thread().enable_all().build()?.block_on(async {
            let builder = AsyncMemcache::builder().max_idle(connections).timeout(Duration::from_secs(5));
            let client = builder.connect_async([self.address.as_str()]).await?;
            closed_loop(connections, move |key| {
                let client = client.clone();
                async move {
                    client.incr(key, 1, Ttl::secs(EXPTIME)).await?;
                    Ok(())
                }
            })
            .await
        })
    }
}

/// Has so many connections hit one after the other, and returns hits a second.
async fn closed_loop<F>(connections: usize, hit: impl Fn(String) -> F + Clone + Send + 'static) -> anyhow::Result<f64>
where
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for connection in 0..connections {
        let hit = hit.clone();
        tasks.spawn(async move {
            let mut hits = 0_u32;
            while start.elapsed() < TIME {
                hit(format!("connshaper:10.{connection}.{}", hits % CLIENTS)).await?;
                hits += 1;
            }
            anyhow::Ok(hits)
        });
    }
    let mut hits = 0_u32;
    for done in tasks.join_all().await {
        hits += done?;
    }
    Ok(f64::from(hits) / start.elapsed().as_secs_f64())
}
