//! What a recommendation rests on, and how it does on parts of the log that it was not made from.
//!
//! The log is parted by time. For each part, the number is made again from all
//! the others and tried on that part: would it have refused a client that
//! delivers mail?

use std::collections::HashSet;

use super::clients::{Client, ClientTable};
use super::findings::ListedClient;
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
    /// The number on each part, made from the others. Empty: the log has no two parts with senders.
    pub parts: Vec<PartTest>,
    /// Senders that were refused in a part, by the number that they need, the highest first.
    pub missed: Vec<Missed>,
    /// How many were.
    pub all_missed: u64,
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
    pub client: ListedClient,
    /// The number that the other parts gave.
    pub threshold: u32,
}

/// Why a number is not to be enforced yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// The log covers too few days.
    Days,
    /// Too few clients delivered mail.
    Senders,
    /// The test on parts refused senders: too many, or one by far.
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

impl Basis {
    /// For windows of one length. `span` is the first and the last time.
    pub fn new(tables: [&ClientTable; 2], length: usize, parts: &Parts, span: (i64, i64)) -> Self {
        let senders = || {
            let clients = tables.into_iter().flat_map(move |table| table.peaks(length));
            clients.map(|(client, _)| client).filter(|client| client.delivered > 0)
        };
        let peaks = |client: &Client| client.parts.as_ref().map_or([1; MAX_PARTS], |parts| parts.peaks(length));
        let mut tests = Vec::new();
        let mut missed: Vec<(&Client, u32, u32)> = Vec::new();
        for part in 0..MAX_PARTS {
            let others = senders().filter(|client| client.delivered_parts & !(1 << part) != 0);
            let highest = |client: &Client| {
                let peaks = peaks(client);
                let others = (0..MAX_PARTS).filter(|other| *other != part).map(|other| peaks[other]);
                others.max().unwrap_or(0).max(1)
            };
            let Some(threshold) = others.map(highest).max() else {
                continue;
            };
            let active = senders().filter(|client| client.delivered_parts & 1 << part != 0).count() as u64;
            if active == 0 {
                continue;
            }
            let before = missed.len();
            let over = senders().map(|client| (client, peaks(client)[part], threshold));
            missed.extend(over.filter(|(_, peak, threshold)| peak > threshold));
            let refused = (missed.len() - before) as u64;
            tests.push(PartTest { begin: parts.begin(part), threshold, senders: active, refused });
        }
        missed.sort_by_key(|(client, peak, _)| (std::cmp::Reverse(*peak), client.address));
        // A client that was refused in two parts is one client.
        let mut seen = HashSet::new();
        missed.retain(|(client, ..)| seen.insert((client.address, client.prefix_length)));
        let is_far = missed.iter().any(|(_, peak, threshold)| *peak > threshold + threshold / 4);
        let (covered, senders) = (span.1 - span.0, senders().count() as u64);
        let all_missed = missed.len() as u64;
        let is_refused = is_far || all_missed > (senders / 100).max(1);
        let mut doubts = doubts(covered, senders);
        doubts.extend(is_refused.then_some(Doubt::Refused));
        doubts.extend(tests.is_empty().then_some(Doubt::Untested));
        let missed = missed
            .into_iter()
            .take(NAMES)
            .map(|(client, peak, threshold)| Missed { client: ListedClient::new(client, peak), threshold });
        Self { covered, senders, parts: tests, missed: missed.collect(), all_missed, doubts }
    }

    /// The lowest and the highest of the numbers that the others gave.
    pub fn thresholds(&self) -> Option<(u32, u32)> {
        let thresholds = || self.parts.iter().map(|part| part.threshold);
        Some((thresholds().min()?, thresholds().max()?))
    }
}
