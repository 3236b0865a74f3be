//! What a recommendation rests on, and how it does on parts of the log that it was not made from.
//!
//! The log is parted by time. For each part, the number is made again from all
//! the others and tried on that part: would it have refused a client that
//! delivers mail?

use std::cmp::Reverse;
use std::collections::HashSet;

use serde::Serialize;

use super::clients::{ClientStats, ClientTable};
use super::findings::ReportedClient;
use super::parts::{MAX_PARTS, Parts};

/// Days that a log has to cover: a week has every day of the week.
pub const ENOUGH_DAYS: i64 = 7;

/// Clients that have to deliver mail in it.
pub const ENOUGH_SENDERS: u64 = 10;

/// The longest time for which `log_only` is proposed.
const LONGEST_TRIAL: i64 = 28;

const DAY: i64 = 86_400_000;

/// Missed senders that are named.
const NAMES: usize = 10;

/// What a recommendation rests on.
#[derive(Clone, Debug)]
pub struct Basis {
    /// Milliseconds between the first and the last session.
    pub covered: i64,
    /// Clients that delivered mail.
    pub senders: u64,
    /// The number on each part, made from the others.
    pub tests: PartTests,
    /// The first of the senders that were refused in a part.
    pub missed: Vec<Missed>,
    /// Why the number is not to be enforced yet.
    pub doubts: Vec<Doubt>,
}

/// The number that the other parts give, on one part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartTest {
    /// When the part begins, in milliseconds since the epoch.
    pub begin: i64,
    pub threshold: u32,
    /// Clients that delivered mail in this part.
    pub senders: u64,
    /// Clients that deliver mail and would have been refused in this part.
    pub refused: u64,
}

/// A sender that a number made without its part of the log would have refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missed {
    pub client: ReportedClient,
    /// The number that the other parts gave.
    pub threshold: u32,
}

/// Why a number is not to be enforced yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Doubt {
    /// The log covers too few days.
    Days,
    /// Too few clients delivered mail.
    Senders,
    /// The test on parts refused senders: too many, or one by far.
    #[serde(rename = "refused_senders")]
    Refused,
    /// There was nothing to test on.
    Untested,
}

/// For how many days a limit should only log before `advise` is run again; `None`: it may be enforced.
/// The log covers so many milliseconds.
pub fn trial_days(covered: i64, doubts: &[Doubt]) -> Option<i64> {
    let covered = covered.div_euclid(DAY) + 1;
    let days = doubts.iter().map(|doubt| match doubt {
        Doubt::Days => ENOUGH_DAYS - covered + 1,
        // As long again: then the log is twice as long.
        Doubt::Senders | Doubt::Refused | Doubt::Untested => covered.max(ENOUGH_DAYS),
    });
    days.max().map(|days| days.clamp(1, LONGEST_TRIAL))
}

/// The doubts about a log that covers so many milliseconds, with so many that send mail.
pub fn doubts(covered: i64, senders: u64) -> Vec<Doubt> {
    let doubts = [(covered < ENOUGH_DAYS * DAY, Doubt::Days), (senders < ENOUGH_SENDERS, Doubt::Senders)];
    doubts.into_iter().filter(|(is_so, _)| *is_so).map(|(_, doubt)| doubt).collect()
}

/// Something that a number must not refuse.
#[derive(Clone, Copy, Debug)]
pub struct Tested {
    /// Its highest numbers by part of the log.
    pub peaks: [u32; MAX_PARTS],
    /// The parts in which it is known to be real, a bit for each.
    pub parts: u8,
}

/// Numbers made from all parts of the log but one, each on that part.
#[derive(Clone, Debug)]
pub struct PartTests {
    pub parts: Vec<PartTest>,
    /// Which of the tested were refused in a part, their number in it, and the threshold; the highest first.
    pub missed: Vec<(usize, u32, u32)>,
    is_refused: bool,
}

impl PartTests {
    pub fn new(tested: &[Tested], log: &Parts) -> Self {
        let (mut parts, mut missed): (Vec<PartTest>, Vec<(usize, u32, u32)>) = (Vec::new(), Vec::new());
        for part in 0..MAX_PARTS {
            let active = tested.iter().filter(|it| it.parts & 1 << part != 0).count() as u64;
            let others = tested.iter().filter(|it| it.parts & !(1 << part) != 0);
            let highest = |it: &Tested| {
                let others = (0..MAX_PARTS).filter(|other| *other != part).map(|other| it.peaks[other]);
                others.max().unwrap_or(0).max(1)
            };
            let Some(threshold) = others.map(highest).max().filter(|_| active > 0) else {
                continue;
            };
            let before = missed.len();
            let over = tested.iter().enumerate().map(|(at, it)| (at, it.peaks[part], threshold));
            missed.extend(over.filter(|(_, peak, threshold)| peak > threshold));
            let refused = (missed.len() - before) as u64;
            parts.push(PartTest { begin: log.begin(part), threshold, senders: active, refused });
        }
        // What was refused in two parts is one.
        missed.sort_by_key(|(at, peak, _)| (Reverse(*peak), *at));
        let mut seen = HashSet::new();
        missed.retain(|(at, ..)| seen.insert(*at));
        let is_far = missed.iter().any(|(_, peak, threshold)| *peak > threshold + threshold / 4);
        let is_refused = is_far || missed.len() > (tested.len() / 100).max(1);
        Self { parts, missed, is_refused }
    }

    /// What the test says against the number.
    pub fn doubt(&self) -> Option<Doubt> {
        match () {
            () if self.parts.is_empty() => Some(Doubt::Untested),
            () if self.is_refused => Some(Doubt::Refused),
            () => None,
        }
    }

    /// The lowest and the highest of the numbers that the others gave.
    pub fn thresholds(&self) -> Option<(u32, u32)> {
        let thresholds = || self.parts.iter().map(|part| part.threshold);
        Some((thresholds().min()?, thresholds().max()?))
    }
}

impl Basis {
    /// For windows of one length. `span` is the first and the last time.
    pub fn new(tables: [&ClientTable; 2], length: usize, parts: &Parts, span: (i64, i64)) -> Self {
        let clients = tables.into_iter().flat_map(|table| table.peaks(length)).map(|(client, _)| client);
        let senders: Vec<&ClientStats> = clients.filter(|client| client.delivered > 0).collect();
        let peaks = |client: &ClientStats| client.parts.as_ref().map_or([1; MAX_PARTS], |parts| parts.peaks(length));
        let tested: Vec<Tested> =
            senders.iter().map(|client| Tested { peaks: peaks(client), parts: client.delivered_parts }).collect();
        let tests = PartTests::new(&tested, parts);
        let covered = span.1 - span.0;
        let mut doubts = doubts(covered, senders.len() as u64);
        doubts.extend(tests.doubt());
        let missed = tests.missed.iter().take(NAMES).map(|(at, peak, threshold)| Missed {
            client: ReportedClient::new(senders[*at], *peak),
            threshold: *threshold,
        });
        Self { covered, senders: senders.len() as u64, missed: missed.collect(), tests, doubts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A test of senders that deliver in every part in which they have a number.
    fn test(senders: &[[u32; 3]]) -> PartTests {
        let tested = senders.iter().map(|numbers| {
            let mut peaks = [0; MAX_PARTS];
            peaks[..3].copy_from_slice(numbers);
            let parts = (0..3).map(|part| u8::from(numbers[part] > 0) << part).sum();
            Tested { peaks, parts }
        });
        PartTests::new(&tested.collect::<Vec<_>>(), &Parts::default())
    }

    #[test]
    fn a_number_holds_that_every_part_but_one_gives_nearly_alike() {
        let tests = test(&[[24, 20, 25], [3, 3, 3], [1, 0, 2]]);
        assert_eq!(tests.parts.iter().map(|part| part.threshold).collect::<Vec<_>>(), [25, 25, 24]);
        assert_eq!(tests.parts.iter().map(|part| part.senders).collect::<Vec<_>>(), [3, 2, 3]);
        assert_eq!((&tests.missed[..], tests.doubt()), (&[(0, 25, 24)][..], None));
        assert_eq!(tests.thresholds(), Some((24, 25)));
    }

    #[test]
    fn a_sender_that_needs_far_more_than_the_others_gave_is_a_doubt() {
        let tests = test(&[[1, 1, 2], [1, 1, 1]]);
        assert_eq!((&tests.missed[..], tests.doubt()), (&[(0, 2, 1)][..], Some(Doubt::Refused)));
        // Two near ones are too many of a few.
        let tests = test(&[[24, 24, 25], [24, 24, 25]]);
        assert_eq!((tests.missed.len(), tests.doubt()), (2, Some(Doubt::Refused)));
    }

    #[test]
    fn one_part_alone_is_no_test() {
        let tests = test(&[[0, 7, 0], [0, 3, 0]]);
        assert_eq!((tests.parts.len(), tests.doubt()), (0, Some(Doubt::Untested)));
    }

    #[test]
    fn a_trial_lasts_until_a_week_is_covered_or_the_log_is_twice_as_long() {
        assert_eq!(trial_days(5 * DAY / 2, &[Doubt::Days]), Some(5));
        assert_eq!(trial_days(20 * DAY, &[Doubt::Refused]), Some(21));
        assert_eq!(trial_days(400 * DAY, &[Doubt::Refused]), Some(LONGEST_TRIAL));
        assert_eq!(trial_days(20 * DAY, &[]), None);
        assert_eq!(doubts(6 * DAY, 9), [Doubt::Days, Doubt::Senders]);
    }
}
