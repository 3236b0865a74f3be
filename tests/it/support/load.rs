//! Load on a daemon, and the same load on a reference daemon that counts in memory.
//!
//! All sessions of a client are sent by the same thread, so both daemons get them in the same order.
//! The reference shows the verdicts of a store without failures, and the delay that a busy machine
//! causes.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, Once};
use std::thread;
use std::time::{Duration, Instant};

use super::{Daemon, Lines, Policy};

/// Policy connections to each of the two, each with a thread of its own.
const CONNECTIONS: u32 = 8;

/// The pause between an answer and the next request of a connection, so that the machine is not overloaded.
const PACE: Duration = Duration::from_millis(1);

/// The configuration of both daemons, without the store. The window outlasts the test.
pub const RULES: &str = "whitelist = []\nthreshold = 10\nexptime = \"1h\"\nlog_rate = 20\n";

/// One request and its results.
pub struct Asked {
    pub at: Instant,
    /// The time until the answer.
    pub took: Duration,
    /// The time until the answer of the reference.
    pub reference: Duration,
    /// Whether the session passed.
    pub passed: bool,
    /// Whether it passed at the reference.
    pub should: bool,
}

/// All requests of a load.
pub struct Seen(Vec<Asked>);

/// Tests at the same time that measure how long answers take; more would measure the machine.
const MAX_MEASURING: usize = 2;

static MEASURING: Mutex<usize> = Mutex::new(0);
static ONE_LESS: Condvar = Condvar::new();

/// One of the tests that measure how long answers take, until it is dropped.
struct Measuring(());

impl Measuring {
    /// Waits until there are few enough of them.
    fn begin() -> Self {
        let measuring = ONE_LESS.wait_while(MEASURING.lock().unwrap(), |measuring| *measuring >= MAX_MEASURING);
        *measuring.unwrap() += 1;
        Self(())
    }
}

impl Drop for Measuring {
    fn drop(&mut self) {
        *MEASURING.lock().unwrap() -= 1;
        ONE_LESS.notify_one();
    }
}

/// Runs `story` under load on `daemon`. Returns the requests and the result of the story.
pub fn under_load<T>(daemon: &Daemon, story: impl FnOnce(&ReadProgress) -> T) -> (Seen, T) {
    let _measuring = Measuring::begin();
    let reference = Daemon::start(RULES);
    let progress = ReadProgress::default();
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

/// The progress of a load.
#[derive(Default)]
pub struct ReadProgress {
    answered: AtomicUsize,
    over: AtomicBool,
}

impl ReadProgress {
    /// Waits until a number of further requests were answered.
    pub fn wait_for(&self, requests: usize) {
        let before = self.answered.load(Ordering::Relaxed);
        super::until(format_args!("{requests} more answers"), || {
            (self.answered.load(Ordering::Relaxed) >= before + requests).then_some(())
        });
    }
}

struct End<'p>(&'p ReadProgress);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::Relaxed);
    }
}

fn ask(connection: u32, endpoint: &str, reference: &str, progress: &ReadProgress) -> Vec<Asked> {
    let (mut policy, mut reference) = (Policy::connect(endpoint), Policy::connect(reference));
    let mut asked = Vec::new();
    for number in 0_u32.. {
        if progress.over.load(Ordering::Relaxed) {
            break;
        }
        // A few clients that connect again and again, and many that connect fourteen times in a row.
        let (net, host) = if number % 8 == 0 { (200, number / 8 % 8) } else { (number / 16 / 250, number / 16 % 250) };
        let (client, port) = (format!("10.{connection}.{net}.{host}"), 1 + (number % 60_000) as u16);
        let at = Instant::now();
        let time = |policy: &mut Policy| {
            let start = Instant::now();
            let passed = policy.connected(&client, port) == "DUNNO";
            (passed, start.elapsed())
        };
        // The first request of the two may be slower, so the daemons take turns.
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
    /// The number of requests between two moments.
    pub fn between(&self, from: Instant, to: Instant) -> usize {
        self.0.iter().filter(|asked| (from..to).contains(&asked.at)).count()
    }

    /// The number of requests. Each was answered, or the load would have failed.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The time of the slowest answer.
    pub fn longest(&self) -> Duration {
        self.0.iter().map(|asked| asked.took).max().unwrap_or_default()
    }

    /// The 99th percentile of the time of answers between two moments, of the daemon and of the reference.
    pub fn p99(&self, from: Instant, to: Instant) -> (Duration, Duration) {
        let within: Vec<_> = self.0.iter().filter(|asked| (from..to).contains(&asked.at)).collect();
        let of = |time: fn(&Asked) -> Duration| {
            let mut times: Vec<_> = within.iter().map(|asked| time(asked)).collect();
            times.sort_unstable();
            times.get(times.len() * 99 / 100).copied().unwrap_or_default()
        };
        (of(|asked| asked.took), of(|asked| asked.reference))
    }

    /// The number of requests between two moments, and of those how many answers took this long or longer, of the daemon
    /// and of the reference.
    pub fn slow(&self, time: Duration, from: Instant, to: Instant) -> [usize; 3] {
        let within: Vec<_> = self.0.iter().filter(|asked| (from..to).contains(&asked.at)).collect();
        let slow = |took: fn(&Asked) -> Duration| within.iter().filter(|asked| took(asked) >= time).count();
        [within.len(), slow(|asked| asked.took), slow(|asked| asked.reference)]
    }

    /// The number of sessions that were refused but should have passed.
    pub fn refused_wrongly(&self) -> usize {
        self.0.iter().filter(|asked| !asked.passed && asked.should).count()
    }

    /// The number of sessions that passed but should have been refused.
    pub fn passed_wrongly(&self) -> usize {
        self.0.iter().filter(|asked| asked.passed && !asked.should).count()
    }
}

/// A line of the table of faults.
pub struct Row<'r> {
    pub fault: &'r str,
    pub seen: &'r Seen,
    /// The 99th percentile while the breaker was open, of the daemon and of the reference.
    pub p99: Option<(Duration, Duration)>,
    /// From the end of the fault until the store counted again.
    pub recovery: Option<Duration>,
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
    /// Prints it, the first time below the names of the columns.
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
