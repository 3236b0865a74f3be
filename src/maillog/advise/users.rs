//! What the logs say of limits on users: candidates per login, sender and sender domain, and accounts
//! that were probably stolen.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use jiff::civil::Date;
use serde::Serialize;

use super::accounts::{Account, AccountCount, AccountTable, Accounts, Per};
use super::basis::{Doubt, PartTests, Tested, doubts};
use super::findings::{MAX_NAMES, choose, log_only_until};
use super::parts::Parts;
use crate::maillog::text::shown;

/// Different addresses within one window from which on a login may be a stolen one.
const MANY_ADDRESSES: u32 = 5;

/// So many that it is one, however little it sent.
const VERY_MANY_ADDRESSES: u32 = 20;

/// How many times more than most others it has addresses, and recipients.
const TIMES_ADDRESSES: u32 = 3;
const TIMES_RECIPIENTS: u32 = 10;

/// Recipients within one window from which on a login sends much.
const MANY_RECIPIENTS: u32 = 30;

/// Milliseconds from which on parts of the log tell a habit.
const STEADY_PART: i64 = 12 * 3_600_000;

/// Everything that is reported of users.
#[derive(Clone, Debug)]
pub struct UserFindings {
    /// How many logins, senders and sender domains there were.
    pub accounts: [u64; 3],
    pub messages: u64,
    pub recipients: u64,
    /// Milliseconds between the first and the last message.
    pub covered: i64,
    /// Why numbers are not to be enforced yet, and until when a limit should only log.
    pub doubts: Vec<Doubt>,
    pub log_only_until: Option<Date>,
    /// For each that a limit may count by, and each that it may count.
    pub limits: Vec<UserLimit>,
    /// Logins that were probably stolen, those with the most addresses first.
    pub stolen: Vec<Stolen>,
}

/// A limit on users.
#[derive(Clone, Debug)]
pub struct UserLimit {
    pub per: Per,
    pub counted: AccountCount,
    /// One for each length of windows.
    pub lengths: Vec<UserLength>,
    /// In the order of lengths and thresholds.
    pub candidates: Vec<UserCandidate>,
    /// The candidate that is recommended, by its place. None: no account is known to be a real user's.
    pub advice: Option<usize>,
    /// Its threshold on each part of the log, made from the others.
    pub tests: Option<PartTests>,
}

#[derive(Clone, Debug)]
pub struct UserLength {
    /// In seconds.
    pub exptime: u32,
    /// The smallest threshold that stops no user whose account was not stolen.
    pub needed: Option<u32>,
    /// By the highest number, the highest first.
    pub users: Vec<ListedUser>,
    pub more_users: u64,
    /// Accounts by the highest number that they had in a window: real users', and stolen ones.
    pub peaks: BTreeMap<u32, (u64, u64)>,
    /// How many hits had each number.
    pub numbers: Vec<u64>,
}

/// An account as it is listed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ListedUser {
    #[serde(rename = "name")]
    pub key: String,
    pub messages: u64,
    pub recipients: u64,
    /// The highest number in a window.
    pub peak: u32,
    #[serde(rename = "probably_stolen")]
    pub is_stolen: bool,
}

/// What a threshold would have done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserCandidate {
    /// The place of the length.
    pub length: usize,
    pub threshold: u32,
    /// Hits that it would have refused.
    pub refused: u64,
    /// Accounts that it would have stopped.
    pub accounts: u64,
    /// Those of them that were not stolen.
    pub users: u64,
}

/// A login that was probably stolen, and why: the most within the longest window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stolen {
    pub login: String,
    /// Seconds of the window.
    pub exptime: u32,
    pub addresses: u32,
    pub recipients: u32,
    /// The median of the other logins.
    #[serde(rename = "median_addresses_of_others")]
    pub usual_addresses: u32,
    #[serde(rename = "median_recipients_of_others")]
    pub usual_recipients: u32,
}

impl UserFindings {
    /// `None`: no message of a user is in the logs.
    pub fn new(accounts: &Accounts, parts: &Parts, exptimes: &[u32], thresholds: &[u32]) -> Option<Self> {
        let tables = Per::ALL.map(|per| accounts.table(per));
        if tables.iter().all(|table| table.accounts().is_empty()) {
            return None;
        }
        let longest = exptimes.len() - 1;
        let mut limits = Vec::new();
        let mut stolen = Vec::new();
        for per in Per::ALL {
            let table = accounts.table(per);
            let suspects = suspects(per, table, longest, parts.length());
            if per == Per::Login {
                stolen = suspects.iter().map(|at| Stolen::new(table, *at, longest, exptimes[longest])).collect();
                stolen.sort_by_key(|it: &Stolen| Reverse((it.addresses, it.recipients)));
            }
            if !table.accounts().is_empty() {
                let limit = |counted| UserLimit::new(per, counted, table, &suspects, parts, exptimes, thresholds);
                limits.extend(AccountCount::ALL.map(limit));
            }
        }
        let sum = |of: fn(&Account) -> u64| {
            tables.iter().map(|table| table.accounts().iter().map(of).sum::<u64>()).max().unwrap_or(0)
        };
        let (messages, recipients) = (sum(|it| it.messages), sum(|it| it.recipients));
        let covered = accounts.span.map_or(0, |(first, last)| last - first);
        let all = tables.map(|table| table.accounts().len() as u64 + table.forgotten());
        // Where nobody logs in, the senders are the users.
        let mut doubts = doubts(covered, if all[0] > 0 { all[0] } else { all[1] });
        let tests =
            limits.iter().filter(|limit| limit.per != Per::SenderDomain).filter_map(|limit| limit.tests.as_ref());
        let found: Vec<Doubt> = tests.filter_map(PartTests::doubt).collect();
        doubts.extend([Doubt::Refused, Doubt::Untested].into_iter().filter(|doubt| found.contains(doubt)));
        let log_only_until = log_only_until(covered, &doubts);
        Some(Self { accounts: all, messages, recipients, covered, doubts, log_only_until, limits, stolen })
    }
}

/// The accounts that were probably stolen, by their places, in order. A domain is that of many users.
fn suspects(per: Per, table: &AccountTable, length: usize, part: i64) -> Vec<usize> {
    if per == Per::SenderDomain {
        return Vec::new();
    }
    let usual = |counted| median(table.accounts().iter().map(|account| account.peak(counted, length)));
    let (usual_addresses, usual_recipients) = (usual(AccountCount::Addresses), usual(AccountCount::Recipients));
    let is_suspect = |account: &Account| {
        let (addresses, recipients) =
            (account.peak(AccountCount::Addresses, length), account.peak(AccountCount::Recipients, length));
        let has_many = addresses >= MANY_ADDRESSES && addresses > usual_addresses * TIMES_ADDRESSES;
        let sends_much = recipients >= MANY_RECIPIENTS && recipients >= usual_recipients * TIMES_RECIPIENTS;
        has_many
            && (sends_much || addresses >= VERY_MANY_ADDRESSES)
            && !(part >= STEADY_PART && is_steady(account, length))
    };
    (0..table.accounts().len()).filter(|at| is_suspect(&table.accounts()[*at])).collect()
}

/// Whether it has as many addresses in most parts of the log: the login of a program on many hosts.
fn is_steady(account: &Account, length: usize) -> bool {
    let active = || account.part_peaks(AccountCount::Addresses, length).into_iter().filter(|addresses| *addresses > 0);
    active().count() >= 3 && median(active()) * 2 >= active().max().unwrap_or(0)
}

fn median(numbers: impl Iterator<Item = u32>) -> u32 {
    let mut numbers: Vec<u32> = numbers.collect();
    let middle = numbers.len().saturating_sub(1) / 2;
    match numbers.is_empty() {
        true => 0,
        false => *numbers.select_nth_unstable(middle).1,
    }
}

impl Stolen {
    fn new(table: &AccountTable, at: usize, length: usize, exptime: u32) -> Self {
        let account = &table.accounts()[at];
        let usual = |counted| {
            let others = table.accounts().iter().enumerate().filter(|(other, _)| *other != at);
            median(others.map(|(_, account)| account.peak(counted, length)))
        };
        Self {
            login: shown(&account.key),
            exptime,
            addresses: account.peak(AccountCount::Addresses, length),
            recipients: account.peak(AccountCount::Recipients, length),
            usual_addresses: usual(AccountCount::Addresses),
            usual_recipients: usual(AccountCount::Recipients),
        }
    }
}

impl UserLimit {
    fn new(
        per: Per,
        counted: AccountCount,
        table: &AccountTable,
        suspects: &[usize],
        parts: &Parts,
        exptimes: &[u32],
        thresholds: &[u32],
    ) -> Self {
        let length = |(at, exptime): (usize, &u32)| UserLength::new(counted, table, suspects, at, *exptime);
        let lengths: Vec<UserLength> = exptimes.iter().enumerate().map(length).collect();
        let mut candidates = Vec::new();
        for (at, length) in lengths.iter().enumerate() {
            let highest = length.peaks.keys().next_back().copied().unwrap_or(0);
            let chosen = choose(thresholds, highest, length.needed);
            candidates.extend(chosen.into_iter().map(|threshold| length.judge(at, threshold)));
        }
        let needed = |it: &UserCandidate| lengths[it.length].needed == Some(it.threshold);
        let places = (0..candidates.len()).filter(|at| needed(&candidates[*at]));
        let advice = match counted {
            // An address that comes again counts once in a window: the longest tells accounts apart best.
            AccountCount::Addresses => places.max_by_key(|at| candidates[*at].length),
            // The one that stops most; of equal ones the one with the longest windows, in which people fit best.
            _ => places.max_by_key(|at| (candidates[*at].refused, candidates[*at].length)),
        };
        let tests = advice.map(|at| {
            let users = table.accounts().iter().enumerate().filter(|(at, _)| suspects.binary_search(at).is_err());
            let peaks = |account: &Account| account.part_peaks(counted, candidates[at].length);
            let tested = users.map(|(_, account)| Tested { peaks: peaks(account), parts: account.active_parts });
            PartTests::new(&tested.collect::<Vec<_>>(), parts)
        });
        Self { per, counted, lengths, candidates, advice, tests }
    }

    /// The candidate that is recommended.
    pub fn advised(&self) -> Option<&UserCandidate> {
        self.advice.map(|at| &self.candidates[at])
    }
}

impl UserLength {
    /// All hits.
    pub fn hits(&self) -> u64 {
        self.numbers.iter().sum()
    }

    fn new(counted: AccountCount, table: &AccountTable, suspects: &[usize], at: usize, exptime: u32) -> Self {
        let mut peaks: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
        let mut users = Vec::with_capacity(table.accounts().len());
        for (place, account) in table.accounts().iter().enumerate() {
            let (peak, is_stolen) = (account.peak(counted, at), suspects.binary_search(&place).is_ok());
            let count = peaks.entry(peak).or_default();
            if is_stolen {
                count.1 += 1;
            } else {
                count.0 += 1;
            }
            users.push((peak, is_stolen, account));
        }
        let needed = users.iter().filter(|(_, is_stolen, _)| !is_stolen).map(|(peak, ..)| (*peak).max(1)).max();
        users.sort_unstable_by_key(|(peak, _, account)| (Reverse((*peak, account.recipients)), &account.key));
        let more_users = users.len().saturating_sub(MAX_NAMES) as u64;
        let users = users.into_iter().take(MAX_NAMES).map(|(peak, is_stolen, account)| ListedUser {
            key: shown(&account.key),
            messages: account.messages,
            recipients: account.recipients,
            peak,
            is_stolen,
        });
        let numbers = table.numbers(counted, at).counts();
        Self { exptime, needed, users: users.collect(), more_users, peaks, numbers }
    }

    fn judge(&self, length: usize, threshold: u32) -> UserCandidate {
        let refused = self.numbers.iter().skip(threshold as usize + 1).sum();
        let over = self.peaks.range(threshold + 1..);
        let (users, stolen) = over.fold((0, 0), |(a, b), (_, (users, stolen))| (a + users, b + stolen));
        UserCandidate { length, threshold, refused, accounts: users + stolen, users }
    }
}
