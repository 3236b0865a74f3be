//! Log, statistics, rates, Prometheus' text format, and what doctor finds.
//!
//! A new counter is a line in `statistics`: so it is in the STATISTICS line, in `status` and in the metrics, whose page
//! `http::metrics` writes. A log line is written where its event happens, with `Log::line`, `Log::event` or, if a
//! stranger can cause it, `Log::limited`.

pub mod exposition;
pub mod finding;
pub mod log;
pub mod rates;
pub mod statistics;
pub mod terminal;
