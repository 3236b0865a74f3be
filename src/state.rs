//! What outlives a process: counts that are kept over a restart.
//!
//! `section` is the form of it, sections of bytes with a checksum each;
//! `counts` puts the table and the names of its limits into sections and makes
//! a table of them again; `file` keeps all of that in `state_file`.

pub mod counts;
pub mod fields;
pub mod file;
pub mod memory;
pub mod section;
