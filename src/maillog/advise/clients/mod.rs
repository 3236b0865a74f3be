//! Every client, and how many sessions it had in each window of every length.
//!
//! The number that a session has in its window decides for all thresholds at
//! once: a threshold refuses it when the number is greater. So one pass over the
//! log answers for every candidate. For each client and length a window and the
//! highest number are kept; nothing grows with the number of sessions.
//!
//! To test a recommendation, the highest numbers are kept by part of the log,
//! too (`parts`).

use std::net::IpAddr;

use hashbrown::HashMap;

use super::parts::{PartPeaks, join_bits};
use super::window::{HIGHEST, LogWindow, Moment};
use crate::net::netblock::mask;

/// The most clients that are kept, of some hundred bytes each.
pub const MAX_CLIENTS: usize = 1_000_000;

/// How many bits of an address are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mask {
    pub ipv4_prefix_length: u8,
    pub ipv6_prefix_length: u8,
}

impl Mask {
    /// Every address for itself.
    pub const NONE: Self = Self { ipv4_prefix_length: 32, ipv6_prefix_length: 128 };
}

/// All clients under one mask.
#[derive(Debug)]
pub struct ClientTable {
    mask: Mask,
    /// Lengths of windows in milliseconds.
    lengths: Vec<u64>,
    max_clients: usize,
    index: HashMap<(IpAddr, u8), u32>,
    clients: Vec<ClientStats>,
    /// For each client a window of every length.
    windows: Vec<LogWindow>,
    /// For each length: how many sessions had the number that is the index.
    numbers: Vec<Vec<u64>>,
    /// For each length: how many clients that are no longer kept had this as their highest number.
    forgotten: Vec<HashMap<u32, u64>>,
}

/// What is known of a client.
#[derive(Clone, Debug)]
pub struct ClientStats {
    /// Its address, masked.
    pub address: IpAddr,
    pub prefix_length: u8,
    /// The parts of the log in which it delivered mail, a bit for each.
    pub delivered_parts: u8,
    pub sessions: u64,
    /// Messages of it that were delivered.
    pub delivered: u64,
    /// Its verified name, the last one it had; empty when it has none.
    pub name: Box<[u8]>,
    /// Its highest numbers by part. Absent while they are all 1.
    pub parts: Option<Box<PartPeaks>>,
}

impl ClientTable {
    /// `lengths` of windows are in seconds.
    pub fn new(mask: Mask, lengths: &[u32], max_clients: usize) -> Self {
        Self {
            mask,
            lengths: lengths.iter().map(|seconds| u64::from(*seconds) * 1000).collect(),
            max_clients,
            index: HashMap::new(),
            clients: Vec::new(),
            windows: Vec::new(),
            numbers: vec![Vec::new(); lengths.len()],
            forgotten: vec![HashMap::new(); lengths.len()],
        }
    }

    /// Counts a session in a part of the log; shows its number in the window of each length.
    pub fn count(
        &mut self,
        moment: Moment,
        part: usize,
        client: IpAddr,
        name: &[u8],
        mut show: impl FnMut(usize, u32),
    ) {
        let at = self.find(client, moment.time);
        let known = &mut self.clients[at];
        known.sessions += 1;
        if !name.is_empty() && *known.name != *name {
            known.name = name.into();
        }
        let per_client = self.lengths.len();
        let windows = &mut self.windows[at * per_client..][..per_client];
        for (length, window) in windows.iter_mut().enumerate() {
            let number = window.count(moment, self.lengths[length], 1);
            let place = number.stamped as usize;
            let numbers = &mut self.numbers[length];
            if numbers.len() <= place {
                numbers.resize(place + 1, 0);
            }
            numbers[place] += 1;
            if number.worst > 1 {
                let parts = known.parts.get_or_insert_with(|| Box::new(PartPeaks::new(per_client)));
                parts.note(part, length, number.worst);
            }
            show(length, number.stamped);
        }
    }

    /// Notes that a client's message was delivered, in this part of the log.
    pub fn deliver(&mut self, client: IpAddr, part: usize) {
        let key = mask(client, self.mask.ipv4_prefix_length, self.mask.ipv6_prefix_length);
        // A client that is no longer kept never had many sessions in a window.
        if let Some(at) = self.index.get(&key) {
            let client = &mut self.clients[*at as usize];
            client.delivered += 1;
            client.delivered_parts |= 1 << part;
        }
    }

    /// Joins the parts of the log in pairs.
    pub fn join_parts(&mut self) {
        for client in &mut self.clients {
            client.delivered_parts = join_bits(client.delivered_parts);
            if let Some(parts) = &mut client.parts {
                parts.join();
            }
        }
    }

    /// Sessions that a threshold would have refused with windows of this length, as the stamps say.
    pub fn refused_sessions(&self, length: usize, threshold: u32) -> u64 {
        self.numbers[length].iter().skip(threshold as usize + 1).sum()
    }

    /// Clients that a threshold may have refused at least once, and how many of them delivered mail.
    pub fn refused_clients(&self, length: usize, threshold: u32) -> (u64, u64) {
        let over = |(_, peak): &(&ClientStats, u32)| *peak > threshold;
        let (mut all, mut delivering) = (0, 0);
        for (client, _) in self.peaks(length).filter(over) {
            all += 1;
            delivering += u64::from(client.delivered > 0);
        }
        let forgotten = self.forgotten[length].iter().filter(|(peak, _)| **peak > threshold);
        (all + forgotten.map(|(_, clients)| clients).sum::<u64>(), delivering)
    }

    /// Clients, each with the most sessions it had in a window of this length.
    pub fn peaks(&self, length: usize) -> impl Iterator<Item = (&ClientStats, u32)> {
        let windows = self.windows.chunks_exact(self.lengths.len());
        self.clients.iter().zip(windows).map(move |(client, windows)| (client, windows[length].peak()))
    }

    /// The client with this address.
    pub fn client(&self, client: IpAddr) -> Option<&ClientStats> {
        let key = mask(client, self.mask.ipv4_prefix_length, self.mask.ipv6_prefix_length);
        self.index.get(&key).map(|at| &self.clients[*at as usize])
    }

    /// The client with the most sessions.
    pub fn busiest(&self) -> Option<&ClientStats> {
        self.clients.iter().max_by_key(|client| client.sessions)
    }

    /// Clients that are no longer kept: their highest number, and how many had it.
    pub fn forgotten(&self, length: usize) -> impl Iterator<Item = (u32, u64)> {
        self.forgotten[length].iter().map(|(peak, clients)| (*peak, *clients))
    }

    /// How many sessions had each number in their window, up to [`HIGHEST`].
    pub fn numbers(&self, length: usize) -> &[u64] {
        &self.numbers[length]
    }

    /// All clients; one that came back after it was forgotten counts again.
    pub fn clients(&self) -> u64 {
        self.clients.len() as u64 + self.forgotten_clients()
    }

    /// Clients that are no longer kept.
    pub fn forgotten_clients(&self) -> u64 {
        self.forgotten.first().map_or(0, |peaks| peaks.values().sum())
    }

    fn find(&mut self, client: IpAddr, now: i64) -> usize {
        let key = mask(client, self.mask.ipv4_prefix_length, self.mask.ipv6_prefix_length);
        if let Some(at) = self.index.get(&key) {
            return *at as usize;
        }
        if self.clients.len() >= self.max_clients {
            self.make_room(now);
        }
        let at = self.clients.len();
        let (address, prefix_length) = key;
        let (delivered_parts, name, parts) = (0, Box::default(), None);
        self.clients.push(ClientStats {
            address,
            prefix_length,
            delivered_parts,
            sessions: 0,
            delivered: 0,
            name,
            parts,
        });
        self.windows.resize(self.windows.len() + self.lengths.len(), LogWindow::default());
        // The bound on clients is far below 2^32.
        self.index.insert(key, at as u32);
        at
    }

    /// Forgets a tenth of the clients or more: those that delivered nothing and had the fewest
    /// sessions in a window, and of these, as far as that suffices, those whose windows have ended.
    fn make_room(&mut self, now: i64) {
        let wanted = self.max_clients / 10 + 1;
        let per_client = self.lengths.len();
        let mut worth: Vec<(bool, u32, bool, u32)> = (0_u32..)
            .zip(self.clients.iter().zip(self.windows.chunks_exact(per_client)))
            .map(|(at, (client, windows))| {
                let peak = windows.iter().map(LogWindow::peak).max().unwrap_or(0);
                let mut running = windows.iter().zip(&self.lengths);
                let is_running = running.any(|(window, length)| window.is_running(now, *length));
                (client.delivered > 0, peak.next_power_of_two(), is_running, at)
            })
            .collect();
        let last = worth.len() - 1;
        worth.select_nth_unstable(wanted.min(last));
        let mut goes = vec![false; self.clients.len()];
        for (.., at) in &worth[..wanted.min(worth.len())] {
            goes[*at as usize] = true;
            let windows = &self.windows[*at as usize * per_client..][..per_client];
            for (forgotten, window) in self.forgotten.iter_mut().zip(windows) {
                *forgotten.entry(window.peak()).or_default() += 1;
            }
        }
        let (clients, windows) = (std::mem::take(&mut self.clients), std::mem::take(&mut self.windows));
        self.index.clear();
        for ((client, windows), goes) in clients.into_iter().zip(windows.chunks_exact(per_client)).zip(goes) {
            if !goes {
                self.index.insert((client.address, client.prefix_length), self.clients.len() as u32);
                self.clients.push(client);
                self.windows.extend_from_slice(windows);
            }
        }
    }
}

const _: () = assert!(HIGHEST == u16::MAX as u32);

#[cfg(test)]
mod tests;
