//! Exit codes, those of sysexits(3) where it has one.

/// What was looked at is not as it should be.
pub const UNHEALTHY: u8 = 1;
/// The command line is wrong.
pub const USAGE: u8 = 64;
/// A file is damaged, or nothing in it is understood.
pub const DATA: u8 = 65;
/// A file that was named cannot be read.
pub const NO_INPUT: u8 = 66;
/// A place to listen at, or a running daemon, cannot be had.
pub const UNAVAILABLE: u8 = 69;
/// A file that was named cannot be written.
pub const CANNOT_CREATE: u8 = 73;
/// Standard output cannot be written.
pub const IO_ERROR: u8 = 74;
/// Another try may succeed.
pub const TEMPORARY: u8 = 75;
/// The configuration is wrong.
pub const CONFIG: u8 = 78;
