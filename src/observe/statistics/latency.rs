//! How long requests waited for the store, as a histogram.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Upper bounds of the buckets, in microseconds: from a memcached on this machine to `store_timeout` at its longest.
pub const BOUNDS: [u64; 13] =
    [100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000, 5_000_000];

/// Counts by bucket.
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
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.microseconds.fetch_add(microseconds, Relaxed);
    }

    /// What was counted so far.
    pub fn histogram(&self) -> Histogram {
        let bounds = BOUNDS.iter().map(|bound| *bound as f64 / 1e6).chain([f64::INFINITY]);
        let mut count = 0;
        let cumulative = bounds.zip(&self.buckets).map(|(bound, bucket)| {
            count += bucket.load(Relaxed);
            (bound, count)
        });
        let cumulative = cumulative.collect();
        Histogram { cumulative, sum: self.microseconds.load(Relaxed) as f64 / 1e6, count }
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
