//! Every client, and how many sessions it had in each window of every length.
//!
//! Windows are the daemon's: the first session of a client begins one, it ends
//! `exptime` later whatever happens in between, and the next session begins a
//! new one. The number a session has in its window decides for all thresholds
//! at once: with `threshold` it is refused when its number is greater. So one pass
//! answers for every candidate, and keeps per client a window and the highest
//! number for each length; nothing grows with the number of sessions.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::net::netblock::mask;

/// Numbers from here on are one: no threshold is evaluated beyond.
pub const HIGHEST: usize = 65_535;

/// Of a million clients each holds some hundred bytes.
pub const MAX_CLIENTS: usize = 1_000_000;

/// How many bits of an address count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mask {
    /// Of IPv4, at most 32.
    pub ipv4_prefix_length: u8,
    /// Of IPv6, at most 128.
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
    clients: Vec<Client>,
    /// For each client a window of every length.
    windows: Vec<Window>,
    /// For each length: how many sessions had the number that is the index.
    numbers: Vec<Vec<u64>>,
    /// For each length: how many clients that are no longer kept had this as their highest number.
    forgotten: Vec<HashMap<u32, u64>>,
    /// The first moment, from which the windows are measured.
    epoch: Option<i64>,
}

/// What is known of a client.
#[derive(Clone, Debug)]
pub struct Client {
    /// Its address, masked.
    pub address: IpAddr,
    /// How many bits of it.
    pub prefix_length: u8,
    /// Sessions it had.
    pub sessions: u64,
    /// Messages of it that were delivered.
    pub delivered: u64,
    /// Its verified name, the last one it had; empty when it has none.
    pub name: Box<[u8]>,
}

/// A window of a client.
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    /// When it ends, in tenths of a second after the epoch; 0: there was none.
    end: u32,
    /// Sessions in it.
    count: u32,
    /// The most that were in any of its length.
    peak: u32,
}

impl ClientTable {
    /// Nobody yet. `lengths` of windows are in seconds.
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
            epoch: None,
        }
    }

    /// Counts a session; shows its number in the window of each length.
    pub fn count(&mut self, time: i64, client: IpAddr, name: &[u8], mut show: impl FnMut(usize, u32)) {
        let now = (time - *self.epoch.get_or_insert(time)).max(0) as u64;
        let at = self.find(client, now);
        let known = &mut self.clients[at];
        known.sessions += 1;
        if !name.is_empty() && *known.name != *name {
            known.name = name.into();
        }
        let per_client = self.lengths.len();
        let windows = &mut self.windows[at * per_client..][..per_client];
        for (length, window) in windows.iter_mut().enumerate() {
            let number = window.count(now, self.lengths[length]);
            let place = (number as usize).min(HIGHEST);
            let numbers = &mut self.numbers[length];
            if numbers.len() <= place {
                numbers.resize(place + 1, 0);
            }
            numbers[place] += 1;
            show(length, number);
        }
    }

    /// Notes that a client's message was delivered.
    pub fn deliver(&mut self, client: IpAddr) {
        let key = mask(client, self.mask.ipv4_prefix_length, self.mask.ipv6_prefix_length);
        // One that is no longer kept never had many sessions in a window.
        if let Some(at) = self.index.get(&key) {
            self.clients[*at as usize].delivered += 1;
        }
    }

    /// Sessions that a threshold would have refused with windows of this length.
    pub fn refused_sessions(&self, length: usize, threshold: u32) -> u64 {
        self.numbers[length].iter().skip(threshold as usize + 1).sum()
    }

    /// Clients that a threshold would have refused at least once, and how many of them delivered mail.
    pub fn refused_clients(&self, length: usize, threshold: u32) -> (u64, u64) {
        let over = |(_, peak): &(&Client, u32)| *peak > threshold;
        let (mut all, mut delivering) = (0, 0);
        for (client, _) in self.peaks(length).filter(over) {
            all += 1;
            delivering += u64::from(client.delivered > 0);
        }
        let forgotten = self.forgotten[length].iter().filter(|(peak, _)| **peak > threshold);
        (all + forgotten.map(|(_, clients)| clients).sum::<u64>(), delivering)
    }

    /// Clients, each with the most sessions it had in a window of this length.
    pub fn peaks(&self, length: usize) -> impl Iterator<Item = (&Client, u32)> {
        let per_client = self.lengths.len();
        self.clients
            .iter()
            .zip(self.windows.chunks_exact(per_client))
            .map(move |(client, windows)| (client, windows[length].peak))
    }

    /// The client with this address.
    pub fn client(&self, client: IpAddr) -> Option<&Client> {
        let key = mask(client, self.mask.ipv4_prefix_length, self.mask.ipv6_prefix_length);
        self.index.get(&key).map(|at| &self.clients[*at as usize])
    }

    /// Clients that are no longer kept: their highest number, and how many had it.
    pub fn forgotten(&self, length: usize) -> impl Iterator<Item = (u32, u64)> {
        self.forgotten[length].iter().map(|(peak, clients)| (*peak, *clients))
    }

    /// How many sessions had each number in their window, up to `HIGHEST`.
    pub fn numbers(&self, length: usize) -> &[u64] {
        &self.numbers[length]
    }

    /// Clients there were; one that came back after it was forgotten counts again.
    pub fn clients(&self) -> u64 {
        self.clients.len() as u64 + self.forgotten_clients()
    }

    /// Clients that are no longer kept.
    pub fn forgotten_clients(&self) -> u64 {
        self.forgotten.first().map_or(0, |peaks| peaks.values().sum())
    }

    fn find(&mut self, client: IpAddr, now: u64) -> usize {
        let key = mask(client, self.mask.ipv4_prefix_length, self.mask.ipv6_prefix_length);
        if let Some(at) = self.index.get(&key) {
            return *at as usize;
        }
        if self.clients.len() >= self.max_clients {
            self.make_room(now);
        }
        let at = self.clients.len();
        let (address, prefix_length) = key;
        self.clients.push(Client { address, prefix_length, sessions: 0, delivered: 0, name: Box::default() });
        self.windows.resize(self.windows.len() + self.lengths.len(), Window::default());
        // The bound on clients is far below.
        self.index.insert(key, at as u32);
        at
    }

    /// Forgets a tenth of the clients or more: those that delivered nothing and had the fewest
    /// sessions in a window, and of these, as far as that suffices, those whose windows have ended.
    fn make_room(&mut self, now: u64) {
        let wanted = self.max_clients / 10 + 1;
        let per_client = self.lengths.len();
        let mut worth: Vec<(bool, u32, bool, u32)> = (0_u32..)
            .zip(self.clients.iter().zip(self.windows.chunks_exact(per_client)))
            .map(|(at, (client, windows))| {
                let peak = windows.iter().map(|window| window.peak).max().unwrap_or(0);
                let is_running = windows.iter().any(|window| u64::from(window.end) > now / TENTH);
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
                *forgotten.entry(window.peak).or_default() += 1;
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

impl Window {
    /// The number of a session in its window. Windows end as in the daemon's table, at a tenth of a
    /// second, rounded up.
    fn count(&mut self, now: u64, length: u64) -> u32 {
        if u64::from(self.end) > now / TENTH {
            self.count = self.count.saturating_add(1);
        } else {
            self.count = 1;
            self.end = u32::try_from((now + length).div_ceil(TENTH)).unwrap_or(u32::MAX);
        }
        self.peak = self.peak.max(self.count);
        self.count
    }
}

/// Milliseconds in the unit of ends.
const TENTH: u64 = 100;

#[cfg(test)]
mod tests;
