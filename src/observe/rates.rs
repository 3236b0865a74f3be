//! The counters of each second of the last minutes, for rates and their graph.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use crate::net::clock::Now;
use crate::observe::statistics::Statistics;

/// Seconds that are remembered.
const REMEMBERED: usize = 300;

/// Seconds over which rates are measured.
const MINUTE: usize = 60;

/// The numbers since the start, as they were each second.
#[derive(Debug, Default)]
pub struct RateSampler {
    moments: VecDeque<RateSample>,
}

#[derive(Clone, Copy, Debug)]
struct RateSample {
    monotonic: u64,
    queries: u64,
    refused: u64,
}

/// Rates for `status` and `top`.
#[derive(Clone, Debug, PartialEq)]
pub struct Rates {
    /// Requests a second, over the last minute.
    pub queries_per_second: f64,
    /// Refusals a second, over the last minute.
    pub refusals_per_second: f64,
    /// Refusals of each of the last seconds, from the oldest on.
    pub refusals: Vec<u64>,
}

impl RateSampler {
    /// Notes the numbers of a moment; once a second.
    pub fn note(&mut self, statistics: &Statistics, now: Now) {
        let read = |number: &std::sync::atomic::AtomicU64| number.load(Ordering::Relaxed);
        let (queries, refused) = (read(&statistics.queries), read(&statistics.refused));
        self.moments.push_back(RateSample { monotonic: now.monotonic, queries, refused });
        if self.moments.len() > REMEMBERED + 1 {
            self.moments.pop_front();
        }
    }

    pub fn lately(&self) -> Rates {
        let last = self.moments.len().checked_sub(1);
        let rate = |number: fn(&RateSample) -> u64| {
            let Some(last) = last else { return 0.0 };
            let (from, to) = (&self.moments[last.saturating_sub(MINUTE)], &self.moments[last]);
            let milliseconds = to.monotonic.saturating_sub(from.monotonic).max(1);
            (number(to) - number(from)) as f64 * 1000.0 / milliseconds as f64
        };
        let pairs = self.moments.iter().zip(self.moments.iter().skip(1));
        Rates {
            queries_per_second: rate(|moment| moment.queries),
            refusals_per_second: rate(|moment| moment.refused),
            refusals: pairs.map(|(before, after)| after.refused - before.refused).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::statistics::add;

    #[test]
    fn rates_are_those_of_the_last_minute_and_memory_is_bounded() {
        let (mut history, statistics) = (RateSampler::default(), Statistics::default());
        assert_eq!(history.lately().queries_per_second, 0.0);
        for second in 0..1000 {
            history.note(&statistics, Now::simulated(second * 1000));
            add(&statistics.queries, if second < 950 { 100 } else { 10 });
            add(&statistics.refused, u64::from(second == 998));
        }
        let lately = history.lately();
        assert!((lately.queries_per_second - (11.0 * 100.0 + 49.0 * 10.0) / 60.0).abs() < 0.01, "{lately:?}");
        assert_eq!(lately.refusals.len(), REMEMBERED);
        assert_eq!(lately.refusals.last(), Some(&1));
    }
}
