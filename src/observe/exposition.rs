//! Prometheus' text format: families of samples. `http::metrics` writes the page with it.

use std::fmt::Write;

/// What every name begins with.
const PREFIX: &str = "connshaper_";

/// A page that is being written.
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

    /// A family of one number that comes and goes.
    pub fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.family(name, "gauge", help);
        self.sample(name, &[], value);
    }

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
        text.counter("queries_total", "Requests.", 7);
        text.family("store_up", "gauge", "Up.");
        text.sample("store_up", &[("server", "unix:/a\"b\\c")], 0.5);
        assert_eq!(
            text.finish(),
            "# HELP connshaper_queries_total Requests.\n# TYPE connshaper_queries_total counter\n\
             connshaper_queries_total 7\n# HELP connshaper_store_up Up.\n# TYPE connshaper_store_up gauge\n\
             connshaper_store_up{server=\"unix:/a\\\"b\\\\c\"} 0.5\n"
        );
    }
}
