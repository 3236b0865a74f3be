//! From the files of a log to events in the order of their times.

pub mod blocks;
pub mod calendar;
pub mod clocks;
pub mod decompress;
pub mod event;
pub mod find;
pub mod json;
pub mod line;
pub mod merge;
pub mod records;
pub mod repeats;
pub mod servers;
pub mod services;
pub mod source;
pub mod stamp;
