//! What the program says of itself: log, statistics, and the text that metrics are exposed in.

pub mod exposition;
pub mod log;
pub mod rates;
pub mod statistics;
pub mod terminal;
