//! How fast `connshaper advise` reads, beside `grep -c 'connect from'` on the same file in the same run,
//! how much memory it takes, and what it recommends.
//!
//! `cargo bench --bench advise -- --lines 10000000` writes the log, measures, prints and deletes it.
//! `--keep FILE` keeps it.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[path = "../tests/it/support/traffic.rs"]
#[allow(dead_code)]
mod traffic;

const PROGRAM: &str = env!("CARGO_BIN_EXE_connshaper");
const ROUNDS: usize = 3;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let value = |name: &str| arguments.iter().position(|word| word == name).and_then(|at| arguments.get(at + 1));
    let lines: u64 = value("--lines").map_or(1_000_000, |lines| lines.parse().expect("--lines takes a number"));
    let seed: u64 = value("--seed").map_or(1, |seed| seed.parse().expect("--seed takes a number"));
    let keep = value("--keep").map(PathBuf::from);
    let dir = tempfile::tempdir().unwrap();
    let log = keep.unwrap_or_else(|| dir.path().join("mail.log"));
    if !log.exists() {
        let mut output = BufWriter::with_capacity(1 << 20, File::create(&log).unwrap());
        traffic::write(&mut output, lines, seed).unwrap();
        output.flush().unwrap();
    }
    let bytes = fs::metadata(&log).unwrap().len();
    println!("{} bytes, seed {seed}", bytes);
    let (mut grep, mut advise, mut peak) = (Vec::new(), Vec::new(), 0);
    for _ in 0..ROUNDS {
        grep.push(taken(Command::new("grep").args(["-c", "connect from"]).arg(&log)));
        let (time, memory) = run_advise(&log);
        advise.push(time);
        peak = peak.max(memory);
    }
    let rate = |times: &mut Vec<Duration>| {
        times.sort();
        bytes as f64 / 1e6 / times[times.len() / 2].as_secs_f64()
    };
    let (grep, advise) = (rate(&mut grep), rate(&mut advise));
    println!("grep    {grep:.0} MB/s");
    println!("advise  {advise:.0} MB/s, {:.2} of grep, peak memory {:.1} MB", advise / grep, peak as f64 / 1e3);
    let report = command(&log).output().unwrap();
    println!("{}", String::from_utf8_lossy(&report.stdout));
}

fn command(log: &Path) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(["advise", "--seen", "rcpt", "--timezone", "UTC", "--mynetworks", traffic::MYNETWORKS]).arg(log);
    command
}

fn taken(command: &mut Command) -> Duration {
    let start = Instant::now();
    // Not to /dev/null: there grep stops at the first line it finds.
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", output.status);
    start.elapsed()
}

/// The time, and the most resident memory in kB, as the kernel tells it while the process is there.
fn run_advise(log: &Path) -> (Duration, u64) {
    let start = Instant::now();
    let mut child = command(log).stdout(Stdio::null()).spawn().unwrap();
    let mut peak = 0;
    loop {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let memory = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse().ok());
        peak = peak.max(memory.unwrap_or(0));
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success(), "{status}");
            return (start.elapsed(), peak);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
