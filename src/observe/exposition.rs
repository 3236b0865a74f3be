//! Prometheus' text format: families of samples.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

/// What every name begins with.
const PREFIX: &str = "connshaper_";

/// A page in the making.
#[derive(Debug, Default)]
pub struct Text(String);

impl Text {
    /// Begins a family; its samples follow.
    pub fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.0 += &format!("# HELP {PREFIX}{name} {help}\n# TYPE {PREFIX}{name} {kind}\n");
    }

    /// One sample.
    pub fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        let pair = |(name, value): &(&str, &str)| format!("{name}=\"{}\"", escape(value));
        let labels: Vec<String> = labels.iter().map(pair).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        writeln!(self.0, "{PREFIX}{name}{labels} {value}").expect("a string grows as needed");
    }

    /// A family of one number that only grows.
    pub fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.family(name, "counter", help);
        self.sample(name, &[], value as f64);
    }

    /// Families of one number each, with their names and what they say.
    pub fn counters(&mut self, counters: &[(&str, &str, &AtomicU64)]) {
        for (name, help, number) in counters {
            self.counter(name, help, number.load(Ordering::Relaxed));
        }
    }

    /// A family of one number that comes and goes.
    pub fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.family(name, "gauge", help);
        self.sample(name, &[], value);
    }

    /// The page.
    pub fn finish(self) -> String {
        self.0
    }
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_has_its_help_and_type_before_its_samples() {
        let mut text = Text::default();
        text.counter("requests_total", "Requests.", 7);
        text.family("store_up", "gauge", "Up.");
        text.sample("store_up", &[("server", "unix:/a\"b\\c")], 0.5);
        assert_eq!(
            text.finish(),
            "# HELP connshaper_requests_total Requests.\n# TYPE connshaper_requests_total counter\n\
             connshaper_requests_total 7\n# HELP connshaper_store_up Up.\n# TYPE connshaper_store_up gauge\n\
             connshaper_store_up{server=\"unix:/a\\\"b\\\\c\"} 0.5\n"
        );
    }
}
