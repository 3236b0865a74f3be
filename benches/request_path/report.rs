//! What was measured, as Markdown and as JSON: the goals, then ratios, then absolute figures.

use std::fmt::{self, Display};
use std::fs;
use std::process::Command;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::child::Children;
use crate::clients::ClientMemory;
use crate::path::Sample;
use crate::postfix::Mail;
use crate::prefixes::Prefixes;
use crate::spread::Spread;
use crate::start::Start;

mod goals;

/// Says how far the benchmark has come.
pub fn progress(what: impl Display) {
    eprintln!("{what}");
}

/// Everything that was measured. What was not is absent.
#[derive(Debug, Serialize)]
pub struct Report {
    pub machine: Machine,
    pub samples: Vec<Sample>,
    pub clients: Vec<ClientMemory>,
    pub prefixes: Option<Prefixes>,
    pub start: Option<Start>,
    pub child: Option<Children>,
    pub mail: Option<Mail>,
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n", self.machine)?;
        self.goals(f)?;
        if !self.samples.is_empty() {
            writeln!(f, "\nRatios to the null server of the same round: median (least-most).\n")?;
            self.ratios(f)?;
            writeln!(f, "\nThe same in absolute figures, medians; times in microseconds, CPU per request.\n")?;
            self.absolutes(f)?;
        }
        self.others(f)
    }
}

impl Report {
    fn ratios(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        header(f, &["clients", "connections", "server", "requests/s", "CPU", "p50", "p99", "p99.9"])?;
        for cell in self.cells().filter(|cell| cell.server != "null") {
            let ratio = |figure: fn(&Sample) -> f64| {
                let ratios = self.ratio(|sample| cell.is_of(sample), figure);
                ratios.map_or_else(|| "-".to_owned(), |spread| spread.to_string())
            };
            row(
                f,
                &[
                    cell.population.name(),
                    cell.connections.to_string(),
                    cell.server.to_owned(),
                    ratio(Sample::rate),
                    ratio(Sample::cpu),
                    ratio(|sample| sample.p50.as_secs_f64()),
                    ratio(Sample::p99),
                    ratio(|sample| sample.p999.as_secs_f64()),
                ],
            )?;
        }
        Ok(())
    }

    fn absolutes(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns =
            ["clients", "connections", "server", "requests/s", "p50", "p99", "p99.9", "CPU", "its load's CPU"];
        header(f, &[&columns[..], &["store's CPU", "round trips per request", "refused"]].concat())?;
        for cell in self.cells() {
            let median = |figure: &dyn Fn(&Sample) -> Option<f64>, digits: usize| {
                let figures = self.samples.iter().filter(|sample| cell.is_of(sample)).filter_map(figure);
                Spread::of(figures).map_or_else(|| "-".to_owned(), |spread| format!("{:.digits$}", spread.median))
            };
            let micros = |time: fn(&Sample) -> Duration| median(&|sample| Some(time(sample).as_secs_f64() * 1e6), 1);
            row(
                f,
                &[
                    cell.population.name(),
                    cell.connections.to_string(),
                    cell.server.to_owned(),
                    median(&|sample| Some(sample.requests_per_second), 0),
                    micros(|sample| sample.p50),
                    micros(|sample| sample.p99),
                    micros(|sample| sample.p999),
                    median(&|sample| Some(sample.cpu.as_secs_f64() * 1e6), 2),
                    median(&|sample| Some(sample.load_cpu.as_secs_f64() * 1e6), 2),
                    median(&|sample| Some(sample.shared.as_ref()?.cpu.as_secs_f64() * 1e6), 2),
                    median(&|sample| Some(sample.shared.as_ref()?.round_trips), 3),
                    median(&|sample| Some(sample.refused * 100.0), 1) + " %",
                ],
            )?;
        }
        Ok(())
    }

    fn others(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.clients.is_empty() {
            writeln!(f, "\nMemory of the memory store, filled through the socket.\n")?;
            header(f, &["clients", "bytes of RSS per client", "MiB"])?;
        }
        for memory in &self.clients {
            let clients = format!("{} million {}", memory.clients / 1_000_000, memory.family);
            row(f, &[clients, format!("{:.1}", memory.each()), mebibytes(memory.bytes)])?;
        }
        if let Some(prefixes) = &self.prefixes {
            writeln!(f, "\nA whitelist of a million prefixes.\n")?;
            header(f, &["figure", "value"])?;
            row(f, &["`connshaper check`".to_owned(), format!("{:.2} s", prefixes.check)])?;
            row(f, &["added to the time to the first answer".to_owned(), format!("{:.2} s", prefixes.load)])?;
            row(f, &["added to RSS".to_owned(), mebibytes(prefixes.rss) + " MiB"])?;
            row(f, &["CPU per request, ratio to none".to_owned(), prefixes.cost.to_string()])?;
            row(f, &["longest wait during a reload".to_owned(), format!("{:.1} ms", prefixes.reload)])?;
        }
        if let Some(start) = &self.start {
            writeln!(f, "\nStart-up.\n")?;
            header(f, &["figure", "value"])?;
            row(f, &["exec to first answer".to_owned(), format!("{:.1} ms", start.milliseconds)])?;
            row(f, &["RSS at rest".to_owned(), mebibytes(start.rss) + " MiB"])?;
            row(f, &["stripped binary".to_owned(), mebibytes(start.binary) + " MiB"])?;
        }
        if let Some(mail) = &self.mail {
            writeln!(f, "\nMails a second through Postfix, each in a session of its own.\n")?;
            header(f, &["null", "connshaper", "ratio"])?;
            row(f, &[format!("{:.0}", mail.null), format!("{:.0}", mail.connshaper), format!("{:.3}", mail.ratio)])?;
        }
        Ok(())
    }

    /// One sample for each server in each setting, in the order they were measured.
    fn cells(&self) -> impl Iterator<Item = &Sample> {
        self.samples.iter().filter(|sample| sample.round == 0)
    }

    /// The ratio of a figure to the null server's of the same round, over the samples chosen.
    fn ratio(&self, chosen: impl Fn(&Sample) -> bool, figure: impl Fn(&Sample) -> f64) -> Option<Spread> {
        let null = |sample: &Sample| {
            let same =
                |other: &&Sample| other.server == "null" && other.round == sample.round && other.has_setting_of(sample);
            self.samples.iter().find(same).map(&figure)
        };
        let chosen = self.samples.iter().filter(|sample| chosen(sample));
        Spread::of(chosen.filter_map(|sample| Some(figure(sample) / null(sample)?)))
    }
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / f64::from(1 << 20))
}

fn header(f: &mut fmt::Formatter<'_>, columns: &[&str]) -> fmt::Result {
    writeln!(f, "| {} |", columns.join(" | "))?;
    writeln!(f, "|{}", " --- |".repeat(columns.len()))
}

fn row(f: &mut fmt::Formatter<'_>, columns: &[String]) -> fmt::Result {
    writeln!(f, "| {} |", columns.join(" | "))
}

/// Where and when.
#[derive(Debug, Serialize)]
pub struct Machine {
    cpu: String,
    cores: usize,
    kernel: String,
    date: String,
    memcached: Option<String>,
    redis: Option<String>,
    postfix: Option<String>,
}

impl Machine {
    pub fn this() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        Self {
            cpu: model.unwrap_or("unknown CPU").to_owned(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: kernel.trim().to_owned(),
            date: now.split('T').next().unwrap_or_default().to_owned(),
            memcached: first_line("memcached", &["--version"]),
            redis: first_line("redis-server", &["--version"]),
            postfix: first_line("postconf", &["-d", "-h", "mail_version"]),
        }
    }
}

fn first_line(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    Some(String::from_utf8(output.stdout).ok()?.lines().next()?.to_owned())
}

impl Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cpu, cores, kernel, date, memcached, redis, postfix } = self;
        write!(f, "connshaper {}, {date}, {cpu}, {cores} cores, Linux {kernel}", env!("CARGO_PKG_VERSION"))?;
        for store in memcached.iter().chain(redis) {
            write!(f, ", {store}")?;
        }
        postfix.as_ref().map_or(Ok(()), |postfix| write!(f, ", Postfix {postfix}"))
    }
}
