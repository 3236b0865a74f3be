//! The same lines in two logs, as in mail.log and mail.info, or in a log and its compressed copy.
//!
//! Logs that cover the same time are read side by side, so the same lines come
//! within the same second. A line that one log has twice in a second happened
//! twice; one that two logs have once each happened once. The process, the client
//! and the queue id are part of it, so two hosts do not meet.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashMap};

use super::event::Event;

/// Lines remembered of one second, in all logs. Beyond it the second begins anew.
const MAX_EVENTS: usize = 65_536;

/// What came within the last second.
#[derive(Default)]
pub struct Repeats {
    second: i64,
    /// How often an event came in a log.
    in_log: HashMap<(u64, usize), u32>,
    /// How often it happened.
    happened: HashMap<u64, u32>,
    hasher: DefaultHashBuilder,
}

impl Repeats {
    /// Whether an event of this time was told by another log already.
    pub fn is_repeated(&mut self, time: i64, event: &Event, log: usize) -> bool {
        if self.second != time.div_euclid(1000) || self.in_log.len() >= MAX_EVENTS {
            self.second = time.div_euclid(1000);
            self.in_log.clear();
            self.happened.clear();
        }
        let hash = self.hasher.hash_one(event);
        let in_log = self.in_log.entry((hash, log)).or_insert(0);
        *in_log += 1;
        let happened = self.happened.entry(hash).or_insert(0);
        let is_repeated = *in_log <= *happened;
        *happened = (*happened).max(*in_log);
        is_repeated
    }
}
