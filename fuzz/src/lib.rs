//! What the fuzz targets do with their input.
//!
//! Each module's `run` takes any bytes, and panics when the program breaks a
//! promise. `fuzz_targets` hands it what libFuzzer makes up, and the ordinary
//! test `fuzz_corpus` what is in `corpus`: both compile these very files.

pub mod configuration;
pub mod cuts;
pub mod lists;
pub mod log;
pub mod memcached;
pub mod original;
pub mod records;
pub mod request;
pub mod toml;
