//! Reads all counters of one key, without counting.

use crate::engine::target::TargetCounter;
use crate::net::clock::Now;
use crate::policy::limit::Window;
use crate::policy::{CounterKind, CounterValue, Operation, sliding_window};
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
    /// Asks the store; `None`: it is down and this process knows nothing.
    pub async fn of(store: &Store, counted: &TargetCounter<'_>, now: Now) -> Option<Self> {
        let limit = counted.limit;
        let mut reading = Self::default();
        let mut slots = Vec::new();
        for (kind, counter) in counters(store, counted, now).await? {
            match kind {
                CounterKind::Calendar(window) => {
                    reading.count = counter.count;
                    reading.left = if counter.count > 0 { window.left(now) } else { 0 };
                }
                CounterKind::FixedWindow | CounterKind::ExactWindow | CounterKind::Slot(_) => {
                    reading.count = reading.count.saturating_add(counter.count);
                    reading.left = counter.left;
                    slots.push(counter.count);
                }
                CounterKind::Violations => reading.violations = counter.count,
                CounterKind::BanCount => reading.bans = counter.count,
                // Nobody reads these.
                CounterKind::Member(_) | CounterKind::Retimed => {}
                CounterKind::ActiveBan => reading.banned = if counter.count > 0 { counter.left.max(1) } else { 0 },
            }
        }
        if limit.window == Window::Sliding {
            reading.left = sliding_window::left(&slots, 1, limit.exptime, now.unix_ms);
        }
        Some(reading)
    }
}

/// The hits in the window by counter: of a sliding window the slots, the newest first.
pub async fn window_counters(store: &Store, counted: &TargetCounter<'_>, now: Now) -> Option<Vec<(CounterKind, u32)>> {
    let counters = counters(store, counted, now).await?;
    let of_window =
        |kind: &CounterKind| kind.is_whole_window() || matches!(kind, CounterKind::ExactWindow | CounterKind::Slot(_));
    Some(
        counters.into_iter().filter(|(kind, _)| of_window(kind)).map(|(kind, counter)| (kind, counter.count)).collect(),
    )
}

/// Every counter of a key, without counting.
async fn counters(store: &Store, counted: &TargetCounter<'_>, now: Now) -> Option<Vec<(CounterKind, CounterValue)>> {
    let exptime = counted.limit.exptime;
    // An exact window returns how long until a hit is allowed: with a threshold of 1 that is until it is empty.
    let threshold = |kind| if kind == CounterKind::ExactWindow { 1 } else { counted.threshold };
    let kinds = counted.kinds(now);
    // Collected, for a borrowing iterator cannot be held over the wait.
    let read = |kind| Operation { key: counted.key(kind), amount: 0, exptime, threshold: threshold(kind) };
    let reads: Vec<_> = kinds.iter().copied().map(read).collect();
    let answers = store.count(reads, now).await;
    kinds.into_iter().zip(answers).map(|(kind, answer)| Some((kind, answer?))).collect()
}
