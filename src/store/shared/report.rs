//! Log lines about the servers of a shared store.

use crate::observe::log::{Log, LogEvent, Severity};
use crate::policy::OnStoreFailure;

/// The problem of a key that is not ours.
pub const NOT_A_NUMBER: &str = "a value that is no number is under one of our keys; set key_prefix";

/// A server went down; called once for each outage.
pub fn down(log: &Log, server: &str, cause: &str, on_store_failure: OnStoreFailure) {
    log.change(LogEvent::Store, Severity::Err, "STORE_DOWN", |line| {
        line.field("server", server).field("cause", cause).field("on_store_failure", on_store_failure.name());
    });
}

/// A server that is down is so for another reason than was said.
pub fn still_down(log: &Log, server: &str, cause: &str) {
    log.line(Severity::Warning, "STORE_STILL_DOWN", |line| {
        line.field("server", server).field("cause", cause);
    });
}

/// A server is up again, after `seconds` in which `decisions` were made without it.
pub fn up(log: &Log, server: &str, seconds: u64, decisions: u64) {
    log.change(LogEvent::Store, Severity::Notice, "STORE_UP", |line| {
        line.field("server", server).field("seconds", seconds).field("decisions", decisions);
    });
}

/// A server that was down has no keys any more, for others of its cluster have them.
pub fn replaced(log: &Log, server: &str, seconds: u64, decisions: u64) {
    log.change(LogEvent::Store, Severity::Notice, "STORE_REPLACED", |line| {
        line.field("server", server).field("seconds", seconds).field("decisions", decisions);
    });
}

/// A server answered something other than a count.
pub fn error(log: &Log, server: &str, problem: &str, key: &[u8]) {
    log.line(Severity::Warning, "STORE_ERROR", |line| {
        line.field("server", server).field("problem", problem).bytes("key", key);
    });
}

/// A server has lost all its counts. `uptime` is in seconds.
pub fn flushed(log: &Log, server: &str, cause: &str, uptime: u64) {
    log.line(Severity::Warning, "STORE_FLUSHED", |line| {
        line.field("server", server).field("cause", cause).field("uptime", uptime);
    });
}

/// A server evicts counts for want of memory.
pub fn evicts(log: &Log, server: &str, evictions: u64) {
    log.line(Severity::Warning, "STORE_EVICTS", |line| {
        line.field("server", server).field("evictions", evictions);
    });
}
