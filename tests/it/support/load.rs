//! Load on a daemon, beside the same load on a reference that counts in its own memory.
//!
//! Every client of the load connects through one thread alone, so both daemons see its sessions in
//! the same order, and the reference says what an ever-present store would have answered. What a busy
//! machine adds to one it adds to the other.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::{Daemon, Lines, Policy};

/// Policy connections to each of the two, each with a thread of its own.
const CONNECTIONS: u32 = 8;

/// Between an answer and the next request of a connection, so that the machine is busy and not full.
const PACE: Duration = Duration::from_millis(1);

/// What the load's daemons are told beside where they count: a window that outlasts the test.
pub const RULES: &str = "whitelist = []\nthreshold = 10\nexptime = \"1h\"\nlog_rate = 20\n";

/// One request and what came of it.
pub struct Asked {
    /// When.
    pub at: Instant,
    /// How long the answer took.
    pub took: Duration,
    /// The same at the reference.
    pub reference: Duration,
    /// It passed.
    pub passed: bool,
    /// It should have.
    pub should: bool,
}

/// All requests of a load.
pub struct Seen(Vec<Asked>);

/// Runs `story` while `daemon` is asked, and says what the load saw and what the story came to.
pub fn under_load<T>(daemon: &Daemon, story: impl FnOnce(&Progress) -> T) -> (Seen, T) {
    let reference = Daemon::start(RULES);
    let progress = Progress::default();
    thread::scope(|scope| {
        let (own, other, progress) = (daemon.endpoint(), reference.endpoint(), &progress);
        let asker = |connection| scope.spawn(move || ask(connection, own, other, progress));
        let askers: Vec<_> = (0..CONNECTIONS).map(asker).collect();
        // Ends the load also when the story fails.
        let end = End(progress);
        progress.wait_for(800);
        let told = story(progress);
        drop(end);
        let asked = askers.into_iter().flat_map(|asker| asker.join().expect("an asker")).collect();
        (Seen(asked), told)
    })
}

/// How far a load is.
#[derive(Default)]
pub struct Progress {
    answered: AtomicUsize,
    over: AtomicBool,
}

impl Progress {
    /// Waits until so many more requests were answered.
    pub fn wait_for(&self, requests: usize) {
        let before = self.answered.load(Ordering::Relaxed);
        super::until(format_args!("{requests} more answers"), || {
            (self.answered.load(Ordering::Relaxed) >= before + requests).then_some(())
        });
    }
}

struct End<'p>(&'p Progress);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::Relaxed);
    }
}

fn ask(connection: u32, endpoint: &str, reference: &str, progress: &Progress) -> Vec<Asked> {
    let (mut policy, mut reference) = (Policy::connect(endpoint), Policy::connect(reference));
    let mut asked = Vec::new();
    for number in 0_u32.. {
        if progress.over.load(Ordering::Relaxed) {
            break;
        }
        // A few that come again and again, and many that come fourteen times in a row and then no more.
        let (net, host) = if number % 8 == 0 { (200, number / 8 % 8) } else { (number / 16 / 250, number / 16 % 250) };
        let (client, port) = (format!("10.{connection}.{net}.{host}"), 1 + (number % 60_000) as u16);
        let at = Instant::now();
        let time = |policy: &mut Policy| {
            let start = Instant::now();
            let passed = policy.connected(&client, port) == "DUNNO";
            (passed, start.elapsed())
        };
        // The first of the two wakes the machine up, so they take turns.
        let ((passed, took), (should, reference)) = if number % 2 == 0 {
            (time(&mut policy), time(&mut reference))
        } else {
            let should = time(&mut reference);
            (time(&mut policy), should)
        };
        asked.push(Asked { at, took, reference, passed, should });
        progress.answered.fetch_add(1, Ordering::Relaxed);
        thread::sleep(PACE);
    }
    asked
}

impl Seen {
    /// How many were asked between two moments.
    pub fn between(&self, from: Instant, to: Instant) -> usize {
        self.0.iter().filter(|asked| (from..to).contains(&asked.at)).count()
    }

    /// How many there were. Each has its answer, or the load would have failed.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The longest any answer took.
    pub fn longest(&self) -> Duration {
        self.0.iter().map(|asked| asked.took).max().unwrap_or_default()
    }

    /// What 99 of 100 answers took at most, asked of the daemon between two moments, and the reference's.
    pub fn p99(&self, from: Instant, to: Instant) -> (Duration, Duration) {
        let within: Vec<_> = self.0.iter().filter(|asked| (from..to).contains(&asked.at)).collect();
        let of = |time: fn(&Asked) -> Duration| {
            let mut times: Vec<_> = within.iter().map(|asked| time(asked)).collect();
            times.sort_unstable();
            times.get(times.len() * 99 / 100).copied().unwrap_or_default()
        };
        (of(|asked| asked.took), of(|asked| asked.reference))
    }

    /// Those refused that should have passed.
    pub fn refused_wrongly(&self) -> usize {
        self.0.iter().filter(|asked| !asked.passed && asked.should).count()
    }

    /// Those that passed and should have been refused.
    pub fn passed_wrongly(&self) -> usize {
        self.0.iter().filter(|asked| asked.passed && !asked.should).count()
    }
}

/// A line of the table of faults.
pub struct Row<'r> {
    /// What went wrong.
    pub fault: &'r str,
    /// What the load saw.
    pub seen: &'r Seen,
    /// 99 of 100 answers while the store was left alone, and those of the reference.
    pub p99: Option<(Duration, Duration)>,
    /// From the end of the fault until the store counted again.
    pub recovery: Option<Duration>,
    /// What was logged.
    pub log: &'r Lines,
}

impl fmt::Display for Row<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { fault, seen, p99, recovery, log } = self;
        let mut keywords = BTreeMap::<_, u32>::new();
        for line in log.with("") {
            *keywords.entry(line.split(' ').next().unwrap_or_default().to_owned()).or_default() += 1;
        }
        let keywords: Vec<_> = keywords.iter().map(|(keyword, lines)| format!("{keyword} {lines}")).collect();
        let log = keywords.join(", ");
        let milliseconds = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1000.0);
        let p99 = p99
            .map_or("-".to_owned(), |(own, reference)| format!("{} / {}", milliseconds(own), milliseconds(reference)));
        let recovery = recovery.map_or("-".to_owned(), milliseconds);
        let wrong = format!("{} / {}", seen.refused_wrongly(), seen.passed_wrongly());
        let longest = milliseconds(seen.longest());
        let (sent, load) = (seen.len(), CONNECTIONS);
        write!(f, "{fault:28} {load:>4} {sent:>8} {sent:>8} {longest:>10} {p99:>20} {wrong:>9} {recovery:>10}  {log}")
    }
}

impl Row<'_> {
    /// Shows it, below the names of its columns.
    pub fn print(&self) {
        static NAMES: Once = Once::new();
        NAMES.call_once(|| {
            println!(
                "\n{:28} {:>4} {:>8} {:>8} {:>10} {:>20} {:>9} {:>10}  log",
                "fault", "load", "sent", "answered", "longest", "p99 / memory store", "wrong -/+", "recovery"
            );
        });
        println!("{self}");
    }
}
