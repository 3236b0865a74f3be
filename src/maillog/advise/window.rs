//! One fixed window of one key, counted as the daemon counts it.
//!
//! The first hit begins a window, it ends `exptime` later whatever happens in
//! between, and the next hit begins a new one. A stamp of whole seconds stands
//! for all of that second. So a hit whose stamp is exactly the end of the window
//! may belong to it or begin the next one: both courses are followed until the
//! older one has ended.

/// Counts stop here: no greater threshold is evaluated.
pub const HIGHEST: u32 = 65_535;

/// When something happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Milliseconds since the Unix epoch.
    pub time: i64,
    /// Milliseconds by which it may have been later.
    pub slack: u16,
}

impl Moment {
    /// The moment of a stamp with or without a fraction of a second.
    pub fn new(time: i64, has_fraction: bool) -> Self {
        Self { time, slack: if has_fraction { 0 } else { 999 } }
    }
}

/// The number of a hit in its window, which a threshold is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Number {
    /// As the stamps say.
    pub stamped: u32,
    /// The highest it may have been.
    pub worst: u32,
}

/// A window, in 16 bytes: a million clients have several each.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogWindow {
    /// When it began, in milliseconds since the Unix epoch: the low 32 of 48 bits.
    start: u32,
    start_high: u16,
    /// Hits in it; 0: no window has begun yet.
    count: u16,
    /// Hits in the window that has begun if this one is over; 0: there is none.
    next_count: u16,
    /// How long after the end of this window that one began.
    next_delay: u16,
    /// The highest number in any window so far.
    peak: u16,
}

impl LogWindow {
    /// Counts `amount` hits in windows of `length` milliseconds.
    pub fn count(&mut self, moment: Moment, length: u64, amount: u32) -> Number {
        let now = moment.time.max(0) as u64;
        let add = |count: u16| u16::try_from(u32::from(count).saturating_add(amount)).unwrap_or(u16::MAX);
        let mut end = self.start() + length;
        let slack = u64::from(moment.slack);
        if self.count > 0 && self.next_count > 0 && now >= end + slack {
            self.begin(end + u64::from(self.next_delay), self.next_count);
            end = self.start() + length;
        }
        if self.count == 0 || now >= end + slack {
            self.begin(now, add(0));
        } else {
            self.count = add(self.count);
            if self.next_count > 0 || now >= end {
                if self.next_count == 0 {
                    self.next_delay = (now - end) as u16;
                }
                self.next_count = add(self.next_count);
            }
        }
        let stamped = if self.next_count > 0 { self.next_count } else { self.count };
        let worst = self.count.max(self.next_count);
        self.peak = self.peak.max(worst);
        Number { stamped: stamped.into(), worst: worst.into() }
    }

    /// The highest number of a hit so far.
    pub fn peak(&self) -> u32 {
        self.peak.into()
    }

    /// Whether a window of this length still runs.
    pub fn is_running(&self, now: i64, length: u64) -> bool {
        self.count > 0 && (now.max(0) as u64) < self.start() + length
    }

    fn begin(&mut self, start: u64, count: u16) {
        (self.start, self.start_high) = (start as u32, (start >> 32) as u16);
        (self.count, self.next_count) = (count, 0);
    }

    fn start(&self) -> u64 {
        u64::from(self.start_high) << 32 | u64::from(self.start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: i64 = 1_793_523_600_000;

    /// The numbers of hits at these milliseconds, in windows of a minute.
    fn numbers(has_fraction: bool, hits: &[i64]) -> Vec<(u32, u32)> {
        let mut window = LogWindow::default();
        let count = |hit: &i64| window.count(Moment::new(START + hit, has_fraction), 60_000, 1);
        hits.iter().map(count).map(|number| (number.stamped, number.worst)).collect()
    }

    #[test]
    fn a_window_ends_at_its_millisecond() {
        assert_eq!(numbers(true, &[10, 60_009, 60_010, 60_090]), [(1, 1), (2, 2), (1, 1), (2, 2)]);
    }

    #[test]
    fn a_stamp_of_a_whole_second_at_the_end_of_a_window_may_belong_to_it() {
        assert_eq!(numbers(false, &[0, 60_000, 120_000, 180_000]), [(1, 1), (1, 2), (1, 2), (1, 2)]);
        assert_eq!(numbers(false, &[0, 61_000]), [(1, 1), (1, 1)]);
        // The second may have been the first of a window that the last still belongs to.
        let hits = [0, 60_000, 110_000, 115_000, 120_000];
        assert_eq!(numbers(false, &hits), [(1, 1), (1, 2), (2, 2), (3, 3), (1, 4)]);
    }

    #[test]
    fn a_hit_whose_stamp_is_before_the_window_is_counted_in_it() {
        assert_eq!(numbers(true, &[0, -5_000, 59_999, 60_000]), [(1, 1), (2, 2), (3, 3), (1, 1)]);
    }

    #[test]
    fn counts_stop_at_the_highest() {
        let mut window = LogWindow::default();
        let moment = Moment::new(START, true);
        window.count(moment, 60_000, 65_000);
        assert_eq!(window.count(moment, 60_000, u32::MAX).worst, HIGHEST);
        assert_eq!(size_of::<LogWindow>(), 16);
    }
}
