//! Counters of what was answered: in the STATISTICS line, in `status` and in the metrics.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::observe::log::{Log, Severity};

/// Declares each counter once: its name is the field here, the word in the STATISTICS line and in `status`, and, with
/// `connshaper_` before it and `_total` behind it, a metric, whose help is the comment.
macro_rules! counters {
    ($(#[doc = $help:literal] $name:ident),* $(,)?) => {
        /// Counts since the start.
        #[derive(Debug, Default)]
        pub struct Statistics {
            $(#[doc = $help] pub $name: AtomicU64,)*
            /// How long requests waited for the shared store.
            pub store_latency: Latency,
        }

        impl Statistics {
            /// Every counter, in the order of the STATISTICS line.
            pub fn counters(&self) -> [StatisticsCounter<'_>; [$(stringify!($name)),*].len()] {
                [$(StatisticsCounter {
                    name: stringify!($name),
                    metric: concat!(stringify!($name), "_total"),
                    help: $help.trim_ascii(),
                    number: &self.$name,
                }),*]
            }
        }
    };
}

counters! {
    /// Policy requests answered.
    queries,
    /// SMTP sessions recognised in them.
    sessions,
    /// SMTP sessions of clients on the whitelist.
    whitelisted,
    /// Refusals of what was counted: a session, a message or a recipient, once each.
    refused,
    /// SMTP sessions deferred because the store was down.
    deferred,
    /// Answers that were delayed.
    delayed,
    /// What limits that are only logged would have refused.
    would_refuse,
    /// Bans begun by this process.
    banned,
    /// Requests without a client address.
    unknown_client,
    /// Requests that the shared store did not count, or not in full.
    store_bypassed,
    /// Hits of keys over their limit that the shared store was not asked about.
    over_memory,
    /// Times that a server of the shared store went down.
    store_outages,
    /// Times that a server of the shared store lost all its counts.
    store_flushes,
    /// Keys that servers of the shared store gave up for want of memory.
    store_evictions,
    /// Counters that the shared store began anew although their window had not ended.
    windows_lost,
    /// Policy connections closed after a malformed request.
    bad_requests,
    /// Policy connections closed because there were max_connections.
    connections_rejected,
    /// Connections closed because allow_peers does not have the peer.
    refused_peers,
    /// Questions and reports of logins.
    login_requests,
    /// Questions of web servers.
    web_requests,
}

/// A number that only grows.
#[derive(Clone, Copy, Debug)]
pub struct StatisticsCounter<'s> {
    pub name: &'static str,
    pub metric: &'static str,
    pub help: &'static str,
    pub number: &'s AtomicU64,
}

impl StatisticsCounter<'_> {
    /// The number now.
    pub fn get(&self) -> u64 {
        self.number.load(Ordering::Relaxed)
    }
}

/// Adds to a number. Nothing is ordered by it, so the cheapest way will do.
pub fn add(number: &AtomicU64, amount: u64) {
    number.fetch_add(amount, Ordering::Relaxed);
}

impl Statistics {
    /// Writes the STATISTICS line; `store` is how the store is, `more` are numbers kept elsewhere.
    pub fn report(&self, log: &Log, store: &str, more: &[(&'static str, u64)]) {
        log.line(Severity::Info, "STATISTICS", |line| {
            for counter in self.counters() {
                line.field(counter.name, counter.get());
            }
            for (name, number) in more {
                line.field(name, *number);
            }
            line.field("store", store);
            line.field("suppressed_lines", log.suppressed()).field("dropped_lines", log.dropped());
        });
    }
}

/// Upper bounds of the buckets, in microseconds: from a store on this machine to `store_timeout` at its longest.
pub const BOUNDS: [u64; 13] =
    [100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000, 5_000_000];

/// How long requests waited for the store: counts by bucket.
#[derive(Debug, Default)]
pub struct Latency {
    /// The last is for what took longer than every bound.
    buckets: [AtomicU64; BOUNDS.len() + 1],
    microseconds: AtomicU64,
}

/// What was counted, at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    /// Upper bounds in seconds, with all that took no longer; the last bound is infinite.
    pub cumulative: Vec<(f64, u64)>,
    /// All of it together, in seconds.
    pub sum: f64,
    /// How many there were.
    pub count: u64,
}

impl Latency {
    /// Counts one.
    pub fn observe(&self, time: Duration) {
        let microseconds = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS.partition_point(|bound| *bound < microseconds);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.microseconds.fetch_add(microseconds, Ordering::Relaxed);
    }

    /// What was counted so far.
    pub fn histogram(&self) -> Histogram {
        let bounds = BOUNDS.iter().map(|bound| *bound as f64 / 1e6).chain([f64::INFINITY]);
        let mut count = 0;
        let cumulative = bounds.zip(&self.buckets).map(|(bound, bucket)| {
            count += bucket.load(Ordering::Relaxed);
            (bound, count)
        });
        let cumulative = cumulative.collect();
        Histogram { cumulative, sum: self.microseconds.load(Ordering::Relaxed) as f64 / 1e6, count }
    }
}

impl Histogram {
    /// A time within which this share of all was done, from 0 to 1: the upper bound of its bucket, in seconds.
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let wanted = (self.count as f64 * share).ceil().max(1.0);
        self.cumulative.iter().find(|(_, count)| self.count > 0 && *count as f64 >= wanted).map(|(bound, _)| *bound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_time_is_counted_in_every_bucket_that_holds_it() {
        let latency = Latency::default();
        assert_eq!(latency.histogram().quantile(0.5), None);
        for microseconds in [50, 100, 101, 6_000_000] {
            latency.observe(Duration::from_micros(microseconds));
        }
        let histogram = latency.histogram();
        assert_eq!(histogram.cumulative[..2], [(0.0001, 2), (0.00025, 3)]);
        assert_eq!(histogram.cumulative.last(), Some(&(f64::INFINITY, 4)));
        assert!((histogram.sum - 6.000251).abs() < 1e-9, "{histogram:?}");
        assert_eq!((histogram.quantile(0.5), histogram.quantile(0.75)), (Some(0.0001), Some(0.00025)));
    }
}
