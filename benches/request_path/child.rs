//! A child of inetd or spawn(8): from exec to the first answer, beside a program that answers without looking.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::Options;
use crate::report::progress;
use crate::request::{Client, Requests};
use crate::server::{Place, program};

/// Medians in milliseconds, and what 99 of 100 do not exceed.
#[derive(Debug, Serialize)]
pub struct Children {
    pub null: f64,
    pub null_p99: f64,
    pub sqlite: f64,
    pub sqlite_p99: f64,
}

impl Children {
    /// What a child with a file takes longer.
    pub fn more(&self) -> f64 {
        self.sqlite - self.null
    }
}

pub fn measure(place: &Place, options: &Options) -> anyhow::Result<Children> {
    let times = if options.quick { 100 } else { 400 };
    let text = format!(
        "whitelist = []\nthreshold = 1000000\nsyslog_socket = '{}'\nsqlite_file = '{}'\n",
        place.path("no.log").display(),
        place.path("child.db").display()
    );
    let config = place.write("child.toml", &text)?;
    let (mut null, mut sqlite) = (Vec::new(), Vec::new());
    let mut requests = Requests::full();
    // The first one makes the file.
    for _ in 0..=times {
        let mut command = Command::new(std::env::current_exe()?);
        null.push(first_answer(command.arg("--null-child"), &mut requests)?);
        let mut command = Command::new(program());
        sqlite.push(first_answer(command.arg("inetd").arg("-c").arg(&config), &mut requests)?);
    }
    let quantile = |times: &mut Vec<Duration>, share: f64| {
        times.sort_unstable();
        times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3
    };
    let children = Children {
        null: quantile(&mut null, 0.5),
        null_p99: quantile(&mut null, 0.99),
        sqlite: quantile(&mut sqlite, 0.5),
        sqlite_p99: quantile(&mut sqlite, 0.99),
    };
    let Children { null, null_p99, sqlite, sqlite_p99 } = children;
    progress(format_args!(
        "a child's first answer after {sqlite:.2} ms (p99 {sqlite_p99:.2}), without looking {null:.2} (p99 {null_p99:.2})"
    ));
    Ok(children)
}

/// Starts a program with a socket as its standard input and output, and asks it.
fn first_answer(command: &mut Command, requests: &mut Requests) -> anyhow::Result<Duration> {
    let (mut ours, theirs) = UnixStream::pair()?;
    let begin = Instant::now();
    command.stdin(OwnedFd::from(theirs.try_clone()?)).stdout(OwnedFd::from(theirs)).stderr(Stdio::null());
    let mut child = command.spawn()?;
    // The command holds the other end, which has to close when the child ends.
    command.stdin(Stdio::null()).stdout(Stdio::null());
    ours.write_all(requests.next(Client::V4(1), 0))?;
    let mut answer = [0; 512];
    let mut read = 0;
    while !answer[..read].ends_with(b"\n\n") {
        let more = ours.read(&mut answer[read..])?;
        anyhow::ensure!(more > 0, "the child ended without an answer");
        read += more;
    }
    let elapsed = begin.elapsed();
    drop(ours);
    child.wait()?;
    Ok(elapsed)
}
