//! What outlives a process: counts, and what administrators said, kept over a restart or handed to the next.
//!
//! `section` is the form of it, sections of bytes with a checksum each;
//! `counts` puts the table and the names of its limits into sections and makes
//! a table of them again; `file` keeps all of that in `state_file`.

pub mod counts;
pub mod fields;
pub mod file;
pub mod memory;
pub mod section;
pub mod words;
