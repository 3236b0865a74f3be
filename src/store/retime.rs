//! Windows that were open when a reload changed `exptime` get their new length, once each, before their key is counted
//! again.
//!
//! A key of its own marks a window that has its new length, so that of several hosts one changes it. The marks go when
//! the last window of the old length would have ended.

use super::Store;
use crate::net::clock::Now;
use crate::policy::key::KeyPart;
use crate::policy::limit::{ExptimeChange, Window};
use crate::policy::{CounterKind, Key, Limit, sliding_window};

impl Store {
    /// Gives the window of a key its new length, unless it has it already. Does not wait where counts are in this process.
    pub async fn retime(&self, limit: &Limit, part: &KeyPart, change: ExptimeChange, now: Now) {
        let of = |kind| self.counter(&Key { limit, part, kind });
        let mark = of(CounterKind::Retimed);
        if self.is_known(&mark, now) {
            return;
        }
        let lasts = change.before.max(limit.exptime);
        if !self.add(&mark, lasts, now).await {
            return self.know(&mark, 1, u64::from(lasts) * 1000, now);
        }
        match limit.window {
            Window::Fixed => {
                let counter = of(CounterKind::FixedWindow);
                if let Some((count, left)) = self.read_counter(&counter, now).await {
                    // It began before the reload, so it was to last as long as then.
                    let left = (left + u64::from(limit.exptime) * 1000).saturating_sub(u64::from(change.before) * 1000);
                    self.set_left(&counter, count, left, now);
                }
            }
            Window::Sliding => {
                let lifetime = sliding_window::lifetime(limit.exptime);
                let slots = sliding_window::slots(limit.exptime, now.unix_ms);
                for old in sliding_window::slots(change.before, now.unix_ms) {
                    // All its hits are taken for its latest ones.
                    let latest = sliding_window::end(change.before, old).min(now.unix_ms);
                    let slot = sliding_window::slot(limit.exptime, latest);
                    if let Some((count @ 1.., _)) = self.read_counter(&of(CounterKind::Slot(old)), now).await
                        && slots.contains(&slot)
                    {
                        self.add_hits(&of(CounterKind::Slot(slot)), count, lifetime, now);
                    }
                }
            }
            // Each command has the length of an exact window; that of a calendar window does not follow `exptime`.
            _ => {}
        }
    }
}
