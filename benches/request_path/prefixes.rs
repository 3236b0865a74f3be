//! A whitelist of a million prefixes: what it costs to load, to keep and to ask.

use std::fmt::Write;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::ensure;
use nix::sys::signal::Signal;
use serde::Serialize;

use crate::Options;
use crate::load::Load;
use crate::population::{Draw, Population};
use crate::report::progress;
use crate::request::Requests;
use crate::server::{Place, Server, connshaper, program};
use crate::spread::Spread;
use crate::start::first_answer;

const PREFIXES: u32 = 1_000_000;

const CONNECTIONS: usize = 64;

#[derive(Debug, Serialize)]
pub struct Prefixes {
    /// Seconds that `connshaper check` takes.
    pub check: f64,
    /// Seconds from exec to the first answer, less those without a list.
    pub load: f64,
    /// Resident bytes, less those without a list.
    pub rss: u64,
    /// CPU per request with the list, divided by that without, round by round.
    pub cost: Spread,
    /// The longest any request waited while the list was loaded anew, in milliseconds.
    pub reload: f64,
}

pub fn measure(place: &Place, options: &Options) -> anyhow::Result<Prefixes> {
    let keys = list();
    let check = check(&keys, place)?;
    let (bare_start, bare) = first_answer("no-prefixes", "", place)?;
    let (start, listed) = first_answer("prefixes", &keys, place)?;
    let load = start.saturating_sub(bare_start).as_secs_f64();
    let rss = listed.process.rss()? - bare.process.rss()?;
    progress(format_args!("{PREFIXES} prefixes: loaded in {load:.2} s"));

    let mut requests = Requests::full();
    let mut ratios = Vec::new();
    // Small differences take more rounds to see.
    for round in 0..2 * options.rounds() {
        let mut cpu = |server| cpu(server, round, options.duration(), &mut requests);
        let (with, without) = if round % 2 == 0 {
            (cpu(&listed)?, cpu(&bare)?)
        } else {
            let without = cpu(&bare)?;
            (cpu(&listed)?, without)
        };
        ratios.push(with / without);
    }
    let cost = Spread::of(ratios).expect("there was a round");
    progress(format_args!("{PREFIXES} prefixes: CPU per request {cost} of that without"));
    let reload = reload(&listed, Duration::from_secs_f64(2.0 * load + 1.0), &mut requests)?;
    Ok(Prefixes { check, load, rss, cost, reload: reload.as_secs_f64() * 1e3 })
}

/// Prefixes of both families, near the clients' addresses but without any of them.
fn list() -> String {
    let mut keys = "whitelist = [\n".to_owned();
    for number in 0..PREFIXES / 2 {
        // Clients have octets from 100 and groups from 1000 on.
        let (third, second, first) = (number % 100, number / 100 % 156 + 100, number / 15_600 + 90);
        let length = 24 + number % 9;
        writeln!(keys, "\"{first}.{second}.{third}.0/{length}\",").expect("a string grows");
        let (low, high) = (number % 0x1000, number / 0x1000 + 0x1000);
        writeln!(keys, "\"2001:db8:{high:x}:{low:x}::/64\",").expect("a string grows");
    }
    keys + "]\n"
}

fn check(keys: &str, place: &Place) -> anyhow::Result<f64> {
    let (serve, _) = connshaper("check", keys, place)?;
    let file = serve.get_args().last().expect("its file");
    let mut command = Command::new(program());
    command.args(["check", "-c"]).arg(file).stdout(Stdio::null()).stderr(Stdio::null());
    let begin = Instant::now();
    ensure!(command.status()?.success(), "connshaper check finds fault with the list");
    Ok(begin.elapsed().as_secs_f64())
}

/// Seconds of CPU per request.
fn cpu(server: &Server, round: usize, duration: Duration, requests: &mut Requests) -> anyhow::Result<f64> {
    let mut clients = Draw::new(Population::ALL[0], round as u64);
    let mut load = Load::connect(&server.address, CONNECTIONS, requests)?;
    load.drive(&mut clients, duration / 10)?;
    let before = server.process.cpu()?;
    let outcome = load.drive(&mut clients, duration)?;
    Ok((server.process.cpu()? - before).as_secs_f64() / outcome.replies as f64)
}

/// The longest that a request waits while the server reads its configuration again.
fn reload(server: &Server, duration: Duration, requests: &mut Requests) -> anyhow::Result<Duration> {
    let mut clients = Draw::new(Population::ALL[0], 0);
    let mut load = Load::connect(&server.address, CONNECTIONS, requests)?;
    let outcome = thread::scope(|scope| {
        let signal = scope.spawn(|| {
            thread::sleep(Duration::from_millis(200));
            server.process.signal(Signal::SIGHUP)
        });
        let outcome = load.drive(&mut clients, duration)?;
        signal.join().expect("a signal is sent")?;
        anyhow::Ok(outcome)
    })?;
    Ok(outcome.latency.quantile(1.0))
}
