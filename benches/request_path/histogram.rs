//! Latencies, counted in classes that are at most 1.6 % wide.

use std::time::Duration;

/// Classes per power of two.
const FINE: usize = 64;

pub struct Histogram {
    classes: Vec<u32>,
    count: u64,
}

impl Histogram {
    pub fn new() -> Self {
        // Up to 2^36 ns, more than a minute.
        Self { classes: vec![0; FINE * 32], count: 0 }
    }

    pub fn record(&mut self, latency: Duration) {
        let last = self.classes.len() - 1;
        self.classes[class(latency.as_nanos() as u64).min(last)] += 1;
        self.count += 1;
    }

    /// The latency that `share` of all did not exceed.
    pub fn quantile(&self, share: f64) -> Duration {
        let rank = (self.count as f64 * share).ceil() as u64;
        let mut seen = 0;
        let class = self.classes.iter().position(|count| {
            seen += u64::from(*count);
            seen >= rank.max(1)
        });
        Duration::from_nanos(lower_end(class.unwrap_or(0) + 1) - 1)
    }
}

fn class(nanoseconds: u64) -> usize {
    let wide = nanoseconds.max(FINE as u64);
    let power = wide.ilog2() as usize - FINE.ilog2() as usize;
    power * FINE + (wide >> power) as usize - FINE
}

fn lower_end(class: usize) -> u64 {
    ((FINE + class % FINE) as u64) << (class / FINE)
}
