//! What we say, and how: one line per event, keyword first.

pub mod line;
pub mod repeat;
pub mod severity;

pub use severity::{Facility, Severity, UnknownName};
