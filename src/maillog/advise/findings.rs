//! Candidates, the clients that each would have refused, and the recommendation.

use std::collections::BTreeMap;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use serde::Serialize;

use super::basis::{Basis, Doubt, trial_days};
use super::clients::{ClientStats, ClientTable, Mask};
use super::counts::{Counts, Grouping};
use super::users::UserFindings;
use super::window::HIGHEST;
use crate::maillog::reading::Read;
use crate::maillog::text::printable;

/// Clients listed for each length of windows; of the rest only the number is given.
pub const MAX_NAMES: usize = 200;

/// Thresholds that are evaluated unless the command line names some, up to the highest number in the log.
const GRID: [u32; 12] = [3, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000];

/// Everything that is reported.
pub struct Findings {
    pub read: Read,
    pub mask: Mask,
    pub counts: Counts,
    /// All clients, and those that delivered mail.
    pub clients: (u64, u64),
    /// Clients that were forgotten for want of room.
    pub forgotten: u64,
    pub lengths: Vec<WindowFindings>,
    /// In the order of lengths and thresholds.
    pub candidates: Vec<Candidate>,
    /// The place of the recommended candidate.
    pub advice: Option<usize>,
    pub basis: Option<Basis>,
    /// Until when the recommended limit should only log, where it rests on too little.
    pub log_only_until: Option<Date>,
    /// The client that carries nearly all sessions, and delivers mail.
    pub gateway: Option<ReportedClient>,
    /// The only client that delivered mail.
    pub only_sender: Option<ReportedClient>,
    /// Limits on users. None: no message of a user is in the logs.
    pub users: Option<UserFindings>,
    /// The configuration that was tried.
    pub trial: Option<ConfigFindings>,
}

/// The clients in windows of one length.
#[derive(Clone, Debug, Serialize)]
pub struct WindowFindings {
    /// In seconds.
    pub exptime: u32,
    /// Clients that delivered mail, by the most sessions they had in a window, the most first.
    pub senders: Vec<ReportedClient>,
    /// Further ones.
    pub more_senders: u64,
    /// The smallest threshold that refuses none of them; `None` without senders.
    #[serde(rename = "needed_threshold")]
    pub needed: Option<u32>,
    /// The busiest ten clients that delivered nothing.
    pub others: Vec<ReportedClient>,
    /// Clients by the most sessions they had in a window: those that delivered, and the others.
    #[serde(skip)]
    pub peaks: BTreeMap<u32, (u64, u64)>,
}

/// A client in a list of the report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReportedClient {
    /// Its verified name, fit to print; empty when it has none.
    pub name: String,
    /// Its address, with a prefix length if masked.
    pub address: String,
    pub sessions: u64,
    /// Messages.
    pub delivered: u64,
    /// The most sessions in a window.
    pub peak: u32,
}

/// A threshold in windows of one length, and what it would have refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The place of the length.
    pub length: usize,
    pub threshold: u32,
    /// With the masks.
    pub masked: Refusals,
    /// With every address for itself.
    pub whole: Refusals,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Refusals {
    #[serde(rename = "refused_sessions")]
    pub sessions: u64,
    /// Clients that may have been refused at least once.
    #[serde(rename = "refused_clients")]
    pub clients: u64,
    /// Those of them that delivered mail.
    #[serde(rename = "refused_senders")]
    pub senders: u64,
}

/// What a configuration would have done.
#[derive(Clone, Debug, Default)]
pub struct ConfigFindings {
    pub path: String,
    /// Questions by action and reason, the most first.
    pub verdicts: Vec<(String, String, u64)>,
    /// Refused questions, and refused addresses.
    pub refused: (u64, u64),
    /// Refused clients that delivered mail and how often they were refused, the most often first.
    pub senders: Vec<(ReportedClient, u64)>,
    /// Further ones.
    pub more_senders: u64,
}

impl WindowFindings {
    fn new(counts: &Counts, length: usize, exptime: u32) -> Self {
        let mut peaks: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
        let (mut senders, mut others) = (Vec::new(), Vec::new());
        for table in counts.tables(Grouping::Masked) {
            for (client, peak) in table.peaks(length) {
                let count = peaks.entry(peak).or_default();
                if client.delivered > 0 {
                    count.0 += 1;
                    senders.push((peak, client));
                } else {
                    count.1 += 1;
                    others.push((peak, client));
                }
            }
            table.forgotten(length).for_each(|(peak, clients)| peaks.entry(peak).or_default().1 += clients);
        }
        let needed = senders.iter().map(|(peak, _)| *peak).max();
        let more_senders = senders.len().saturating_sub(MAX_NAMES) as u64;
        let (senders, others) = (busiest(senders, MAX_NAMES), busiest(others, 10));
        Self { exptime, senders, more_senders, needed, others, peaks }
    }
}

fn busiest(mut clients: Vec<(u32, &ClientStats)>, count: usize) -> Vec<ReportedClient> {
    clients.sort_unstable_by_key(|(peak, client)| (std::cmp::Reverse((*peak, client.sessions)), client.address));
    clients.iter().take(count).map(|(peak, client)| ReportedClient::new(client, *peak)).collect()
}

impl ReportedClient {
    pub fn new(client: &ClientStats, peak: u32) -> Self {
        let whole = if client.address.is_ipv4() { 32 } else { 128 };
        let address = match client.prefix_length {
            length if length == whole => client.address.to_string(),
            length => format!("{}/{length}", client.address),
        };
        let (sessions, delivered) = (client.sessions, client.delivered);
        Self { name: printable(&client.name), address, sessions, delivered, peak }
    }
}

impl Candidate {
    fn new(counts: &Counts, length: usize, threshold: u32) -> Self {
        let effect = |grouping| {
            counts.tables(grouping).iter().fold(Refusals::default(), |sum, table: &&ClientTable| {
                let (clients, senders) = table.refused_clients(length, threshold);
                Refusals {
                    sessions: sum.sessions + table.refused_sessions(length, threshold),
                    clients: sum.clients + clients,
                    senders: sum.senders + senders,
                }
            })
        };
        Self { length, threshold, masked: effect(Grouping::Masked), whole: effect(Grouping::Whole) }
    }
}

impl Findings {
    /// With empty `thresholds` they are chosen from the log.
    pub fn new(read: Read, mut counts: Counts, mask: Mask, exptimes: &[u32], thresholds: &[u32]) -> Self {
        let lengths: Vec<WindowFindings> = exptimes
            .iter()
            .enumerate()
            .map(|(length, exptime)| WindowFindings::new(&counts, length, *exptime))
            .collect();
        let mut candidates = Vec::new();
        for (at, length) in lengths.iter().enumerate() {
            let highest = length.peaks.keys().next_back().copied().unwrap_or(0);
            let thresholds = choose(thresholds, highest.max(GRID[2]), length.needed);
            candidates.extend(thresholds.iter().map(|threshold| Candidate::new(&counts, at, *threshold)));
        }
        let tables = counts.tables(Grouping::Masked);
        let clients = tables.iter().map(|table| table.clients()).sum();
        let forgotten = tables.iter().map(|table| table.forgotten_clients()).sum();
        let senders = lengths.first().map_or(0, |length| length.senders.len() as u64 + length.more_senders);
        let advice = advise(&lengths, &candidates);
        let basis = advice.zip(counts.span).map(|(at, span)| {
            let length = candidates[at].length;
            Basis::new(tables, length, &counts.parts, span)
        });
        let only_sender = lengths.first().filter(|_| senders == 1).and_then(|length| length.senders.first().cloned());
        let gateway = gateway(tables);
        let users = UserFindings::new(&counts.accounts, &counts.parts, exptimes, thresholds);
        let trial = counts.trial.take().map(|trial| ConfigFindings::new(&counts, &trial));
        Self {
            read,
            mask,
            clients: (clients, senders),
            forgotten,
            advice,
            log_only_until: basis.as_ref().and_then(|basis| log_only_until(basis.covered, &basis.doubts)),
            basis,
            gateway,
            only_sender,
            lengths,
            candidates,
            counts,
            users,
            trial,
        }
    }

    /// The candidate that is recommended.
    pub fn advised(&self) -> Option<&Candidate> {
        self.advice.map(|at| &self.candidates[at])
    }

    /// Sessions that were counted.
    pub fn sessions(&self) -> u64 {
        self.numbers(0).iter().sum()
    }

    /// How many sessions had each number in their window of a length.
    pub fn numbers(&self, length: usize) -> Vec<u64> {
        let mut numbers: Vec<u64> = Vec::new();
        for table in self.counts.tables(Grouping::Masked) {
            let more = table.numbers(length);
            numbers.resize(numbers.len().max(more.len()), 0);
            numbers.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
        }
        numbers
    }
}

/// Until when a limit should only log. Days are counted from today: the log may be an old one.
pub fn log_only_until(covered: i64, doubts: &[Doubt]) -> Option<Date> {
    let today = Timestamp::now().to_zoned(TimeZone::system()).date();
    today.checked_add(trial_days(covered, doubts)?.days()).ok()
}

/// Sessions below which no client is said to carry nearly all of them.
const FEW_SESSIONS: u64 = 20;

/// The client that has nine of ten sessions, if it delivers mail: a smart host, a gateway or a content filter.
fn gateway(tables: [&ClientTable; 2]) -> Option<ReportedClient> {
    let all: u64 = tables.iter().map(|table| table.numbers(0).iter().sum::<u64>()).sum();
    let busiest = tables.into_iter().filter_map(ClientTable::busiest).max_by_key(|client| client.sessions)?;
    let is_gateway = busiest.delivered > 0 && all >= FEW_SESSIONS && busiest.sessions * 10 >= all * 9;
    is_gateway.then(|| ReportedClient::new(busiest, 0))
}

/// The thresholds to evaluate: those given, or else the grid below `highest`; and the needed one.
pub fn choose(given: &[u32], highest: u32, needed: Option<u32>) -> Vec<u32> {
    let grid = GRID.iter().copied().filter(|threshold| *threshold < highest);
    let mut chosen: Vec<u32> = if given.is_empty() { grid.collect() } else { given.to_vec() };
    chosen.extend(needed.map(|needed| needed.min(HIGHEST - 1)));
    chosen.sort_unstable();
    chosen.dedup();
    chosen
}

/// Each length has a smallest threshold that refuses no sender. The one that stops most is recommended;
/// of equal ones the one with the shortest windows, because it delays the least.
fn advise(lengths: &[WindowFindings], candidates: &[Candidate]) -> Option<usize> {
    let needed = |candidate: &Candidate| lengths[candidate.length].needed == Some(candidate.threshold);
    let places = (0..candidates.len()).filter(|at| needed(&candidates[*at]));
    places.min_by_key(|at| {
        let Candidate { length, masked, .. } = candidates[*at];
        (std::cmp::Reverse(masked.sessions), lengths[length].exptime)
    })
}

impl ConfigFindings {
    fn new(counts: &Counts, trial: &super::counts::ConfigTrial) -> Self {
        let mut verdicts: Vec<_> =
            trial.verdicts.iter().map(|((action, reason), count)| (action.clone(), reason.clone(), *count)).collect();
        verdicts.sort_by(|a, b| (b.2, &a.0, &a.1).cmp(&(a.2, &b.0, &b.1)));
        let mut senders: Vec<(ReportedClient, u64)> =
            trial.refused.iter().filter_map(|(address, refused)| Some((counts.sender(*address)?, *refused))).collect();
        senders.sort_by(|a, b| (b.1, &a.0.address).cmp(&(a.1, &b.0.address)));
        let more_senders = senders.len().saturating_sub(MAX_NAMES) as u64;
        senders.truncate(MAX_NAMES);
        let sessions = trial.refused.values().sum::<u64>() + trial.unlisted;
        let refused = (sessions, trial.refused.len() as u64);
        Self { path: String::new(), verdicts, refused, senders, more_senders }
    }
}

impl Counts {
    /// The client with this whole address, if it delivered mail.
    fn sender(&self, address: std::net::IpAddr) -> Option<ReportedClient> {
        let client = self.tables(Grouping::Whole).iter().find_map(|table| table.client(address))?;
        (client.delivered > 0).then(|| ReportedClient::new(client, 0))
    }
}
