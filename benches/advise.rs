//! How fast `connshaper advise` reads, beside `grep -c 'connect from'` on the same file in the same run,
//! how much memory it takes, and what it recommends.
//!
//! `cargo bench --bench advise -- --lines 10000000` writes the log, measures, prints and deletes it.
//! `--keep FILE` keeps it. Beside it the first lines of it are read behind times of another program and as JSON, in
//! lines a second.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[path = "../tests/it/support/traffic.rs"]
#[allow(dead_code)]
mod traffic;

const PROGRAM: &str = env!("CARGO_BIN_EXE_connshaper");
const ROUNDS: usize = 3;

/// Lines that are read in other forms.
const MAX_WRAPPED: u64 = 1_000_000;

/// What else a line may look like: `%T` its time as Docker has it, `%U` the same in microseconds, `%L` the line, `%P` the
/// program, `%I` the process, `%X` the message, as a string of JSON has them.
const FORMS: [(&str, &str); 4] = [
    ("docker logs -t", "%T %L"),
    ("Docker's json-file", r#"{"log":"%L\n","stream":"stdout","time":"%T"}"#),
    (
        "rsyslog's JSON",
        r#"{"timestamp":"%T","host":"mx","severity":"info","facility":"mail","syslogtag":"%P[%I]:","message":" %X"}"#,
    ),
    (
        "journalctl -o json",
        r#"{"__CURSOR":"s=7226b912062649169212def3a4ed74f5;i=1;b=7;m=4c4b40;t=65f3353634750;x=ed8b4628dc65ab99","_PID":"%I","_UID":"102","_GID":"102","_COMM":"smtpd","_EXE":"/usr/lib/postfix/sbin/smtpd","_CMDLINE":"smtpd -n smtp -t inet -u -c -o stress=","_SYSTEMD_UNIT":"postfix@-.service","_BOOT_ID":"00000000000000000000000000000007","_MACHINE_ID":"00000000000000000000000000000009","_HOSTNAME":"mx","_TRANSPORT":"syslog","PRIORITY":"6","SYSLOG_FACILITY":"2","SYSLOG_IDENTIFIER":"%P","SYSLOG_PID":"%I","_SOURCE_REALTIME_TIMESTAMP":"%U","__REALTIME_TIMESTAMP":"%U","__MONOTONIC_TIMESTAMP":"5000000","MESSAGE":"%X"}"#,
    ),
];

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
    let rate = |times: &mut Vec<Duration>| bytes as f64 / 1e6 / median(times).as_secs_f64();
    let (grep, advise) = (rate(&mut grep), rate(&mut advise));
    println!("grep    {grep:.0} MB/s");
    println!("advise  {advise:.0} MB/s, {:.2} of grep, peak memory {:.1} MB", advise / grep, peak as f64 / 1e3);
    other_forms(&log, dir.path(), lines.min(MAX_WRAPPED));
    let report = command(&log).output().unwrap();
    println!("{}", String::from_utf8_lossy(&report.stdout));
}

/// Reads the first lines of a log in other forms, one after the other in each round.
fn other_forms(log: &Path, dir: &Path, lines: u64) {
    let mut files = vec![("plain", dir.join("plain"), Vec::new())];
    files.extend((0..).zip(FORMS).map(|(at, (name, _))| (name, dir.join(format!("form{at}")), Vec::new())));
    // In pieces as large as the log's: the kernel reads faster what it has in larger ones.
    let output = |path| BufWriter::with_capacity(1 << 20, File::create(path).unwrap());
    let mut outputs: Vec<_> = files.iter().map(|(_, path, _)| output(path)).collect();
    let text = BufReader::new(File::open(log).unwrap());
    for line in text.lines().take(lines.try_into().unwrap()) {
        let line = line.unwrap();
        writeln!(outputs[0], "{line}").unwrap();
        for (output, (_, form)) in outputs[1..].iter_mut().zip(FORMS) {
            writeln!(output, "{}", written(form, &line)).unwrap();
        }
    }
    // What the kernel still has to write would take a processor from the reading.
    outputs.into_iter().for_each(|output| output.into_inner().unwrap().sync_all().unwrap());
    for _ in 0..ROUNDS {
        files.iter_mut().for_each(|(_, path, times)| times.push(run_advise(path).0));
    }
    let plain = median(&mut files[0].2);
    for (name, _, times) in &mut files {
        let time = median(times);
        let (rate, slower) = (lines as f64 / 1e6 / time.as_secs_f64(), time.as_secs_f64() / plain.as_secs_f64());
        println!("{name:20} {rate:.2} million lines a second, {slower:.2} times the time of plain ones");
    }
}

/// A line of a November in another form.
fn written(form: &str, line: &str) -> String {
    let (day, time) = (line[4..6].trim(), &line[7..15]);
    let (program, message) = line[19..].split_once(": ").unwrap_or((&line[19..], ""));
    let (program, process) = program.split_once('[').unwrap_or((program, "1]"));
    let seconds = time.split(':').fold(0, |sum, part| sum * 60 + part.parse::<u64>().unwrap());
    let micros = (1_793_491_200 + (day.parse::<u64>().unwrap() - 1) * 86_400 + seconds) * 1_000_000;
    let escaped = |text: &str| text.replace('\\', r"\\").replace('"', r#"\""#);
    let is_json = form.starts_with('{');
    let text = |text: &str| if is_json { escaped(text) } else { text.to_owned() };
    form.replace("%T", &format!("2026-11-{day:0>2}T{time}.123456789Z"))
        .replace("%U", &micros.to_string())
        .replace("%P", program)
        .replace("%I", process.trim_end_matches(']'))
        .replace("%L", &text(line))
        .replace("%X", &text(message))
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort();
    times[times.len() / 2]
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
