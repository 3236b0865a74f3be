//! Start-up: from exec to the first answer, and what is there then.

use std::fs;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::Options;
use crate::report::progress;
use crate::server::{Place, Server, program};
use crate::spread::Spread;

#[derive(Debug, Serialize)]
pub struct Start {
    /// Milliseconds from exec to the first answer.
    pub milliseconds: Spread,
    /// Resident bytes after the first answer.
    pub rss: u64,
    /// The program's file.
    pub binary: u64,
}

pub fn measure(place: &Place, options: &Options) -> anyhow::Result<Start> {
    let times = if options.quick { 5 } else { 20 };
    let (mut milliseconds, mut rss) = (Vec::new(), 0);
    for _ in 0..times {
        let (elapsed, server) = first_answer("start", "", place)?;
        milliseconds.push(elapsed.as_secs_f64() * 1e3);
        rss = server.process.rss()?;
    }
    let milliseconds = Spread::of(milliseconds).expect("it was started at least once");
    progress(format_args!("first answer after {milliseconds:.1} ms"));
    Ok(Start { milliseconds, rss, binary: fs::metadata(program())?.len() })
}

/// Starts a connshaper, and says how long that took.
pub fn first_answer(name: &'static str, keys: &str, place: &Place) -> anyhow::Result<(Duration, Server)> {
    let begin = Instant::now();
    let server = Server::connshaper(name, keys, place)?;
    Ok((begin.elapsed(), server))
}
