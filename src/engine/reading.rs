//! What the store holds for something that has counters, without counting.

use crate::engine::target::Counted;
use crate::net::clock::Now;
use crate::policy::limit::Window;
use crate::policy::{CounterKind, Operation, window};
use crate::store::Store;

/// All counters of one key, read at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reading {
    /// Hits in the window.
    pub count: u32,
    /// Seconds until it ends; 0: nothing is counted.
    pub left: u32,
    /// Violations that are remembered.
    pub violations: u32,
    /// Bans that are remembered.
    pub bans: u32,
    /// Seconds a ban has left; 0: there is none.
    pub banned: u32,
}

impl Reading {
    /// Asks the store; `None`: it is away and nothing is known here.
    pub async fn of(store: &Store, counted: &Counted<'_>, now: Now) -> Option<Self> {
        let (limit, threshold) = (counted.limit, counted.threshold);
        let purposes = counted.purposes(now);
        // All at once, for a borrowing iterator cannot be held over the wait.
        let mut operations = Vec::with_capacity(purposes.len());
        for purpose in &purposes {
            operations.push(Operation { key: counted.key(*purpose), amount: 0, exptime: limit.exptime, threshold });
        }
        let hits = store.count(operations, now).await;
        let mut reading = Self::default();
        let mut slots = Vec::new();
        for (purpose, hit) in purposes.iter().zip(hits) {
            let hit = hit?;
            match purpose {
                CounterKind::Window | CounterKind::Slot(_) => {
                    reading.count = reading.count.saturating_add(hit.count);
                    reading.left = hit.left;
                    slots.push(hit.count);
                }
                CounterKind::Violations => reading.violations = hit.count,
                CounterKind::Bans => reading.bans = hit.count,
                CounterKind::Ban => reading.banned = if hit.count > 0 { hit.left.max(1) } else { 0 },
            }
        }
        if limit.window == Window::Sliding {
            reading.left = window::left(&slots, 1, limit.exptime, now.unix_ms);
        }
        Some(reading)
    }
}
