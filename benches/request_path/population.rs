//! Which client asks next.

use serde::Serialize;

use crate::request::Client;

/// One client in so many has an IPv6 address.
const V6_SHARE: u32 = 5;

/// A set of clients, and how often each of them comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Population {
    pub clients: u32,
    /// Zipf's law with exponent 1: the nth client comes 1/n times as often as the first. Otherwise all alike.
    pub skewed: bool,
}

impl Population {
    pub const ALL: [Self; 4] = [
        Self { clients: 100_000, skewed: false },
        Self { clients: 100_000, skewed: true },
        Self { clients: 10_000_000, skewed: false },
        Self { clients: 10_000_000, skewed: true },
    ];

    pub fn name(&self) -> String {
        let clients = match self.clients {
            10_000_000 => "10 million".to_owned(),
            clients => format!("{} thousand", clients / 1000),
        };
        format!("{clients}, {}", if self.skewed { "skewed" } else { "uniform" })
    }
}

/// Draws clients from a population.
pub struct Draw {
    population: Population,
    state: u64,
    /// The logarithm of the number of clients and one.
    logarithm: f64,
}

impl Draw {
    /// The same seed draws the same clients.
    pub fn new(population: Population, seed: u64) -> Self {
        Self { population, state: seed, logarithm: f64::from(population.clients + 1).ln() }
    }

    pub fn next(&mut self) -> Client {
        let random = self.random();
        let number = if self.population.skewed {
            // Between n and n + 1 lies a share of ln(1 + 1/n), near enough to 1/n.
            let uniform = (random >> 11) as f64 / (1u64 << 53) as f64;
            (uniform * self.logarithm).exp() as u32 - 1
        } else {
            ((u128::from(random) * u128::from(self.population.clients)) >> 64) as u32
        };
        numbered(number)
    }

    /// SplitMix64.
    fn random(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }
}

fn numbered(number: u32) -> Client {
    if number % V6_SHARE == V6_SHARE - 1 { Client::V6(number) } else { Client::V4(number) }
}
