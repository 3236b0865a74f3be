//! The benchmark of the request path, and of what else a mail host pays for connshaper.
//!
//! `cargo bench --bench request_path` starts a null policy server, connshaper on
//! its memory store, on a real memcached, on a real Redis and on a SQLite file, drives each in turn with
//! the same load, and prints a report in Markdown: ratios to the null server of
//! the same round first, for absolute figures are of one machine only.

mod child;
mod clients;
mod histogram;
mod load;
mod null;
mod path;
mod peers;
mod pin;
mod population;
mod postfix;
mod prefixes;
mod process;
mod report;
mod request;
mod server;
#[path = "../../tests/it/support/spool.rs"]
mod spool;
mod spread;
mod start;

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

use nix::unistd::geteuid;

use path::Sample;
use pin::Pinned;
use population::Population;
use postfix::Mail;
use report::{Machine, Report, progress};
use server::{PROGRAM, Place, Server};

/// Measures connshaper beside a policy server that does nothing.
#[derive(Debug, Parser)]
#[command(name = "request_path")]
pub struct Options {
    /// Take less than a minute: fewer settings, fewer and shorter rounds
    #[arg(long)]
    quick: bool,
    /// How long each server is measured in each round
    #[arg(long)]
    seconds: Option<f64>,
    /// How often each server is measured in each setting
    #[arg(long)]
    rounds: Option<usize>,
    /// Policy connections at once
    #[arg(long, value_delimiter = ',', default_value = "1,8,64,512")]
    connections: Vec<usize>,
    /// What to measure: memory, memcached, redis, sqlite and peers on the request path, clients, prefixes, start,
    /// child, postfix
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Measure this connshaper instead of the one built with the benchmark
    #[arg(long)]
    program: Option<PathBuf>,
    /// Keep the load generator on one processor and the policy servers on another
    #[arg(long)]
    pin: bool,
    /// Also measure a null server that is busy for so many microseconds before each answer
    #[arg(long, value_name = "MICROSECONDS")]
    busy: Option<u64>,
    /// Also write every sample to a file
    #[arg(long)]
    json: Option<PathBuf>,
    /// Be the null policy server
    #[arg(long, hide = true)]
    null_server: Option<PathBuf>,
    /// Be a program that answers DUNNO on standard input and output
    #[arg(long, hide = true)]
    null_child: bool,
    /// What `cargo bench` says
    #[arg(long, hide = true)]
    bench: bool,
}

impl Options {
    fn rounds(&self) -> usize {
        self.rounds.unwrap_or(if self.quick { 2 } else { 5 })
    }

    fn duration(&self) -> Duration {
        Duration::from_secs_f64(self.seconds.unwrap_or(if self.quick { 0.2 } else { 0.6 }))
    }

    fn populations(&self) -> &[Population] {
        if self.quick { &Population::ALL[..2] } else { &Population::ALL }
    }

    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == name)
    }
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    if let Some(path) = &options.null_server {
        return Ok(null::serve(path, Duration::from_micros(options.busy.unwrap_or(0)))?);
    }
    if options.null_child {
        return Ok(null::child()?);
    }
    if !options.bench {
        println!("this is a benchmark: cargo bench --bench request_path");
        return Ok(());
    }
    if let Some(program) = &options.program {
        PROGRAM.set(program.clone()).expect("it is set here only");
    }
    process::end_when_told()?;
    let report = measure(&options)?;
    println!("{report}");
    if let Some(path) = &options.json {
        std::fs::write(path, serde_json::to_vec_pretty(&report)?)?;
    }
    Ok(())
}

fn measure(options: &Options) -> anyhow::Result<Report> {
    let place = Place::new()?;
    let start = options.wants("start").then(|| start::measure(&place, options)).transpose()?;
    let child = options.wants("child").then(|| child::measure(&place, options)).transpose()?;
    let prefixes = options.wants("prefixes").then(|| prefixes::measure(&place, options)).transpose()?;
    let samples = request_path(&place, options)?;
    let clients = if options.wants("clients") { clients::measure(&place, options)? } else { Vec::new() };
    let mail = if options.wants("postfix") { mail(&place, options)? } else { None };
    Ok(Report { machine: Machine::this(), samples, clients, prefixes, start, child, mail })
}

fn request_path(place: &Place, options: &Options) -> anyhow::Result<Vec<Sample>> {
    let mut servers = vec![Server::null(place)?];
    if let Some(microseconds) = options.busy {
        servers.push(Server::busy(microseconds, place)?);
    }
    if options.wants("memory") {
        servers.push(Server::memory(place)?);
    }
    if options.wants("memcached") {
        servers.push(Server::memcached(place)?);
    }
    if options.wants("redis") {
        servers.push(Server::redis(place)?);
    }
    if options.wants("sqlite") {
        servers.push(Server::sqlite(place)?);
    }
    if options.wants("peers") {
        servers.extend(peers::installed(place));
    }
    let _pinned = options.pin.then(|| Pinned::apart(&servers)).transpose()?;
    match servers.len() {
        1 => Ok(Vec::new()),
        _ => path::measure(&servers, options),
    }
}

/// Postfix' master process must be started by root.
fn mail(place: &Place, options: &Options) -> anyhow::Result<Option<Mail>> {
    if !geteuid().is_root() {
        progress("Postfix: not measured, for that takes root");
        return Ok(None);
    }
    let (null, memory) = (Server::null(place)?, Server::memory(place)?);
    postfix::measure(&null, &memory, place, options).map(Some)
}
